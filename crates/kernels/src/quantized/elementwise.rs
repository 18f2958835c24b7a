//! Between real numbers and bytes, and functions of two operands in bytes.

use super::after::to_bytes;
use super::conv::{Bytes, Quantized};
use super::form::{self, Form, Job};
use super::tile::Steps;
use crate::elementwise::GRAIN;
use crate::error::{KernelError, exact};
use crate::simd::integer::{Narrow, Sums};
use crate::simd::vector::Vector;
use crate::threads::{Pool, Shards};
use std::sync::Mutex;

/// What a byte stands for: `(x - zero) * scale`.
#[derive(Debug, Clone, Copy)]
pub struct Real<'a> {
    /// The elements.
    pub x: Bytes<'a>,
    /// Of a step.
    pub scale: f32,
    /// What stands for zero.
    pub zero: i32,
}

/// A function of two real numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Both {
    /// The sum.
    Add,
    /// The product.
    Mul,
}

/// A vector of real numbers that bytes stand for.
///
/// # Safety
/// `S`'s instructions are available, and there are `n <= LANES` bytes.
#[inline(always)]
unsafe fn real<S: Sums>(p: *const u8, n: usize, flip: S, zero: S, scale: S::Floats) -> S::Floats {
    // SAFETY: forwarded.
    unsafe {
        let x = if n == S::LANES { S::load_bytes(p) } else { S::load_first_bytes(p, n) };
        S::Floats::mul(S::sub(S::xor(x, flip), zero).to_floats(), scale)
    }
}

struct FromBytes<'a> {
    x: Real<'a>,
    to: &'a mut [f32],
}

impl Job for FromBytes<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        let flip = i32::from(self.x.x.flip());
        let data = &self.x.x.data[..self.to.len()];
        // SAFETY: loads and stores stay inside both slices.
        unsafe {
            let (zero, scale) = (S::splat(self.x.zero + flip), S::Floats::splat(self.x.scale));
            let flip = S::splat(flip);
            let mut at = 0;
            while at < data.len() {
                let n = (data.len() - at).min(S::LANES);
                let x = real::<S>(data.as_ptr().add(at), n, flip, zero, scale);
                let to = self.to.as_mut_ptr().add(at);
                if n == S::LANES {
                    x.store(to);
                } else {
                    x.store_first(to, n);
                }
                at += n;
            }
        }
    }
}

/// The real numbers that bytes stand for.
pub fn dequantize(pool: &Pool, x: Real<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    exact("bytes", x.x.data, out.len())?;
    let (len, shards) = (out.len(), Shards::new(out));
    pool.split(len, GRAIN, |r| {
        // SAFETY: parts are disjoint.
        let to = unsafe { shards.part(r.start, r.len()) };
        form::run(Form::Words, pool.level(), FromBytes { x: x.part(&r), to });
    });
    Ok(())
}

/// As [`dequantize`], on the caller's thread.
pub(crate) fn dequantize_here(level: crate::simd::Level, x: Real<'_>, to: &mut [f32]) {
    form::run(Form::Words, level, FromBytes { x, to });
}

struct ToBytes<'a> {
    x: &'a [f32],
    scale: f32,
    steps: Steps,
    to: &'a mut [u8],
}

impl Job for ToBytes<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        assert!(self.to.len() >= self.x.len());
        // SAFETY: there is room for a byte for each number.
        unsafe { to_bytes::<S>(self.x, self.scale, self.steps, self.to.as_mut_ptr()) }
    }
}

/// Real numbers as bytes.
pub fn quantize(pool: &Pool, x: &[f32], to: Quantized, out: &mut [u8]) -> Result<(), KernelError> {
    exact("numbers", x, out.len())?;
    let steps = to.steps()?;
    let (len, shards) = (out.len(), Shards::new(out));
    pool.split(len, GRAIN, |r| {
        // SAFETY: parts are disjoint.
        let part = unsafe { shards.part(r.start, r.len()) };
        form::run(Form::Words, pool.level(), ToBytes { x: &x[r], scale: to.scale, steps, to: part });
    });
    Ok(())
}

struct Range<'a>(&'a [f32]);

impl Job for Range<'_> {
    type Out = [f32; 2];
    #[inline(always)]
    unsafe fn run<S: Sums>(self) -> [f32; 2] {
        // SAFETY: loads stay inside the slice. The number comes first, so that NaN leaves the extremes as they are.
        unsafe {
            let zero = S::Floats::splat(0.0);
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            let mut chunks = self.0.chunks_exact(4 * S::LANES);
            for chunk in &mut chunks {
                for i in 0..4 {
                    let x = S::Floats::load(chunk.as_ptr().add(i * S::LANES));
                    low[i] = S::Floats::min(x, low[i]);
                    high[i] = S::Floats::max(x, high[i]);
                }
            }
            let mut ends = [0.0f32; 2];
            for i in 0..4 {
                let below = S::Floats::sub(zero, low[i]).largest();
                ends[0] = ends[0].min(-below);
                ends[1] = ends[1].max(high[i].largest());
            }
            for &x in chunks.remainder() {
                ends = [ends[0].min(x), ends[1].max(x)];
            }
            ends
        }
    }
}

/// The scale and zero point of u8 over the range of these numbers, stretched to reach zero.
pub fn range(pool: &Pool, x: &[f32]) -> (f32, u8) {
    let ends = Mutex::new([0.0f32; 2]);
    pool.split(x.len(), GRAIN, |r| {
        let [low, high] = form::run(Form::Words, pool.level(), Range(&x[r]));
        let mut ends = ends.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *ends = [ends[0].min(low), ends[1].max(high)];
    });
    let [low, high] = ends.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scale = (high - low) / 255.0;
    // Of zeros only, any scale will do.
    let divisor = if scale == 0.0 { 1.0 } else { scale };
    (scale, (-(low / divisor)).round_ties_even().clamp(0.0, 255.0) as u8)
}

struct OfBoth<'a> {
    kind: Both,
    a: Real<'a>,
    b: Real<'a>,
    low: f32,
    scale: f32,
    steps: Steps,
    /// How results become bytes where none is beyond 32 bits.
    narrow: Option<Narrow>,
    to: &'a mut [u8],
}

impl OfBoth<'_> {
    /// The whole groups of four vectors; gives how many elements those are.
    ///
    /// # Safety
    /// `S`'s instructions are available, both operands have as many elements as the result, and no result is beyond
    /// 32 bits.
    #[inline(always)]
    unsafe fn groups<S: Sums>(&mut self, narrow: Narrow) -> usize {
        let each = 4 * S::LANES;
        let groups = self.to.len() / each;
        let (fa, fb) = (self.a.x.flip(), self.b.x.flip());
        // SAFETY: loads and stores stay inside the slices.
        unsafe {
            // Whole numbers this small are exact.
            let za = S::Floats::splat(S::SHIFT + (self.a.zero + i32::from(fa)) as f32);
            let zb = S::Floats::splat(S::SHIFT + (self.b.zero + i32::from(fb)) as f32);
            let (sa, sb) = (S::Floats::splat(self.a.scale), S::Floats::splat(self.b.scale));
            let scale = S::Floats::splat(self.scale);
            for i in 0..groups {
                let a = S::floats_of_four(self.a.x.data.as_ptr().add(i * each), fa);
                let b = S::floats_of_four(self.b.x.data.as_ptr().add(i * each), fb);
                let mut out = [S::zero(); 4];
                for v in 0..4 {
                    let a = S::Floats::mul(S::Floats::sub(a[v], za), sa);
                    let b = S::Floats::mul(S::Floats::sub(b[v], zb), sb);
                    let x = if self.kind == Both::Add { S::Floats::add(a, b) } else { S::Floats::mul(a, b) };
                    out[v] = S::nearest(S::Floats::div(x, scale));
                }
                S::store_bytes_of_four(out, narrow, self.to.as_mut_ptr().add(i * each));
            }
        }
        groups * each
    }
}

impl Job for OfBoth<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(mut self) {
        let len = self.to.len();
        assert!(self.a.x.data.len() >= len && self.b.x.data.len() >= len);
        // SAFETY: loads and stores stay inside the slices.
        unsafe {
            let mut at = match self.narrow {
                Some(narrow) => self.groups::<S>(narrow),
                None => 0,
            };
            let (fa, fb) = (i32::from(self.a.x.flip()), i32::from(self.b.x.flip()));
            let (za, zb) = (S::splat(self.a.zero + fa), S::splat(self.b.zero + fb));
            let (fa, fb) = (S::splat(fa), S::splat(fb));
            let (sa, sb) = (S::Floats::splat(self.a.scale), S::Floats::splat(self.b.scale));
            let (lowest, scale) = (S::Floats::splat(self.low), S::Floats::splat(self.scale));
            let (low, high) = (S::Floats::splat(self.steps.low), S::Floats::splat(self.steps.high));
            let (zero, flip) = (S::splat(self.steps.zero), S::splat(self.steps.flip));
            while at < len {
                let n = (len - at).min(S::LANES);
                let a = real::<S>(self.a.x.data.as_ptr().add(at), n, fa, za, sa);
                let b = real::<S>(self.b.x.data.as_ptr().add(at), n, fb, zb, sb);
                let x = if self.kind == Both::Add { S::Floats::add(a, b) } else { S::Floats::mul(a, b) };
                let x = S::Floats::div(S::Floats::max(x, lowest), scale);
                let x = S::Floats::min(S::Floats::max(x, low), high);
                let x = S::xor(S::add(S::nearest(x), zero), flip);
                let to = self.to.as_mut_ptr().add(at);
                if n == S::LANES {
                    x.store_bytes(to);
                } else {
                    x.store_first_bytes(to, n);
                }
                at += n;
            }
        }
    }
}

/// A function of two operands of the same length, `relu` whether what is negative becomes zero.
pub fn binary(
    pool: &Pool,
    kind: Both,
    a: Real<'_>,
    b: Real<'_>,
    relu: bool,
    to: Quantized,
    out: &mut [u8],
) -> Result<(), KernelError> {
    exact("first operand", a.x.data, out.len())?;
    exact("second operand", b.x.data, out.len())?;
    let steps = to.steps()?;
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    let byte = |x: &Real<'_>| (0..=255).contains(&x.zero.saturating_add(i32::from(x.x.flip())));
    let (most_a, most_b) = (255.0 * a.scale.abs(), 255.0 * b.scale.abs());
    let most = if kind == Both::Add { most_a + most_b } else { most_a * most_b };
    // A scale above zero also keeps the order, so that what is below zero is so in steps, too.
    let fits = to.scale > 0.0 && most / to.scale < 1e9 && byte(&a) && byte(&b);
    let lowest = if relu { 0.0 } else { steps.low };
    let narrow = fits.then(|| Steps::new(lowest, steps.high, steps.zero, steps.flip).narrow);
    let (len, shards) = (out.len(), Shards::new(out));
    pool.split(len, GRAIN, |r| {
        // SAFETY: parts are disjoint.
        let to_part = unsafe { shards.part(r.start, r.len()) };
        let (a, b) = (a.part(&r), b.part(&r));
        let job = OfBoth { kind, a, b, low, scale: to.scale, steps, narrow, to: to_part };
        form::run(Form::Words, pool.level(), job);
    });
    Ok(())
}

impl<'a> Real<'a> {
    fn part(&self, r: &std::ops::Range<usize>) -> Real<'a> {
        Real { x: Bytes { data: &self.x.data[r.clone()], ..self.x }, ..*self }
    }
}

/// The byte that the table has for each byte's bits.
pub fn look_up(pool: &Pool, x: &[u8], table: &[u8; 256], out: &mut [u8]) -> Result<(), KernelError> {
    exact("bytes", x, out.len())?;
    let (len, shards) = (out.len(), Shards::new(out));
    pool.split(len, GRAIN, |r| {
        // SAFETY: parts are disjoint.
        let to = unsafe { shards.part(r.start, r.len()) };
        for (to, &x) in to.iter_mut().zip(&x[r]) {
            *to = table[usize::from(x)];
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    fn scale() -> impl Strategy<Value = f32> {
        prop_oneof![4 => 0.001f32..2.0, 1 => 1e-30f32..1e-20, 1 => 1e10f32..1e30, 1 => -2.0f32..-0.01]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Groups of vectors, and where results may be beyond 32 bits single vectors, against one element at a time.
        #[test]
        fn functions_of_two_match_one_element_at_a_time(
            scales in (scale(), scale(), scale()), signs: [bool; 3], zeros: [u8; 3], relu: bool, mul: bool,
            len in 0usize..300, seed: u64, threads in 1usize..3,
        ) {
            let zero = |i: usize| i32::from(zeros[i]) - if signs[i] { 128 } else { 0 };
            let number = |x: u8, i: usize| if signs[i] { i32::from(x as i8) } else { i32::from(x) };
            let (low, high) = if signs[2] { (-128.0f32, 127.0f32) } else { (0.0, 255.0) };
            let mut state = seed | 1;
            let mut bytes = || -> Vec<u8> {
                (0..len).map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let x = (state >> 33) as u8;
                    [0, 255, 127, 128, x, x, x, x][usize::from(x / 32)]
                }).collect()
            };
            let (x, y) = (bytes(), bytes());
            let a = Real { x: Bytes { data: &x, signed: signs[0] }, scale: scales.0, zero: zero(0) };
            let b = Real { x: Bytes { data: &y, signed: signs[1] }, scale: scales.1, zero: zero(1) };
            let to = Quantized { scale: scales.2, zero: zero(2), signed: signs[2] };
            let kind = if mul { Both::Mul } else { Both::Add };
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![7u8; len];
                binary(&pool, kind, a, b, relu, to, &mut out).unwrap();
                for i in 0..len {
                    let (p, q) = ((number(x[i], 0) - zero(0)) as f32 * a.scale, (number(y[i], 1) - zero(1)) as f32 * b.scale);
                    let r = if mul { p * q } else { p + q };
                    let r = if relu && r < 0.0 { 0.0 } else { r };
                    // Limits come before rounding, which takes numbers of 32 bits only.
                    let steps = (r / to.scale).max(low - to.zero as f32).min(high - to.zero as f32);
                    let expected = steps.round_ties_even() + to.zero as f32;
                    prop_assert_eq!(number(out[i], 2) as f32, expected, "{} of {} at {:?}", i, r, level);
                }
            }
        }
    }
}

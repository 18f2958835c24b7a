//! Between real numbers and bytes, and functions of two operands in bytes.

use super::after::to_bytes;
use super::conv::{Bytes, Quantized};
use super::tile::{self, Form, Job, Steps};
use crate::elementwise::GRAIN;
use crate::error::{KernelError, exact};
use crate::simd::integer::Sums;
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
        tile::run(Form::Words, pool.level(), FromBytes { x: x.part(&r), to });
    });
    Ok(())
}

/// As [`dequantize`], on the caller's thread.
pub(crate) fn dequantize_here(level: crate::simd::Level, x: Real<'_>, to: &mut [f32]) {
    tile::run(Form::Words, level, FromBytes { x, to });
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
        tile::run(Form::Words, pool.level(), ToBytes { x: &x[r], scale: to.scale, steps, to: part });
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
        let [low, high] = tile::run(Form::Words, pool.level(), Range(&x[r]));
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
    to: &'a mut [u8],
}

impl Job for OfBoth<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        let len = self.to.len();
        assert!(self.a.x.data.len() >= len && self.b.x.data.len() >= len);
        // SAFETY: loads and stores stay inside the slices.
        unsafe {
            let (fa, fb) = (i32::from(self.a.x.flip()), i32::from(self.b.x.flip()));
            let (za, zb) = (S::splat(self.a.zero + fa), S::splat(self.b.zero + fb));
            let (fa, fb) = (S::splat(fa), S::splat(fb));
            let (sa, sb) = (S::Floats::splat(self.a.scale), S::Floats::splat(self.b.scale));
            let (lowest, scale) = (S::Floats::splat(self.low), S::Floats::splat(self.scale));
            let (low, high) = (S::Floats::splat(self.steps.low), S::Floats::splat(self.steps.high));
            let (zero, flip) = (S::splat(self.steps.zero), S::splat(self.steps.flip));
            let mut at = 0;
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
    let (len, shards) = (out.len(), Shards::new(out));
    pool.split(len, GRAIN, |r| {
        // SAFETY: parts are disjoint.
        let to_part = unsafe { shards.part(r.start, r.len()) };
        let (a, b) = (a.part(&r), b.part(&r));
        let job = OfBoth { kind, a, b, low, scale: to.scale, steps, to: to_part };
        tile::run(Form::Words, pool.level(), job);
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

struct MaxOfBytes<'a> {
    flip: u8,
    from: &'a [u8],
    to: &'a mut [u8],
}

impl Job for MaxOfBytes<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        for (t, &x) in self.to.iter_mut().zip(self.from) {
            *t = (*t ^ self.flip).max(x ^ self.flip) ^ self.flip;
        }
    }
}

/// The largest bytes of windows over pixels whose channels lie innermost; what lies outside counts for nothing.
pub fn max_pool(
    pool: &Pool,
    shape: &crate::channels_last::pool::PoolShape,
    x: Bytes<'_>,
    out: &mut [u8],
) -> Result<(), KernelError> {
    let s = shape;
    let [(h, w), (oh, ow)] = [(s.input[0], s.input[1]), (s.output[0], s.output[1])];
    exact("images", x.data, s.batch * h * w * s.channels)?;
    exact("result", out, s.batch * oh * ow * s.channels)?;
    let (c, shards) = (s.channels, Shards::new(out));
    let at = |axis: usize, o: usize, tap: usize| {
        let w = &s.windows[axis];
        (o * w.stride + tap * w.dilation).checked_sub(w.pad_begin).filter(|&i| i < s.input[axis])
    };
    pool.split(s.batch * oh, (GRAIN / (ow * c * s.windows[1].kernel).max(1)).max(1), |rows| {
        for row in rows {
            let (image, oy) = (row / oh, row % oh);
            // SAFETY: rows are disjoint.
            let line = unsafe { shards.part(row * ow * c, ow * c) };
            line.fill(if x.signed { 0x80 } else { 0 });
            for (ox, to) in line.chunks_exact_mut(c.max(1)).enumerate() {
                for ky in 0..s.windows[0].kernel {
                    let Some(y) = at(0, oy, ky) else { continue };
                    for kx in 0..s.windows[1].kernel {
                        let Some(x_at) = at(1, ox, kx) else { continue };
                        let from = &x.data[((image * h + y) * w + x_at) * c..][..c];
                        tile::run(
                            Form::Words,
                            pool.level(),
                            MaxOfBytes { flip: x.flip(), from, to: &mut *to },
                        );
                    }
                }
            }
        }
    });
    Ok(())
}

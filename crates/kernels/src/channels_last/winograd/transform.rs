//! The three transforms, over a vector of channels at a time.
//!
//! With `s = A² + B²` and `p = A² B²`, one axis of the inputs `d` goes to
//! `[p d0 - s d2 + d4, (d4 - B² d2) ± A (d3 - B² d1), (d4 - A² d2) ± B (d3 - A² d1), p d1 - s d3 + d5]`,
//! of the weights to their polynomial's values at 0, A, -A, B, -B over the points' differences, and the
//! products `m` go to `m0 [i = 0] + Aⁱ (m1 ± m2) + Bⁱ (m3 ± m4) + m5 [i = 3]`.

use super::super::conv::tile::Finish;
use super::{GROUP, PLACES, REACH, SIDE};
use crate::packed::Weight;
#[cfg(target_arch = "x86_64")]
use crate::simd::Tier;
use crate::simd::vector::{Base, Vector};
use crate::simd::{Isa, Kernel, Level};

/// The points: with a product of one, powers of both stay small, and the rounding errors with them (a
/// seventh of those at 1 and 2 at the worst).
const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
const B: f64 = std::f64::consts::SQRT_2;

/// Transforms up to [`GROUP`] windows of weights side by side; `put` takes each place's values.
pub(super) fn weights<'a, T: Weight + 'a>(
    level: Level,
    windows: impl Iterator<Item = &'a [T; 9]>,
    mut put: impl FnMut(usize, &[f32; GROUP]),
) {
    let mut taps = [[0.0; GROUP]; 9];
    for (i, window) in windows.take(GROUP).enumerate() {
        for (tap, x) in taps.iter_mut().zip(window) {
            tap[i] = f64::from(x.float());
        }
    }
    let mut out = [[0.0; GROUP]; PLACES];
    level.run(Weights { taps: &taps, out: &mut out });
    for (place, values) in out.iter().enumerate() {
        put(place, values);
    }
}

/// Windows by taps, and what becomes of them by places.
struct Weights<'a> {
    taps: &'a [[f64; GROUP]; 9],
    out: &'a mut [[f32; GROUP]; PLACES],
}

impl Kernel for Weights<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let scale = |p: f64, q: f64| 1.0 / (2.0 * p * p * (p * p - q * q));
        let (zero, a, b) = (1.0 / (A * A * B * B), scale(A, B), scale(B, A));
        // As many as a vector or two, so that a group's values stay in registers.
        const LANES: usize = 8;
        for first in (0..GROUP).step_by(LANES) {
            let one = |g: [[f64; LANES]; 3]| -> [[f64; LANES]; REACH] {
                let mut out = [[0.0; LANES]; REACH];
                for i in 0..LANES {
                    let at = |p: f64| g[0][i] + p * g[1][i] + p * p * g[2][i];
                    let all = [g[0][i] * zero, at(A) * a, at(-A) * a, at(B) * b, at(-B) * b, g[2][i]];
                    for (out, x) in out.iter_mut().zip(all) {
                        out[i] = x;
                    }
                }
                out
            };
            let mut half = [[[0.0; LANES]; 3]; REACH];
            for x in 0..3 {
                let column = one([0, 3, 6].map(|y| std::array::from_fn(|i| self.taps[y + x][first + i])));
                for y in 0..REACH {
                    half[y][x] = column[y];
                }
            }
            for y in 0..REACH {
                for (x, v) in one(half[y]).into_iter().enumerate() {
                    let to = &mut self.out[y * REACH + x][first..first + LANES];
                    to.iter_mut().zip(v).for_each(|(t, v)| *t = v as f32);
                }
            }
        }
    }
}

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn forward<V: Vector>(d: [V; REACH]) -> [V; REACH] {
    // SAFETY: forwarded.
    unsafe {
        let [d0, d1, d2, d3, d4, d5] = d;
        let k = |x: f64| V::splat(x as f32);
        let even_a = V::mul_add(k(-B * B), d2, d4);
        let odd_a = V::mul(k(A), V::mul_add(k(-B * B), d1, d3));
        let even_b = V::mul_add(k(-A * A), d2, d4);
        let odd_b = V::mul(k(B), V::mul_add(k(-A * A), d1, d3));
        let ends = |x0, x2, x4| V::mul_add(k(A * A * B * B), x0, V::mul_add(k(-A * A - B * B), x2, x4));
        [
            ends(d0, d2, d4),
            V::add(even_a, odd_a),
            V::sub(even_a, odd_a),
            V::add(even_b, odd_b),
            V::sub(even_b, odd_b),
            ends(d1, d3, d5),
        ]
    }
}

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn backward<V: Vector>(m: [V; REACH]) -> [V; SIDE] {
    // SAFETY: forwarded.
    unsafe {
        let k = |x: f64| V::splat(x as f32);
        let (even_a, odd_a) = (V::add(m[1], m[2]), V::sub(m[1], m[2]));
        let (even_b, odd_b) = (V::add(m[3], m[4]), V::sub(m[3], m[4]));
        [
            V::add(V::add(m[0], even_a), even_b),
            V::mul_add(k(B), odd_b, V::mul(k(A), odd_a)),
            V::mul_add(k(B * B), even_b, V::mul(k(A * A), even_a)),
            V::mul_add(k(B * B * B), odd_b, V::mul_add(k(A * A * A), odd_a, m[5])),
        ]
    }
}

/// # Safety
/// As [`input`].
#[inline(always)]
unsafe fn input_by<V: Vector>(pixels: &[*const f32; PLACES], channels: usize, to: *mut f32, apart: usize) {
    for c in (0..channels).step_by(V::LANES) {
        let n = (channels - c).min(V::LANES);
        // SAFETY: every pointer has `channels` floats, and every place whole vectors of them.
        unsafe {
            let load = |p: *const f32| {
                if n == V::LANES { V::load(p.add(c)) } else { V::load_first(p.add(c), n) }
            };
            let mut half = [[V::splat(0.0); REACH]; REACH];
            for x in 0..REACH {
                let mut column = [V::splat(0.0); REACH];
                for y in 0..REACH {
                    column[y] = load(pixels[y * REACH + x]);
                }
                let column = forward(column);
                for y in 0..REACH {
                    half[y][x] = column[y];
                }
            }
            for y in 0..REACH {
                for (x, v) in forward(half[y]).into_iter().enumerate() {
                    v.store(to.add((y * REACH + x) * apart + c));
                }
            }
        }
    }
}

/// Where a tile's outputs go.
pub(super) struct Patch {
    pub to: *mut f32,
    /// Floats from one line and pixel to the next.
    pub pitches: [usize; 2],
    /// Lines and pixels that exist.
    pub size: [usize; 2],
    pub columns: usize,
    /// Pixels from one line of the residual to the next.
    pub residual_line: usize,
}

/// # Safety
/// As [`output`].
#[inline(always)]
unsafe fn output_by<V: Vector>(products: *const f32, apart: usize, f: &Finish, patch: &Patch) {
    for c in (0..patch.columns).step_by(V::LANES) {
        let n = (patch.columns - c).min(V::LANES);
        // SAFETY: the products are whole vectors; the finish's operands and the patch have `columns` floats
        // for each pixel.
        unsafe {
            let mut half = [[V::splat(0.0); REACH]; SIDE];
            for x in 0..REACH {
                let mut column = [V::splat(0.0); REACH];
                for y in 0..REACH {
                    column[y] = V::load(products.add((y * REACH + x) * apart + c));
                }
                let column = backward(column);
                for y in 0..SIDE {
                    half[y][x] = column[y];
                }
            }
            for y in 0..patch.size[0] {
                let line = backward(half[y]);
                for (x, &v) in line.iter().enumerate().take(patch.size[1]) {
                    let v = f.one(v, y * patch.residual_line + x, c, n);
                    let to = patch.to.add(y * patch.pitches[0] + x * patch.pitches[1] + c);
                    if n == V::LANES { v.store(to) } else { v.store_first(to, n) }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::{__m256, __m512};

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn input_avx512(p: &[*const f32; PLACES], channels: usize, to: *mut f32, apart: usize) {
        // SAFETY: forwarded; the instructions are on.
        unsafe { input_by::<__m512>(p, channels, to, apart) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn input_avx2(p: &[*const f32; PLACES], channels: usize, to: *mut f32, apart: usize) {
        // SAFETY: as above.
        unsafe { input_by::<__m256>(p, channels, to, apart) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn output_avx512(products: *const f32, apart: usize, f: &Finish, patch: &Patch) {
        // SAFETY: as above.
        unsafe { output_by::<__m512>(products, apart, f, patch) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn output_avx2(products: *const f32, apart: usize, f: &Finish, patch: &Patch) {
        // SAFETY: as above.
        unsafe { output_by::<__m256>(products, apart, f, patch) }
    }
}

/// Transforms one tile's inputs, a pointer for each pixel, to places `apart` floats from one to the next.
///
/// # Safety
/// Behind each pointer are `channels` readable floats, and at each place as many in whole vectors are
/// writable, which nobody else touches.
pub(super) unsafe fn input(
    level: Level,
    pixels: &[*const f32; PLACES],
    channels: usize,
    to: *mut f32,
    apart: usize,
) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { x86::input_avx512(pixels, channels, to, apart) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { x86::input_avx2(pixels, channels, to, apart) },
        // SAFETY: as above.
        _ => unsafe { input_by::<Base>(pixels, channels, to, apart) },
    }
}

/// Transforms one tile's products to outputs.
///
/// # Safety
/// `products` has `patch.columns` floats in whole vectors at each place; `f`'s operands and the patch have
/// `patch.columns` floats for each pixel that exists, and nobody else touches those of the patch.
pub(super) unsafe fn output(level: Level, products: *const f32, apart: usize, f: &Finish, patch: &Patch) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { x86::output_avx512(products, apart, f, patch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { x86::output_avx2(products, apart, f, patch) },
        // SAFETY: as above.
        _ => unsafe { output_by::<Base>(products, apart, f, patch) },
    }
}

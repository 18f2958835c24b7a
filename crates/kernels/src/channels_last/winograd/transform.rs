//! The three transforms, over a vector of channels at a time.
//!
//! For tiles of 4 by 4, with `s = A² + B²` and `p = A² B²`, one axis of the inputs `d` goes to
//! `[p d0 - s d2 + d4, (d4 - B² d2) ± A (d3 - B² d1), (d4 - A² d2) ± B (d3 - A² d1), p d1 - s d3 + d5]`,
//! of the weights to their polynomial's values at 0, A, -A, B, -B over the points' differences, and the
//! products `m` go to `m0 [i = 0] + Aⁱ (m1 ± m2) + Bⁱ (m3 ± m4) + m5 [i = 3]`. For tiles of 2 by 2, the inputs go to
//! `[d0 - d2, d1 + d2, d2 - d1, d1 - d3]`, the weights to the values at 0, 1, -1 over 1, 2, 2 and at infinity, and the
//! products to `[m0 + m1 + m2, m1 - m2 - m3]`.

use super::super::conv::tile::Finish;
use super::{GROUP, PLACES, REACH as MOST, Tiles};
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
    tiles: Tiles,
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
    level.run(Weights { tiles, taps: &taps, out: &mut out });
    for (place, values) in out.iter().enumerate().take(tiles.places()) {
        put(place, values);
    }
}

/// Windows by taps, and what becomes of them by places.
struct Weights<'a> {
    tiles: Tiles,
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
            let one = |g: [[f64; LANES]; 3]| -> [[f64; LANES]; MOST] {
                let mut out = [[0.0; LANES]; MOST];
                for i in 0..LANES {
                    let at = |p: f64| g[0][i] + p * g[1][i] + p * p * g[2][i];
                    let all = match self.tiles {
                        Tiles::Four => {
                            [g[0][i] * zero, at(A) * a, at(-A) * a, at(B) * b, at(-B) * b, g[2][i]]
                        }
                        Tiles::Two => [g[0][i], at(1.0) * 0.5, at(-1.0) * 0.5, g[2][i], 0.0, 0.0],
                    };
                    for (out, x) in out.iter_mut().zip(all) {
                        out[i] = x;
                    }
                }
                out
            };
            let reach = self.tiles.reach();
            let mut half = [[[0.0; LANES]; 3]; MOST];
            for x in 0..3 {
                let column = one([0, 3, 6].map(|y| std::array::from_fn(|i| self.taps[y + x][first + i])));
                for y in 0..reach {
                    half[y][x] = column[y];
                }
            }
            for y in 0..reach {
                for (x, v) in one(half[y]).into_iter().enumerate().take(reach) {
                    let to = &mut self.out[y * reach + x][first..first + LANES];
                    to.iter_mut().zip(v).for_each(|(t, v)| *t = v as f32);
                }
            }
        }
    }
}

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn forward<V: Vector, const REACH: usize>(d: [V; REACH]) -> [V; REACH] {
    let mut out = d;
    // SAFETY: forwarded.
    unsafe {
        if REACH == 4 {
            out[0] = V::sub(d[0], d[2]);
            out[1] = V::add(d[1], d[2]);
            out[2] = V::sub(d[2], d[1]);
            out[3] = V::sub(d[1], d[3]);
            return out;
        }
        let k = |x: f64| V::splat(x as f32);
        let even_a = V::mul_add(k(-B * B), d[2], d[4]);
        let odd_a = V::mul(k(A), V::mul_add(k(-B * B), d[1], d[3]));
        let even_b = V::mul_add(k(-A * A), d[2], d[4]);
        let odd_b = V::mul(k(B), V::mul_add(k(-A * A), d[1], d[3]));
        let ends = |x0, x2, x4| V::mul_add(k(A * A * B * B), x0, V::mul_add(k(-A * A - B * B), x2, x4));
        out[0] = ends(d[0], d[2], d[4]);
        out[1] = V::add(even_a, odd_a);
        out[2] = V::sub(even_a, odd_a);
        out[3] = V::add(even_b, odd_b);
        out[4] = V::sub(even_b, odd_b);
        out[5] = ends(d[1], d[3], d[5]);
    }
    out
}

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn backward<V: Vector, const SIDE: usize, const REACH: usize>(m: [V; REACH]) -> [V; SIDE] {
    // SAFETY: forwarded.
    unsafe {
        let mut out = [m[0]; SIDE];
        let k = |x: f64| V::splat(x as f32);
        let (even_a, odd_a) = (V::add(m[1], m[2]), V::sub(m[1], m[2]));
        if REACH == 4 {
            out[0] = V::add(m[0], even_a);
            out[1] = V::sub(odd_a, m[3]);
            return out;
        }
        let (even_b, odd_b) = (V::add(m[3], m[4]), V::sub(m[3], m[4]));
        out[0] = V::add(V::add(m[0], even_a), even_b);
        out[1] = V::mul_add(k(B), odd_b, V::mul(k(A), odd_a));
        out[2] = V::mul_add(k(B * B), even_b, V::mul(k(A * A), even_a));
        out[3] = V::mul_add(k(B * B * B), odd_b, V::mul_add(k(A * A * A), odd_a, m[5]));
        out
    }
}

/// # Safety
/// As [`input`].
#[inline(always)]
unsafe fn input_by<V: Vector, const REACH: usize>(
    pixels: &[[*const f32; REACH]; REACH],
    channels: usize,
    to: *mut f32,
    apart: usize,
) {
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
                    column[y] = load(pixels[y][x]);
                }
                let column = forward::<V, REACH>(column);
                for y in 0..REACH {
                    half[y][x] = column[y];
                }
            }
            for y in 0..REACH {
                for (x, v) in forward::<V, REACH>(half[y]).into_iter().enumerate() {
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
unsafe fn output_by<V: Vector, const SIDE: usize, const REACH: usize>(
    products: *const f32,
    apart: usize,
    f: &Finish,
    patch: &Patch,
) {
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
                let column = backward::<V, SIDE, REACH>(column);
                for y in 0..SIDE {
                    half[y][x] = column[y];
                }
            }
            for y in 0..patch.size[0] {
                let line = backward::<V, SIDE, REACH>(half[y]);
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
    pub(super) unsafe fn input_avx512<const REACH: usize>(
        p: &[[*const f32; REACH]; REACH],
        channels: usize,
        to: *mut f32,
        apart: usize,
    ) {
        // SAFETY: forwarded; the instructions are on.
        unsafe { input_by::<__m512, REACH>(p, channels, to, apart) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn input_avx2<const REACH: usize>(
        p: &[[*const f32; REACH]; REACH],
        channels: usize,
        to: *mut f32,
        apart: usize,
    ) {
        // SAFETY: as above.
        unsafe { input_by::<__m256, REACH>(p, channels, to, apart) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn output_avx512<const SIDE: usize, const REACH: usize>(
        products: *const f32,
        apart: usize,
        f: &Finish,
        patch: &Patch,
    ) {
        // SAFETY: as above.
        unsafe { output_by::<__m512, SIDE, REACH>(products, apart, f, patch) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn output_avx2<const SIDE: usize, const REACH: usize>(
        products: *const f32,
        apart: usize,
        f: &Finish,
        patch: &Patch,
    ) {
        // SAFETY: as above.
        unsafe { output_by::<__m256, SIDE, REACH>(products, apart, f, patch) }
    }
}

/// Transforms one tile's inputs, a pointer for each pixel, to places `apart` floats from one to the next.
///
/// # Safety
/// Behind each pointer are `channels` readable floats, and at each place as many in whole vectors are
/// writable, which nobody else touches.
pub(super) unsafe fn input<const REACH: usize>(
    level: Level,
    pixels: &[[*const f32; REACH]; REACH],
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
        _ => unsafe { input_by::<Base, REACH>(pixels, channels, to, apart) },
    }
}

/// Transforms one tile's products to outputs.
///
/// # Safety
/// `products` has `patch.columns` floats in whole vectors at each place; `f`'s operands and the patch have
/// `patch.columns` floats for each pixel that exists, and nobody else touches those of the patch.
pub(super) unsafe fn output<const SIDE: usize, const REACH: usize>(
    level: Level,
    products: *const f32,
    apart: usize,
    f: &Finish,
    patch: &Patch,
) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { x86::output_avx512::<SIDE, REACH>(products, apart, f, patch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { x86::output_avx2::<SIDE, REACH>(products, apart, f, patch) },
        // SAFETY: as above.
        _ => unsafe { output_by::<Base, SIDE, REACH>(products, apart, f, patch) },
    }
}

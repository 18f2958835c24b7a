//! The three transforms, in whole numbers, over a vector of channels at a time.
//!
//! They evaluate polynomials at points: 0, ±1, ±2 and infinity for tiles of 4 by 4, 0, ±1 and infinity for those of
//! 2 by 2. The polynomial's values in the weights have denominators; each point's is multiplied by a number of its
//! own, so that all are whole, and what is left of that is the same for all of an output's products.
//!
//! Inputs are at most 255 away from the zero point and a row's coefficients add up to at most 10, so that
//! transformed inputs are at most 25500. Weights, less their zero point, are at most 255, and a row's coefficients
//! add up to at most 7: 12495.

use crate::simd::integer::Sums;
use crate::simd::integer::pairs::Pairs;

/// Sums of a line of a tile's outputs in the widest vectors.
pub(super) const LINE: usize = 4 * 32;

/// The lines of a tile's outputs.
#[repr(align(64))]
pub(super) struct Lines<const SIDE: usize>(pub [[i32; LINE]; SIDE]);

/// Most inputs of a tile along an axis.
pub(super) const REACH: usize = 6;

/// The values of one axis of weights at a tile's points.
#[inline(always)]
pub(super) fn weights(reach: usize, [g0, g1, g2]: [i16; 3]) -> [i16; REACH] {
    if reach == 6 {
        let (ends, quadruple) = (g0 + g2, g0 + 4 * g2);
        [6 * g0, -ends - g1, g1 - ends, quadruple + 2 * g1, quadruple - 2 * g1, 6 * g2]
    } else {
        [2 * g0, g0 + g1 + g2, g0 - g1 + g2, 2 * g2, 0, 0]
    }
}

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn forward<V: Pairs, const REACH: usize>(d: [V; REACH]) -> [V; REACH] {
    let mut out = d;
    // SAFETY: forwarded.
    unsafe {
        if REACH == 6 {
            let (even, odd) = (V::sub(d[4], d[2].four()), V::sub(d[3], d[1].four()));
            let (even_two, odd_two) = (V::sub(d[4], d[2]), V::sub(d[3], d[1]));
            let odd_two = V::add(odd_two, odd_two);
            out[0] = V::add(V::sub(d[0], d[2]).four(), even_two);
            out[1] = V::add(even, odd);
            out[2] = V::sub(even, odd);
            out[3] = V::add(even_two, odd_two);
            out[4] = V::sub(even_two, odd_two);
            out[5] = V::sub(V::sub(d[5], d[3]), V::add(odd_two, odd_two));
        } else {
            out[0] = V::sub(d[0], d[2]);
            out[1] = V::add(d[1], d[2]);
            out[2] = V::sub(d[2], d[1]);
            out[3] = V::sub(d[1], d[3]);
        }
    }
    out
}

/// What all of an output's products are multiplied by, along one axis: three times a power of two for tiles of 4,
/// twice that for those of 2.
const fn shift(side: usize, i: usize) -> i32 {
    match (side, i) {
        (4, 0) => 3,
        (4, 1) => 2,
        _ => 1,
    }
}

/// One over nine, modulo 2 to the 32.
const NINTH: i32 = 954_437_177;
const _: () = assert!(NINTH.wrapping_mul(9) == 1);

/// # Safety
/// `S`'s instructions are available.
#[inline(always)]
unsafe fn backward<V: Pairs, const SIDE: usize, const REACH: usize>(m: [V::Sums; REACH]) -> [V::Sums; SIDE] {
    // SAFETY: forwarded.
    unsafe {
        let mut out = [m[0]; SIDE];
        let (even, odd) = (V::Sums::add(m[1], m[2]), V::Sums::sub(m[1], m[2]));
        if SIDE == 4 {
            let (even_two, odd_two) = (V::Sums::add(m[3], m[4]), V::Sums::sub(m[3], m[4]));
            out[0] = V::Sums::add(V::Sums::add(m[0], V::four_sums(even)), even_two);
            out[1] = V::Sums::add(V::Sums::add(odd, odd), odd_two);
            out[2] = V::Sums::add(even, even_two);
            out[3] = V::Sums::add(V::Sums::add(odd, m[5]), V::Sums::add(odd_two, odd_two));
        } else {
            out[0] = V::Sums::add(m[0], even);
            out[1] = V::Sums::sub(odd, m[3]);
        }
        out
    }
}

/// Transforms one tile's inputs, a pointer for each pixel, to places `apart` words from one to the next.
///
/// # Safety
/// `V`'s instructions are available; behind each pointer are `channels` readable bytes, and at each place as many
/// words in whole vectors are writable, which nobody else touches.
#[inline(always)]
pub(super) unsafe fn input<V: Pairs, const SIGNED: bool, const REACH: usize>(
    pixels: &[[*const u8; REACH]; REACH],
    channels: usize,
    zero: i16,
    to: *mut i16,
    apart: usize,
) {
    for c in (0..channels).step_by(V::LANES) {
        // SAFETY: forwarded.
        unsafe {
            if channels - c >= V::LANES {
                vector::<V, SIGNED, true, REACH>(pixels, c, V::LANES, zero, to, apart);
            } else {
                vector::<V, SIGNED, false, REACH>(pixels, c, channels - c, zero, to, apart);
            }
        }
    }
}

/// # Safety
/// As [`input`], for the `n` channels from `c` on.
#[inline(always)]
unsafe fn vector<V: Pairs, const SIGNED: bool, const WHOLE: bool, const REACH: usize>(
    pixels: &[[*const u8; REACH]; REACH],
    c: usize,
    n: usize,
    zero: i16,
    to: *mut i16,
    apart: usize,
) {
    // SAFETY: forwarded.
    unsafe {
        let mut half = [[V::splat(0); REACH]; REACH];
        for x in 0..REACH {
            let mut column = [V::splat(0); REACH];
            for y in 0..REACH {
                let p = pixels[y][x].add(c);
                column[y] = if WHOLE { V::load::<SIGNED>(p) } else { V::load_first::<SIGNED>(p, n) };
            }
            let column = forward::<V, REACH>(column);
            for y in 0..REACH {
                half[y][x] = column[y];
            }
        }
        // Of numbers that are all the same, something is left at the place of the first point twice only.
        let left = if REACH == 6 { 36 } else { 4 };
        for y in 0..REACH {
            let mut line = forward::<V, REACH>(half[y]);
            if y == 1 {
                line[1] = V::sub(line[1], V::splat(zero.wrapping_mul(left)));
            }
            for x in 0..REACH {
                line[x].store(to.add((y * REACH + x) * apart + c));
            }
        }
    }
}

/// Transforms one tile's sums, whose places lie `apart`, to the lines of its outputs, pixel by pixel.
///
/// # Safety
/// `V`'s instructions are available, and there are one or two whole vectors of sums at each place.
#[inline(always)]
pub(super) unsafe fn output<V: Pairs, const SIDE: usize, const REACH: usize>(
    sums: *const i32,
    apart: usize,
    vectors: usize,
    to: &mut Lines<SIDE>,
) {
    for v in 0..vectors {
        let at = v * V::Sums::LANES;
        // SAFETY: forwarded; a line has room for its pixels' vectors.
        unsafe {
            let mut half = [[V::Sums::zero(); REACH]; SIDE];
            for x in 0..REACH {
                let mut column = [V::Sums::zero(); REACH];
                for y in 0..REACH {
                    column[y] = V::Sums::load(sums.add((y * REACH + x) * apart + at));
                }
                let column = backward::<V, SIDE, REACH>(column);
                for y in 0..SIDE {
                    half[y][x] = column[y];
                }
            }
            for y in 0..SIDE {
                let line = backward::<V, SIDE, REACH>(half[y]);
                for x in 0..SIDE {
                    let exact =
                        if SIDE == 4 { V::Sums::mul(line[x], V::Sums::splat(NINTH)) } else { line[x] };
                    let exact = V::shift_right(exact, shift(SIDE, y) + shift(SIDE, x));
                    exact.store(to.0[y][x * vectors * V::Sums::LANES + at..].as_mut_ptr());
                }
            }
        }
    }
}

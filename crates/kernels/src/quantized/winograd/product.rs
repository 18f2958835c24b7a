//! The products behind a tile: rows of transformed inputs by a panel of transformed weights.

use crate::quantized::form::Form;
use crate::quantized::tile::MAX_ROWS;
use crate::simd::Level;
use crate::simd::integer::Sums;
use crate::simd::integer::pairs::Pairs;
use crate::simd::vector::Vector;

/// Words of a vector.
pub(super) fn words(level: Level) -> usize {
    2 * Form::Words.lanes(level)
}

/// Rows of a register tile.
pub(super) fn most_rows(level: Level) -> usize {
    Form::Words.rows(level)
}

/// Computes a panel's sums for `count` rows, which lie `pitch` words apart. As many weights as it reads are fetched
/// from behind them meanwhile, which is where the next ones lie.
///
/// # Safety
/// `V`'s instructions are available; every row has `depth` words, whole pairs, the panel as many rows of one or
/// two vectors of pairs, and `to` has room for a row of that many sums for each.
#[inline(always)]
pub(super) unsafe fn product<V: Pairs>(
    [count, depth, vectors]: [usize; 3],
    a: *const i16,
    pitch: usize,
    b: *const i16,
    to: *mut i32,
) {
    let most = match V::Sums::LANES {
        16 => MAX_ROWS,
        8 => 6,
        _ if cfg!(target_arch = "aarch64") => 8,
        _ => 4,
    };
    let groups = count.div_ceil(most);
    for i in 0..groups {
        let (start, end) = (i * count / groups, (i + 1) * count / groups);
        let a = a.wrapping_add(start * pitch);
        // Each group of rows fetches its share.
        let words = depth * vectors * V::Sums::LANES;
        let ahead = Ahead { from: b.wrapping_add(words + words * i / groups), step: words / groups };
        let to = to.wrapping_add(start * vectors * V::Sums::LANES);
        macro_rules! by_size {
            ($($rows:literal)+) => {
                match (vectors, end - start) {
                    // SAFETY: forwarded from the caller; what a form has no registers for is never asked of it.
                    $((2, $rows) => unsafe { tile::<V, $rows, 2>(a, pitch, depth, b, ahead, to) },)+
                    // SAFETY: as above.
                    $((1, $rows) => unsafe { tile::<V, $rows, 1>(a, pitch, depth, b, ahead, to) },)+
                    _ => unreachable!("a tile is no larger than its form allows"),
                }
            };
        }
        match most {
            4 => by_size!(1 2 3 4),
            6 => by_size!(1 2 3 4 5 6),
            8 => by_size!(1 2 3 4 5 6 7 8),
            _ => by_size!(1 2 3 4 5 6 7 8 9 10 11 12),
        }
    }
}

/// Weights to fetch meanwhile.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const i16,
    /// All words, and then those of a turn of the loop.
    step: usize,
}

/// # Safety
/// As [`product`], for `MR` rows and `NV` vectors.
#[inline(always)]
unsafe fn tile<V: Pairs, const MR: usize, const NV: usize>(
    a: *const i16,
    pitch: usize,
    depth: usize,
    mut b: *const i16,
    ahead: Ahead,
    to: *mut i32,
) {
    // SAFETY: all pointer steps stay inside what the contract gives.
    unsafe {
        let mut acc = [[V::Sums::zero(); NV]; MR];
        // The pointers are to the end, so that one counter, which ends at zero, serves all addresses.
        let mut rows = [std::ptr::null::<i16>(); MR];
        for i in 0..MR {
            rows[i] = a.add(i * pitch + depth);
        }
        let mut k = -((depth * size_of::<i16>()) as isize);
        let step = NV * V::LANES;
        let mut next = ahead.from;
        let each = ahead.step / (depth / 4).max(1);
        if !(depth / 2).is_multiple_of(2) {
            steps::<V, MR, NV>(&rows, k, b, &mut acc);
            k += 4;
            b = b.add(step);
        }
        while k != 0 {
            k = <V::Sums as Sums>::Floats::opaque(k);
            steps::<V, MR, NV>(&rows, k, b, &mut acc);
            steps::<V, MR, NV>(&rows, k + 4, b.add(step), &mut acc);
            <V::Sums as Sums>::Floats::prefetch_line(next.cast());
            <V::Sums as Sums>::Floats::prefetch_line(next.wrapping_add(each / 2).cast());
            next = next.wrapping_add(each);
            k += 8;
            b = b.add(2 * step);
        }
        for i in 0..MR {
            for v in 0..NV {
                acc[i][v].store(to.add((i * NV + v) * V::Sums::LANES));
            }
        }
    }
}

/// One pair of steps of depth.
#[inline(always)]
unsafe fn steps<V: Pairs, const MR: usize, const NV: usize>(
    rows: &[*const i16; MR],
    k: isize,
    b: *const i16,
    acc: &mut [[V::Sums; NV]; MR],
) {
    // SAFETY: forwarded.
    unsafe {
        let mut w = [V::weights(b); NV];
        for v in 1..NV {
            w[v] = V::weights(b.add(v * V::LANES));
        }
        for i in 0..MR {
            let x = V::spread(rows[i].byte_offset(k));
            for v in 0..NV {
                acc[i][v] = V::dot(acc[i][v], x, w[v]);
            }
        }
    }
}

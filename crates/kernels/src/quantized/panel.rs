//! Weights of a panel, rearranged.

use super::weights::{ByteMatrix, Panel};

/// Packs one panel of rows of `width` columns by `group` steps of depth, `padded` of them in a tap.
pub(super) fn pack_panel(
    w: &ByteMatrix<'_>,
    p: &Panel,
    [group, padded, width]: [usize; 3],
    flip: u8,
    rows: &mut [u8],
    sums: &mut [u8],
) {
    let [tap_stride, _, column_stride] = w.strides;
    let (sums, _) = sums.as_chunks_mut::<4>();
    let mut totals = [0i32; 64];
    for tap in 0..w.taps {
        let rows = &mut rows[tap * padded * width..(tap + 1) * padded * width];
        let first = tap * tap_stride + p.column * column_stride;
        if column_stride == 1 {
            let from = &w.data[first..];
            match group {
                4 => pack_rows::<4>(w, from, p.columns, flip, rows, width, &mut totals),
                _ => pack_rows::<2>(w, from, p.columns, flip, rows, width, &mut totals),
            }
            continue;
        }
        for j in 0..p.columns {
            let column = &w.data[first + j * column_stride..];
            totals[j] += match group {
                4 => pack_column::<4>(w, column, flip, &mut rows[j * group..], width),
                _ => pack_column::<2>(w, column, flip, &mut rows[j * group..], width),
            };
        }
    }
    for (to, total) in sums.iter_mut().zip(totals) {
        *to = total.to_ne_bytes();
    }
}

/// Columns that are packed together where rows of them lie side by side.
const TOGETHER: usize = 16;
/// A panel's rows lie far apart in memory: those are asked for that are so many further on.
const AHEAD: usize = 32;

/// Brings a cache line near; any address will do.
#[inline(always)]
fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    <std::arch::x86_64::__m256 as crate::simd::vector::Vector>::prefetch_line(p.cast());
    #[cfg(not(target_arch = "x86_64"))]
    <crate::simd::vector::Base as crate::simd::vector::Vector>::prefetch_line(p.cast());
}

/// Packs one tap's rows of `columns`, and adds their weights to the columns' totals.
fn pack_rows<const GROUP: usize>(
    w: &ByteMatrix<'_>,
    from: &[u8],
    columns: usize,
    flip: u8,
    rows: &mut [u8],
    width: usize,
    totals: &mut [i32; 64],
) {
    let stride = w.strides[1];
    let mut c = 0;
    while c < w.channels {
        let count = GROUP.min(w.channels - c);
        for i in 0..count {
            prefetch(from.as_ptr().wrapping_add((c + AHEAD + i) * stride));
        }
        let to = &mut rows[c * width..][..GROUP * columns];
        let (to, _) = to.as_chunks_mut::<GROUP>();
        let mut j = 0;
        while count == GROUP && j + TOGETHER <= columns {
            let mut x = [[0; TOGETHER]; GROUP];
            for i in 0..GROUP {
                x[i].copy_from_slice(&from[(c + i) * stride + j..][..TOGETHER]);
            }
            let (Some(to), Some(totals)) =
                (to[j..].first_chunk_mut::<TOGETHER>(), totals[j..].first_chunk_mut::<TOGETHER>())
            else {
                break;
            };
            for k in 0..TOGETHER {
                let mut sum = 0;
                for i in 0..GROUP {
                    to[k][i] = x[i][k] ^ flip;
                    sum += i16::from((x[i][k] ^ flip) as i8);
                }
                totals[k] += i32::from(sum);
            }
            j += TOGETHER;
        }
        for j in j..columns {
            for i in 0..count {
                let x = from[(c + i) * stride + j] ^ flip;
                to[j][i] = x;
                totals[j] += i32::from(x as i8);
            }
        }
        c += count;
    }
}

/// Packs a column of one tap, and says what its weights add up to.
fn pack_column<const GROUP: usize>(
    w: &ByteMatrix<'_>,
    column: &[u8],
    flip: u8,
    rows: &mut [u8],
    width: usize,
) -> i32 {
    let stride = w.strides[1];
    let (mut total, whole) = (0, w.channels / GROUP);
    for g in 0..whole {
        let from = &column[g * GROUP * stride..][..(GROUP - 1) * stride + 1];
        let mut to = [0; GROUP];
        for (i, to) in to.iter_mut().enumerate() {
            *to = from[i * stride] ^ flip;
            total += i32::from(*to as i8);
        }
        rows[g * GROUP * width..][..GROUP].copy_from_slice(&to);
    }
    for c in whole * GROUP..w.channels {
        let x = column[c * stride] ^ flip;
        rows[whole * GROUP * width + c % GROUP] = x;
        total += i32::from(x as i8);
    }
    total
}

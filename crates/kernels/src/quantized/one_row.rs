//! Products of a single row: nothing is used twice, so that what counts is how fast weights come from memory.

use super::tile;
use super::weights::{ByteWeights, Panel};
use crate::simd::integer::Sums;
use crate::simd::vector::Vector;
use std::ptr::null;

/// Panels that are read side by side: memory gives more to several streams than to one.
const STREAMS: usize = 4;
/// Vectors of a panel.
const VECTORS: usize = 2;
/// How many bytes before their use weights are asked for.
const AHEAD: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Sums of some panels' columns.
#[repr(align(64))]
pub(super) struct Room {
    sums: [i32; STREAMS * tile::MAX_COLUMNS],
    /// The first panel whose sums are there, and how many follow.
    first: usize,
    count: usize,
}

impl Room {
    pub(super) fn new() -> Room {
        Room { sums: [0; STREAMS * tile::MAX_COLUMNS], first: 0, count: 0 }
    }
}

/// The sums of the row's products with what panel `i` holds, without what is apart; null where the panel is not one of
/// several whole ones. They are made for some panels at a time.
///
/// # Safety
/// `S`'s instructions are available; the row has `depth` elements, whole groups, for which the panels have weights.
#[inline(always)]
pub(super) unsafe fn sums<S: Sums>(
    w: &ByteWeights,
    panels: &[Panel],
    i: usize,
    row: *const S::X,
    depth: usize,
    room: &mut Room,
) -> *const i32 {
    let width = VECTORS * S::LANES;
    if i >= room.first + room.count {
        let next = &panels[i..panels.len().min(i + STREAMS)];
        (room.first, room.count) = (i, 0);
        if next.len() < STREAMS || next[STREAMS - 1].vectors != VECTORS {
            return null();
        }
        room.count = STREAMS;
        let [first, last] = [next[0].apart, next[STREAMS - 1].apart];
        // Weights that are apart follow these panels' products.
        let apart = w.weights_apart(&next[0]);
        for line in 0..last[0] + last[1] - first[0] {
            S::Floats::prefetch_line(apart.wrapping_add(line * LINE).cast());
        }
        // SAFETY: forwarded.
        unsafe { streams::<S>(w, next, row, depth, &mut room.sums) };
    }
    if room.count == 0 { null() } else { room.sums[(i - room.first) * width..].as_ptr() }
}

/// # Safety
/// As [`sums`], for [`STREAMS`] panels of two vectors.
#[inline(always)]
unsafe fn streams<S: Sums>(
    w: &ByteWeights,
    panels: &[Panel],
    row: *const S::X,
    depth: usize,
    to: &mut [i32; STREAMS * tile::MAX_COLUMNS],
) {
    let group = VECTORS * S::LANES * S::GROUP;
    let groups = depth / S::GROUP;
    let mut b = [null::<i8>(); STREAMS];
    for p in 0..STREAMS {
        b[p] = w.panel(&panels[p]);
    }
    // SAFETY: all pointer steps stay inside of what the caller gives.
    unsafe {
        let mut acc = [[[S::zero(); VECTORS]; 1]; STREAMS];
        let mut g = 0;
        if !S::PAIRED && !groups.is_multiple_of(2) {
            for p in 0..STREAMS {
                tile::steps::<S, 1, VECTORS>(&[row], 0, b[p], &mut acc[p]);
                b[p] = b[p].add(group);
            }
            g = 1;
        }
        while g < groups {
            // Behind a panel comes the next one, which is read already; the stream goes on as many panels later.
            let left = (groups - g) * group;
            let ahead = if left > AHEAD { AHEAD } else { AHEAD + (STREAMS - 1) * groups * group };
            let k = (g * S::GROUP * size_of::<S::X>()) as isize;
            for p in 0..STREAMS {
                for line in 0..(2 * group).div_ceil(LINE) {
                    S::Floats::prefetch_line(b[p].wrapping_add(ahead + line * LINE).cast());
                }
                if S::PAIRED {
                    tile::both_steps::<S, 1, VECTORS>(&[row], k, b[p], &mut acc[p]);
                } else {
                    tile::steps::<S, 1, VECTORS>(&[row], k, b[p], &mut acc[p]);
                    let next = (S::GROUP * size_of::<S::X>()) as isize;
                    tile::steps::<S, 1, VECTORS>(&[row], k + next, b[p].add(group), &mut acc[p]);
                }
                b[p] = b[p].add(2 * group);
            }
            g += 2;
        }
        for p in 0..STREAMS {
            for v in 0..VECTORS {
                acc[p][0][v].store(to[(p * VECTORS + v) * S::LANES..].as_mut_ptr());
            }
        }
    }
}

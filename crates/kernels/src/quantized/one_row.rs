//! Products of a single row: nothing is used twice, so that what counts is how fast weights come from memory.

use super::tile::MAX_COLUMNS;
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
    sums: [i32; STREAMS * MAX_COLUMNS],
    /// The first panel whose sums are there, and how many follow.
    first: usize,
    count: usize,
}

impl Room {
    pub(super) fn new() -> Room {
        Room { sums: [0; STREAMS * MAX_COLUMNS], first: 0, count: 0 }
    }
}

/// A row, and how far behind each element what the narrow range does not hold of it lies.
#[derive(Clone, Copy)]
pub(super) struct Row<X> {
    pub x: *const X,
    pub depth: usize,
    pub later: usize,
}

/// The sums of the row's products with what panel `i` holds, without what is apart of its weights. They are made for
/// some panels at a time; panels are asked for in their order.
///
/// # Safety
/// `S`'s instructions are available; the row has its depth in whole groups, for which the panels have weights, and
/// so has its part if products are paired.
#[inline(always)]
pub(super) unsafe fn sums<S: Sums>(
    w: &ByteWeights,
    panels: &[Panel],
    i: usize,
    row: Row<S::X>,
    room: &mut Room,
) -> *const i32 {
    if i >= room.first + room.count {
        let next = &panels[i..panels.len().min(i + STREAMS)];
        let several = next.len() == STREAMS && next[STREAMS - 1].vectors == VECTORS;
        room.first = i;
        room.count = if several { STREAMS } else { 1 };
        let next = &next[..room.count];
        let [first, last] = [next[0].apart, next[room.count - 1].apart];
        // Weights that are apart follow these panels' products.
        let apart = w.weights_apart(&next[0]);
        for line in 0..last[0] + last[1] - first[0] {
            S::Floats::prefetch_line(apart.wrapping_add(line * LINE).cast());
        }
        // SAFETY: forwarded; the room has vectors for so many panels.
        unsafe {
            let to = &mut room.sums;
            match (several, next[0].vectors, w.arranged()) {
                (true, _, false) => streams::<S, STREAMS, VECTORS, false>(w, next, row, to),
                (true, _, true) => streams::<S, STREAMS, VECTORS, true>(w, next, row, to),
                (false, VECTORS, false) => streams::<S, 1, VECTORS, false>(w, next, row, to),
                (false, VECTORS, true) => streams::<S, 1, VECTORS, true>(w, next, row, to),
                (false, _, false) => streams::<S, 1, 1, false>(w, next, row, to),
                (false, _, true) => streams::<S, 1, 1, true>(w, next, row, to),
            }
        }
    }
    room.sums[(i - room.first) * VECTORS * S::LANES..].as_ptr()
}

/// # Safety
/// As [`sums`], for `N` panels of `NV` vectors, whose groups of depth have orders of their own or have not.
#[inline(always)]
unsafe fn streams<S: Sums, const N: usize, const NV: usize, const ARRANGED: bool>(
    w: &ByteWeights,
    panels: &[Panel],
    row: Row<S::X>,
    to: &mut [i32; STREAMS * MAX_COLUMNS],
) {
    let vector = S::LANES * S::GROUP;
    let group = NV * vector;
    let groups = row.depth / S::GROUP;
    let mut b = [null::<i8>(); N];
    let mut order: [&[[u8; 2]]; N] = [&[]; N];
    for p in 0..N {
        b[p] = w.panel(&panels[p]);
        if let (true, Some(mates)) = (ARRANGED, w.mates(&panels[p])) {
            order[p] = &mates.order[..groups];
        }
    }
    // SAFETY: all pointer steps stay inside of what the caller gives.
    unsafe {
        let mut acc = [[S::zero(); NV]; N];
        let mut x = row.x;
        let mut g = 0;
        if !S::PAIRED && !groups.is_multiple_of(2) {
            for p in 0..N {
                for v in 0..NV {
                    acc[p][v] = S::dot(acc[p][v], S::spread(x), S::weights(b[p].add(v * vector)));
                }
                b[p] = b[p].add(group);
            }
            x = x.add(S::GROUP);
            g = 1;
        }
        while g < groups {
            // Behind a panel comes the next one, which is read already; the stream goes on as many panels later.
            let left = (groups - g) * group;
            let ahead = if left > AHEAD { AHEAD } else { AHEAD + (N - 1) * groups * group };
            for p in 0..N {
                for line in 0..(2 * group).div_ceil(LINE) {
                    S::Floats::prefetch_line(b[p].wrapping_add(ahead + line * LINE).cast());
                }
                let mut w = [[S::weights(b[p]); 2]; NV];
                for v in 0..NV {
                    w[v] = [S::weights(b[p].add(v * vector)), S::weights(b[p].add((NV + v) * vector))];
                }
                let mut a = [x, x.add(S::GROUP)];
                if ARRANGED {
                    let at =
                        |g: usize| usize::from(u16::from_ne_bytes(*order[p].get_unchecked(g))) * S::GROUP;
                    a = [row.x.add(at(g)), row.x.add(at(g + 1))];
                }
                S::dot_both(&mut acc[p], a, &w);
                if S::PAIRED {
                    S::dot_both(&mut acc[p], [a[0].add(row.later), a[1].add(row.later)], &w);
                }
                b[p] = b[p].add(2 * group);
            }
            x = x.add(2 * S::GROUP);
            g += 2;
        }
        for p in 0..N {
            for v in 0..NV {
                acc[p][v].store(to[(p * VECTORS + v) * S::LANES..].as_mut_ptr());
            }
        }
    }
}

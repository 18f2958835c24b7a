//! Attention of many queries: both products on the register tile, over keys and values packed once.

use super::probabilities::{BLIND, LANES, Rows};
use super::{Group, Job, rows};
use crate::channels_last::conv::tile::{self, Finish, MAX_ROWS, Tile};
use crate::error::{KernelError, product};
use crate::scratch;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::Shards;
use std::ops::Range;
use std::ptr::null;

/// Rows of a part that are worth packing keys and values for.
pub(super) const FEWEST_ROWS: usize = 24;
/// Most rows of a block.
const MOST_ROWS: usize = 192;
/// Floats of a block's scores: less than half of the second-level cache.
const SCORES: usize = 96 * 1024;
/// Values of a panel that are multiplied before the next tile's turn: they stay in the first-level cache.
const PIECE: usize = 256;

/// The first column of each panel, its columns, and its vectors.
fn panels(level: Level, columns: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let lanes = tile::lanes(level);
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = (columns - first).div_ceil(lanes);
        // An odd number of vectors ends with three, because a single one keeps few units busy.
        let vectors = if left == 3 { tile::most_vectors(level) } else { left.min(2) };
        let count = (vectors * lanes).min(columns - first);
        first += count;
        (count > 0).then_some((first - count, count, vectors))
    })
}

/// Columns with those that panels are filled up with.
fn filled(level: Level, columns: usize) -> usize {
    panels(level, columns).last().map_or(0, |(first, _, vectors)| first + vectors * tile::lanes(level))
}

/// Cuts rows into tiles of nearly one height, at most `most`.
fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most);
    (0..count).map(move |i| i * rows / count..(i + 1) * rows / count)
}

/// Computes some rows of a group.
pub(super) fn run(
    level: Level,
    job: &Job<'_>,
    group: Group,
    part: Range<usize>,
    out: Shards<'_, f32>,
) -> Result<(), KernelError> {
    let s = &job.sizes;
    // A pitch of a power of two would put a tile's rows into one set of the cache.
    let pitch = s.keys.next_multiple_of(LANES) + LANES;
    let value_pitch = s.value_size.next_multiple_of(LANES);
    let most = (SCORES / pitch).clamp(FEWEST_ROWS, MOST_ROWS);
    let block = part.len().min(most);
    let keys_len = product("packed keys", &[filled(level, s.keys), s.size])?;
    let values_len = product("packed values", &[filled(level, s.value_size), s.keys])?;
    let lens = [
        keys_len.next_multiple_of(LANES),
        values_len.next_multiple_of(LANES),
        block * pitch,
        block * value_pitch,
        pitch,
        block,
    ];
    let total = lens.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    scratch::with(total.ok_or(KernelError::Overflow("attention"))?, |mut room| {
        let [keys, values, scores, sums, bias, factors] = lens.map(|n| {
            let (part, rest) = std::mem::take(&mut room).split_at_mut(n);
            room = rest;
            part
        });
        let k_at = group.batch * job.k.strides[0] + group.kv_head * job.k.strides[1];
        let (from, to) = (&job.k.data[k_at..], &mut *keys);
        level.run(Keys(Pack { level, from, pitch: job.k.strides[2], rows: s.keys, size: s.size, to }));
        let v_at = group.batch * job.v.strides[0] + group.kv_head * job.v.strides[1];
        let (from, to) = (&job.v.data[v_at..], &mut *values);
        level.run(Values(Pack {
            level,
            from,
            pitch: job.v.strides[2],
            rows: s.keys,
            size: s.value_size,
            to,
        }));
        for cut in tiles(part.len(), most) {
            let (first, count) = (part.start + cut.start, cut.len());
            let mut pointers = [null::<f32>(); MOST_ROWS];
            for (p, at) in pointers[..count].iter_mut().zip(job.offsets(group, first, job.q.strides)) {
                *p = job.q.data[at..at + s.size].as_ptr();
            }
            // SAFETY: every pointer has `size` floats behind it, and the keys were packed above.
            unsafe { multiply(level, &pointers[..count], keys, s.size, s.keys, scores, pitch) };
            let scores = &mut scores[..count * pitch];
            let factors = &mut factors[..count];
            level.run(Rows {
                level,
                job,
                group,
                first,
                scores: &mut *scores,
                pitch,
                bias: &mut *bias,
                factors,
            });
            for (p, row) in pointers.iter_mut().zip(scores.chunks_exact(pitch)) {
                *p = row.as_ptr();
            }
            // SAFETY: as above: a row of scores has as many floats as there are keys.
            unsafe { multiply(level, &pointers[..count], values, s.keys, s.value_size, sums, value_pitch) };
            let rows = sums.chunks_exact(value_pitch).zip(factors);
            for ((sums, factor), at) in rows.zip(job.offsets(group, first, job.out_strides)) {
                // SAFETY: rows of the result lie apart, and each is one task's.
                let out = unsafe { out.part(at, s.value_size) };
                if *factor == BLIND {
                    out.fill(0.0);
                } else {
                    assert!(out.len() <= sums.len());
                    // SAFETY: both are as long as the result's row, by the check above.
                    unsafe { rows::times(level, sums.as_ptr(), out.len(), *factor, out.as_mut_ptr()) };
                }
            }
        }
    })
}

/// Rows by packed panels: `to` gets a row of `columns` floats for each pointer.
///
/// # Safety
/// `depth` floats can be read behind every pointer.
unsafe fn multiply(
    level: Level,
    rows: &[*const f32],
    packed: &[f32],
    depth: usize,
    columns: usize,
    to: &mut [f32],
    to_pitch: usize,
) {
    assert!(packed.len() >= filled(level, columns) * depth, "the panels are there");
    assert!(to.len() >= rows.len() * to_pitch && to_pitch >= columns, "the result's rows are there");
    let to = to.as_mut_ptr();
    for (column, count, vectors) in panels(level, columns) {
        let width = vectors * tile::lanes(level);
        let panel = packed[column * depth..].as_ptr();
        let mut skip = 0;
        // A product over no depth is zero, and must be written all the same.
        loop {
            let piece = PIECE.min(depth - skip);
            for cut in tiles(rows.len(), tile::most_rows(level, vectors).min(MAX_ROWS)) {
                let target = to.wrapping_add(cut.start * to_pitch + column);
                let t = Tile {
                    rows: rows[cut.start..].as_ptr(),
                    pitch: 0,
                    runs: 1,
                    skip,
                    depth: piece,
                    b: panel.wrapping_add(skip * width),
                    vectors,
                    from: if skip == 0 { null() } else { target },
                    from_pitch: to_pitch,
                    to: target,
                    to_pitch,
                    height: cut.len(),
                    columns: count,
                    finish: Finish::NONE,
                    // Everything is near already.
                    ahead: [0; 2],
                };
                // SAFETY: pointers and panels go as deep as the caller and the first check promise; rows
                // of the result are there by the second.
                unsafe { tile::run(level, &t) };
            }
            skip += piece;
            if skip >= depth {
                break;
            }
        }
    }
}

/// Rows to be packed into panels.
struct Pack<'a> {
    level: Level,
    from: &'a [f32],
    pitch: usize,
    rows: usize,
    size: usize,
    to: &'a mut [f32],
}

/// Panels whose columns are those of the rows.
struct Values<'a>(Pack<'a>);

impl Kernel for Values<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Pack { level, from, pitch, rows, size, to } = self.0;
        for (column, count, vectors) in panels(level, size) {
            let width = vectors * tile::lanes(level);
            for (j, to) in to[column * rows..][..width * rows].chunks_exact_mut(width).enumerate() {
                let from = &from[j * pitch + column..][..count];
                let (whole, rest) = from.as_chunks::<4>();
                let (to_whole, to_rest) = to.split_at_mut(whole.len() * 4);
                for (to, from) in to_whole.as_chunks_mut::<4>().0.iter_mut().zip(whole) {
                    *to = *from;
                }
                to_rest[..rest.len()].copy_from_slice(rest);
                to_rest[rest.len()..].fill(0.0);
            }
        }
    }
}

/// Writes a square of four rows, transposed, with `pitch` from row to row.
///
/// # Safety
/// Four floats can be read at each pointer, and written at each of four rows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn([a, b, c, d]: [*const f32; 4], to: *mut f32, pitch: usize) {
    use std::arch::x86_64::*;
    // SAFETY: these instructions are part of the architecture; the caller gives the room.
    unsafe {
        let (a, b, c, d) = (_mm_loadu_ps(a), _mm_loadu_ps(b), _mm_loadu_ps(c), _mm_loadu_ps(d));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(to, _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(to.add(pitch), _mm_movehl_ps(cd, ab));
        _mm_storeu_ps(to.add(2 * pitch), _mm_movelh_ps(ab_high, cd_high));
        _mm_storeu_ps(to.add(3 * pitch), _mm_movehl_ps(cd_high, ab_high));
    }
}

/// Writes a square of four rows, transposed, with `pitch` from row to row.
///
/// # Safety
/// Four floats can be read at each pointer, and written at each of four rows.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn turn(rows: [*const f32; 4], to: *mut f32, pitch: usize) {
    for (i, row) in rows.into_iter().enumerate() {
        for l in 0..4 {
            // SAFETY: the caller gives the room.
            unsafe { *to.add(l * pitch + i) = *row.add(l) };
        }
    }
}

/// Panels whose columns are the rows.
struct Keys<'a>(Pack<'a>);

impl Kernel for Keys<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Pack { level, from, pitch, rows, size, to } = self.0;
        for (column, count, vectors) in panels(level, rows) {
            let width = vectors * tile::lanes(level);
            let to = &mut to[column * size..][..width * size];
            if count < width {
                to.fill(0.0);
            }
            let whole = count / 4 * 4;
            for j in (0..whole).step_by(4) {
                let rows: [&[f32]; 4] = std::array::from_fn(|i| &from[(column + j + i) * pitch..][..size]);
                let squares = size / 4 * 4;
                let target = &mut to[..squares * width];
                assert!(j + 4 <= width && rows.iter().all(|r| r.len() >= squares));
                let [a, b, c, d] = rows.map(<[f32]>::as_ptr);
                for e in (0..squares).step_by(4) {
                    // SAFETY: the rows have `squares` elements, and the panel as many rows of `width`.
                    unsafe {
                        let square = [a.add(e), b.add(e), c.add(e), d.add(e)];
                        turn(square, target.as_mut_ptr().add(e * width + j), width);
                    }
                }
                for d in size / 4 * 4..size {
                    to[d * width + j..][..4].copy_from_slice(&rows.map(|r| r[d]));
                }
            }
            for j in whole..count {
                let row = &from[(column + j) * pitch..][..size];
                for (to, x) in to.chunks_exact_mut(width).zip(row) {
                    to[j] = *x;
                }
            }
        }
    }
}

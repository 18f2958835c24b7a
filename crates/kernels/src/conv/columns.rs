//! The input of a convolution seen as the right operand of a matrix product: one row per channel and
//! tap, one column per output position, never stored whole.

use super::ConvShape;
use crate::matmul::driver::Right;
use crate::matmul::tile::{Geometry, MAX_COLUMNS};
use crate::scratch;
use crate::simd::Level;
use std::ops::Range;

/// One image's channels of one group.
pub(super) struct Columns<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    rows: RowPhases,
    room: usize,
}

/// How a row of input is laid out so that every tap reads it contiguously whatever the stride: the
/// elements of each phase (position modulo stride) in a row of their own, padded with zeros.
pub(super) struct RowPhases {
    /// Length of one phase's row.
    pub pitch: usize,
    /// For each tap: its phase's slot and where in it the tap of output 0 is.
    pub taps: Vec<(usize, usize)>,
    /// For each slot: which phase.
    pub phases: Vec<usize>,
}

impl RowPhases {
    pub(super) fn new(outputs: usize, kernel: usize, stride: usize, dilation: usize) -> RowPhases {
        let mut phases = Vec::new();
        let taps: Vec<(usize, usize)> = (0..kernel)
            .map(|t| {
                let (phase, at) = (t * dilation % stride, t * dilation / stride);
                let slot = phases.iter().position(|&p| p == phase).unwrap_or_else(|| {
                    phases.push(phase);
                    phases.len() - 1
                });
                (slot, at)
            })
            .collect();
        let reach = taps.iter().map(|&(_, at)| at).max().unwrap_or(0);
        RowPhases { pitch: outputs + reach, taps, phases }
    }

    /// Floats of one row with all its phases.
    pub(super) fn len(&self) -> usize {
        self.pitch * self.phases.len()
    }

    /// Lays out one row of input, its phases `apart` from each other.
    #[inline(always)]
    pub(super) fn fill(&self, row: &[f32], stride: usize, pad: usize, to: &mut [f32], apart: usize) {
        for (slot, &phase) in self.phases.iter().enumerate() {
            let to = &mut to[slot * apart..][..self.pitch];
            // Element j of the phase is row[j * stride + phase - pad].
            let first = pad.saturating_sub(phase).div_ceil(stride).min(self.pitch);
            let (before, rest) = to.split_at_mut(first);
            before.fill(0.0);
            let start = (first * stride + phase).saturating_sub(pad).min(row.len());
            let count = (row.len() - start).div_ceil(stride).min(rest.len());
            if stride == 1 {
                rest[..count].copy_from_slice(&row[start..start + count]);
            } else if stride == 2 {
                // Pairs become vector shuffles; the last element may have no partner.
                let (pairs, last) = row[start..].as_chunks::<2>();
                let whole = pairs.len().min(count);
                rest[..whole].iter_mut().zip(pairs).for_each(|(t, &[x, _])| *t = x);
                rest[whole..count].iter_mut().zip(last).for_each(|(t, &x)| *t = x);
            } else {
                rest.iter_mut().zip(row[start..].iter().step_by(stride)).for_each(|(t, &x)| *t = x);
            }
            rest[count..].fill(0.0);
        }
    }
}

/// A run of output positions in one row, inside one panel.
struct Segment {
    /// Where its columns start in the packed block (at depth 0).
    to: usize,
    /// Output row, counted from the block's first.
    row: usize,
    /// Output position in the row.
    at: usize,
    len: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn new(shape: &'a ConvShape, x: &'a [f32]) -> Columns<'a> {
        let rows = RowPhases::new(shape.output[2], shape.kernel[2], shape.strides[2], shape.dilations[2]);
        let room = rows.len();
        Columns { shape, x, rows, room }
    }

    /// The general case, one element at a time.
    fn pack_each(&self, width: usize, depth: Range<usize>, columns: Range<usize>, to: &mut [f32]) {
        let (s, kc) = (self.shape, depth.len());
        for (kk, k) in depth.enumerate() {
            let taps = s.taps();
            let (c, t) = (k / taps, k % taps);
            let tap = [t / s.kernel[2] / s.kernel[1], t / s.kernel[2] % s.kernel[1], t % s.kernel[2]];
            for (jj, j) in columns.clone().enumerate() {
                let at = [j / s.output[2] / s.output[1], j / s.output[2] % s.output[1], j % s.output[2]];
                let mut offset = Some(c);
                for axis in 0..3 {
                    let i = (at[axis] * s.strides[axis] + tap[axis] * s.dilations[axis])
                        .checked_sub(s.pads[axis])
                        .filter(|&i| i < s.input[axis]);
                    offset = offset.zip(i).map(|(o, i)| o * s.input[axis] + i);
                }
                to[jj / width * width * kc + kk * width + jj % width] = offset.map_or(0.0, |o| self.x[o]);
            }
        }
    }

    /// Up to two spatial axes: a channel's rows are padded and laid out by phase once, then every tap
    /// copies runs of them into the panels.
    fn pack_flat<const W: usize>(
        &self,
        depth: Range<usize>,
        columns: Range<usize>,
        to: &mut [f32],
        room: &mut [f32],
    ) {
        let s = self.shape;
        let [_, kh, kw] = s.kernel;
        let (ow, sh, dh) = (s.output[2], s.strides[1], s.dilations[1]);
        let kc = depth.len();
        let first_row = columns.start / ow;
        let segments = segments::<W>(columns.clone(), ow, kc);
        let band = ((columns.end - 1) / ow - first_row) * sh + (kh - 1) * dh + 1;
        let row_len = self.rows.len();
        let taps = kh * kw;
        for c in depth.start / taps..(depth.end - 1) / taps + 1 {
            let plane = &self.x[c * s.plane()..(c + 1) * s.plane()];
            for (r, row) in room.chunks_exact_mut(row_len).take(band).enumerate() {
                match (first_row * sh + r).checked_sub(s.pads[1]).filter(|&y| y < s.input[1]) {
                    Some(y) => {
                        let x = &plane[y * s.input[2]..(y + 1) * s.input[2]];
                        self.rows.fill(x, s.strides[2], s.pads[2], row, self.rows.pitch);
                    }
                    None => row.fill(0.0),
                }
            }
            for k in depth.start.max(c * taps)..depth.end.min((c + 1) * taps) {
                let tap = k - c * taps;
                let (ky, kx) = (tap / kw, tap % kw);
                let (slot, at) = self.rows.taps[kx];
                let base = ky * dh * row_len + slot * self.rows.pitch + at;
                let kk = k - depth.start;
                // A whole panel width is copied whatever the run's length: what it spills into the next
                // depth of the same panel is overwritten by that depth. The last depth must not spill.
                let spill = kk + 1 < kc;
                for g in &segments {
                    let from = base + g.row * sh * row_len + g.at;
                    let target = g.to + kk * W;
                    if spill || g.len == W {
                        let (a, b) = (&room[from..from + W], &mut to[target..target + W]);
                        b.copy_from_slice(a);
                    } else {
                        to[target..target + g.len].copy_from_slice(&room[from..from + g.len]);
                    }
                }
            }
        }
    }
}

/// Cuts columns into runs that stay inside one output row and one panel, in order.
fn segments<const W: usize>(columns: Range<usize>, ow: usize, kc: usize) -> Vec<Segment> {
    let first_row = columns.start / ow;
    let mut list = Vec::with_capacity(columns.len() / W + columns.len() / ow + 2);
    let mut j = columns.start;
    while j < columns.end {
        let inside = j - columns.start;
        let len = (W - inside % W).min(ow - j % ow).min(columns.end - j);
        let to = inside / W * W * kc + inside % W;
        list.push(Segment { to, row: j / ow - first_row, at: j % ow, len });
        j += len;
    }
    list
}

impl Right for Columns<'_> {
    fn pack(&self, level: Level, depth: Range<usize>, columns: Range<usize>, to: &mut [f32]) {
        let width = Geometry::of(level).columns;
        if depth.is_empty() || columns.is_empty() {
            return;
        }
        let s = self.shape;
        if !s.flat() {
            return self.pack_each(width, depth, columns, to);
        }
        let ow = s.output[2];
        let rows = ((columns.end - 1) / ow - columns.start / ow) * s.strides[1]
            + (s.kernel[1] - 1) * s.dilations[1]
            + 1;
        // A dilation or stride far above the input makes a band of mostly zeros: not worth its memory.
        let Some(len) = rows.checked_mul(self.room).filter(|&l| l <= 1 << 22) else {
            return self.pack_each(width, depth, columns, to);
        };
        let done = scratch::with(len + MAX_COLUMNS, |room| match width {
            32 => self.pack_flat::<32>(depth.clone(), columns.clone(), to, room),
            16 => self.pack_flat::<16>(depth.clone(), columns.clone(), to, room),
            12 => self.pack_flat::<12>(depth.clone(), columns.clone(), to, room),
            _ => self.pack_flat::<8>(depth.clone(), columns.clone(), to, room),
        });
        if done.is_err() {
            self.pack_each(width, depth, columns, to);
        }
    }
}

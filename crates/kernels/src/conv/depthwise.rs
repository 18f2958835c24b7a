//! Convolution of each channel by itself.
//!
//! A channel is laid out once as padded planes, one per phase of the strides, so that every tap reads
//! contiguously at a fixed distance. The output plane is then one flat run with a few unused columns
//! between rows, summed tap by tap in registers.

use super::ConvShape;
use super::columns::RowPhases;
use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// Outputs summed at a time.
const CHUNK: usize = 64;

pub(super) fn run(
    pool: &Pool,
    s: &ConvShape,
    x: &[f32],
    weights: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let [_, oh, ow] = s.output;
    let rows = RowPhases::new(ow, s.kernel[2], s.strides[2], s.dilations[2]);
    let columns = RowPhases::new(oh, s.kernel[1], s.strides[1], s.dilations[1]);
    // One plane for each horizontal phase, with the rows of all vertical phases.
    let pitch = rows.pitch;
    let plane = crate::error::product("padded plane", &[columns.len(), rows.len()])?;
    let apart = columns.len() * pitch;
    let mut taps = Vec::with_capacity(s.taps());
    for &(slot, down) in &columns.taps {
        for &(phase, along) in &rows.taps {
            taps.push(phase * apart + (slot * columns.pitch + down) * pitch + along);
        }
    }
    let positions = oh * ow;
    let flat = (oh - 1) * pitch + ow;
    let chunked = flat.next_multiple_of(CHUNK);
    let per_channel = s.out_channels / s.in_channels;
    let shards = Shards::new(out);
    let error = FirstError::default();
    let work = positions * taps.len() * per_channel;
    pool.split(s.batch * s.in_channels, ((1 << 16) / work.max(1)).max(1), |range| {
        let done = scratch::with(plane + CHUNK + chunked, |room| {
            let (padded, sums) = room.split_at_mut(plane + CHUNK);
            for item in range {
                let (image, channel) = (item / s.in_channels, item % s.in_channels);
                let x = &x[item * s.plane()..(item + 1) * s.plane()];
                let to = &mut padded[..plane];
                pool.level().run(LayOut { s, x, rows: &rows, columns: &columns, to });
                for m in 0..per_channel {
                    let c = channel * per_channel + m;
                    let w = &weights[c * taps.len()..(c + 1) * taps.len()];
                    pool.level().run(Taps { padded, weights: w, taps: &taps, sums });
                    let start = (image * s.out_channels + c) * positions;
                    // SAFETY: every output channel belongs to one input channel, and those are split.
                    let out = unsafe { shards.part(start, positions) };
                    for (out, sums) in out.chunks_exact_mut(ow).zip(sums.chunks(pitch)) {
                        out.copy_from_slice(&sums[..ow]);
                    }
                    epilogue.apply(pool.level(), out, c, 0, start);
                }
            }
        });
        error.note(done);
    });
    error.into_result()
}

/// Writes a channel's padded planes.
struct LayOut<'a> {
    s: &'a ConvShape,
    x: &'a [f32],
    rows: &'a RowPhases,
    columns: &'a RowPhases,
    to: &'a mut [f32],
}

impl Kernel for LayOut<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let LayOut { s, x, rows, columns, to } = self;
        let (pitch, apart) = (rows.pitch, columns.len() * rows.pitch);
        for (slot, &phase) in columns.phases.iter().enumerate() {
            for r in 0..columns.pitch {
                let to = &mut to[(slot * columns.pitch + r) * pitch..];
                match (r * s.strides[1] + phase).checked_sub(s.pads[1]).filter(|&y| y < s.input[1]) {
                    Some(y) => {
                        let x = &x[y * s.input[2]..(y + 1) * s.input[2]];
                        rows.fill(x, s.strides[2], s.pads[2], to, apart);
                    }
                    None => (0..rows.phases.len()).for_each(|p| to[p * apart..][..pitch].fill(0.0)),
                }
            }
        }
    }
}

struct Taps<'a> {
    /// At least a chunk longer than any tap reaches.
    padded: &'a [f32],
    weights: &'a [f32],
    taps: &'a [usize],
    sums: &'a mut [f32],
}

impl Kernel for Taps<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (i, sums) in self.sums.as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
            let mut acc = [0.0f32; CHUNK];
            for (&w, &tap) in self.weights.iter().zip(self.taps) {
                let x: &[f32; CHUNK] = self.padded[tap + i * CHUNK..][..CHUNK].try_into().expect("a chunk");
                for l in 0..CHUNK {
                    acc[l] = I::mul_add(w, x[l], acc[l]);
                }
            }
            *sums = acc;
        }
    }
}

//! The first layer: few channels, still in planes.
//!
//! The planes are turned into pixels with the padding written out. All taps of a line of the window then
//! lie in one run, so that the register tile's loop is long although the channels are few.

use super::direct::{self, Source, Target};
use super::finish::Parts;
use super::{Algorithm, ConvWeights, flat, winograd};
use crate::conv::ConvShape;
use crate::error::KernelError;
use crate::scratch;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};

/// Convolution of planes.
pub(super) fn run(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weights: &ConvWeights,
    target: Target<'_>,
    parts: &Parts<'_>,
) -> Result<(), KernelError> {
    let channels = shape.in_channels;
    let (input, output, pads) = (flat(shape.input), flat(shape.output), flat(shape.pads));
    let (kernel, strides, dilations) = (flat(shape.kernel), flat(shape.strides), flat(shape.dilations));
    let reach = |axis: usize| (output[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
    let padded = [reach(0), reach(1)];
    // Writing out a padding far above the input itself costs more than it brings.
    let moderate = |axis: usize| padded[axis] <= 2 * input[axis] + 64;
    let winograd = match weights.algorithm {
        Algorithm::Winograd(tiles) => Some(tiles),
        Algorithm::Direct => None,
    };
    let lines = moderate(0) && moderate(1) && dilations[1] == 1 && winograd.is_none();
    let (size, before) = if lines { (padded, pads) } else { (input, [0, 0]) };
    let pitch = size[1] * channels;
    let rows = shape.batch * size[0];
    scratch::with(rows * pitch, |room| {
        let shards = Shards::new(room);
        pool.split(rows, (1 << 14) / pitch.max(1), |part| {
            // SAFETY: the parts of a split are disjoint.
            let to = unsafe { shards.part(part.start * pitch, part.len() * pitch) };
            for (row, line) in part.zip(to.chunks_exact_mut(pitch.max(1))) {
                let (image, y) = (row / size[0], row % size[0]);
                match y.checked_sub(before[0]).filter(|&y| y < input[0]) {
                    Some(y) => {
                        let image = &x[image * channels * input[0] * input[1]..];
                        interleave(pool.level(), image, input, channels, y, before[1], line);
                    }
                    None => line.fill(0.0),
                }
            }
        });
        let zeros = weights.zeros.as_slice();
        if let Some(tiles) = winograd {
            let w = &weights.panels;
            let conv = winograd::Conv { s: shape, x: room, x_pitch: channels, w, zeros, target, parts };
            return winograd::run(pool, tiles, conv);
        }
        let source = Source {
            x: room,
            pitches: [size[0] * pitch, pitch, channels],
            input: size,
            output,
            taps: if lines { [kernel[0], 1] } else { kernel },
            strides,
            dilations,
            pads: if lines { [0, 0] } else { pads },
            run: if lines { kernel[1] * channels } else { channels },
            zeros,
        };
        direct::run(pool, &source, &weights.panels, target, parts)
    })?
}

/// Writes line `y` of all planes as pixels, with zeros for `before` pixels and behind the last.
fn interleave(
    level: Level,
    x: &[f32],
    input: [usize; 2],
    channels: usize,
    y: usize,
    before: usize,
    line: &mut [f32],
) {
    let plane = input[0] * input[1];
    let pixels = line.len() / channels;
    let begin = before.min(pixels);
    let end = (before + input[1]).min(pixels);
    line[..begin * channels].fill(0.0);
    line[end * channels..].fill(0.0);
    let inner = &mut line[begin * channels..end * channels];
    let row = |c: usize| &x[c * plane + y * input[1]..][..end - begin];
    if channels == 3 {
        level.run(Three { rows: [row(0), row(1), row(2)], to: inner });
    } else {
        for c in 0..channels {
            for (pixel, &x) in inner.chunks_exact_mut(channels).zip(row(c)) {
                pixel[c] = x;
            }
        }
    }
}

/// Three rows turned into pixels, which vectors can do.
struct Three<'a> {
    rows: [&'a [f32]; 3],
    to: &'a mut [f32],
}

impl Kernel for Three<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let [a, b, c] = self.rows;
        for (((pixel, &a), &b), &c) in self.to.as_chunks_mut::<3>().0.iter_mut().zip(a).zip(b).zip(c) {
            *pixel = [a, b, c];
        }
    }
}

//! Convolution over at most two spatial axes, channels last, with an epilogue whose rows are the output's
//! pixels and whose columns are its channels.

mod activation;
pub(super) mod direct;
pub(crate) mod finish;
pub(super) mod panels;
pub(crate) mod rows;
mod stem;
pub(crate) mod tile;

use super::winograd;
pub use super::winograd::Tiles;
use crate::conv::ConvShape;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, at_least, exact, extent};
use crate::packed::{Packed, Weight};
use crate::scratch::Buffer;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use direct::{Source, Target};
use finish::Parts;
use panels::{Panels, Weights};
use smallvec::SmallVec;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Multiply every tap.
    Direct,
    /// Transform tiles of outputs, for windows of 3 by 3 without stride: a quarter of the multiplications in tiles
    /// of 4 by 4, four ninths of them in tiles of 2 by 2. Rounding errors of the larger ones are two to three times
    /// those of the direct sum (root mean square), at most 3e-7 of the sum of absolute products that a tile's
    /// largest input and weight would give; those of the smaller ones are about the direct sum's. An infinity or
    /// NaN spreads over its tile, as NaN.
    Winograd(Tiles),
}

impl Algorithm {
    /// Whether it computes this shape.
    pub fn supports(self, shape: &ConvShape) -> bool {
        supported(shape).is_ok() && (self == Algorithm::Direct || winograd::supports(shape))
    }

    /// The faster one for this shape, by an estimate whose constants come from measurements. It counts
    /// weights as read from memory, because a whole model's are.
    pub fn pick(level: Level, shape: &ConvShape) -> Algorithm {
        Algorithm::ways(level, shape)[0]
    }

    /// All that compute this shape, the likely fastest first.
    pub fn ways(level: Level, shape: &ConvShape) -> SmallVec<[Algorithm; 3]> {
        /// Fetching one weight from memory, in multiplications and additions of the tile, where vectors have 16
        /// floats. Many tiles of the direct way hide it, the few of a transformed place do not.
        const FETCH: f64 = 20.0;
        /// Products of a few channels do not fill the register tile's loop.
        const FEW: usize = 24;
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        if !winograd::supports(shape) || supported(shape).is_err() {
            return SmallVec::from_slice(&[Algorithm::Direct]);
        }
        let weights = inputs as f64 * outputs as f64;
        let fetch = FETCH * tile::lanes(level) as f64 / 16.0;
        let direct = weights * 9.0 * fetch.max((shape.batch * shape.positions()) as f64);
        // The tiles, what transforming one channel of them there or back takes, in the same unit, and how much
        // faster than the direct way they have to be: their weights take 4 times the room, or 16/9 times.
        let ways = [(Tiles::Two, 90.0, 1.2), (Tiles::Four, 200.0, 1.2)].map(|(tiles, transform, worth)| {
            let side = |axis: usize| shape.output[axis].div_ceil(tiles.side());
            let count = (shape.batch * side(1) * side(2)) as f64;
            let products = weights * tiles.places() as f64 * (fetch + count);
            let all = products + count * transform * (inputs + outputs) as f64;
            // The smaller tiles were not yet measured beside vectors of 16.
            let unknown = tiles == Tiles::Two && tile::lanes(level) == 16;
            (
                if unknown || inputs.min(outputs) < FEW { f64::INFINITY } else { worth * all },
                Algorithm::Winograd(tiles),
            )
        });
        let mut ways = [(direct, Algorithm::Direct), ways[0], ways[1]];
        ways.sort_by(|a, b| a.0.total_cmp(&b.0));
        ways.iter().map(|w| w.1).collect()
    }
}

/// Weights rearranged once for [`conv`].
#[derive(Debug, Clone)]
pub struct ConvWeights {
    algorithm: Algorithm,
    panels: Panels,
    zeros: Buffer,
    in_channels: usize,
    kernel: [usize; 3],
}

/// Inputs of at most this many channels count as the first layer's.
const FEW_CHANNELS: usize = 4;

impl ConvWeights {
    /// Packs `[out_channels, in_channels, taps..]` weights for `shape`, which must have one group and at
    /// most two spatial axes. The result also serves other batch and spatial sizes.
    pub fn pack<T: Weight>(
        pool: &Pool,
        shape: &ConvShape,
        weights: &[T],
        algorithm: Algorithm,
    ) -> Result<ConvWeights, KernelError> {
        exact("weights", weights, shape.weights_len())?;
        supported(shape)?;
        let (channels, taps) = (shape.in_channels, shape.taps());
        let panels = match algorithm {
            Algorithm::Direct => {
                let (columns, strides) = (shape.out_channels, [1, taps, channels * taps]);
                Panels::pack(pool, &Weights { data: weights, taps, channels, columns, strides })
            }
            Algorithm::Winograd(tiles) if winograd::supports(shape) => {
                winograd::pack(pool, shape, weights, tiles)
            }
            Algorithm::Winograd(_) => {
                Err(KernelError::Shape("Winograd convolution: windows of 3 by 3 without stride or dilation"))
            }
        }?;
        ConvWeights::of(shape, algorithm, panels)
    }

    fn of(shape: &ConvShape, algorithm: Algorithm, panels: Panels) -> Result<ConvWeights, KernelError> {
        let mut zeros = Buffer::default();
        zeros.reserve(shape.in_channels)?;
        Ok(ConvWeights { algorithm, panels, zeros, in_channels: shape.in_channels, kernel: shape.kernel })
    }

    /// Weights that [`ConvWeights::pack`] once packed for this level, shape and algorithm.
    pub fn from_packed(
        level: Level,
        shape: &ConvShape,
        algorithm: Algorithm,
        packed: Packed,
    ) -> Result<ConvWeights, KernelError> {
        supported(shape)?;
        let taps = match algorithm {
            Algorithm::Direct => shape.taps(),
            Algorithm::Winograd(tiles) if winograd::supports(shape) => tiles.places(),
            Algorithm::Winograd(_) => return Err(KernelError::Shape("Winograd convolution: another window")),
        };
        let depth = crate::error::product("packed weights", &[taps, shape.in_channels])?;
        let panels = Panels::from_packed(level, depth, shape.out_channels, packed)?;
        ConvWeights::of(shape, algorithm, panels)
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        self.panels.packed()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.panels.bytes() + size_of_val(self.zeros.as_slice())
    }

    /// The kernel these weights are packed for, for reports.
    pub fn kernel_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Winograd(Tiles::Four) => "nhwc-winograd",
            Algorithm::Winograd(Tiles::Two) => "nhwc-winograd-2x2",
            Algorithm::Direct if self.in_channels <= FEW_CHANNELS => "nhwc-stem",
            Algorithm::Direct => "nhwc",
        }
    }

    /// The weights of a window of one pixel as a product's right operand, with a run of zeros.
    pub(super) fn product(&self) -> Option<(&Panels, &[f32])> {
        let one = self.algorithm == Algorithm::Direct && self.kernel == [1; 3];
        one.then(|| (&self.panels, self.zeros.as_slice()))
    }

    fn fit(&self, shape: &ConvShape) -> Result<(), KernelError> {
        supported(shape)?;
        let same = (self.in_channels, self.panels.columns, self.kernel)
            == (shape.in_channels, shape.out_channels, shape.kernel)
            && (self.algorithm == Algorithm::Direct || winograd::supports(shape));
        if same {
            Ok(())
        } else {
            Err(KernelError::Shape("convolution: weights were packed for other channels or taps"))
        }
    }
}

fn supported(shape: &ConvShape) -> Result<(), KernelError> {
    if shape.groups == 1 && shape.flat() {
        Ok(())
    } else {
        Err(KernelError::Shape("channels-last convolution: one group and at most two spatial axes"))
    }
}

/// Convolution of pixels `[batch, height, width]`, `x_pitch` floats from one to the next, into pixels
/// `out_pitch` apart, then the epilogue. Between an output pixel's channels and the next pixel nothing is
/// written. A full operand of the epilogue is dense.
pub fn conv(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    x_pitch: usize,
    weights: &ConvWeights,
    out: &mut [f32],
    out_pitch: usize,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    weights.fit(shape)?;
    let pixels = shape.batch * shape.plane();
    pitched("input", x, pixels, shape.in_channels, x_pitch)?;
    let Some(target) = target(shape, out, out_pitch, epilogue)? else { return Ok(()) };
    let parts = &Parts::of(epilogue, shape.out_channels);
    let zeros = weights.zeros.as_slice();
    if let Algorithm::Winograd(tiles) = weights.algorithm {
        let w = &weights.panels;
        let conv = winograd::Conv { s: shape, x, x_pitch, w, zeros, target, parts };
        return winograd::run(pool, tiles, conv);
    }
    let [_, height, width] = shape.input;
    let source = Source {
        x,
        pitches: [height * width * x_pitch, width * x_pitch, x_pitch],
        input: [height, width],
        output: flat(shape.output),
        taps: flat(shape.kernel),
        strides: flat(shape.strides),
        dilations: flat(shape.dilations),
        pads: flat(shape.pads),
        run: shape.in_channels,
        zeros,
    };
    direct::run(pool, &source, &weights.panels, target, parts)
}

fn flat(axes: [usize; 3]) -> [usize; 2] {
    [axes[1], axes[2]]
}

fn pitched(
    what: &'static str,
    data: &[f32],
    pixels: usize,
    channels: usize,
    pitch: usize,
) -> Result<(), KernelError> {
    if pitch < channels {
        return Err(KernelError::Shape("channels-last convolution: a pitch below the channels"));
    }
    at_least(what, data, extent(what, &[pixels, channels], &[pitch, 1])?)
}

/// The output, or nothing if it is empty.
fn target<'a>(
    shape: &ConvShape,
    out: &'a mut [f32],
    pitch: usize,
    epilogue: Epilogue<'_>,
) -> Result<Option<Target<'a>>, KernelError> {
    let pixels = shape.batch * shape.positions();
    pitched("output", out, pixels, shape.out_channels, pitch)?;
    epilogue.check(pixels, shape.out_channels, shape.output_len())?;
    let empty = shape.output_len() == 0;
    Ok((!empty).then(|| Target { out: Shards::new(out), pitch, pixels, first: 0, skip: 0 }))
}

/// As [`conv`], for an input that is still channels-first, `[batch, channels, height, width]`: the first
/// layer of a network, with a channel to four or so.
pub fn conv_from_planes(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weights: &ConvWeights,
    out: &mut [f32],
    out_pitch: usize,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    weights.fit(shape)?;
    exact("input", x, shape.input_len())?;
    let Some(target) = target(shape, out, out_pitch, epilogue)? else { return Ok(()) };
    let parts = Parts::of(epilogue, shape.out_channels);
    stem::run(pool, shape, x, weights, target, &parts)
}

#[cfg(test)]
mod tests;

//! Transposed convolution: a product for every output channel's taps, scattered into the output.

use super::{ConvShape, Window};
use crate::epilogue::Epilogue;
use crate::error::{KernelError, exact, product};
use crate::matmul::MatRef;
use crate::matmul::driver::{FirstError, Left, Product, STRIPE};
use crate::scratch;
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Sizes of a transposed convolution: the convolution whose input gradient it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvTransposeShape {
    /// The convolution from this operator's output to its input.
    forward: ConvShape,
}

impl ConvTransposeShape {
    /// `input` and `output` are this operator's spatial sizes; `output` comes from the operator's own rule
    /// (strides, pads, output padding). Windows may read past the end of `output` only by their end pad.
    pub fn new(
        batch: usize,
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        input: &[usize],
        output: &[usize],
        windows: &[Window],
    ) -> Result<ConvTransposeShape, KernelError> {
        let mut forward = ConvShape::new(batch, out_channels, in_channels, groups, output, windows)?;
        if input.len() != output.len() {
            return Err(KernelError::Shape("transposed convolution: input and output differ in rank"));
        }
        // Contributions that fall outside the output are dropped, so any input size is meaningful; the
        // forward sizes serve only for strides.
        for (axis, &len) in input.iter().enumerate() {
            forward.output[3 - input.len() + axis] = len;
        }
        product("transposed convolution", &[batch, in_channels, forward.positions()])?;
        product("transposed convolution", &[out_channels / groups, forward.taps(), forward.positions()])?;
        for axis in 0..3 {
            let last = forward.output[axis].checked_mul(forward.strides[axis]);
            let reach = forward.kernel[axis].checked_mul(forward.dilations[axis]);
            if last
                .zip(reach)
                .and_then(|(a, b)| a.checked_add(b))
                .is_none_or(|v| v > isize::MAX as usize / 16)
            {
                return Err(KernelError::Overflow("transposed convolution"));
            }
        }
        Ok(ConvTransposeShape { forward })
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.forward.output_len()
    }

    /// Elements of the weights.
    pub fn weights_len(&self) -> usize {
        self.forward.weights_len()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.forward.input_len()
    }
}

/// Transposed convolution, then the epilogue (rows are output channels). Weights are
/// `[in_channels, out_channels / groups, taps..]`.
pub fn conv_transpose(
    pool: &Pool,
    shape: &ConvTransposeShape,
    x: &[f32],
    weights: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let s = &shape.forward;
    exact("input", x, shape.input_len())?;
    exact("weights", weights, shape.weights_len())?;
    exact("output", out, shape.output_len())?;
    let (spatial, plane, taps) = (s.positions(), s.plane(), s.taps());
    epilogue.check(s.in_channels, plane, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let (ci, co) = (s.out_channels / s.groups, s.in_channels / s.groups);
    let level = pool.level();
    let shards = Shards::new(out);
    let error = FirstError::default();
    // One task for each output channel: its taps' products fit the caches for all but huge inputs.
    pool.run(s.batch * s.in_channels, |task| {
        let (image, channel) = (task / s.in_channels, task % s.in_channels);
        let (group, c) = (channel / co, channel % co);
        let start = task * plane;
        // SAFETY: one task for each output channel.
        let out = unsafe { shards.part(start, plane) };
        out.fill(0.0);
        if spatial > 0 && ci > 0 {
            let w = MatRef {
                data: &weights[group * ci * co * taps + c * taps..],
                rows: taps,
                columns: ci,
                row_stride: 1,
                column_stride: co * taps,
            };
            let x = &x[(image * s.out_channels + group * ci) * spatial..][..ci * spatial];
            let width = STRIPE.min(spatial);
            let done = scratch::with(taps * width, |products| {
                for first in (0..spatial).step_by(width) {
                    let n = width.min(spatial - first);
                    let b = MatRef {
                        data: &x[first..],
                        rows: ci,
                        columns: n,
                        row_stride: spatial,
                        column_stride: 1,
                    };
                    let p = Product {
                        level,
                        a: Left::Plain(w),
                        b: &b,
                        k: ci,
                        n,
                        epilogue: Epilogue::NONE,
                        out_start: 0,
                        out_stride: width,
                        first_row: 0,
                    };
                    // SAFETY: the room is taps by width, and this task's own.
                    error.note(unsafe { p.block(0..taps, 0..n, &Shards::new(products)) });
                    scatter(s, products, width, first..first + n, out);
                }
            });
            error.note(done);
        }
        epilogue.apply(level, out, channel, 0, start);
    });
    error.into_result()
}

/// Adds each tap's products at input positions `span` to the output elements they reach.
fn scatter(s: &ConvShape, products: &[f32], width: usize, span: Range<usize>, out: &mut [f32]) {
    let [_, ih, iw] = s.output;
    for (t, products) in products.chunks_exact(width).enumerate() {
        let tap = [t / s.kernel[2] / s.kernel[1], t / s.kernel[2] % s.kernel[1], t % s.kernel[2]];
        let place = |axis: usize, i: usize| {
            (i * s.strides[axis] + tap[axis] * s.dilations[axis])
                .checked_sub(s.pads[axis])
                .filter(|&o| o < s.input[axis])
        };
        let mut p = span.start;
        while p < span.end {
            let (row, first) = (p / iw, p % iw);
            let run = (iw - first).min(span.end - p);
            let values = &products[p - span.start..][..run];
            p += run;
            let (Some(z), Some(y)) = (place(0, row / ih), place(1, row % ih)) else { continue };
            let line = &mut out[(z * s.input[1] + y) * s.input[2]..][..s.input[2]];
            for (i, &v) in values.iter().enumerate() {
                if let Some(x) = place(2, first + i) {
                    line[x] += v;
                }
            }
        }
    }
}

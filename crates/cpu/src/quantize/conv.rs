//! Convolutions of bytes.

use super::{EXACT, Types, W, W_ZERO, X, constant, packed, zeros};
use crate::conv::{depthwise_of, sizes};
use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Native, Prep, Stored};
use crate::order::{Order, channels_last};
use crate::tune::least;
use std::sync::Arc;
use tensormill_ir::ops::QuantizedConv;
use tensormill_kernels::conv::ConvShape;
use tensormill_kernels::packed::Packed;
use tensormill_kernels::quantized::{
    self as kernel, ByteMatrix, ByteWeights, Bytes, Output, Scaling,
    groups::{GroupWeights, MAX_STEPS, conv_in_groups},
    winograd::{self, Tiles, WinogradWeights},
};
use tensormill_tensor::Tensor;

impl Stored for WinogradWeights {
    fn packed(&self) -> &Packed {
        WinogradWeights::packed(self)
    }
}

/// Weights transformed and packed once for the node.
fn in_tiles(
    p: &Prep<'_>,
    from: &Tensor,
    matrix: &ByteMatrix<'_>,
    tiles: Tiles,
) -> Result<Arc<WinogradWeights>, String> {
    let zeros = matrix.zeros.iter().map(|&z| z as usize);
    let sizes: Vec<usize> = [matrix.taps, matrix.channels, matrix.columns]
        .into_iter()
        .chain(matrix.strides)
        .chain(zeros)
        .collect();
    let kind = if tiles == Tiles::Two { "bytes in tiles of 2" } else { "bytes in tiles of 4" };
    p.weights.get_stored(
        p.pool,
        (p.node, kind, 0),
        &[from],
        &sizes,
        |packed| WinogradWeights::from_packed(p.pool.level(), tiles, matrix, packed),
        || WinogradWeights::pack(p.pool, tiles, matrix),
    )
}

/// The tiles that a convolution is computed in, the best first, as estimated, or as measured where there is a choice;
/// none for the direct kernel. Sums are the same either way.
fn ways(
    p: &Prep<'_>,
    shape: &ConvShape,
    matrix: &ByteMatrix<'_>,
    (sizes, x_signed): (&[usize], bool),
    planes: bool,
) -> Vec<Tiles> {
    let level = p.pool.level();
    if planes || !Tiles::supports(level, shape) {
        return vec![];
    }
    let mut likely = Tiles::pick(level, shape);
    let Some(tuner) = p.tuner else { return likely };
    likely.retain(|&tiles| WinogradWeights::exact(tiles, matrix));
    let first = likely.first().copied();
    let mut candidates = vec![first];
    for other in [None, Some(Tiles::Two), Some(Tiles::Four)] {
        if other != first && other.is_none_or(|tiles| WinogradWeights::exact(tiles, matrix)) {
            candidates.push(other);
        }
    }
    // Choices are told by the order of the candidates.
    let kind = match first {
        None => "int8 conv, direct first",
        Some(Tiles::Two) => "int8 conv, tiles of 2 first",
        Some(Tiles::Four) => "int8 conv, tiles of 4 first",
    };
    let (mut x, mut out): (Vec<u8>, Vec<i32>) = (vec![], vec![]);
    let best = tuner.pick((kind, sizes), p.pool, &candidates, |tiles| {
        x.resize(shape.input_len(), 1);
        out.resize(shape.output_len(), 0);
        let x = Bytes { data: &x, signed: x_signed };
        let scaling = Scaling { x_scale: 1.0, x_zero: 0, scales: &[], bias: &[] };
        let Some(tiles) = tiles else {
            let (packed, order) =
                (ByteWeights::pack(p.pool, matrix).ok()?, kernel::Order::Pixels(matrix.channels));
            return least(|| {
                let output = Output::Sums { out: &mut out, pitch: matrix.columns };
                kernel::conv::conv(p.pool, shape, x, order, &packed, &scaling, output)
            });
        };
        let packed = WinogradWeights::pack(p.pool, tiles, matrix).ok()?;
        least(|| {
            let output = Output::Sums { out: &mut out, pitch: matrix.columns };
            winograd::conv(p.pool, shape, x, matrix.channels, &packed, &scaling, output)
        })
    });
    best.into_iter().collect()
}

/// A convolution whose result has its channels last; so has its operand, unless it is in plain order.
pub(crate) fn conv_channels_last(p: &Prep<'_>, op: &QuantizedConv) -> Built {
    let types = Types::of(p)?;
    let (x, w) = (p.get(X)?, p.get(W)?);
    if !(3..=4).contains(&x.shape.len()) || x.shape.len() != w.shape.len() {
        return Err("kernels have one or two spatial axes".into());
    }
    let (weights, signed) = constant(&w)?;
    let zeros = zeros(p, W_ZERO)?;
    let (channels, kernels) = (x.shape[1], w.shape[0]);
    if w.shape[1..].iter().product::<usize>() > EXACT {
        return Err("sums of so many products may not fit 32 bits".into());
    }
    let each = op.group == channels && kernels == channels && channels > 1;
    let shape = sizes(&op.plain(), x.shape, w.shape)?;
    let out = channels_last(p.out());
    if shape.output_len() != out.numel() || shape.weights_len() != w.len() || out.contains(&0) {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let outs = [(p.out_dtype(), out.clone())];
    let memory = Prep { outs: &outs, ..*p };
    let rank = out.rank();
    let by_pixel = Layout { rows: rank - 2, columns: rank - 1..rank, merged: true };
    let steps = Steps::plan(&memory, &op.epilogue, Some(&by_pixel))?;
    if types.y_signed.is_some() && !steps.all_hot() {
        return Err("an operand of the epilogue lies in a way of its own".into());
    }
    let flops = shape.flops() as u64;
    let planes = x.order == Order::Plain;
    if op.group != 1 && planes {
        return Err("the kernel wants channels last".into());
    }
    let mut native = if each {
        let packed = depthwise_of(p, &shape, weights, &zeros)?;
        Native::new("int8-depthwise", move |c| {
            types.run(c, &steps, kernels, |x, scaling, output, c| {
                Ok(kernel::depthwise::depthwise(c.pool, &shape, x, &packed, scaling, output)?)
            })
        })?
    } else if op.group != 1 {
        if steps.len() > MAX_STEPS {
            return Err("no kernel of bytes in groups for so many steps".into());
        }
        let packed = p.weights.get(p.node, "bytes in groups", 0, &[weights], || {
            let packed = GroupWeights::pack(p.pool, &shape, weights.bytes(), signed, &zeros);
            let packed = packed.map_err(|e| e.to_string())?;
            let bytes = packed.bytes();
            Ok::<_, String>((packed, bytes))
        })?;
        Native::new("int8-conv-groups", move |c| {
            types.run(c, &steps, kernels, |x, scaling, output, c| {
                Ok(conv_in_groups(c.pool, &shape, x, channels, &packed, scaling, output)?)
            })
        })?
    } else {
        let taps: usize = w.shape[2..].iter().product();
        let matrix = ByteMatrix {
            data: weights.bytes(),
            signed,
            taps,
            channels,
            columns: kernels,
            strides: [1, taps, taps * channels],
            zeros: &zeros,
        };
        let mut sizes: Vec<usize> = x.shape.iter().chain(w.shape).copied().collect();
        sizes.extend(&op.pads);
        let ways = ways(p, &shape, &matrix, (&sizes, types.x_signed), planes);
        // What may lead to sums that are too large is refused when it is packed.
        if let Some(packed) = ways.into_iter().find_map(|tiles| in_tiles(p, weights, &matrix, tiles).ok()) {
            Native::new("int8-winograd", move |c| {
                types.run(c, &steps, kernels, |x, scaling, output, c| {
                    Ok(winograd::conv(c.pool, &shape, x, channels, &packed, scaling, output)?)
                })
            })?
        } else {
            let packed = packed(p, weights, &matrix)?;
            Native::new("int8-conv", move |c| {
                types.run(c, &steps, kernels, |x, scaling, output, c| {
                    let order = if planes { kernel::Order::Planes } else { kernel::Order::Pixels(channels) };
                    Ok(kernel::conv::conv(c.pool, &shape, x, order, &packed, scaling, output)?)
                })
            })?
        }
    };
    native.packed = Some(W);
    native.flops = flops;
    native.reason = format!("{:?} by {:?}", x.shape, w.shape);
    Ok(native)
}

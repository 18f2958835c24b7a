//! Convolutions and their transposes.

use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Known, Native, Prep};
use crate::order::{Order, channels_last};
use crate::tune::least;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;
use tensormill_ir::ops::{Conv, ConvTranspose, PostOps, WindowAxis};
use tensormill_kernels::KernelError;
use tensormill_kernels::channels_last::conv as last;
use tensormill_kernels::channels_last::depthwise::{DepthwiseWeights, depthwise};
use tensormill_kernels::conv::{
    ConvShape, ConvTransposeShape, ConvWeights, Window, conv as conv_kernel, conv_packed,
    conv_transpose as transpose_kernel,
};
use tensormill_kernels::epilogue::Epilogue;
use tensormill_kernels::quantized::depthwise::ByteDepthwise;
use tensormill_kernels::simd::Level;
use tensormill_tensor::{DType, Tensor};

pub(crate) fn window(a: &WindowAxis) -> Window {
    Window { kernel: a.kernel, stride: a.stride, dilation: a.dilation, pad_begin: a.before, pad_end: a.after }
}

/// The operands that every convolution kernel needs, and their spatial sizes.
fn operands<'a>(p: &Prep<'a>) -> Result<(Known<'a>, Known<'a>), Cow<'static, str>> {
    for i in 0..3 {
        p.need(i, DType::F32)?;
    }
    let (x, w) = (p.get(0)?, p.get(1)?);
    if !(3..=5).contains(&x.shape.len()) || x.shape.len() != w.shape.len() {
        return Err("kernels have one to three spatial axes".into());
    }
    Ok((x, w))
}

/// The result's channels are the kernels' rows, the rest of an image their columns.
fn layout(rank: usize) -> Layout {
    Layout { rows: 1, columns: 2..rank, merged: false }
}

pub(crate) fn conv(p: &Prep<'_>, op: &Conv) -> Built {
    let (x, w) = operands(p)?;
    let axes = op.axes(&x.shape[2..], &w.shape[2..]).map_err(|e| e.0)?;
    let windows: Vec<Window> = axes.iter().map(window).collect();
    let shape = ConvShape::new(x.shape[0], x.shape[1], w.shape[0], op.group, &x.shape[2..], &windows)
        .map_err(|e| e.to_string())?;
    if shape.output_len() != p.out().numel() || shape.weights_len() != w.len() {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let bias = p.opt(2).map(|_| 2);
    let steps = Steps::plan(p, &op.epilogue, Some(&layout(x.shape.len())))?.with_bias(bias);
    let flops = shape.flops() as u64;
    let mut native = if let Some(t) = w.constant {
        // Few positions may be packed for another kernel than many.
        let positions: usize = shape.output().iter().product();
        let variant = if positions <= 256 { positions } else { usize::MAX };
        let packed = p.weights.get(p.node, "conv", variant, &[t], || {
            let data = t.to_slice::<f32>().map_err(|e| e.to_string())?;
            let packed = ConvWeights::pack(p.pool.level(), &shape, &data).map_err(|e| e.to_string())?;
            let bytes = packed.bytes();
            Ok::<_, String>((packed, bytes))
        })?;
        let mut native = Native::new(packed.kernel_name(), move |c| {
            steps.run(c, |out, epilogue, c| {
                Ok(conv_packed(c.pool, &shape, c.get::<f32>(0)?, &packed, out, epilogue)?)
            })
        })?;
        native.packed = Some(1);
        native
    } else {
        Native::new("conv", move |c| {
            steps.run(c, |out, epilogue, c| {
                Ok(conv_kernel(c.pool, &shape, c.get::<f32>(0)?, c.get::<f32>(1)?, out, epilogue)?)
            })
        })?
    };
    native.flops = flops;
    native.reason = format!("{:?} by {:?}", x.shape, w.shape);
    Ok(native)
}

/// The sizes of a convolution of `x` by `w`.
pub(crate) fn sizes(op: &Conv, x: &[usize], w: &[usize]) -> Result<ConvShape, Cow<'static, str>> {
    let axes = op.axes(&x[2..], &w[2..]).map_err(|e| e.0)?;
    let windows: Vec<Window> = axes.iter().map(window).collect();
    Ok(ConvShape::new(x[0], x[1], w[0], op.group, &x[2..], &windows).map_err(|e| e.to_string())?)
}

/// A node's weights and their floats.
pub(crate) type Floats<'a> = (&'a Tensor, &'a [[u8; 4]]);

/// A node's weights, packed for one group with the channels last.
pub(crate) fn packed_weights(
    p: &Prep<'_>,
    node: Option<usize>,
    shape: &ConvShape,
    (weights, data): Floats<'_>,
    algorithm: last::Algorithm,
) -> Result<Arc<last::ConvWeights>, String> {
    let variant = match algorithm {
        last::Algorithm::Direct => 0,
        last::Algorithm::Winograd(tiles) => tiles as usize + 1,
    };
    p.weights.get_stored(
        p.pool,
        (node, "conv-channels-last", variant),
        &[weights],
        &[],
        |packed| last::ConvWeights::from_packed(p.pool.level(), shape, algorithm, packed),
        || last::ConvWeights::pack(p.pool, shape, data, algorithm),
    )
}

/// A node's weights, packed for each channel by itself.
pub(crate) fn depthwise_weights(
    p: &Prep<'_>,
    node: Option<usize>,
    shape: &ConvShape,
    (weights, data): Floats<'_>,
) -> Result<Arc<DepthwiseWeights>, String> {
    p.weights.get_stored(
        p.pool,
        (node, "depthwise-channels-last", 0),
        &[weights],
        &[],
        |packed| DepthwiseWeights::from_packed(p.pool.level(), shape, packed),
        || DepthwiseWeights::pack(p.pool.level(), shape, data),
    )
}

/// Whole numbers less their zero points, packed for each channel by itself.
pub(crate) fn depthwise_of(
    p: &Prep<'_>,
    shape: &ConvShape,
    weights: &Tensor,
    zeros: &[i32],
) -> Result<Arc<ByteDepthwise>, String> {
    let (taps, signed) = (weights.len() / weights.shape()[0].max(1), weights.dtype() == DType::I8);
    p.weights.get(p.node, "depthwise-bytes", 0, &[weights], || {
        let packed = depthwise_now(p.pool.level(), shape, (weights.bytes(), signed), zeros, taps);
        let packed = packed.map_err(|e| e.to_string())?;
        let bytes = packed.bytes();
        Ok((packed, bytes))
    })
}

/// Bytes less their zero points, `taps` for each channel, packed for each channel by itself.
pub(crate) fn depthwise_now(
    level: Level,
    shape: &ConvShape,
    (data, signed): (&[u8], bool),
    zeros: &[i32],
    taps: usize,
) -> Result<ByteDepthwise, KernelError> {
    let zero = |i: usize| zeros.get(if zeros.len() == 1 { 0 } else { i / taps.max(1) }).copied().unwrap_or(0);
    let number = |x: u8| if signed { i32::from(x as i8) } else { i32::from(x) };
    let floats: Vec<[u8; 4]> =
        data.iter().enumerate().map(|(i, &w)| ((number(w) - zero(i)) as f32).to_le_bytes()).collect();
    ByteDepthwise::pack(level, shape, &floats)
}

/// As `conv`, for an operand and a result whose channels lie innermost; the operand may also be in plain
/// order when its channels are few. Further operands of the epilogue come in the shapes that memory has.
pub(crate) fn conv_channels_last(p: &Prep<'_>, op: &Conv) -> Built {
    let (x, w) = operands(p)?;
    let (weights, data) = w.weights().ok_or("weights known only at run time")?;
    let (channels, kernels) = (x.shape[1], w.shape[0]);
    let each = op.group == channels && kernels == channels && channels > 1;
    if x.shape.len() > 4 || op.group != 1 && !each {
        return Err("no kernel with channels last for these groups".into());
    }
    let shape = sizes(op, x.shape, w.shape)?;
    let out = channels_last(p.out());
    if shape.output_len() != out.numel() || shape.weights_len() != w.len() || out.contains(&0) {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let rank = out.rank();
    let bias = p.opt(2).map(|_| 2);
    let outs = [(DType::F32, out)];
    let memory = Prep { outs: &outs, ..*p };
    let by_pixel = Layout { rows: rank - 2, columns: rank - 1..rank, merged: true };
    let steps = Steps::plan(&memory, &op.epilogue, Some(&by_pixel))?.with_bias_per_column(bias);
    let flops = shape.flops() as u64;
    // Pixels may lie apart, unless steps follow that see the result as a whole.
    let mut reads_rows: SmallVec<[(usize, usize); 2]> = steps.by_element().map(|i| (i, kernels)).collect();
    let writes_rows = (steps.all_hot() && !each).then_some(kernels);
    if !each && x.order == Order::ChannelsLast {
        reads_rows.push((0, channels));
    }
    let mut native = if each {
        let packed = depthwise_weights(p, p.node, &shape, (weights, data))?;
        Native::new("nhwc-depthwise", move |c| {
            steps.run(c, |out, epilogue, c| {
                Ok(depthwise(c.pool, &shape, c.get::<f32>(0)?, &packed, out, epilogue)?)
            })
        })?
    } else {
        let planes = x.order == Order::Plain;
        let mut sizes: Vec<usize> = x.shape.iter().chain(w.shape).copied().collect();
        sizes.extend(&op.pads);
        let algorithm = algorithm(p, &shape, &sizes, (channels, kernels), data, planes);
        let packed = packed_weights(p, p.node, &shape, (weights, data), algorithm)?;
        Native::new(packed.kernel_name(), move |c| {
            steps.run(c, |out, epilogue, c| {
                let x = c.get::<f32>(0)?;
                let (pitch, out_pitch) = (c.pitch::<f32>(0, channels), c.out_pitch::<f32>(kernels));
                if planes {
                    last::conv_from_planes(c.pool, &shape, x, &packed, out, out_pitch, epilogue)?;
                } else {
                    last::conv(c.pool, &shape, x, pitch, &packed, out, out_pitch, epilogue)?;
                }
                Ok(())
            })
        })?
    };
    native.packed = Some(1);
    native.flops = flops;
    native.reason = format!("{:?} by {:?}", x.shape, w.shape);
    (native.reads_rows, native.writes_rows) = (reads_rows, writes_rows);
    Ok(native)
}

/// How a convolution is computed: as estimated, or as measured where there is a choice.
fn algorithm(
    p: &Prep<'_>,
    shape: &ConvShape,
    sizes: &[usize],
    (from, to): (usize, usize),
    weights: &[[u8; 4]],
    planes: bool,
) -> last::Algorithm {
    use last::Algorithm::Direct;
    if !p.fewer_multiplications {
        return Direct;
    }
    let candidates = last::Algorithm::ways(p.pool.level(), shape);
    let Some(tuner) = p.tuner.filter(|_| !planes && candidates.len() > 1) else { return candidates[0] };
    let mut x: Vec<f32> = vec![];
    let mut out: Vec<f32> = vec![];
    // The order of the candidates is the estimate's: choices are told by it.
    let kind = format!("conv, {candidates:?}");
    tuner.pick((&kind, sizes), p.pool, &candidates, |algorithm| {
        x.resize(shape.input_len(), 1.0);
        out.resize(shape.output_len(), 0.0);
        let packed = last::ConvWeights::pack(p.pool, shape, weights, algorithm).ok()?;
        least(|| last::conv(p.pool, shape, &x, from, &packed, &mut out, to, Epilogue::NONE))
    })
}

pub(crate) fn conv_transpose(p: &Prep<'_>, op: &ConvTranspose) -> Built {
    let (x, w) = operands(p)?;
    let axes = op.axes(&x.shape[2..], &w.shape[2..]).map_err(|e| e.0)?;
    let windows: Vec<Window> = axes.iter().map(|a| window(&a.0)).collect();
    let output: Vec<usize> = axes.iter().map(|a| a.1).collect();
    let out = p.out();
    let shape =
        ConvTransposeShape::new(x.shape[0], x.shape[1], out[1], op.group, &x.shape[2..], &output, &windows)
            .map_err(|e| e.to_string())?;
    if shape.output_len() != out.numel() || shape.weights_len() != w.len() {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let bias = p.opt(2).map(|_| 2);
    let steps = Steps::plan(p, &PostOps::default(), Some(&layout(x.shape.len())))?.with_bias(bias);
    let mut native = Native::new("conv-transpose", move |c| {
        steps.run(c, |out, epilogue, c| {
            Ok(transpose_kernel(c.pool, &shape, c.get::<f32>(0)?, c.get::<f32>(1)?, out, epilogue)?)
        })
    })?;
    native.flops = 2 * (x.len() as u64) * w.shape[1..].iter().product::<usize>() as u64;
    Ok(native)
}

//! Convolutions. Kernels come as output, height, width, input channels.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::{
    Dim, ValueId,
    ops::{AutoPad, Conv, ConvTranspose, DequantizeLinear, Transpose, Window},
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("CONV_2D", 1, conv), ("DEPTHWISE_CONV_2D", 2, depthwise), ("TRANSPOSE_CONV", 49, transpose_conv)];

/// A positive size.
pub(super) fn size(cx: &NodeCx<'_, '_>, name: &str, field: usize, default: i32) -> Result<usize> {
    let n = cx.int(name, field, default)?;
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => LowerError::option(name, format!("is {n}, but must be positive")),
    }
}

/// Strides of rows and columns.
pub(super) fn strides(cx: &NodeCx<'_, '_>) -> Result<Vec<usize>> {
    Ok(vec![size(cx, "stride_h", 2, 0)?, size(cx, "stride_w", 1, 0)?])
}

/// How a window is padded.
pub(super) fn padding(cx: &NodeCx<'_, '_>) -> Result<AutoPad> {
    match cx.byte("padding", 0, 0)? {
        0 => Ok(AutoPad::SameUpper),
        1 => Ok(AutoPad::Explicit),
        n => LowerError::option("padding", format!("is {n}, which names no padding")),
    }
}

/// The padding of a window as numbers where the spatial sizes are known, which more rewrites understand.
pub(super) fn pads(
    cx: &NodeCx<'_, '_>,
    x: ValueId,
    [kernel, strides, dilations]: [&[usize]; 3],
    auto_pad: AutoPad,
) -> Result<(Vec<usize>, AutoPad)> {
    let dims = cx.dims(x)?;
    let spatial: Option<Vec<usize>> = dims.iter().skip(2).map(Dim::known).collect();
    let (AutoPad::SameUpper, Some(spatial)) = (auto_pad, spatial) else { return Ok((vec![], auto_pad)) };
    let axes = Window { kernel, strides, dilations, pads: &[], auto_pad, ceil_mode: false }.axes(&spatial)?;
    let pads = axes.iter().map(|a| a.before).chain(axes.iter().map(|a| a.after));
    Ok((pads.collect(), AutoPad::Explicit))
}

/// A kernel with its axes permuted, its real numbers, and its dims.
fn kernel(cx: &mut NodeCx<'_, '_>, i: usize, perm: [usize; 4]) -> Result<(ValueId, Vec<Dim>)> {
    let (t, stored) = (cx.tensor(i)?, cx.input(i)?);
    if cx.rank(stored)? != 4 {
        return LowerError::operand(format!("operand {i} must be a kernel of four axes"));
    }
    let v = cx.op(Transpose { perm: perm.to_vec() }, &[stored])?;
    let dims = cx.dims(v)?;
    let moved = |axis: usize| perm.iter().position(|p| *p == axis).unwrap_or(axis);
    Ok((cx.l.dequantize(t, v, moved)?, dims))
}

/// The real numbers of a bias, whose integers go by the product of the scales of what is multiplied.
pub(super) fn bias(cx: &mut NodeCx<'_, '_>, i: usize, x: usize, w: usize) -> Result<Option<ValueId>> {
    if cx.opt(i).is_none() {
        return Ok(None);
    }
    let b = cx.input(i)?;
    if cx.dtype(b)?.is_float() {
        return Ok(Some(b));
    }
    let (Some(xs), Some(ws)) = (cx.quantization(x), cx.quantization(w)) else {
        return LowerError::feature("a bias of integers for factors that are none");
    };
    let scale: Vec<f32> = ws.scale.iter().map(|s| s * xs.scale[0]).collect();
    let shape: &[usize] = if scale.len() == 1 { &[] } else { &[scale.len()] };
    let scale = Tensor::from_vec(shape, scale).map_err(|e| LowerError::Operand(e.to_string()))?;
    let scale = cx.constant(scale)?;
    cx.op(DequantizeLinear { to: DType::F32, axis: 0, block_size: 0 }, &[b, scale]).map(Some)
}

fn known(d: &[Dim], axis: usize, what: &str) -> Result<usize> {
    match d.get(axis).and_then(Dim::known) {
        Some(n) => Ok(n),
        None => LowerError::feature(format!("{what} of unknown size")),
    }
}

/// The convolution by a kernel that is channels first already, and the activation after it.
fn convolve(
    cx: &mut NodeCx<'_, '_>,
    (x, w, dims): (ValueId, ValueId, Vec<Dim>),
    group: usize,
    [dilation_h, dilation_w, activation]: [usize; 3],
) -> Result<()> {
    let strides = strides(cx)?;
    let dilations =
        vec![size(cx, "dilation_h_factor", dilation_h, 1)?, size(cx, "dilation_w_factor", dilation_w, 1)?];
    let spatial = [known(&dims, 2, "a kernel")?, known(&dims, 3, "a kernel")?];
    let (pads, auto_pad) = pads(cx, x, [&spatial, &strides, &dilations], padding(cx)?)?;
    let b = bias(cx, 2, 0, 1)?;
    let op = Conv { strides, dilations, pads, group, auto_pad, ..Conv::default() };
    let y = cx.node(op, &[Some(x), Some(w), b])?[0];
    let y = cx.fused(y, activation)?;
    cx.set_real(0, y, Order::First)
}

fn conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.real(0, Order::First)?;
    let (w, dims) = kernel(cx, 1, [0, 3, 1, 2])?;
    let (channels, each) = (known(&cx.dims(x)?, 1, "channels")?, known(&dims, 1, "a kernel")?);
    if each == 0 || channels % each != 0 {
        return LowerError::operand(format!("{channels} channels for a kernel of {each}"));
    }
    // The type that sums are kept in; they are exact here.
    cx.ignore(6);
    convolve(cx, (x, w, dims), channels / each, [5, 4, 3])
}

/// A kernel of one, height, width and channels of the result: some for each channel of x.
fn depthwise(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.real(0, Order::First)?;
    let (w, dims) = kernel(cx, 1, [3, 0, 1, 2])?;
    let (channels, kernels) = (known(&cx.dims(x)?, 1, "channels")?, known(&dims, 0, "a kernel")?);
    if channels == 0 || kernels % channels != 0 {
        return LowerError::operand(format!("{kernels} kernels for {channels} channels"));
    }
    let multiplier = cx.int("depth_multiplier", 3, 0)?;
    if usize::try_from(multiplier).ok() != Some(kernels / channels) {
        let what = format!("is {multiplier}, but there are {kernels} kernels for {channels} channels");
        return LowerError::option("depth_multiplier", what);
    }
    convolve(cx, (x, w, dims), channels, [6, 5, 4])
}

/// Operands: sizes of the result, kernel, x, bias (optional).
fn transpose_conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let sizes = cx.known(0)?;
    let spatial = |n: &i64| usize::try_from(*n).ok();
    let output_shape = match sizes.get(1..3).and_then(|s| s.iter().map(spatial).collect()) {
        Some(s) if sizes.len() == 4 => s,
        _ => return LowerError::operand("sizes of the result must be four"),
    };
    let x = cx.real(2, Order::First)?;
    // The channels of the result come first in the file, those of x here.
    let (w, _) = kernel(cx, 1, [3, 0, 1, 2])?;
    let (strides, auto_pad) = (strides(cx)?, padding(cx)?);
    let b = bias(cx, 3, 2, 1)?;
    cx.ignore(4);
    // Without padding the result ends with what no window reaches: the same as all of it at the end.
    let op =
        ConvTranspose { strides, output_shape, auto_pad: AutoPad::SameUpper, ..ConvTranspose::default() };
    if auto_pad == AutoPad::Explicit && !covers(cx, x, w, &op)? {
        return LowerError::operand("sizes of the result are smaller than what the windows cover");
    }
    let y = cx.node(op, &[Some(x), Some(w), b])?[0];
    let y = cx.fused(y, 3)?;
    cx.set_real(0, y, Order::First)
}

/// Whether a result of the given size holds all that windows without padding cover.
fn covers(cx: &NodeCx<'_, '_>, x: ValueId, w: ValueId, op: &ConvTranspose) -> Result<bool> {
    let (x, w) = (cx.dims(x)?, cx.dims(w)?);
    let sizes = |d: &[Dim]| -> Option<Vec<usize>> { d.get(2..)?.iter().map(Dim::known).collect() };
    let (Some(x), Some(w)) = (sizes(&x), sizes(&w)) else { return Ok(true) };
    let fits = |i: usize| -> Option<bool> {
        let full = x[i].checked_sub(1)?.checked_mul(op.strides[i])?.checked_add(w[i])?;
        Some(full <= op.output_shape[i])
    };
    Ok((0..2).all(|i| fits(i).unwrap_or(true)))
}

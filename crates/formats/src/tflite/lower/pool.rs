//! Pools.

use super::{
    LowerError, NodeCx, Order, Table,
    conv::{padding, pads, size, strides},
    cx::Moved,
};
use tensormill_ir::{
    ValueId,
    ops::{AutoPad, AveragePool, BinaryKind, MaxPool, UnaryKind},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("AVERAGE_POOL_2D", 5, average_pool), ("MAX_POOL_2D", 5, max_pool), ("L2_POOL_2D", 5, l2_pool)];

/// Where the activation is among the options.
const ACTIVATION: usize = 5;

struct Attributes {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    pads: Vec<usize>,
    auto_pad: AutoPad,
}

fn attributes(cx: &NodeCx<'_, '_>, x: ValueId) -> Result<Attributes> {
    let kernel = vec![size(cx, "filter_height", 4, 0)?, size(cx, "filter_width", 3, 0)?];
    let strides = strides(cx)?;
    let (pads, auto_pad) = pads(cx, x, [&kernel, &strides, &[]], padding(cx)?)?;
    Ok(Attributes { kernel, strides, pads, auto_pad })
}

/// The mean of every window; padding does not count.
fn mean(cx: &mut NodeCx<'_, '_>, x: ValueId) -> Result<ValueId> {
    let Attributes { kernel, strides, pads, auto_pad } = attributes(cx, x)?;
    cx.op(AveragePool { kernel, strides, pads, auto_pad, ..AveragePool::default() }, &[x])
}

/// The mean of integers, which the format rounds to the nearest one, halves away from zero: ties are as frequent as
/// windows are small, and a step of what is left of a picture then counts.
fn mean_of_integers(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input_in(0, Order::First)?;
    let to = cx.dtype(x)?;
    let x = cx.cast(x, DType::F32)?;
    let y = mean(cx, x)?;
    let sign = cx.unary(UnaryKind::Sign, y)?;
    let half = cx.scalar_like(y, 0.5)?;
    let half = cx.binary(BinaryKind::Mul, sign, half)?;
    let y = cx.binary(BinaryKind::Add, y, half)?;
    // Casting drops what is behind the point.
    let y = cx.cast(y, to)?;
    cx.set(0, y, Order::First);
    Ok(())
}

fn average_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let plain = cx.byte("fused_activation_function", ACTIVATION, 0)? == 0;
    if plain && cx.quantization(0).is_some() && cx.same_quantization(0, 0) {
        return mean_of_integers(cx);
    }
    let x = cx.real(0, Order::First)?;
    let y = mean(cx, x)?;
    let y = cx.fused(y, ACTIVATION)?;
    cx.set_real(0, y, Order::First)
}

fn l2_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.real(0, Order::First)?;
    let square = cx.binary(BinaryKind::Mul, x, x)?;
    let y = mean(cx, square)?;
    let y = cx.unary(UnaryKind::Sqrt, y)?;
    let y = cx.fused(y, ACTIVATION)?;
    cx.set_real(0, y, Order::First)
}

fn max_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // The largest integer stands for the largest number.
    let stored = cx.same_quantization(0, 0) && cx.byte("fused_activation_function", ACTIVATION, 0)? == 0;
    let x = if stored { cx.input_in(0, Order::First)? } else { cx.real(0, Order::First)? };
    let Attributes { kernel, strides, pads, auto_pad } = attributes(cx, x)?;
    let y = cx.op(MaxPool { kernel, strides, pads, auto_pad, ..MaxPool::default() }, &[x])?;
    let y = cx.fused(y, ACTIVATION)?;
    cx.set_moved(0, y, Order::First, &Moved { x, stored })
}

//! Products of integers: as the operators that they are, or between the steps of quantization that they stand for.

use super::{
    conv::kernel,
    elementwise::{apply_binary, apply_unary, epilogue_to},
    error::{Result, refuse},
    node::NodeCx,
};
use tensormill_ir::ops::{ConvInteger, PostOps, QuantizedBinary, QuantizedConv, QuantizedMatMul, UnaryKind};
use tensormill_tensor::DType;

pub(super) fn conv_integer(cx: &mut NodeCx<'_, '_, '_>, op: &ConvInteger) -> Result<()> {
    let kernel = kernel(cx);
    cx.plain("ConvInteger").conv(&op.plain(), &kernel);
    Ok(())
}

/// The real numbers that an operand stands for by a scale and a zero point, along an axis or in blocks of it.
fn real(cx: &mut NodeCx<'_, '_, '_>, [x, scale, zero]: [usize; 3], axis: i64, block: usize) -> String {
    let mut inputs = vec![cx.input(x), cx.input(scale)];
    if cx.node.input(zero).is_some() {
        inputs.push(cx.input(zero));
    }
    let y = cx.temporary();
    let made = cx.add("DequantizeLinear", inputs, vec![y.clone()]).int_unless("axis", axis, 1);
    if block > 0 {
        made.size("block_size", block);
    }
    y
}

/// Quantizes `x` to the node's result by a scale and a zero point.
fn quantize(cx: &mut NodeCx<'_, '_, '_>, x: String, [scale, zero]: [usize; 2], to: DType) {
    let mut inputs = vec![x, cx.input(scale)];
    let typed = cx.node.input(zero).is_some();
    if typed {
        inputs.push(cx.input(zero));
    }
    let y = cx.output(0);
    let made = cx.add("QuantizeLinear", inputs, vec![y]);
    if !typed && to != DType::U8 {
        made.dtype("output_dtype", to);
    }
}

/// The product's own factors as real numbers.
fn factors(cx: &mut NodeCx<'_, '_, '_>, axis: i64, block: usize) -> Vec<String> {
    let x = if cx.node.input(3).is_some() { real(cx, [0, 3, 4], 1, 0) } else { cx.input(0) };
    vec![x, real(cx, [1, 5, 6], axis, block)]
}

/// From the product to the node's result.
fn finish(cx: &mut NodeCx<'_, '_, '_>, x: String, steps: &PostOps, to: Option<DType>) -> Result<()> {
    match to {
        None => {
            let y = cx.output(0);
            epilogue_to(cx, steps, DType::F32, x, y)
        }
        Some(to) => {
            let y = if steps.is_empty() { x.clone() } else { cx.temporary() };
            epilogue_to(cx, steps, DType::F32, x, y.clone())?;
            quantize(cx, y, [7, 8], to);
            Ok(())
        }
    }
}

/// Where the product goes: to the node's result, if nothing follows.
fn place(cx: &mut NodeCx<'_, '_, '_>, steps: &PostOps, to: Option<DType>) -> String {
    if steps.is_empty() && to.is_none() { cx.output(0) } else { cx.temporary() }
}

pub(super) fn conv(cx: &mut NodeCx<'_, '_, '_>, op: &QuantizedConv) -> Result<()> {
    let kernel = kernel(cx);
    let mut inputs = factors(cx, 0, 0);
    if cx.node.input(2).is_some() {
        inputs.push(cx.input(2));
    }
    let y = place(cx, &op.epilogue, op.to);
    cx.add("Conv", inputs, vec![y.clone()]).conv(&op.plain(), &kernel);
    finish(cx, y, &op.epilogue, op.to)
}

pub(super) fn matmul(cx: &mut NodeCx<'_, '_, '_>, op: &QuantizedMatMul) -> Result<()> {
    // Scales of columns follow the last axis of [K,N], or the first of [N,K]; blocks lie along the other.
    let axis = i64::from(op.trans_b == (op.block_size > 0));
    let mut inputs = factors(cx, axis, op.block_size);
    if op.trans_b {
        let y = cx.temporary();
        let w = inputs.pop().unwrap_or_default();
        cx.add("Transpose", vec![w], vec![y.clone()]).ints("perm", &[1, 0]);
        inputs.push(y);
    }
    let bias = cx.node.input(2).is_some();
    let product = if bias { cx.temporary() } else { place(cx, &op.epilogue, op.to) };
    cx.add("MatMul", inputs, vec![product.clone()]);
    let mut y = product;
    if bias {
        let sum = place(cx, &op.epilogue, op.to);
        let b = cx.input(2);
        cx.add("Add", vec![y, b], vec![sum.clone()]);
        y = sum;
    }
    finish(cx, y, &op.epilogue, op.to)
}

pub(super) fn binary(cx: &mut NodeCx<'_, '_, '_>, op: &QuantizedBinary) -> Result<()> {
    let (a, b) = (real(cx, [0, 2, 3], 1, 0), real(cx, [1, 4, 5], 1, 0));
    let mut y = cx.temporary();
    apply_binary(cx, op.kind, DType::F32, vec![a, b], y.clone())?;
    if op.relu {
        let x = y;
        y = cx.temporary();
        apply_unary(cx, UnaryKind::Relu, DType::F32, x, y.clone())?;
    }
    quantize(cx, y, [6, 7], op.to);
    Ok(())
}

/// A look-up by the bits of each byte.
pub(super) fn table(cx: &mut NodeCx<'_, '_, '_>) -> Result<()> {
    if cx.dtype_of(0)? != DType::U8 {
        return refuse("a table of bytes with a sign");
    }
    let (x, table, y) = (cx.input(0), cx.input(1), cx.output(0));
    let index = cx.temporary();
    cx.add("Cast", vec![x], vec![index.clone()]).dtype("to", DType::I32);
    cx.add("Gather", vec![table, index], vec![y]);
    Ok(())
}

//! Quantization: operators on quantized tensors become the operation between steps of quantization.

use super::{LowerError, NodeCx, Table, conv, conv::size};
use tensormill_ir::{
    ValueId,
    ops::{BinaryKind, DequantizeLinear, DynamicQuantize, MatMul, QuantizeLinear, Reshape},
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("QuantizeLinear", quantize),
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", dynamic_quantize),
    ("QLinearMatMul", qlinear_matmul),
    ("QLinearConv", qlinear_conv),
];

/// An element type by an attribute where 0 stands for none.
fn opt_dtype(cx: &NodeCx<'_, '_>, name: &str) -> Result<Option<DType>> {
    if cx.opt_int(name)? == Some(0) { Ok(None) } else { cx.dtype_attribute(name) }
}

fn quantize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let to = match (zero, opt_dtype(cx, "output_dtype")?) {
        (Some(z), None) => cx.dtype(z)?,
        (Some(z), Some(d)) if cx.dtype(z)? != d => {
            return cx.bad("output_dtype", "differs from the zero point's type");
        }
        (_, d) => d.unwrap_or(DType::U8),
    };
    let op = QuantizeLinear {
        to,
        axis: cx.int("axis", 1)?,
        block_size: size(cx, "block_size", 0)?,
        saturate: cx.flag("saturate", true)?,
        precision: opt_dtype(cx, "precision")?,
    };
    let y = cx.node(op, &[Some(x), Some(scale), zero])?[0];
    cx.set(0, y);
    Ok(())
}

fn dequantize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let to = match opt_dtype(cx, "output_dtype")? {
        Some(d) => d,
        None => cx.dtype(scale)?,
    };
    let op = DequantizeLinear { to, axis: cx.int("axis", 1)?, block_size: size(cx, "block_size", 0)? };
    let y = cx.node(op, &[Some(x), Some(scale), zero])?[0];
    cx.set(0, y);
    Ok(())
}

fn dynamic_quantize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    cx.at_most(1)?;
    let x = cx.input(0)?;
    let results = cx.node(DynamicQuantize {}, &[Some(x)])?;
    cx.set_all(&results);
    Ok(())
}

/// The real numbers that a quantized operand stands for, in f32; `axis` is that of vectors of scales.
fn real(cx: &mut NodeCx<'_, '_>, x: ValueId, scale: ValueId, zero: ValueId, axis: i64) -> Result<ValueId> {
    let scale = cx.cast(scale, DType::F32)?;
    let op = DequantizeLinear { to: DType::F32, axis, block_size: 0 };
    cx.op(op, &[x, scale, zero])
}

/// Real numbers in f32, quantized.
fn stored(cx: &mut NodeCx<'_, '_>, y: ValueId, scale: ValueId, zero: ValueId, axis: i64) -> Result<ValueId> {
    let to = cx.dtype(zero)?;
    let scale = cx.cast(scale, DType::F32)?;
    let op = QuantizeLinear { to, axis, ..QuantizeLinear::default() };
    cx.op(op, &[y, scale, zero])
}

fn qlinear_matmul(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let v = (0..8).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    // Scales per row of the left factor, per column of the right one.
    let a = real(cx, v[0], v[1], v[2], -2)?;
    let b = real(cx, v[3], v[4], v[5], -1)?;
    let y = cx.op(MatMul::default(), &[a, b])?;
    let y = stored(cx, y, v[6], v[7], -2)?;
    cx.set(0, y);
    Ok(())
}

fn qlinear_conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let v = (0..8).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    let op = conv::attributes(cx, v[3])?;
    let x = real(cx, v[0], v[1], v[2], 1)?;
    let w = real(cx, v[3], v[4], v[5], 0)?;
    // The bias is quantized with the product of both scales and no zero point.
    let b = match cx.opt(8) {
        None => None,
        Some(b) => {
            let (xs, ws) = (cx.cast(v[1], DType::F32)?, cx.cast(v[4], DType::F32)?);
            let scalar = cx.ints_constant(&[])?;
            let xs = cx.op(Reshape::default(), &[xs, scalar])?;
            let scale = cx.binary(BinaryKind::Mul, xs, ws)?;
            let zero = cx.constant(Tensor::scalar(0i32))?;
            Some(cx.op(DequantizeLinear { to: DType::F32, axis: 0, block_size: 0 }, &[b, scale, zero])?)
        }
    };
    let y = cx.node(op, &[Some(x), Some(w), b])?[0];
    let y = stored(cx, y, v[6], v[7], 1)?;
    cx.set(0, y);
    Ok(())
}

//! Quantization.

use super::{error::Result, node::NodeCx};
use tensormill_ir::{
    ValueId,
    ops::{DequantizeLinear, QuantizeLinear},
};
use tensormill_tensor::DType;

pub(super) fn quantize(cx: &mut NodeCx<'_, '_, '_>, op: &QuantizeLinear) -> Result<()> {
    let untyped = cx.node.input(2).is_none() && op.to != DType::U8;
    if op.precision.is_some() {
        cx.require(23);
    }
    let mut made = cx.plain("QuantizeLinear").int_unless("axis", op.axis, 1);
    if op.block_size > 0 {
        made = made.size("block_size", op.block_size);
    }
    if !op.saturate {
        made = made.int("saturate", 0);
    }
    if untyped {
        made = made.dtype("output_dtype", op.to);
    }
    if let Some(d) = op.precision {
        made.dtype("precision", d);
    }
    Ok(())
}

pub(super) fn dequantize(cx: &mut NodeCx<'_, '_, '_>, op: &DequantizeLinear) -> Result<()> {
    let typed = cx.dtype_of(1)? != op.to;
    if typed {
        cx.require(23);
    }
    let mut made = cx.plain("DequantizeLinear").int_unless("axis", op.axis, 1);
    if op.block_size > 0 {
        made = made.size("block_size", op.block_size);
    }
    if typed {
        made.dtype("output_dtype", op.to);
    }
    Ok(())
}

pub(super) fn dynamic_quantize(
    cx: &mut NodeCx<'_, '_, '_>,
    x: ValueId,
    [y, scale, point]: [ValueId; 3],
) -> Result<()> {
    let (x, results) = (cx.name(x), vec![cx.name(y), cx.name(scale), cx.name(point)]);
    cx.add("DynamicQuantizeLinear", vec![x], results);
    Ok(())
}

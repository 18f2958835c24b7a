//! From real numbers to stored ones and back, and casts.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::Cast;
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("QUANTIZE", 89, quantize), ("DEQUANTIZE", 38, dequantize), ("CAST", 37, cast)];

fn quantize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    if cx.result_quantization(0).is_none() {
        return LowerError::operand("the result has no scale");
    }
    let order = cx.home(0);
    let x = cx.real(0, order)?;
    cx.set_real(0, x, order)
}

fn dequantize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let order = cx.home(0);
    let x = cx.real(0, order)?;
    if !cx.dtype(x)?.is_float() {
        return LowerError::operand("the operand has no scale");
    }
    // Weights of 16-bit floats have none either.
    let y = cx.cast(x, DType::F32)?;
    cx.set(0, y, order);
    Ok(())
}

fn cast(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // The options repeat the tensors' types.
    [0, 1].into_iter().for_each(|f| cx.ignore(f));
    let (order, to) = (cx.home(0), cx.result_dtype(0)?);
    let x = cx.input_in(0, order)?;
    let y = cx.op(Cast { to, ..Cast::default() }, &[x])?;
    cx.set(0, y, order);
    Ok(())
}

//! Matrix products.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{BinaryKind, MatMul};
use tensormill_tensor::DType;

pub(super) const TABLE: Table = &[("MatMul", matmul), ("Gemm", gemm), ("MatMulInteger", matmul_integer)];

fn matmul(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let y = cx.op(MatMul::default(), &[a, b])?;
    cx.set(0, y);
    Ok(())
}

/// `alpha * a' * b' + beta * c`
fn gemm(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (trans_a, trans_b) = (cx.flag("transA", false)?, cx.flag("transB", false)?);
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    // Before opset 7 this said that c broadcasts, which it always may now.
    cx.ignore("broadcast");
    if cx.rank(a)? != 2 || cx.rank(b)? != 2 {
        return LowerError::operand("both factors must have rank 2");
    }
    let mut y = cx.op(MatMul { trans_a, trans_b, ..Default::default() }, &[a, b])?;
    if alpha != 1.0 {
        y = cx.binary_scalar(BinaryKind::Mul, y, f64::from(alpha))?;
    }
    if let Some(mut c) = cx.opt(2)
        && beta != 0.0
    {
        if beta != 1.0 {
            c = cx.binary_scalar(BinaryKind::Mul, c, f64::from(beta))?;
        }
        y = cx.binary(BinaryKind::Add, y, c)?;
    }
    cx.set(0, y);
    Ok(())
}

/// Products of integers less their zero points, in i32.
fn matmul_integer(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let mut factors = vec![];
    for i in 0..2 {
        let x = cx.input(i)?;
        let mut x = cx.cast(x, DType::I32)?;
        if let Some(zero) = cx.opt(i + 2) {
            let mut zero = cx.cast(zero, DType::I32)?;
            // A zero point per row of the left factor stands in a vector, which would broadcast along columns.
            if i == 0 && cx.rank(zero)? == 1 && cx.dims(zero)?[0].known() != Some(1) {
                let axes = cx.ints_constant(&[1])?;
                zero = cx.op(tensormill_ir::ops::Unsqueeze {}, &[zero, axes])?;
            }
            x = cx.binary(BinaryKind::Sub, x, zero)?;
        }
        factors.push(x);
    }
    let y = cx.op(MatMul::default(), &factors)?;
    cx.set(0, y);
    Ok(())
}

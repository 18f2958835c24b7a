//! Matrix products.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{BinaryKind, MatMul, MatMulInteger};

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
    cx.at_most(4)?;
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2), cx.opt(3)];
    let y = cx.node(MatMulInteger {}, &operands)?[0];
    cx.set(0, y);
    Ok(())
}

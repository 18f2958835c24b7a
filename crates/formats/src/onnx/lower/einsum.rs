//! Sums of products over labelled axes, and determinants.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{Det, Einsum};

pub(super) const TABLE: Table = &[("Einsum", einsum), ("Det", det)];

fn einsum(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let Some(equation) = cx.string("equation")? else { return cx.bad("equation", "is missing") };
    let operands = cx.all()?;
    let y = cx.op(Einsum { equation }, &operands)?;
    cx.set(0, y);
    Ok(())
}

fn det(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let x = cx.input(0)?;
    let y = cx.op(Det {}, &[x])?;
    cx.set(0, y);
    Ok(())
}

//! Softmax and its kin.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Op,
    ops::{Flatten, Hardmax, LogSoftmax, Reshape, ShapeOf, Softmax},
};

pub(super) const TABLE: Table = &[("Softmax", softmax), ("LogSoftmax", softmax), ("Hardmax", softmax)];

fn softmax(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let x = cx.input(0)?;
    let kind = cx.op_type();
    let along = |axis| match kind {
        "Softmax" => Op::from(Softmax { axis }),
        "LogSoftmax" => LogSoftmax { axis }.into(),
        _ => Hardmax { axis }.into(),
    };
    if cx.opset() >= 13 {
        let axis = cx.int("axis", -1)?;
        let y = cx.op(along(axis), &[x])?;
        cx.set(0, y);
        return Ok(());
    }
    // Before opset 13 all axes from this one on were one.
    let axis = cx.int("axis", 1)?;
    let rank = cx.tensor(x)?.rank();
    let last = rank.is_some_and(|r| axis == -1 || axis == r as i64 - 1);
    let y = if last {
        cx.op(along(-1), &[x])?
    } else {
        let shape = cx.op(ShapeOf { start: 0, end: i64::MAX }, &[x])?;
        let matrix = cx.op(Flatten { axis }, &[x])?;
        let y = cx.op(along(-1), &[matrix])?;
        cx.op(Reshape { allow_zero: true }, &[y, shape])?
    };
    cx.set(0, y);
    Ok(())
}

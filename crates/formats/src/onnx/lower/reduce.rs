//! Reductions.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{ArgReduce, Reduce, ReduceKind};

pub(super) const TABLE: Table = &[
    ("ReduceL1", reduce),
    ("ReduceL2", reduce),
    ("ReduceLogSum", reduce),
    ("ReduceLogSumExp", reduce),
    ("ReduceMax", reduce),
    ("ReduceMean", reduce),
    ("ReduceMin", reduce),
    ("ReduceProd", reduce),
    ("ReduceSum", reduce),
    ("ReduceSumSquare", reduce),
    ("ArgMax", arg_reduce),
    ("ArgMin", arg_reduce),
    ("GlobalAveragePool", global_pool),
    ("GlobalMaxPool", global_pool),
];

fn reduce(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let kind = match cx.op_type() {
        "ReduceL1" => ReduceKind::L1,
        "ReduceL2" => ReduceKind::L2,
        "ReduceLogSum" => ReduceKind::LogSum,
        "ReduceLogSumExp" => ReduceKind::LogSumExp,
        "ReduceMax" => ReduceKind::Max,
        "ReduceMean" => ReduceKind::Mean,
        "ReduceMin" => ReduceKind::Min,
        "ReduceProd" => ReduceKind::Prod,
        "ReduceSum" => ReduceKind::Sum,
        "ReduceSumSquare" => ReduceKind::SumSquare,
        other => return LowerError::feature(other),
    };
    let x = cx.input(0)?;
    let mut axes = cx.opt(1);
    // Sums took their axes as an operand from opset 13 on, the others from 18 on.
    if let Some(a) = cx.ints("axes")? {
        axes = Some(cx.ints_constant(&a)?);
    }
    let op = Reduce {
        kind,
        keepdims: cx.flag("keepdims", true)?,
        noop_with_empty_axes: cx.flag("noop_with_empty_axes", false)?,
    };
    let y = cx.node(op, &[Some(x), axes])?[0];
    cx.set(0, y);
    Ok(())
}

fn arg_reduce(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let x = cx.input(0)?;
    let op = ArgReduce {
        max: cx.op_type() == "ArgMax",
        axis: cx.int("axis", 0)?,
        keepdims: cx.flag("keepdims", true)?,
        select_last: cx.flag("select_last_index", false)?,
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// A pool over everything but batch and channels is a reduction.
fn global_pool(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let x = cx.input(0)?;
    let axes: Vec<i64> = (2..cx.rank(x)? as i64).collect();
    let kind = if cx.op_type() == "GlobalMaxPool" { ReduceKind::Max } else { ReduceKind::Mean };
    let axes = cx.ints_constant(&axes)?;
    let y = cx.op(Reduce { kind, noop_with_empty_axes: true, ..Default::default() }, &[x, axes])?;
    cx.set(0, y);
    Ok(())
}

//! Reductions.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{ArgReduce, Reduce, ReduceKind};

pub(super) fn reduce(cx: &mut NodeCx<'_, '_, '_>, op: &Reduce) -> Result<()> {
    let name = match op.kind {
        ReduceKind::Sum => "ReduceSum",
        ReduceKind::Mean => "ReduceMean",
        ReduceKind::Max => "ReduceMax",
        ReduceKind::Min => "ReduceMin",
        ReduceKind::Prod => "ReduceProd",
        ReduceKind::L1 => "ReduceL1",
        ReduceKind::L2 => "ReduceL2",
        ReduceKind::LogSum => "ReduceLogSum",
        ReduceKind::LogSumExp => "ReduceLogSumExp",
        ReduceKind::SumSquare => "ReduceSumSquare",
    };
    if let Some(name) = global_pool(cx, op) {
        let (x, y) = (cx.input(0), cx.output(0));
        cx.add(name, vec![x], vec![y]);
        return Ok(());
    }
    let made = cx.plain(name).int_unless("keepdims", i64::from(op.keepdims), 1);
    made.flag("noop_with_empty_axes", op.noop_with_empty_axes);
    Ok(())
}

/// The pool over everything but batch and channels that a reduction is.
fn global_pool(cx: &NodeCx<'_, '_, '_>, op: &Reduce) -> Option<&'static str> {
    let name = match op.kind {
        ReduceKind::Mean => "GlobalAveragePool",
        ReduceKind::Max => "GlobalMaxPool",
        _ => return None,
    };
    let rank = cx.rank_of(0)?;
    let spatial: Vec<i64> = (2..rank as i64).collect();
    let all = !spatial.is_empty() && cx.ints_of(1)? == spatial;
    // How such a pool is read; other reductions over these axes stay what they were.
    let read = op.keepdims && op.noop_with_empty_axes;
    (read && all && cx.dtype_of(0).is_ok_and(|d| d.is_float())).then_some(name)
}

pub(super) fn arg_reduce(cx: &mut NodeCx<'_, '_, '_>, op: &ArgReduce) -> Result<()> {
    let made = cx.plain(if op.max { "ArgMax" } else { "ArgMin" }).int_unless("axis", op.axis, 0);
    made.int_unless("keepdims", i64::from(op.keepdims), 1).flag("select_last_index", op.select_last);
    Ok(())
}

//! Orders, places and running totals.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{Compress, ReverseSequence, TopK, Unique};

pub(super) fn top_k(cx: &mut NodeCx<'_, '_, '_>, op: &TopK) -> Result<()> {
    let made = cx.plain("TopK").int_unless("axis", op.axis, -1);
    made.int_unless("largest", i64::from(op.largest), 1).int_unless("sorted", i64::from(op.sorted), 1);
    Ok(())
}

pub(super) fn unique(cx: &mut NodeCx<'_, '_, '_>, op: &Unique) -> Result<()> {
    let made = cx.plain("Unique").int_unless("sorted", i64::from(op.sorted), 1);
    if let Some(axis) = op.axis {
        made.int("axis", axis);
    }
    Ok(())
}

pub(super) fn compress(cx: &mut NodeCx<'_, '_, '_>, op: &Compress) -> Result<()> {
    let made = cx.plain("Compress");
    if let Some(axis) = op.axis {
        made.int("axis", axis);
    }
    Ok(())
}

pub(super) fn running(
    cx: &mut NodeCx<'_, '_, '_>,
    op_type: &str,
    exclusive: bool,
    reverse: bool,
) -> Result<()> {
    cx.plain(op_type).flag("exclusive", exclusive).flag("reverse", reverse);
    Ok(())
}

pub(super) fn reverse_sequence(cx: &mut NodeCx<'_, '_, '_>, op: &ReverseSequence) -> Result<()> {
    cx.plain("ReverseSequence").int("batch_axis", op.batch_axis).int("time_axis", op.time_axis);
    Ok(())
}

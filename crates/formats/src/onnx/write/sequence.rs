//! Sequences and optionals.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{ConcatFromSequence, OptionalOf, SequenceEmpty, SplitToSequence};

pub(super) fn empty(cx: &mut NodeCx<'_, '_, '_>, op: &SequenceEmpty) -> Result<()> {
    cx.plain("SequenceEmpty").dtype("dtype", op.dtype);
    Ok(())
}

pub(super) fn split(cx: &mut NodeCx<'_, '_, '_>, op: &SplitToSequence) -> Result<()> {
    cx.plain("SplitToSequence").int("axis", op.axis).int("keepdims", i64::from(op.keepdims));
    Ok(())
}

pub(super) fn concat(cx: &mut NodeCx<'_, '_, '_>, op: &ConcatFromSequence) -> Result<()> {
    cx.plain("ConcatFromSequence").int("axis", op.axis).flag("new_axis", op.new_axis);
    Ok(())
}

pub(super) fn optional(cx: &mut NodeCx<'_, '_, '_>, op: &OptionalOf) -> Result<()> {
    let made = cx.plain("Optional");
    if let Some(t) = &op.of {
        made.ty("type", t);
    }
    Ok(())
}

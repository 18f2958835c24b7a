//! Operators that move elements, pick them, or change how they are laid out.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{
    EyeLike, Flatten, GatherND, Pad, PadMode, Reshape, ScatterReduction, ShapeOf, Split, TensorScatter,
    Transpose, Trilu,
};

pub(super) fn shape_of(cx: &mut NodeCx<'_, '_, '_>, op: &ShapeOf) -> Result<()> {
    cx.plain("Shape").int_unless("start", op.start, 0).int_unless("end", op.end, i64::MAX);
    Ok(())
}

pub(super) fn reshape(cx: &mut NodeCx<'_, '_, '_>, op: &Reshape) -> Result<()> {
    cx.plain("Reshape").flag("allowzero", op.allow_zero);
    Ok(())
}

pub(super) fn flatten(cx: &mut NodeCx<'_, '_, '_>, op: &Flatten) -> Result<()> {
    cx.plain("Flatten").int_unless("axis", op.axis, 1);
    Ok(())
}

pub(super) fn transpose(cx: &mut NodeCx<'_, '_, '_>, op: &Transpose) -> Result<()> {
    cx.plain("Transpose").sizes("perm", &op.perm);
    Ok(())
}

/// An operator whose only attribute is its axis.
pub(super) fn along(cx: &mut NodeCx<'_, '_, '_>, op_type: &str, axis: i64) -> Result<()> {
    cx.plain(op_type).int("axis", axis);
    Ok(())
}

pub(super) fn split(cx: &mut NodeCx<'_, '_, '_>, op: &Split) -> Result<()> {
    let equal = cx.node.input(1).is_none();
    let made = cx.plain("Split").int_unless("axis", op.axis, 0);
    if equal {
        made.size("num_outputs", op.outputs);
    }
    Ok(())
}

pub(super) fn gather_nd(cx: &mut NodeCx<'_, '_, '_>, op: &GatherND) -> Result<()> {
    cx.plain("GatherND").size("batch_dims", op.batch_dims);
    Ok(())
}

fn reduction(r: ScatterReduction) -> &'static str {
    match r {
        ScatterReduction::None => "none",
        ScatterReduction::Add => "add",
        ScatterReduction::Mul => "mul",
        ScatterReduction::Min => "min",
        ScatterReduction::Max => "max",
    }
}

pub(super) fn scatter_elements(cx: &mut NodeCx<'_, '_, '_>, axis: i64, r: ScatterReduction) -> Result<()> {
    cx.plain("ScatterElements").int("axis", axis).string("reduction", reduction(r));
    Ok(())
}

pub(super) fn scatter_nd(cx: &mut NodeCx<'_, '_, '_>, r: ScatterReduction) -> Result<()> {
    cx.plain("ScatterND").string("reduction", reduction(r));
    Ok(())
}

pub(super) fn tensor_scatter(cx: &mut NodeCx<'_, '_, '_>, op: &TensorScatter) -> Result<()> {
    let mode = if op.circular { "circular" } else { "linear" };
    cx.plain("TensorScatter").int("axis", op.axis).string("mode", mode);
    Ok(())
}

pub(super) fn pad(cx: &mut NodeCx<'_, '_, '_>, op: &Pad) -> Result<()> {
    let made = cx.plain("Pad");
    if op.mode != PadMode::Constant {
        made.string("mode", op.mode.word());
    }
    Ok(())
}

pub(super) fn trilu(cx: &mut NodeCx<'_, '_, '_>, op: &Trilu) -> Result<()> {
    cx.plain("Trilu").int("upper", i64::from(op.upper));
    Ok(())
}

pub(super) fn eye_like(cx: &mut NodeCx<'_, '_, '_>, op: &EyeLike) -> Result<()> {
    let made = cx.plain("EyeLike").int_unless("k", op.k, 0);
    if let Some(d) = op.dtype {
        made.dtype("dtype", d);
    }
    Ok(())
}

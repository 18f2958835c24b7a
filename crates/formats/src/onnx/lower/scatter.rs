//! Updating elements by index.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{ScatterElements, ScatterND, ScatterReduction, TensorScatter};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    // The name before opset 11.
    ("Scatter", elements),
    ("ScatterElements", elements),
    ("ScatterND", nd),
    ("TensorScatter", cache),
];

fn reduction(cx: &NodeCx<'_, '_>) -> Result<ScatterReduction> {
    match cx.string("reduction")?.as_deref() {
        None | Some("none") => Ok(ScatterReduction::None),
        Some("add") => Ok(ScatterReduction::Add),
        Some("mul") => Ok(ScatterReduction::Mul),
        Some("min") => Ok(ScatterReduction::Min),
        Some("max") => Ok(ScatterReduction::Max),
        Some(_) => cx.bad("reduction", "names no reduction"),
    }
}

fn elements(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let op = ScatterElements { axis: cx.int("axis", 0)?, reduction: reduction(cx)? };
    let y = cx.op(op, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn nd(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let y = cx.op(ScatterND { reduction: reduction(cx)? }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn cache(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2)];
    let circular = match cx.string("mode")?.as_deref() {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(_) => return cx.bad("mode", "must be linear or circular"),
    };
    let y = cx.node(TensorScatter { axis: cx.int("axis", -2)?, circular }, &inputs)?[0];
    cx.set(0, y);
    Ok(())
}

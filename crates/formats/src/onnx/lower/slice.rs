//! Cutting tensors up and putting them together.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    ops::{Concat, Slice, Split},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("Concat", concat), ("Split", split), ("Slice", slice)];

fn concat(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let all = cx.all()?;
    // Before opset 4 the axis had a default.
    let axis = match cx.opt_int("axis")? {
        Some(a) => a,
        None if cx.opset() < 4 => 1,
        None => return cx.bad("axis", "is missing"),
    };
    let y = cx.op(Concat { axis }, &all)?;
    cx.set(0, y);
    Ok(())
}

fn split(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let sizes = match cx.ints("split")? {
        Some(s) => Some(cx.ints_constant(&s)?),
        None => cx.opt(1),
    };
    let outputs = match cx.opt_int("num_outputs")? {
        Some(n) => usize::try_from(n).or_else(|_| cx.bad("num_outputs", "must be positive"))?,
        None => cx.outputs(),
    };
    let parts = cx.node(Split { axis: cx.int("axis", 0)?, outputs }, &[Some(x), sizes])?;
    cx.set_all(&parts);
    Ok(())
}

fn slice(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    // Attributes before opset 10.
    let mut operands: [Option<ValueId>; 4] = [cx.opt(1), cx.opt(2), cx.opt(3), cx.opt(4)];
    for (place, name) in operands.iter_mut().zip(["starts", "ends", "axes"]) {
        if let Some(v) = cx.ints(name)? {
            *place = Some(cx.ints_constant(&v)?);
        }
    }
    for place in operands.iter_mut().flatten() {
        *place = cx.cast(*place, DType::I64)?;
    }
    let [starts, ends, axes, steps] = operands;
    let y = cx.node(Slice {}, &[Some(x), starts, ends, axes, steps])?[0];
    cx.set(0, y);
    Ok(())
}

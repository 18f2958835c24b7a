//! Operators that change shapes and leave the elements alone.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    ops::{Expand, Flatten, Range, Reshape, ShapeOf, SizeOf, Squeeze, Tile, Transpose, Unsqueeze},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("Shape", shape),
    ("Size", size),
    ("Reshape", reshape),
    ("Flatten", flatten),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Transpose", transpose),
    ("Expand", expand),
    ("Tile", tile),
    ("Range", range),
];

fn shape(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let op = ShapeOf { start: cx.int("start", 0)?, end: cx.int("end", i64::MAX)? };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn size(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.op(SizeOf {}, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn reshape(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    // An attribute before opset 5.
    let shape = match cx.ints("shape")? {
        Some(s) => cx.ints_constant(&s)?,
        None => cx.input(1)?,
    };
    cx.ignore("consumed_inputs");
    let allow_zero = cx.flag("allowzero", false)?;
    let y = cx.op(Reshape { allow_zero }, &[x, shape])?;
    cx.set(0, y);
    Ok(())
}

fn flatten(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.op(Flatten { axis: cx.int("axis", 1)? }, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// Axes were an attribute before opset 13.
fn axes(cx: &mut NodeCx<'_, '_>) -> Result<Option<ValueId>> {
    match cx.ints("axes")? {
        Some(a) => cx.ints_constant(&a).map(Some),
        None => Ok(cx.opt(1)),
    }
}

fn squeeze(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let axes = axes(cx)?;
    let y = cx.node(Squeeze {}, &[Some(x), axes])?[0];
    cx.set(0, y);
    Ok(())
}

fn unsqueeze(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let Some(axes) = axes(cx)? else { return LowerError::operand("axes are missing") };
    // A scalar of axes appears in the wild and can only mean one axis.
    let axes = if cx.rank(axes)? == 0 {
        let one = cx.ints_constant(&[1])?;
        cx.op(Reshape::default(), &[axes, one])?
    } else {
        axes
    };
    let y = cx.op(Unsqueeze {}, &[x, axes])?;
    cx.set(0, y);
    Ok(())
}

fn transpose(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let perm = match cx.ints("perm")? {
        None => vec![],
        Some(p) => {
            let rank = cx.tensor(x)?.rank().unwrap_or(p.len()) as i64;
            p.iter()
                .map(|&a| usize::try_from(if a < 0 { a + rank } else { a }))
                .collect::<std::result::Result<_, _>>()
                .or_else(|_| cx.bad("perm", "has an axis out of range"))?
        }
    };
    let y = cx.op(Transpose { perm }, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn expand(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, shape) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.cast(shape, DType::I64)?;
    let y = cx.op(Expand {}, &[x, shape])?;
    cx.set(0, y);
    Ok(())
}

fn tile(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, repeats) = (cx.input(0)?, cx.input(1)?);
    if cx.opset() < 6 {
        return LowerError::feature("Tile along one axis, as before opset 6,");
    }
    let y = cx.op(Tile {}, &[x, repeats])?;
    cx.set(0, y);
    Ok(())
}

fn range(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    // What the type of the sum of sixteen-bit floats is only matters to implementations of the default.
    cx.ignore("stash_type");
    let y = cx.op(Range {}, &inputs)?;
    cx.set(0, y);
    Ok(())
}

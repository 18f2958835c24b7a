//! Shapes, and axes put in and taken away.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::{
    ValueId,
    ops::{Concat, Expand, Reshape, ShapeOf, Split, Squeeze, Tile, Transpose, Unsqueeze},
};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("BROADCAST_TO", 104, broadcast_to),
    ("EXPAND_DIMS", 52, expand_dims),
    ("PACK", 59, pack),
    ("RANK", 86, rank),
    ("RESHAPE", 17, reshape),
    ("SHAPE", 55, shape),
    ("SQUEEZE", 30, squeeze),
    ("TILE", 51, tile),
    ("TRANSPOSE", 26, transpose),
    ("UNPACK", 64, unpack),
];

fn reshape(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let option = cx.int_list("new_shape", 0)?;
    // Older files have the shape only among the options; where there are both, the operand counts.
    let shape = if cx.opt(1).is_some() { cx.ints(1)? } else { cx.ints_constant(&option)? };
    let y = cx.op(Reshape { allow_zero: true }, &[x.x, shape])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn squeeze(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let axes = cx.int_list("squeeze_dims", 0)?;
    let axes = if axes.is_empty() { None } else { Some(cx.ints_constant(&axes)?) };
    let y = cx.node(Squeeze {}, &[Some(x.x), axes])?[0];
    cx.set_moved(0, y, Order::Plain, &x)
}

fn expand_dims(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, axis) = (cx.moved(0, Order::Plain)?, cx.ints(1)?);
    let y = cx.op(Unsqueeze {}, &[x.x, axis])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn transpose(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let perm = cx.known(1)?;
    let perm = match perm.iter().map(|&p| usize::try_from(p)).collect() {
        Ok(p) => p,
        Err(_) => return LowerError::operand(format!("{perm:?} is no permutation")),
    };
    let y = cx.op(Transpose { perm }, &[x.x])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn pack(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (count, axis) = (cx.int("values_count", 0, 0)?, cx.int("axis", 1, 0)?);
    if usize::try_from(count).ok() != Some(cx.len()) {
        return LowerError::option(
            "values_count",
            format!("is {count}, but there are {} operands", cx.len()),
        );
    }
    let stored = (0..cx.len()).all(|i| cx.same_quantization(i, 0));
    let axes = cx.ints_constant(&[i64::from(axis)])?;
    let mut parts = vec![];
    for i in 0..cx.len() {
        let x = if stored { cx.input(i)? } else { cx.real(i, Order::Plain)? };
        parts.push(cx.op(Unsqueeze {}, &[x, axes])?);
    }
    let y = cx.op(Concat { axis: i64::from(axis) }, &parts)?;
    cx.set_moved(0, y, Order::Plain, &super::cx::Moved { x: y, stored })
}

fn unpack(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (count, axis) = (cx.int("num", 0, 0)?, i64::from(cx.int("axis", 1, 0)?));
    let outputs = cx.outputs();
    if usize::try_from(count).ok() != Some(outputs) || outputs == 0 {
        return LowerError::option("num", format!("is {count}, but there are {outputs} results"));
    }
    let x = cx.moved(0, Order::Plain)?;
    let own = cx.dims(x.x)?;
    let along = cx.axis("axis", axis, own.len())?;
    if own[along].known() != Some(outputs) {
        return LowerError::option("num", format!("is {count}, but the axis has another size"));
    }
    let parts = cx.node(Split { axis, outputs }, &[Some(x.x)])?;
    let axes = cx.ints_constant(&[axis])?;
    for (i, part) in parts.into_iter().enumerate() {
        let y = cx.op(Squeeze {}, &[part, axes])?;
        cx.set_moved(i, y, Order::Plain, &x)?;
    }
    Ok(())
}

/// Integers in the type that the result has.
fn set_ints(cx: &mut NodeCx<'_, '_>, v: ValueId) -> Result<()> {
    let to = cx.result_dtype(0)?;
    let y = cx.cast(v, to)?;
    cx.set(0, y, Order::Plain);
    Ok(())
}

fn shape(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // The option repeats the result's type.
    cx.ignore(0);
    let x = cx.input(0)?;
    let y = cx.op(ShapeOf::default(), &[x])?;
    set_ints(cx, y)
}

fn rank(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let rank = cx.rank(x)? as i64;
    let y = cx.constant(Tensor::scalar(rank))?;
    set_ints(cx, y)
}

fn tile(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, repeats) = (cx.moved(0, Order::Plain)?, cx.ints(1)?);
    let y = cx.op(Tile {}, &[x.x, repeats])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn broadcast_to(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, shape) = (cx.moved(0, Order::Plain)?, cx.ints(1)?);
    let y = cx.op(Expand {}, &[x.x, shape])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

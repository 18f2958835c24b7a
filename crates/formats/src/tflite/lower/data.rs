//! Elements by their places, and tensors made of a rule.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::ops::{CumSum, Expand, Gather, GatherND, Range, TopK, Unsqueeze};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("CUMSUM", 102, cumsum),
    ("FILL", 68, fill),
    ("GATHER", 23, gather),
    ("GATHER_ND", 83, gather_nd),
    ("RANGE", 73, range),
    ("TOPK_V2", 34, top_k),
];

fn gather(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (axis, batch) = (cx.int("axis", 0, 0)?, cx.int("batch_dims", 1, 0)?);
    let (x, i) = (cx.moved(0, Order::Plain)?, cx.input(1)?);
    let y = match batch {
        0 => cx.op(Gather { axis: i64::from(axis) }, &[x.x, i])?,
        // Each row by its own places: every place is a slice's for itself.
        n if n == axis && n > 0 => {
            let last = cx.ints_constant(&[-1])?;
            let i = cx.op(Unsqueeze {}, &[i, last])?;
            cx.op(GatherND { batch_dims: n as usize }, &[x.x, i])?
        }
        _ => return LowerError::feature(format!("gathering along axis {axis} with {batch} axes of rows")),
    };
    cx.set_moved(0, y, Order::Plain, &x)
}

fn gather_nd(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, i) = (cx.moved(0, Order::Plain)?, cx.input(1)?);
    let y = cx.op(GatherND { batch_dims: 0 }, &[x.x, i])?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn fill(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (shape, v) = (cx.ints(0)?, cx.input(1)?);
    let y = cx.op(Expand {}, &[v, shape])?;
    cx.set(0, y, Order::Plain);
    Ok(())
}

fn range(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (start, limit, step) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let y = cx.op(Range {}, &[start, limit, step])?;
    cx.set(0, y, Order::Plain);
    Ok(())
}

fn cumsum(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let op = CumSum { exclusive: cx.flag("exclusive", 0)?, reverse: cx.flag("reverse", 1)? };
    let x = cx.real(0, Order::Plain)?;
    let axis = match cx.known(1)?[..] {
        [axis] => cx.constant(tensormill_tensor::Tensor::scalar(axis))?,
        _ => return LowerError::operand("there must be one axis"),
    };
    let y = cx.op(op, &[x, axis])?;
    cx.set_real(0, y, Order::Plain)
}

fn top_k(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, k) = (cx.moved(0, Order::Plain)?, cx.ints(1)?);
    let results = cx.node(TopK::default(), &[Some(x.x), Some(k)])?;
    cx.set_moved(0, results[0], Order::Plain, &x)?;
    if cx.outputs() > 1 {
        let to = cx.result_dtype(1)?;
        let places = cx.cast(results[1], to)?;
        cx.set(1, places, Order::Plain);
    }
    Ok(())
}

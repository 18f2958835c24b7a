//! Reductions along axes.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::ops::{ArgReduce, Reduce, ReduceKind};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("MEAN", 27, |cx| reduce(cx, ReduceKind::Mean)),
    ("SUM", 27, |cx| reduce(cx, ReduceKind::Sum)),
    ("REDUCE_PROD", 27, |cx| reduce(cx, ReduceKind::Prod)),
    ("REDUCE_MAX", 27, |cx| reduce(cx, ReduceKind::Max)),
    ("REDUCE_MIN", 27, |cx| reduce(cx, ReduceKind::Min)),
    ("REDUCE_ANY", 27, |cx| reduce(cx, ReduceKind::Max)),
    ("REDUCE_ALL", 27, |cx| reduce(cx, ReduceKind::Min)),
    ("ARG_MAX", 40, |cx| arg(cx, true)),
    ("ARG_MIN", 57, |cx| arg(cx, false)),
];

fn reduce(cx: &mut NodeCx<'_, '_>, kind: ReduceKind) -> Result<()> {
    let keepdims = cx.flag("keep_dims", 0)?;
    let given = cx.known(1)?;
    let home = cx.home(0);
    let x = cx.real(0, home)?;
    let rank = cx.rank(x)?;
    let axes = given.iter().map(|&a| cx.axis("axis", a, rank)).collect::<Result<Vec<usize>>>()?;
    // What is left must be in the file's order, which it is where channels or all spatial axes go.
    let left: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).map(|a| home.axis(a)).collect();
    let (order, x) = match keepdims || left.is_sorted() {
        true => (home, x),
        false => (Order::Plain, cx.real(0, Order::Plain)?),
    };
    let axes: Vec<i64> = axes.iter().map(|&a| order.axis(a) as i64).collect();
    let axes = cx.ints_constant(&axes)?;
    let y = cx.op(Reduce { kind, keepdims, noop_with_empty_axes: true }, &[x, axes])?;
    cx.set_real(0, y, if keepdims { order } else { Order::Plain })
}

fn arg(cx: &mut NodeCx<'_, '_>, max: bool) -> Result<()> {
    // The option repeats the result's type.
    cx.ignore(0);
    let x = cx.input(0)?;
    let axis = match cx.known(1)?[..] {
        [axis] => axis,
        _ => return LowerError::operand("there must be one axis"),
    };
    let y = cx.op(ArgReduce { max, axis, keepdims: false, select_last: false }, &[x])?;
    let to = cx.result_dtype(0)?;
    let y = cx.cast(y, to)?;
    cx.set(0, y, Order::Plain);
    Ok(())
}

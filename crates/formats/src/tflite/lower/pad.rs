//! Padding.

use super::{LowerError, NodeCx, Order, Table, cx::Moved};
use tensormill_ir::{
    ValueId,
    ops::{Pad, PadMode},
};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("PAD", 22, pad), ("PADV2", 43, pad), ("MIRROR_PAD", 77, mirror_pad)];

/// The amounts, one pair for each axis of the file's, as the IR has them for an order.
fn amounts(cx: &mut NodeCx<'_, '_>, order: Order, rank: usize) -> Result<Vec<i64>> {
    let given = cx.known(1)?;
    if given.len() != 2 * rank {
        return LowerError::operand(format!("{} amounts of padding for {rank} axes", given.len()));
    }
    let mut pads = vec![0; 2 * rank];
    for axis in 0..rank {
        let at = order.axis(axis);
        (pads[at], pads[rank + at]) = (given[2 * axis], given[2 * axis + 1]);
    }
    Ok(pads)
}

fn pad(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let order = cx.home(0);
    let stored = cx.same_quantization(0, 0) && (cx.opt(2).is_none() || cx.same_quantization(2, 0));
    let x = if stored { cx.input_in(0, order)? } else { cx.real(0, order)? };
    let rank = cx.rank(x)?;
    let pads = amounts(cx, order, rank)?;
    let pads = cx.ints_constant(&pads)?;
    let value = match (cx.opt(2), stored) {
        (Some(_), true) => Some(cx.input(2)?),
        (Some(_), false) => Some(cx.real(2, Order::Plain)?),
        (None, _) => zero(cx, x, stored)?,
    };
    let y = cx.node(Pad { mode: PadMode::Constant }, &[Some(x), Some(pads), value])?[0];
    cx.set_moved(0, y, order, &Moved { x, stored })
}

/// The integer that stands for 0; none where it is 0 itself.
fn zero(cx: &mut NodeCx<'_, '_>, x: ValueId, stored: bool) -> Result<Option<ValueId>> {
    let Some(zero) = cx.quantization(0).filter(|_| stored).map(|q| q.zero[0]) else { return Ok(None) };
    let dtype = cx.dtype(x)?;
    let zero = Tensor::from_i64s(dtype, [], [zero]).map_err(|e| LowerError::Operand(e.to_string()))?;
    cx.constant(zero).map(Some)
}

fn mirror_pad(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let order = cx.home(0);
    if !cx.same_quantization(0, 0) {
        return LowerError::feature("a result of another scale than the operand's");
    }
    let x = cx.input_in(0, order)?;
    let rank = cx.rank(x)?;
    let pads = amounts(cx, order, rank)?;
    let mode = match cx.byte("mode", 0, 0)? {
        0 => PadMode::Reflect,
        // A mirror that repeats the edge shows nothing else in its first line.
        1 if pads.iter().all(|n| (0..=1).contains(n)) => PadMode::Edge,
        1 => return LowerError::feature("a mirror that repeats the edge, of more than one line"),
        n => return LowerError::option("mode", format!("is {n}, which names no mirror")),
    };
    let pads = cx.ints_constant(&pads)?;
    let y = cx.op(Pad { mode }, &[x, pads])?;
    cx.set(0, y, order);
    Ok(())
}

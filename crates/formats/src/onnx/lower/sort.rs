//! Orders, places and running totals.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{Compress, CumProd, CumSum, NonZero, OneHot, ReverseSequence, TopK, Unique};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("TopK", top_k),
    ("Unique", unique),
    ("NonZero", non_zero),
    ("Compress", compress),
    ("CumSum", running),
    ("CumProd", running),
    ("OneHot", one_hot),
    ("ReverseSequence", reverse_sequence),
];

fn top_k(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    // An attribute before opset 10.
    let k = match cx.opt_int("k")? {
        Some(k) => cx.ints_constant(&[k])?,
        None => cx.input(1)?,
    };
    let op = TopK {
        axis: cx.int("axis", -1)?,
        largest: cx.flag("largest", true)?,
        sorted: cx.flag("sorted", true)?,
    };
    let y = cx.node(op, &[Some(x), Some(k)])?;
    cx.set_all(&y);
    Ok(())
}

fn unique(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.node(Unique { axis: cx.opt_int("axis")?, sorted: cx.flag("sorted", true)? }, &[Some(x)])?;
    cx.set_all(&y);
    Ok(())
}

fn non_zero(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.op(NonZero {}, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn compress(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let y = cx.op(Compress { axis: cx.opt_int("axis")? }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn running(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    let y = if cx.op_type() == "CumSum" {
        cx.op(CumSum { exclusive, reverse }, &inputs)?
    } else {
        cx.op(CumProd { exclusive, reverse }, &inputs)?
    };
    cx.set(0, y);
    Ok(())
}

fn one_hot(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (indices, depth, values) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    // Both may be of any number type.
    let inputs = [cx.cast(indices, DType::I64)?, cx.cast(depth, DType::I64)?, values];
    let y = cx.op(OneHot { axis: cx.int("axis", -1)? }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn reverse_sequence(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let op = ReverseSequence { batch_axis: cx.int("batch_axis", 1)?, time_axis: cx.int("time_axis", 0)? };
    let y = cx.op(op, &inputs)?;
    cx.set(0, y);
    Ok(())
}

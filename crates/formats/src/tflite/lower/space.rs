//! Blocks of space as channels or batches, and back. Spatial sizes must be known; a batch may be open.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::{
    Dim, ValueId,
    ops::{Pad, Reshape, Slice, Transpose},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("BATCH_TO_SPACE_ND", 24, batch_to_space),
    ("DEPTH_TO_SPACE", 94, depth_to_space),
    ("SPACE_TO_BATCH_ND", 25, space_to_batch),
    ("SPACE_TO_DEPTH", 19, space_to_depth),
];

/// Height, width and channels of a picture.
fn sizes(cx: &NodeCx<'_, '_>, x: ValueId) -> Result<[i64; 3]> {
    let dims = cx.dims(x)?;
    let known = |d: &Dim| d.known().and_then(|n| i64::try_from(n).ok());
    match dims[..] {
        [_, ref h, ref w, ref c] => match (known(h), known(w), known(c)) {
            (Some(h), Some(w), Some(c)) => Ok([h, w, c]),
            _ => LowerError::feature("a picture of open size"),
        },
        _ => LowerError::operand("the operand must have four axes: batch, height, width, channels"),
    }
}

/// The same elements in another shape, its axes permuted, in a third shape.
fn rearrange(
    cx: &mut NodeCx<'_, '_>,
    x: ValueId,
    apart: &[i64],
    perm: &[usize],
    to: &[i64],
) -> Result<ValueId> {
    let apart = cx.ints_constant(apart)?;
    let y = cx.op(Reshape { allow_zero: true }, &[x, apart])?;
    let y = cx.op(Transpose { perm: perm.to_vec() }, &[y])?;
    let to = cx.ints_constant(to)?;
    cx.op(Reshape { allow_zero: true }, &[y, to])
}

/// The side of a block, small enough for its square to be a number.
fn side(cx: &NodeCx<'_, '_>) -> Result<i64> {
    match i64::from(cx.int("block_size", 0, 0)?) {
        b @ 1..=65_536 => Ok(b),
        b => LowerError::option("block_size", format!("is {b}")),
    }
}

fn depth_to_space(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let ([h, w, c], b) = (sizes(cx, x.x)?, side(cx)?);
    if c % (b * b) != 0 {
        return LowerError::option(
            "block_size",
            format!("is {b}, whose square does not divide {c} channels"),
        );
    }
    let c = c / (b * b);
    let to = [-1, h.saturating_mul(b), w.saturating_mul(b), c];
    let y = rearrange(cx, x.x, &[-1, h, w, b, b, c], &[0, 1, 3, 2, 4, 5], &to)?;
    cx.set_moved(0, y, Order::Plain, &x)
}

fn space_to_depth(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let ([h, w, c], b) = (sizes(cx, x.x)?, side(cx)?);
    if h % b != 0 || w % b != 0 {
        return LowerError::option("block_size", format!("is {b}, which does not divide {h} by {w}"));
    }
    let to = [-1, h / b, w / b, c.saturating_mul(b * b)];
    let y = rearrange(cx, x.x, &[-1, h / b, b, w / b, b, c], &[0, 1, 3, 2, 4, 5], &to)?;
    cx.set_moved(0, y, Order::Plain, &x)
}

/// The sides of a block, and two amounts for each of rows and columns.
fn block(cx: &mut NodeCx<'_, '_>) -> Result<([i64; 2], [i64; 4])> {
    let (block, amounts) = (cx.known(1)?, cx.known(2)?);
    match (&block[..], &amounts[..]) {
        (&[a, b], &[top, bottom, left, right])
            if (1..=65_536).contains(&a) && (1..=65_536).contains(&b) && amounts.iter().all(|n| *n >= 0) =>
        {
            Ok(([a, b], [top, bottom, left, right]))
        }
        _ => LowerError::feature(format!("a block of {block:?} with amounts {amounts:?}")),
    }
}

fn space_to_batch(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // What is put around is the number 0, so numbers they must be.
    let x = cx.real(0, Order::Plain)?;
    let ([a, b], [top, bottom, left, right]) = block(cx)?;
    let pads = cx.ints_constant(&[0, top, left, 0, 0, bottom, right, 0])?;
    let x = cx.op(Pad::default(), &[x, pads])?;
    let [h, w, c] = sizes(cx, x)?;
    if h % a != 0 || w % b != 0 {
        return LowerError::operand(format!("blocks of {a} by {b} do not divide {h} by {w}"));
    }
    let y = rearrange(cx, x, &[-1, h / a, a, w / b, b, c], &[2, 4, 0, 1, 3, 5], &[-1, h / a, w / b, c])?;
    cx.set_real(0, y, Order::Plain)
}

fn batch_to_space(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.moved(0, Order::Plain)?;
    let ([h, w, c], ([a, b], [top, bottom, left, right])) = (sizes(cx, x.x)?, block(cx)?);
    let (rows, columns) = (h.saturating_mul(a), w.saturating_mul(b));
    if top.saturating_add(bottom) > rows || left.saturating_add(right) > columns {
        return LowerError::operand("more is cut off than there is");
    }
    let y = rearrange(cx, x.x, &[a, b, -1, h, w, c], &[2, 3, 0, 4, 1, 5], &[-1, rows, columns, c])?;
    let mut inputs = vec![y];
    for v in [[top, left], [rows - bottom, columns - right], [1, 2]] {
        inputs.push(cx.ints_constant(&v)?);
    }
    let y = cx.op(Slice {}, &inputs)?;
    cx.set_moved(0, y, Order::Plain, &x)
}

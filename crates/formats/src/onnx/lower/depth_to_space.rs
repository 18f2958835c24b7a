//! Blocks of space as channels and back, and the gated activation: compositions of other ops.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Dim, ValueId,
    attr::F32,
    ops::{BinaryKind, Concat, Reshape, ShapeOf, Transpose, UnaryKind},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("DepthToSpace", depth_to_space), ("SpaceToDepth", space_to_depth), ("SwiGLU", swiglu)];

/// A size of a reshape.
enum Size {
    /// That of an axis of x, times the first and divided by the second number.
    Of(usize, i64, i64),
    /// A number.
    Number(i64),
}

/// Reshapes `v` to sizes in terms of `x`: a constant shape when x is known, else one that is computed.
fn reshape(cx: &mut NodeCx<'_, '_>, v: ValueId, x: ValueId, to: &[Size]) -> Result<ValueId> {
    let known: Option<Vec<i64>> =
        cx.dims(x)?.iter().map(|d| d.known().and_then(|n| i64::try_from(n).ok())).collect();
    if let Some(d) = known {
        let shape: Vec<i64> = to
            .iter()
            .map(|s| match s {
                Size::Of(i, times, by) => d[*i].saturating_mul(*times) / by,
                Size::Number(n) => *n,
            })
            .collect();
        let shape = cx.ints_constant(&shape)?;
        return cx.op(Reshape { allow_zero: true }, &[v, shape]);
    }
    let mut parts = vec![];
    for s in to {
        parts.push(match s {
            Size::Number(n) => cx.ints_constant(&[*n])?,
            Size::Of(i, times, by) => {
                let mut d = cx.op(ShapeOf { start: *i as i64, end: *i as i64 + 1 }, &[x])?;
                for (kind, n) in [(BinaryKind::Mul, times), (BinaryKind::Div, by)] {
                    if *n != 1 {
                        let n = cx.ints_constant(&[*n])?;
                        d = cx.binary(kind, d, n)?;
                    }
                }
                d
            }
        });
    }
    let shape = cx.op(Concat { axis: 0 }, &parts)?;
    cx.op(Reshape { allow_zero: true }, &[v, shape])
}

/// The block size and how many elements a block has, for the spatial rank of x.
fn block(cx: &NodeCx<'_, '_>, x: ValueId) -> Result<(i64, i64, usize)> {
    let b = cx.int("blocksize", 0)?;
    let rank = cx.rank(x)?;
    if rank < 3 {
        return LowerError::operand("needs batch, channel and spatial axes");
    }
    let spatial = rank - 2;
    match u32::try_from(spatial).ok().and_then(|r| b.checked_pow(r)) {
        Some(volume) if b > 0 => Ok((b, volume, spatial)),
        _ => cx.bad("blocksize", "is out of range"),
    }
}

/// Whether the channels within a block come first.
fn blocks_first(cx: &NodeCx<'_, '_>) -> Result<bool> {
    match cx.string("mode")?.as_deref() {
        None | Some("DCR") => Ok(true),
        Some("CRD") => Ok(false),
        Some(_) => cx.bad("mode", "must be DCR or CRD"),
    }
}

fn divides(d: &Dim, by: i64) -> bool {
    d.known().is_none_or(|n| i64::try_from(n).is_ok_and(|n| n % by == 0))
}

fn depth_to_space(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let (b, volume, r) = block(cx, x)?;
    let blocks_first = blocks_first(cx)?;
    if !divides(&cx.dims(x)?[1], volume) {
        return cx.bad("blocksize", "does not divide the channels");
    }
    let mut split = vec![Size::Of(0, 1, 1)];
    let blocks = || (0..r).map(|_| Size::Number(b));
    if blocks_first {
        split.extend(blocks());
        split.push(Size::Of(1, 1, volume));
    } else {
        split.push(Size::Of(1, 1, volume));
        split.extend(blocks());
    }
    split.extend((0..r).map(|i| Size::Of(2 + i, 1, 1)));
    let y = reshape(cx, x, x, &split)?;
    let (channel, first) = if blocks_first { (1 + r, 1) } else { (1, 2) };
    let mut perm = vec![0, channel];
    perm.extend((0..r).flat_map(|i| [2 + r + i, first + i]));
    let y = cx.op(Transpose { perm }, &[y])?;
    let mut merged = vec![Size::Of(0, 1, 1), Size::Of(1, 1, volume)];
    merged.extend((0..r).map(|i| Size::Of(2 + i, b, 1)));
    let y = reshape(cx, y, x, &merged)?;
    cx.set(0, y);
    Ok(())
}

fn space_to_depth(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let (b, volume, r) = block(cx, x)?;
    let blocks_first = blocks_first(cx)?;
    if !cx.dims(x)?[2..].iter().all(|d| divides(d, b)) {
        return cx.bad("blocksize", "does not divide the spatial sizes");
    }
    let mut split = vec![Size::Of(0, 1, 1), Size::Of(1, 1, 1)];
    split.extend((0..r).flat_map(|i| [Size::Of(2 + i, 1, b), Size::Number(b)]));
    let y = reshape(cx, x, x, &split)?;
    let mut perm = vec![0];
    perm.extend((!blocks_first).then_some(1));
    perm.extend((0..r).map(|i| 3 + 2 * i));
    perm.extend(blocks_first.then_some(1));
    perm.extend((0..r).map(|i| 2 + 2 * i));
    let y = cx.op(Transpose { perm }, &[y])?;
    let mut merged = vec![Size::Of(0, 1, 1), Size::Of(1, volume, 1)];
    merged.extend((0..r).map(|i| Size::Of(2 + i, 1, b)));
    let y = reshape(cx, y, x, &merged)?;
    cx.set(0, y);
    Ok(())
}

/// `swish(a) * b`
fn swiglu(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let alpha = F32(cx.float("alpha", 1.0)?);
    let gate = cx.unary(UnaryKind::Swish { alpha }, a)?;
    let y = cx.binary(BinaryKind::Mul, gate, b)?;
    cx.set(0, y);
    Ok(())
}

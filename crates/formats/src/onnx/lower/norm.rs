//! Normalizations.

use super::{LowerError, NodeCx, Table, conv::size};
use tensormill_ir::{
    ValueId,
    attr::F32,
    ops::{
        BatchNorm, BinaryKind, Expand, GroupNorm, InstanceNorm, LayerNorm, Lrn, Reduce, ReduceKind, Reshape,
        RmsNorm, UnaryKind, Where,
    },
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("BatchNormalization", batch_norm),
    ("LayerNormalization", layer_norm),
    ("RMSNormalization", rms_norm),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", group_norm),
    ("LRN", lrn),
    ("LpNormalization", lp_norm),
    ("MeanVarianceNormalization", mean_variance_norm),
];

fn epsilon(cx: &NodeCx<'_, '_>) -> Result<F32> {
    Ok(F32(cx.float("epsilon", 1e-5)?))
}

fn mean(cx: &mut NodeCx<'_, '_>, x: ValueId, axes: ValueId, keepdims: bool) -> Result<ValueId> {
    let op = Reduce { kind: ReduceKind::Mean, keepdims, noop_with_empty_axes: true };
    cx.op(op, &[x, axes])
}

/// `old * momentum + new * (1 - momentum)` in the type of `old`.
fn running(cx: &mut NodeCx<'_, '_>, old: ValueId, new: ValueId, momentum: f32) -> Result<ValueId> {
    let dtype = cx.dtype(old)?;
    let new = cx.cast(new, dtype)?;
    let old = cx.binary_scalar(BinaryKind::Mul, old, f64::from(momentum))?;
    let new = cx.binary_scalar(BinaryKind::Mul, new, 1.0 - f64::from(momentum))?;
    cx.binary(BinaryKind::Add, old, new)
}

fn batch_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let mut operands = [0, 1, 2, 3, 4].map(|i| cx.input(i)).into_iter().collect::<Result<Vec<_>>>()?;
    let op = BatchNorm { epsilon: epsilon(cx)? };
    let momentum = cx.float("momentum", 0.9)?;
    cx.ignore("consumed_inputs");
    if !cx.flag("spatial", true)? {
        return LowerError::feature("normalization of every element by itself (spatial = 0)");
    }
    // Before opset 7 an attribute, then the number of results, then an attribute again told training apart.
    let training = match cx.opset() {
        ..7 => !cx.flag("is_test", false)? && cx.outputs() > 1,
        7..14 => cx.outputs() > 1,
        _ => cx.flag("training_mode", false)?,
    };
    if training && cx.opset() < 14 {
        return LowerError::feature("training, as before opset 14,");
    }
    if training {
        let x = operands[0];
        let axes: Vec<i64> = (0..cx.rank(x)? as i64).filter(|a| *a != 1).collect();
        let axes = cx.ints_constant(&axes)?;
        let current = mean(cx, x, axes, true)?;
        let off = cx.binary(BinaryKind::Sub, x, current)?;
        let square = cx.binary(BinaryKind::Mul, off, off)?;
        let (current, var) = (mean(cx, x, axes, false)?, mean(cx, square, axes, false)?);
        let (m, v) = (running(cx, operands[3], current, momentum)?, running(cx, operands[4], var, momentum)?);
        cx.set(1, m);
        cx.set(2, v);
        (operands[3], operands[4]) = (current, var);
    }
    let y = cx.op(op, &operands)?;
    cx.set(0, y);
    Ok(())
}

/// Results in the type that statistics are kept in: f32 or, by its code, bf16.
fn stash(cx: &NodeCx<'_, '_>) -> Result<DType> {
    match cx.int("stash_type", 1)? {
        1 => Ok(DType::F32),
        16 => Ok(DType::BF16),
        _ => cx.bad("stash_type", "must be f32 or bf16"),
    }
}

fn layer_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let stash = stash(cx)?;
    let with_stats = cx.wants(1) || cx.wants(2);
    let op = LayerNorm { axis: cx.int("axis", -1)?, epsilon: epsilon(cx)?, with_stats };
    let results = cx.node(op, &[Some(x), Some(scale), bias])?;
    cx.set(0, results[0]);
    for (i, &stat) in results.iter().enumerate().skip(1) {
        let stat = cx.cast(stat, stash)?;
        cx.set(i, stat);
    }
    Ok(())
}

fn rms_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    stash(cx)?;
    let y = cx.op(RmsNorm { axis: cx.int("axis", -1)?, epsilon: epsilon(cx)? }, &[x, scale])?;
    cx.set(0, y);
    Ok(())
}

fn instance_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    cx.ignore("consumed_inputs");
    let y = cx.op(InstanceNorm { epsilon: epsilon(cx)? }, &operands)?;
    cx.set(0, y);
    Ok(())
}

/// A value per group as one per channel.
fn per_channel(cx: &mut NodeCx<'_, '_>, v: ValueId, groups: usize, channels: usize) -> Result<ValueId> {
    let shape = |cx: &mut NodeCx<'_, '_>, s: &[usize]| {
        cx.ints_constant(&s.iter().map(|&n| n as i64).collect::<Vec<_>>())
    };
    let column = shape(cx, &[groups, 1])?;
    let v = cx.op(Reshape::default(), &[v, column])?;
    let matrix = shape(cx, &[groups, channels / groups])?;
    let v = cx.op(Expand {}, &[v, matrix])?;
    let vector = shape(cx, &[channels])?;
    cx.op(Reshape::default(), &[v, vector])
}

fn group_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, mut scale, mut bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let groups = size(cx, "num_groups", 0)?;
    if cx.opset() >= 21 {
        stash(cx)?;
    } else {
        let channels = match cx.dims(x)?.get(1).and_then(|d| d.known()) {
            Some(c) if groups > 0 && c % groups == 0 => c,
            Some(_) => return cx.bad("num_groups", "does not divide the channels"),
            None => return LowerError::feature("an unknown number of channels, before opset 21,"),
        };
        scale = per_channel(cx, scale, groups, channels)?;
        bias = per_channel(cx, bias, groups, channels)?;
    }
    let y = cx.op(GroupNorm { groups, epsilon: epsilon(cx)? }, &[x, scale, bias])?;
    cx.set(0, y);
    Ok(())
}

fn lrn(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let op = Lrn {
        size: size(cx, "size", 0)?,
        alpha: F32(cx.float("alpha", 1e-4)?),
        beta: F32(cx.float("beta", 0.75)?),
        bias: F32(cx.float("bias", 1.0)?),
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// By the norm along an axis; where that is zero, so is the result.
fn lp_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let kind = match cx.int("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        _ => return cx.bad("p", "must be 1 or 2"),
    };
    let axis = cx.int("axis", -1)?;
    let axes = cx.ints_constant(&[axis])?;
    let norm = cx.op(Reduce { kind, ..Default::default() }, &[x, axes])?;
    let zero = cx.scalar_like(x, 0.0)?;
    let none = cx.binary(BinaryKind::Equal, norm, zero)?;
    let y = cx.binary(BinaryKind::Div, x, norm)?;
    let y = cx.op(Where {}, &[none, zero, y])?;
    cx.set(0, y);
    Ok(())
}

/// `(x - mean) / (deviation + 1e-9)`
fn mean_variance_norm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let axes = cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = cx.ints_constant(&axes)?;
    let average = mean(cx, x, axes, true)?;
    let off = cx.binary(BinaryKind::Sub, x, average)?;
    let square = cx.binary(BinaryKind::Mul, off, off)?;
    let var = mean(cx, square, axes, true)?;
    let deviation = cx.unary(UnaryKind::Sqrt, var)?;
    let divisor = cx.binary_scalar(BinaryKind::Add, deviation, 1e-9)?;
    let y = cx.binary(BinaryKind::Div, off, divisor)?;
    cx.set(0, y);
    Ok(())
}

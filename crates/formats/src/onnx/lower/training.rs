//! Optimizer steps: each tensor's new value from its gradient.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    ops::{BinaryKind, UnaryKind, Where},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("Adagrad", adagrad), ("Adam", adam), ("Momentum", momentum)];

/// The learning rate, the step, and the tensors in rows of `per` that belong together.
fn operands(cx: &NodeCx<'_, '_>, per: usize) -> Result<(ValueId, ValueId, Vec<Vec<ValueId>>)> {
    let all = cx.all()?;
    let [rate, step, rest @ ..] = &all[..] else { return LowerError::operand("operands are missing") };
    if rest.is_empty() || rest.len() % per != 0 {
        return LowerError::operand(format!("{} tensors do not come in groups of {per}", rest.len()));
    }
    let n = rest.len() / per;
    Ok((*rate, *step, (0..n).map(|i| (0..per).map(|k| rest[k * n + i]).collect()).collect()))
}

/// Declares results in rows: all first ones, then all second ones.
fn results(cx: &mut NodeCx<'_, '_>, rows: &[Vec<ValueId>]) {
    for (i, row) in rows.iter().enumerate() {
        for (k, v) in row.iter().enumerate() {
            cx.set(k * rows.len() + i, *v);
        }
    }
}

fn required(cx: &NodeCx<'_, '_>, name: &str) -> Result<f64> {
    match cx.opt_float(name)? {
        Some(v) => Ok(f64::from(v)),
        None => cx.bad(name, "is missing"),
    }
}

/// `norm * x + g`
fn regularized(cx: &mut NodeCx<'_, '_>, norm: f64, x: ValueId, g: ValueId) -> Result<ValueId> {
    let pull = cx.binary_scalar(BinaryKind::Mul, x, norm)?;
    cx.binary(BinaryKind::Add, pull, g)
}

/// `a * x + b * y`
fn blend(cx: &mut NodeCx<'_, '_>, a: f64, x: ValueId, b: f64, y: ValueId) -> Result<ValueId> {
    let x = cx.binary_scalar(BinaryKind::Mul, x, a)?;
    let y = cx.binary_scalar(BinaryKind::Mul, y, b)?;
    cx.binary(BinaryKind::Add, x, y)
}

/// `sqrt(h) + epsilon`
fn root(cx: &mut NodeCx<'_, '_>, h: ValueId, epsilon: f64) -> Result<ValueId> {
    let root = cx.unary(UnaryKind::Sqrt, h)?;
    cx.binary_scalar(BinaryKind::Add, root, epsilon)
}

/// `x - rate * v`
fn descend(cx: &mut NodeCx<'_, '_>, x: ValueId, rate: ValueId, v: ValueId) -> Result<ValueId> {
    let step = cx.binary(BinaryKind::Mul, rate, v)?;
    cx.binary(BinaryKind::Sub, x, step)
}

fn adagrad(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (rate, step, groups) = operands(cx, 3)?;
    let norm = f64::from(cx.float("norm_coefficient", 0.0)?);
    let decay = f64::from(cx.float("decay_factor", 0.0)?);
    let epsilon = f64::from(cx.float("epsilon", 1e-6)?);
    let dtype = cx.dtype(rate)?;
    let step = cx.cast(step, dtype)?;
    let slower = cx.binary_scalar(BinaryKind::Mul, step, decay)?;
    let slower = cx.binary_scalar(BinaryKind::Add, slower, 1.0)?;
    let rate = cx.binary(BinaryKind::Div, rate, slower)?;
    let mut rows = vec![];
    for group in groups {
        let [x, g, h] = group[..] else { unreachable!("groups have three") };
        let dtype = cx.dtype(x)?;
        let rate = cx.cast(rate, dtype)?;
        let g = regularized(cx, norm, x, g)?;
        let square = cx.binary(BinaryKind::Mul, g, g)?;
        let h = cx.binary(BinaryKind::Add, h, square)?;
        let by = root(cx, h, epsilon)?;
        let scaled = cx.binary(BinaryKind::Div, g, by)?;
        rows.push(vec![descend(cx, x, rate, scaled)?, h]);
    }
    results(cx, &rows);
    Ok(())
}

/// `1 - base^step`
fn complement(cx: &mut NodeCx<'_, '_>, base: f64, step: ValueId) -> Result<ValueId> {
    let base = cx.scalar_like(step, base)?;
    let power = cx.binary(BinaryKind::Pow, base, step)?;
    let one = cx.scalar_like(step, 1.0)?;
    cx.binary(BinaryKind::Sub, one, power)
}

/// Whether this is not the first step.
fn later(cx: &mut NodeCx<'_, '_>, step: ValueId) -> Result<ValueId> {
    let zero = cx.scalar_like(step, 0.0)?;
    cx.binary(BinaryKind::Greater, step, zero)
}

fn adam(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (rate, step, groups) = operands(cx, 4)?;
    let (alpha, beta) = (f64::from(cx.float("alpha", 0.9)?), f64::from(cx.float("beta", 0.999)?));
    let epsilon = f64::from(cx.float("epsilon", 1e-6)?);
    let norm = f64::from(cx.float("norm_coefficient", 0.0)?);
    let after = f64::from(cx.float("norm_coefficient_post", 0.0)?);
    let later = later(cx, step)?;
    let dtype = cx.dtype(rate)?;
    let step = cx.cast(step, dtype)?;
    let (a, b) = (complement(cx, alpha, step)?, complement(cx, beta, step)?);
    let b = cx.unary(UnaryKind::Sqrt, b)?;
    let adjusted = cx.binary(BinaryKind::Mul, rate, b)?;
    let adjusted = cx.binary(BinaryKind::Div, adjusted, a)?;
    let rate = cx.op(Where {}, &[later, adjusted, rate])?;
    let mut rows = vec![];
    for group in groups {
        let [x, g, v, h] = group[..] else { unreachable!("groups have four") };
        let dtype = cx.dtype(x)?;
        let rate = cx.cast(rate, dtype)?;
        let g = regularized(cx, norm, x, g)?;
        let v = blend(cx, alpha, v, 1.0 - alpha, g)?;
        let square = cx.binary(BinaryKind::Mul, g, g)?;
        let h = blend(cx, beta, h, 1.0 - beta, square)?;
        let by = root(cx, h, epsilon)?;
        let scaled = cx.binary(BinaryKind::Div, v, by)?;
        let x = descend(cx, x, rate, scaled)?;
        let x = cx.binary_scalar(BinaryKind::Mul, x, 1.0 - after)?;
        rows.push(vec![x, v, h]);
    }
    results(cx, &rows);
    Ok(())
}

fn momentum(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (rate, step, groups) = operands(cx, 3)?;
    let (alpha, beta) = (required(cx, "alpha")?, required(cx, "beta")?);
    let norm = required(cx, "norm_coefficient")?;
    let nesterov = match cx.string("mode")?.as_deref() {
        Some("standard") => false,
        Some("nesterov") => true,
        _ => return cx.bad("mode", "must be standard or nesterov"),
    };
    let later = later(cx, step)?;
    let mut rows = vec![];
    for group in groups {
        let [x, g, v] = group[..] else { unreachable!("groups have three") };
        let dtype = cx.dtype(x)?;
        let rate = cx.cast(rate, dtype)?;
        let g = regularized(cx, norm, x, g)?;
        let (beta, one) = (cx.scalar_like(x, beta)?, cx.scalar_like(x, 1.0)?);
        let beta = cx.op(Where {}, &[later, beta, one])?;
        let fresh = cx.binary(BinaryKind::Mul, beta, g)?;
        let kept = cx.binary_scalar(BinaryKind::Mul, v, alpha)?;
        let v = cx.binary(BinaryKind::Add, kept, fresh)?;
        let way = if nesterov { blend(cx, 1.0, g, alpha, v)? } else { v };
        rows.push(vec![descend(cx, x, rate, way)?, v]);
    }
    results(cx, &rows);
    Ok(())
}

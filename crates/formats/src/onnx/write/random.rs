//! Draws of random numbers.

use super::{
    error::Result,
    node::{Made, NodeCx},
};
use tensormill_ir::{
    attr::F32,
    ops::{Bernoulli, Multinomial, RandomNormal, RandomUniform},
};
use tensormill_tensor::DType;

fn seeded(made: Made<'_>, seed: Option<F32>) {
    if let Some(s) = seed {
        made.float("seed", s.0);
    }
}

/// A draw of the operand's shape, which is an attribute where it is known and another tensor's where not.
fn draw(
    cx: &mut NodeCx<'_, '_, '_>,
    op_type: &str,
    dtype: DType,
    params: [(&str, F32); 2],
    seed: Option<F32>,
) -> Result<()> {
    let y = cx.output(0);
    let mut made = match cx.ints_of(0) {
        Some(shape) => cx.add(op_type, vec![], vec![y]).ints("shape", &shape),
        None => {
            let shape = cx.input(0);
            let like = cx.part("ConstantOfShape", vec![shape]);
            cx.add(&format!("{op_type}Like"), vec![like], vec![y])
        }
    };
    made = made.dtype("dtype", dtype);
    for (name, v) in params {
        made = made.float(name, v.0);
    }
    seeded(made, seed);
    Ok(())
}

pub(super) fn uniform(cx: &mut NodeCx<'_, '_, '_>, op: &RandomUniform) -> Result<()> {
    draw(cx, "RandomUniform", op.dtype, [("low", op.low), ("high", op.high)], op.seed)
}

pub(super) fn normal(cx: &mut NodeCx<'_, '_, '_>, op: &RandomNormal) -> Result<()> {
    draw(cx, "RandomNormal", op.dtype, [("mean", op.mean), ("scale", op.scale)], op.seed)
}

pub(super) fn bernoulli(cx: &mut NodeCx<'_, '_, '_>, op: &Bernoulli) -> Result<()> {
    seeded(cx.plain("Bernoulli").dtype("dtype", op.dtype), op.seed);
    Ok(())
}

pub(super) fn multinomial(cx: &mut NodeCx<'_, '_, '_>, op: &Multinomial) -> Result<()> {
    let made = cx.plain("Multinomial").dtype("dtype", op.dtype);
    seeded(made.size("sample_size", op.samples), op.seed);
    Ok(())
}

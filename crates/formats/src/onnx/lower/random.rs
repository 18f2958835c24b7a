//! Draws of random numbers.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    attr::F32,
    ops::{Bernoulli, Multinomial, RandomNormal, RandomUniform, ShapeOf},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("RandomUniform", uniform),
    ("RandomUniformLike", uniform),
    ("RandomNormal", normal),
    ("RandomNormalLike", normal),
    ("Bernoulli", bernoulli),
    ("Multinomial", multinomial),
];

fn seed(cx: &NodeCx<'_, '_>) -> Result<Option<F32>> {
    Ok(cx.opt_float("seed")?.map(F32))
}

/// The shape and dtype of the result: attributes, or those of an operand.
fn like(cx: &mut NodeCx<'_, '_>) -> Result<(ValueId, DType)> {
    let dtype = cx.dtype_attribute("dtype")?;
    if cx.op_type().ends_with("Like") {
        let x = cx.input(0)?;
        let dtype = dtype.map_or_else(|| cx.dtype(x), Ok)?;
        return Ok((cx.op(ShapeOf::default(), &[x])?, dtype));
    }
    let Some(shape) = cx.ints("shape")? else { return cx.bad("shape", "is missing") };
    Ok((cx.ints_constant(&shape)?, dtype.unwrap_or(DType::F32)))
}

fn uniform(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (shape, dtype) = like(cx)?;
    let (low, high) = (F32(cx.float("low", 0.0)?), F32(cx.float("high", 1.0)?));
    let y = cx.op(RandomUniform { dtype, low, high, seed: seed(cx)? }, &[shape])?;
    cx.set(0, y);
    Ok(())
}

fn normal(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (shape, dtype) = like(cx)?;
    let (mean, scale) = (F32(cx.float("mean", 0.0)?), F32(cx.float("scale", 1.0)?));
    let y = cx.op(RandomNormal { dtype, mean, scale, seed: seed(cx)? }, &[shape])?;
    cx.set(0, y);
    Ok(())
}

fn bernoulli(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let dtype = cx.dtype_attribute("dtype")?.map_or_else(|| cx.dtype(x), Ok)?;
    let y = cx.op(Bernoulli { dtype, seed: seed(cx)? }, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn multinomial(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let samples = cx.int("sample_size", 1)?;
    let samples = usize::try_from(samples).or_else(|_| cx.bad("sample_size", "must not be negative"))?;
    let dtype = cx.dtype_attribute("dtype")?.unwrap_or(DType::I32);
    let y = cx.op(Multinomial { dtype, samples, seed: seed(cx)? }, &[x])?;
    cx.set(0, y);
    Ok(())
}

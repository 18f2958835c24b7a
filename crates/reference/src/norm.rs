//! Normalizations.

use crate::{
    EvalError,
    data::{Wide, axis, broadcast_indices},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{BatchNorm, GroupNorm, LayerNorm, Lrn, RmsNorm};
use tensormill_tensor::{DType, Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn floats(t: &Tensor) -> Result<Vec<f64>> {
    match Wide::of(t)? {
        Wide::Float(v) => Ok(v),
        Wide::Int(_) => wrong_dtype(t),
    }
}

/// Batch, channels, and elements per channel.
fn channels(t: &Tensor) -> Result<(usize, usize, usize)> {
    match t.shape().dims() {
        [n, c, rest @ ..] => Ok((*n, *c, rest.iter().product())),
        _ => refuse("needs batch and channel axes"),
    }
}

fn channel_vector(t: &Tensor, channels: usize) -> Result<Vec<f64>> {
    if t.shape().dims() == [channels] {
        floats(t)
    } else {
        refuse(format!("a vector with an element for each of {channels} channels is needed"))
    }
}

/// Mean and variance of nothing are NaN and never used.
fn moments(v: &[f64]) -> (f64, f64) {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    (mean, v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n)
}

pub(crate) fn batch_norm(op: &BatchNorm, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let (_, c, size) = channels(t)?;
    let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| channel_vector(x.tensor(i)?, c));
    let (scale, bias, mean, var) = (scale?, bias?, mean?, var?);
    let mut v = floats(t)?;
    for (i, plane) in v.chunks_mut(size.max(1)).enumerate() {
        let c = i % c.max(1);
        let factor = scale[c] / (var[c] + f64::from(op.epsilon.0)).sqrt();
        plane.iter_mut().for_each(|x| *x = (*x - mean[c]) * factor + bias[c]);
    }
    Wide::Float(v).tensor(t.dtype(), t.shape().clone())
}

/// The elements of an operand, spread over a shape.
fn spread(t: &Tensor, shape: &Shape) -> Result<Vec<f64>> {
    if crate::data::broadcast(t.shape(), shape)? != *shape {
        return refuse("an operand does not broadcast to x");
    }
    let v = floats(t)?;
    Ok(broadcast_indices(t.shape(), shape).into_iter().map(|i| v[i]).collect())
}

pub(crate) fn layer_norm(op: &LayerNorm, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    let from = axis(op.axis, t.shape().rank())?;
    let size: usize = t.shape()[from..].iter().product();
    let scale = spread(x.tensor(1)?, t.shape())?;
    let bias = x.opt_tensor(2)?.map(|b| spread(b, t.shape())).transpose()?;
    let mut v = floats(t)?;
    let (mut means, mut inverses) = (vec![], vec![]);
    if size > 0 {
        for row in v.chunks_mut(size) {
            let (mean, var) = moments(row);
            let inverse = 1.0 / (var + f64::from(op.epsilon.0)).sqrt();
            row.iter_mut().for_each(|x| *x = (*x - mean) * inverse);
            means.push(mean);
            inverses.push(inverse);
        }
    }
    for (i, x) in v.iter_mut().enumerate() {
        *x = *x * scale[i] + bias.as_ref().map_or(0.0, |b| b[i]);
    }
    let mut out = vec![Wide::Float(v).tensor(t.dtype(), t.shape().clone())?.into()];
    if op.with_stats {
        let shape: Shape = t.shape().iter().enumerate().map(|(i, &d)| if i < from { d } else { 1 }).collect();
        let n = shape.numel();
        for mut stat in [means, inverses] {
            stat.resize(n, f64::NAN);
            out.push(Wide::Float(stat).tensor(DType::F32, shape.clone())?.into());
        }
    }
    Ok(out)
}

pub(crate) fn rms_norm(op: &RmsNorm, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let from = axis(op.axis, t.shape().rank())?;
    let size: usize = t.shape()[from..].iter().product();
    let scale = spread(x.tensor(1)?, t.shape())?;
    let mut v = floats(t)?;
    for (row, scale) in v.chunks_mut(size.max(1)).zip(scale.chunks(size.max(1))) {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / size as f64;
        let inverse = 1.0 / (mean + f64::from(op.epsilon.0)).sqrt();
        row.iter_mut().zip(scale).for_each(|(x, s)| *x *= inverse * s);
    }
    Wide::Float(v).tensor(t.dtype(), t.shape().clone())
}

/// Groups of channels normalized together; as many groups as channels for instances.
fn grouped(groups: impl Fn(usize) -> usize, epsilon: f32, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let (_, c, size) = channels(t)?;
    let groups = groups(c);
    if c > 0 && (groups == 0 || c % groups != 0) {
        return refuse(format!("{c} channels do not divide into {groups} groups"));
    }
    let (scale, bias) = (channel_vector(x.tensor(1)?, c)?, channel_vector(x.tensor(2)?, c)?);
    let mut v = floats(t)?;
    if v.is_empty() {
        return Ok(t.clone());
    }
    for group in v.chunks_mut(c / groups * size) {
        let (mean, var) = moments(group);
        let inverse = 1.0 / (var + f64::from(epsilon)).sqrt();
        group.iter_mut().for_each(|x| *x = (*x - mean) * inverse);
    }
    for (i, plane) in v.chunks_mut(size).enumerate() {
        plane.iter_mut().for_each(|x| *x = *x * scale[i % c] + bias[i % c]);
    }
    Wide::Float(v).tensor(t.dtype(), t.shape().clone())
}

pub(crate) fn group_norm(op: &GroupNorm, x: &Operands<'_>) -> Result<Tensor> {
    grouped(|_| op.groups, op.epsilon.0, x)
}

pub(crate) fn instance_norm(epsilon: f32, x: &Operands<'_>) -> Result<Tensor> {
    grouped(|channels| channels, epsilon, x)
}

pub(crate) fn lrn(op: &Lrn, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let (n, c, size) = channels(t)?;
    if op.size == 0 {
        return refuse("needs a size");
    }
    let (before, after) = ((op.size - 1) / 2, op.size / 2);
    let v = floats(t)?;
    let mut y = Vec::with_capacity(v.len());
    let [alpha, beta, bias] = [op.alpha, op.beta, op.bias].map(|f| f64::from(f.0));
    for image in 0..n {
        for channel in 0..c {
            let near = channel.saturating_sub(before)..=channel.saturating_add(after).min(c - 1);
            for i in 0..size {
                let at = |near_channel: usize| v[(image * c + near_channel) * size + i];
                let sum: f64 = near.clone().map(|c| at(c).powi(2)).sum();
                y.push(at(channel) / (bias + alpha / op.size as f64 * sum).powf(beta));
            }
        }
    }
    Wide::Float(y).tensor(t.dtype(), t.shape().clone())
}

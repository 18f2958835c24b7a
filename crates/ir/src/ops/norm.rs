//! Normalizations.

use super::OpDef;
use crate::{
    attr::F32,
    dim::Dim,
    error::InferError,
    infer::{InferCx, axis, broadcast, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

fn float<'a>(cx: &InferCx<'a>) -> Result<&'a TensorType, InferError> {
    let x = cx.tensor(0)?;
    if x.dtype.is_float() { Ok(x) } else { refuse(format!("is not defined for {}", x.dtype)) }
}

/// Checks that operands are float vectors with one element per channel.
fn channel_vectors(
    cx: &InferCx<'_>,
    x: &TensorType,
    operands: std::ops::Range<usize>,
) -> Result<(), InferError> {
    let channels = match &x.dims {
        Some(d) if d.len() < 2 => return refuse("needs batch and channel axes"),
        Some(d) => d[1].known(),
        None => None,
    };
    for i in operands {
        let t = cx.tensor(i)?;
        if !t.dtype.is_float() {
            return refuse(format!("operand {i} must be a float"));
        }
        let Some(d) = &t.dims else { continue };
        if d.len() != 1 || d[0].known().zip(channels).is_some_and(|(n, c)| n != c) {
            return refuse(format!("operand {i} must be a vector with an element per channel"));
        }
    }
    Ok(())
}

op_attrs! {
    /// `(x - mean) / sqrt(var + epsilon) * scale + bias` per channel. Operands: x `[N,C,..]`, scale, bias,
    /// mean, variance, all `[C]` of any float type.
    BatchNorm {
        /// Added to the variance.
        epsilon: F32 = F32(1e-5),
    }
}

impl OpDef for BatchNorm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(5..=5)?;
        let x = float(cx)?;
        channel_vectors(cx, x, 1..5)?;
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// `(x - mean) / sqrt(var + epsilon) * scale + bias` where mean and variance are those over the axes
    /// from `axis` on. Operands: x, scale, bias (optional); these two broadcast to x.
    LayerNorm {
        /// The first axis of those normalized together; may count from the end.
        axis: i64 = -1,
        /// Added to the variance.
        epsilon: F32 = F32(1e-5),
        /// Whether two more results, f32, give the mean and the reciprocal of the deviation.
        with_stats: bool = false,
    }
}

/// Checks that an operand has x's type and broadcasts to its dims.
fn spreads(cx: &InferCx<'_>, x: &TensorType, i: usize) -> Result<(), InferError> {
    let Some(t) = cx.opt_tensor(i)? else { return Ok(()) };
    if !t.dtype.is_float() {
        return refuse(format!("operand {i} must be a float"));
    }
    let both = broadcast(x.dims.as_ref(), t.dims.as_ref())?;
    match (both, &x.dims) {
        (Some(b), Some(d))
            if b.len() != d.len()
                || b.iter().zip(d).any(|(b, d)| b.known().zip(d.known()).is_some_and(|(b, d)| b != d)) =>
        {
            refuse(format!("operand {i} does not broadcast to x"))
        }
        _ => Ok(()),
    }
}

fn kept(x: &TensorType, from: i64) -> Result<Option<Dims>, InferError> {
    let Some(d) = &x.dims else { return Ok(None) };
    let from = axis(from, d.len())?;
    Ok(Some(d.iter().enumerate().map(|(i, d)| if i < from { d.clone() } else { Dim::Known(1) }).collect()))
}

impl OpDef for LayerNorm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let x = float(cx)?;
        cx.fact(1)?;
        spreads(cx, x, 1)?;
        spreads(cx, x, 2)?;
        let dims = kept(x, self.axis)?;
        cx.output(x.clone());
        if self.with_stats {
            cx.output(TensorType { dtype: DType::F32, dims: dims.clone() });
            cx.output(TensorType { dtype: DType::F32, dims });
        }
        Ok(())
    }
}

op_attrs! {
    /// `x / sqrt(mean(x^2) + epsilon) * scale`, the mean over the axes from `axis` on. Operands: x, scale,
    /// which broadcasts to x.
    RmsNorm {
        /// The first axis of those normalized together; may count from the end.
        axis: i64 = -1,
        /// Added to the mean.
        epsilon: F32 = F32(1e-5),
    }
}

impl OpDef for RmsNorm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = float(cx)?;
        spreads(cx, x, 1)?;
        kept(x, self.axis)?;
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// Every channel of every instance by its own mean and variance, then `* scale + bias`. Operands: x
    /// `[N,C,..]`, scale `[C]`, bias `[C]`.
    InstanceNorm {
        /// Added to the variance.
        epsilon: F32 = F32(1e-5),
    }
}

impl OpDef for InstanceNorm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let x = float(cx)?;
        channel_vectors(cx, x, 1..3)?;
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// Every group of channels of every instance by its own mean and variance, then `* scale + bias`.
    /// Operands: x `[N,C,..]`, scale `[C]`, bias `[C]`.
    GroupNorm {
        /// Number of groups, which divides the channels.
        groups: usize = 1,
        /// Added to the variance.
        epsilon: F32 = F32(1e-5),
    }
}

impl OpDef for GroupNorm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let x = float(cx)?;
        channel_vectors(cx, x, 1..3)?;
        let channels = x.dims.as_ref().and_then(|d| d[1].known());
        if self.groups == 0 || channels.is_some_and(|c| c % self.groups != 0) {
            return refuse(format!("the channels do not divide into {} groups", self.groups));
        }
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// `x / (bias + alpha/size * sum of the squares of nearby channels)^beta`: of `size` channels, the
    /// one less after than before when they cannot be as many. Operand: x `[N,C,..]`.
    Lrn {
        /// Channels that are summed.
        size: usize = 1,
        /// Factor of the sum.
        alpha: F32 = F32(1e-4),
        /// The exponent.
        beta: F32 = F32(0.75),
        /// Added to the sum.
        bias: F32 = F32(1.0),
    }
}

impl OpDef for Lrn {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = float(cx)?;
        if self.size == 0 || x.rank().is_some_and(|r| r < 2) {
            return refuse("needs a size, batch and channel axes");
        }
        cx.output(x.clone());
        Ok(())
    }
}

use super::OpDef;
use crate::{
    attr::F32,
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::TensorType,
};
use tensormill_tensor::DType;

/// The result of a draw whose shape operand 0 spells.
fn drawn(cx: &mut InferCx<'_>, dtype: DType) -> Result<(), InferError> {
    cx.arity(1..=1)?;
    if !dtype.is_float() {
        return refuse(format!("is not defined for {dtype}"));
    }
    let rank = match cx.typed(0, DType::I64)?.dims.as_deref() {
        Some([n]) => n.known().filter(|n| *n <= 64),
        Some(_) => return refuse("the shape must be a vector"),
        None => None,
    };
    let dims = match cx.elements(0) {
        Some(e) if e.iter().any(|e| e.as_const().is_some_and(|n| n < 0)) => return refuse("a negative size"),
        Some(e) => Some(e.iter().map(|e| Dim::from(e.clone())).collect()),
        None => rank.map(|r| (0..r).map(|_| Dim::Unknown).collect()),
    };
    cx.output(TensorType { dtype, dims });
    Ok(())
}

op_attrs! {
    /// Numbers that are equally likely anywhere between two bounds. Operand: shape (i64 vector).
    RandomUniform {
        /// The result's dtype.
        dtype: DType = DType::F32,
        /// The lower bound.
        low: F32 = F32(0.0),
        /// The upper bound.
        high: F32 = F32(1.0),
        /// What the numbers follow from; without it they differ from run to run.
        seed: Option<F32> = None,
    }
}

impl OpDef for RandomUniform {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        drawn(cx, self.dtype)
    }
}

op_attrs! {
    /// Numbers of a normal distribution. Operand: shape (i64 vector).
    RandomNormal {
        /// The result's dtype.
        dtype: DType = DType::F32,
        /// The mean.
        mean: F32 = F32(0.0),
        /// The standard deviation.
        scale: F32 = F32(1.0),
        /// What the numbers follow from; without it they differ from run to run.
        seed: Option<F32> = None,
    }
}

impl OpDef for RandomNormal {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        drawn(cx, self.dtype)
    }
}

op_attrs! {
    /// 1 with the probability that each element says, else 0. Operand: probabilities.
    Bernoulli {
        /// The result's dtype.
        dtype: DType = DType::F32,
        /// What the numbers follow from; without it they differ from run to run.
        seed: Option<F32> = None,
    }
}

impl OpDef for Bernoulli {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() || self.dtype.is_complex() || self.dtype == DType::Str {
            return refuse(format!("is not defined for {} to {}", x.dtype, self.dtype));
        }
        cx.output(TensorType { dtype: self.dtype, dims: x.dims.clone() });
        Ok(())
    }
}

op_attrs! {
    /// Classes drawn by their logarithmic probabilities, which need not add up to 1. Operand: one row per
    /// sample.
    Multinomial {
        /// The result's dtype: i32 or i64.
        dtype: DType = DType::I32,
        /// Draws per row.
        samples: usize = 1,
        /// What the numbers follow from; without it they differ from run to run.
        seed: Option<F32> = None,
    }
}

impl OpDef for Multinomial {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() || !matches!(self.dtype, DType::I32 | DType::I64) {
            return refuse(format!("is not defined for {} to {}", x.dtype, self.dtype));
        }
        let rows = match x.dims.as_deref() {
            None => Dim::Unknown,
            Some([rows, _]) => rows.clone(),
            Some(_) => return refuse("needs a matrix"),
        };
        cx.output(TensorType::new(self.dtype, [rows, self.samples.into()]));
        Ok(())
    }
}

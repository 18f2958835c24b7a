use super::OpDef;
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// How the losses of all samples become one result.
    LossReduction {
        /// They do not: one loss per sample.
        None = "none",
        /// Their sum divided by the sum of the weights that apply.
        Mean = "mean",
        /// Their sum.
        Sum = "sum",
    }
}

op_attrs! {
    /// Negative log likelihood of the given classes. Operands: log probabilities `[N,C,..]`, classes
    /// `[N,..]` (i32 or i64), weight of each class `[C]` (optional: all 1).
    NllLoss {
        /// How losses are put together.
        reduction: LossReduction = LossReduction::Mean,
        /// A class whose samples have loss 0 and weight 0.
        ignore_index: Option<i64> = None,
    }
}

op_attrs! {
    /// [`NllLoss`] of the logarithm of the softmax of scores along axis 1. Operands as there, scores
    /// first. Results: the loss and the log probabilities.
    SoftmaxCrossEntropy {
        /// How losses are put together.
        reduction: LossReduction = LossReduction::Mean,
        /// A class whose samples have loss 0 and weight 0.
        ignore_index: Option<i64> = None,
    }
}

/// The type of the loss.
fn loss(cx: &InferCx<'_>, reduction: LossReduction) -> Result<TensorType, InferError> {
    cx.arity(2..=3)?;
    let (x, target) = (cx.tensor(0)?, cx.tensor(1)?);
    if !x.dtype.is_float() {
        return refuse(format!("is not defined for {}", x.dtype));
    }
    if !matches!(target.dtype, DType::I32 | DType::I64) {
        return refuse(format!("classes must be i32 or i64, not {}", target.dtype));
    }
    let fits = |a: &Dim, b: &Dim| matches!((a.known(), b.known()), (None, _) | (_, None)) || a == b;
    if let Some(d) = &x.dims {
        if d.len() < 2 {
            return refuse(format!("scores must have rank 2 or more, not {}", d.len()));
        }
        if let Some(t) = &target.dims {
            let same = t.len() + 1 == d.len()
                && fits(&t[0], &d[0])
                && t[1..].iter().zip(&d[2..]).all(|(a, b)| fits(a, b));
            if !same {
                return refuse("classes must have the shape of the scores without axis 1");
            }
        }
    }
    if let Some(w) = cx.opt_tensor(2)? {
        if w.dtype != x.dtype {
            return refuse(format!("weights must be {}, not {}", x.dtype, w.dtype));
        }
        let c = x.dims.as_ref().map_or(&Dim::Unknown, |d| &d[1]);
        if w.dims.as_ref().is_some_and(|w| w.len() != 1 || !fits(&w[0], c)) {
            return refuse("weights must be a vector, one per class");
        }
    }
    let dims = match reduction {
        LossReduction::None => target.dims.clone().or_else(|| {
            let mut d = x.dims.clone()?;
            d.remove(1);
            Some(d)
        }),
        _ => Some(Dims::new()),
    };
    Ok(TensorType { dtype: x.dtype, dims })
}

impl OpDef for NllLoss {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let ty = loss(cx, self.reduction)?;
        cx.output(ty);
        Ok(())
    }
}

impl OpDef for SoftmaxCrossEntropy {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let ty = loss(cx, self.reduction)?;
        let scores = cx.tensor(0)?.clone();
        cx.output(ty);
        cx.output(scores);
        Ok(())
    }
}

//! Losses over classes.

use crate::{EvalError, data::i64s, error::refuse, eval::Operands, eval::wrong_dtype};
use tensormill_ir::ops::{LossReduction, NllLoss, SoftmaxCrossEntropy};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// Scores as `[n, classes, inner]`.
struct Scores {
    values: Vec<f64>,
    n: usize,
    classes: usize,
    inner: usize,
}

fn scores(t: &Tensor) -> Result<Scores> {
    if !t.dtype().is_float() {
        return wrong_dtype(t);
    }
    let d = t.shape();
    if d.rank() < 2 {
        return refuse("scores must have rank 2 or more");
    }
    Ok(Scores { values: t.to_f64_vec()?, n: d[0], classes: d[1], inner: d[2..].iter().product() })
}

pub(crate) fn nll(op: &NllLoss, x: &Operands<'_>) -> Result<Tensor> {
    loss(&scores(x.tensor(0)?)?, op.reduction, op.ignore_index, x)
}

pub(crate) fn cross_entropy(op: &SoftmaxCrossEntropy, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    let mut s = scores(t)?;
    for i in 0..s.n * s.inner {
        let at = |c: usize| (i / s.inner * s.classes + c) * s.inner + i % s.inner;
        let max = (0..s.classes).map(|c| s.values[at(c)]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..s.classes).map(|c| (s.values[at(c)] - max).exp()).sum();
        let log_sum = max + sum.ln();
        for c in 0..s.classes {
            s.values[at(c)] -= log_sum;
        }
    }
    let y = loss(&s, op.reduction, op.ignore_index, x)?;
    let log_prob = Tensor::from_f64s(t.dtype(), t.shape().clone(), s.values)?;
    Ok(vec![y.into(), log_prob.into()])
}

fn loss(s: &Scores, reduction: LossReduction, ignore: Option<i64>, x: &Operands<'_>) -> Result<Tensor> {
    let (t, target) = (x.tensor(0)?, x.tensor(1)?);
    let d = t.shape();
    let shape: Shape = d.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, n)| *n).collect();
    if *target.shape() != shape {
        return refuse("classes must have the shape of the scores without axis 1");
    }
    let weights = x.opt_tensor(2)?.map(Tensor::to_f64_vec).transpose()?;
    if weights.as_ref().is_some_and(|w| w.len() != s.classes) {
        return refuse("there must be one weight per class");
    }
    let mut total = 0.0;
    let mut losses = Vec::with_capacity(target.len());
    for (i, class) in i64s(target)?.into_iter().enumerate() {
        if ignore == Some(class) {
            losses.push(0.0);
            continue;
        }
        let Some(c) = usize::try_from(class).ok().filter(|c| *c < s.classes) else {
            return refuse(format!("class {class} is not one of {}", s.classes));
        };
        let w = weights.as_ref().map_or(1.0, |w| w[c]);
        total += w;
        losses.push(-s.values[(i / s.inner * s.classes + c) * s.inner + i % s.inner] * w);
    }
    let sum = || losses.iter().sum::<f64>();
    Ok(match reduction {
        LossReduction::None => Tensor::from_f64s(t.dtype(), shape, losses)?,
        LossReduction::Sum => Tensor::from_f64s(t.dtype(), [], [sum()])?,
        LossReduction::Mean => Tensor::from_f64s(t.dtype(), [], [sum() / total])?,
    })
}

use crate::{
    EvalError,
    data::{Wide, axis},
    eval::wrong_dtype,
};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, EvalError>;

/// Applies `f` to every line of a tensor along an axis.
fn lines(t: &Tensor, along: i64, f: impl Fn(&mut [f64])) -> Result<Tensor> {
    let along = axis(along, t.shape().rank())?;
    let Wide::Float(mut v) = Wide::of(t)? else { return wrong_dtype(t) };
    let (n, inner) = (t.shape()[along], t.shape()[along + 1..].iter().product::<usize>());
    let mut line = vec![0.0; n];
    if n > 0 && inner > 0 {
        for block in v.chunks_mut(n * inner) {
            for j in 0..inner {
                line.iter_mut().enumerate().for_each(|(i, x)| *x = block[i * inner + j]);
                f(&mut line);
                line.iter().enumerate().for_each(|(i, x)| block[i * inner + j] = *x);
            }
        }
    }
    Wide::Float(v).tensor(t.dtype(), t.shape().clone())
}

/// NaN if any is NaN.
fn largest(v: &[f64]) -> f64 {
    v.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

pub(crate) fn softmax(along: i64, t: &Tensor) -> Result<Tensor> {
    lines(t, along, |v| {
        let max = largest(v);
        v.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f64 = v.iter().sum();
        v.iter_mut().for_each(|x| *x /= sum);
    })
}

pub(crate) fn log_softmax(along: i64, t: &Tensor) -> Result<Tensor> {
    lines(t, along, |v| {
        let max = largest(v);
        let sum = v.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        v.iter_mut().for_each(|x| *x = *x - max - sum);
    })
}

pub(crate) fn hardmax(along: i64, t: &Tensor) -> Result<Tensor> {
    lines(t, along, |v| {
        // The first NaN wins, as in an arg max.
        let best =
            (1..v.len()).fold(0, |a, b| if !v[a].is_nan() && (v[b] > v[a] || v[b].is_nan()) { b } else { a });
        v.iter_mut().enumerate().for_each(|(i, x)| *x = f64::from(i == best));
    })
}

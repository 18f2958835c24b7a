//! Sums of products over labelled axes, and determinants.

use crate::{
    EvalError,
    data::{Wide, strided_indices},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::Einsum;
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) fn einsum(op: &Einsum, x: &Operands<'_>) -> Result<Tensor> {
    let operands = (0..x.len()).map(|i| x.tensor(i)).collect::<Result<Vec<_>>>()?;
    let bad = |e: tensormill_ir::InferError| EvalError::Operand(e.0);
    let ranks: Vec<usize> = operands.iter().map(|t| t.shape().rank()).collect();
    let axes = op.terms().map_err(bad)?.axes(&ranks).map_err(bad)?;
    let mut sizes: Vec<(usize, usize)> = vec![];
    for (labels, t) in axes.inputs.iter().zip(&operands) {
        for (&l, &n) in labels.iter().zip(t.shape().iter()) {
            match sizes.iter_mut().find(|(k, _)| *k == l) {
                None => sizes.push((l, n)),
                Some((_, m)) if *m == n || n == 1 => {}
                Some((_, m)) if *m == 1 => *m = n,
                Some((_, m)) => return refuse(format!("sizes {m} and {n} of one axis differ")),
            }
        }
    }
    let (kept, summed): (Vec<_>, Vec<_>) = sizes.iter().copied().partition(|(l, _)| axes.output.contains(l));
    let size = |l: &usize| kept.iter().find(|(k, _)| k == l).map_or(1, |(_, n)| *n);
    let shape: Shape = axes.output.iter().map(size).collect();
    let inner: Shape = summed.iter().map(|(_, n)| *n).collect();
    x.limits.check(&shape)?;
    x.limits.check(&inner)?;
    let offsets = |labels: &[usize], t: &Tensor, of: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        let strides = t.shape().strides();
        // A letter that occurs twice in a term walks along the diagonal; an axis of size 1 stands still.
        of.map(|l| {
            (0..labels.len()).filter(|&i| labels[i] == l && t.shape()[i] != 1).map(|i| strides[i]).sum()
        })
        .collect()
    };
    let mut at: Vec<(Vec<usize>, Vec<usize>)> = vec![];
    for (labels, t) in axes.inputs.iter().zip(&operands) {
        let outer = offsets(labels, t, &mut axes.output.iter().copied());
        let along = offsets(labels, t, &mut summed.iter().map(|(l, _)| *l));
        at.push((strided_indices(&shape, &outer), strided_indices(&inner, &along)));
    }
    let (n, terms) = (shape.numel(), inner.numel());
    let wide = operands.iter().map(|t| Wide::of(t)).collect::<Result<Vec<_>>>()?;
    let dtype = operands[0].dtype();
    let mut floats: Vec<&[f64]> = vec![];
    let mut ints: Vec<&[i128]> = vec![];
    for w in &wide {
        match w {
            Wide::Float(v) => floats.push(v),
            Wide::Int(v) => ints.push(v),
        }
    }
    let place = |i: usize, o: usize, s: usize| at[i].0[o] + at[i].1[s];
    if floats.len() == operands.len() {
        let product = |o: usize, s: usize| -> f64 {
            floats.iter().enumerate().map(|(i, v)| v[place(i, o, s)]).product()
        };
        let out = (0..n).map(|o| (0..terms).map(|s| product(o, s)).sum());
        return Wide::Float(out.collect()).tensor(dtype, shape);
    }
    if ints.len() == operands.len() {
        let product = |o: usize, s: usize| {
            ints.iter().enumerate().fold(1i128, |p, (i, v)| p.wrapping_mul(v[place(i, o, s)]))
        };
        let out = (0..n).map(|o| (0..terms).fold(0i128, |sum, s| sum.wrapping_add(product(o, s))));
        return Wide::Int(out.collect()).tensor(dtype, shape);
    }
    refuse("all operands must have one dtype")
}

pub(crate) fn det(t: &Tensor) -> Result<Tensor> {
    if !t.dtype().is_float() {
        return wrong_dtype(t);
    }
    let (batch, n) = match **t.shape() {
        [ref batch @ .., m, n] if m == n => (Shape::from(batch), n),
        _ => return refuse("matrices must be square"),
    };
    let v = t.to_f64_vec()?;
    let dets = (0..batch.numel()).map(|i| one_det(v[i * n * n..][..n * n].to_vec(), n));
    Ok(Tensor::from_f64s(t.dtype(), batch.clone(), dets.collect::<Vec<_>>())?)
}

/// By elimination with the largest pivot of each column.
fn one_det(mut m: Vec<f64>, n: usize) -> f64 {
    let mut det = 1.0;
    for c in 0..n {
        let pivot = (c..n).max_by(|a, b| m[a * n + c].abs().total_cmp(&m[b * n + c].abs())).unwrap_or(c);
        let p = m[pivot * n + c];
        if p == 0.0 {
            return 0.0;
        }
        if pivot != c {
            det = -det;
            for j in 0..n {
                m.swap(pivot * n + j, c * n + j);
            }
        }
        det *= p;
        for r in c + 1..n {
            let f = m[r * n + c] / p;
            for j in c..n {
                m[r * n + j] -= f * m[c * n + j];
            }
        }
    }
    det
}

#[cfg(test)]
mod tests {
    use crate::{EvalLimits, eval};
    use proptest::prelude::*;
    use tensormill_ir::ops::{Einsum, MatMul, Op};
    use tensormill_tensor::{Tensor, Value};

    fn run(op: impl Into<Op>, operands: &[&Value]) -> Result<Tensor, String> {
        let operands: Vec<Option<&Value>> = operands.iter().map(|v| Some(*v)).collect();
        let y = eval(&op.into(), &operands, &EvalLimits::default()).map_err(|e| e.to_string())?;
        Ok(y[0].as_tensor().unwrap().clone())
    }

    fn einsum(equation: &str, operands: &[&Value]) -> Result<Tensor, String> {
        run(Einsum { equation: equation.into() }, operands)
    }

    fn counting(shape: &[usize]) -> Value {
        let n: usize = shape.iter().product();
        Tensor::from_vec(shape, (0..n as i64).map(|i| i * 7 % 11 - 5).collect()).unwrap().into()
    }

    proptest! {
        #[test]
        fn products_agree_with_those_of_matrices(b in 0usize..3, m in 0usize..5, k in 0usize..5, n in 0usize..5) {
            let (x, y) = (counting(&[b, m, k]), counting(&[b, k, n]));
            let want = run(MatMul::default(), &[&x, &y]).unwrap();
            for equation in ["bij,bjk->bik", "...ij,...jk->...ik", "...ij,...jk"] {
                prop_assert!(einsum(equation, &[&x, &y]).unwrap().same_bits(&want));
            }
        }
    }

    #[test]
    fn letters_may_repeat_and_results_be_left_out() {
        let x = counting(&[3, 3]);
        let v = x.as_tensor().unwrap().to_i64_vec().unwrap();
        assert_eq!(einsum("ii", &[&x]).unwrap().to_i64_vec().unwrap(), [v[0] + v[4] + v[8]]);
        assert_eq!(einsum("ii->i", &[&x]).unwrap().to_i64_vec().unwrap(), [v[0], v[4], v[8]]);
        let transposed = [v[0], v[3], v[6], v[1], v[4], v[7], v[2], v[5], v[8]];
        assert_eq!(einsum("ba", &[&x]).unwrap().to_i64_vec().unwrap(), transposed);
    }

    #[test]
    fn senseless_equations_are_refused() {
        let x = counting(&[2, 3]);
        for equation in
            ["i->i", "ij->k", "ij->ii", "ij,jk->ik", "i.j->i", "......", "ij->i->j", "ii", "...->", "é"]
        {
            assert!(einsum(equation, &[&x]).is_err(), "{equation}");
        }
    }
}

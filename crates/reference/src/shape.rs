use crate::{
    EvalError,
    data::{Wide, axis, broadcast, broadcast_indices, from_ints, i64s, sizes, strided_indices, take},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{Flatten, Reshape, ShapeOf, Transpose};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) fn shape_of(op: &ShapeOf, t: &Tensor) -> Result<Tensor> {
    let dims: Vec<i64> = t.shape()[op.range(t.shape().rank())].iter().map(|&d| d as i64).collect();
    Ok(Tensor::from_vec([dims.len()], dims)?)
}

pub(crate) fn reshape(op: &Reshape, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    if x.tensor(1)?.shape().rank() != 1 {
        return refuse("the shape must be a vector");
    }
    let mut dims = i64s(x.tensor(1)?)?;
    let mut rest = None;
    for (i, d) in dims.iter_mut().enumerate() {
        if *d == 0 && !op.allow_zero {
            match t.shape().get(i) {
                Some(&n) => *d = n as i64,
                None => return refuse(format!("size 0 at {i} has no axis to copy")),
            }
        } else if *d == -1 {
            if rest.replace(i).is_some() {
                return refuse("two sizes are -1");
            }
            *d = 1;
        }
    }
    let mut shape: Vec<usize> = sizes(&dims)?.to_vec();
    if let Some(i) = rest {
        match Shape::from(shape.clone()).checked_numel() {
            Some(n) if n > 0 && t.len().is_multiple_of(n) => shape[i] = t.len() / n,
            _ => return refuse(format!("{} elements do not divide into {dims:?}", t.len())),
        }
    }
    x.limits.check(&shape)?;
    Ok(t.reshape(shape)?)
}

pub(crate) fn flatten(op: &Flatten, t: &Tensor) -> Result<Tensor> {
    let r = t.shape().rank() as i64;
    let at = if op.axis < 0 { op.axis + r } else { op.axis };
    if !(0..=r).contains(&at) {
        return refuse(format!("axis {} is out of range for rank {r}", op.axis));
    }
    let (a, b) = t.shape().split_at(at as usize);
    Ok(t.reshape([a.iter().product::<usize>(), b.iter().product()])?)
}

pub(crate) fn squeeze(x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let s = t.shape();
    let gone: Vec<usize> = match x.opt_tensor(1)? {
        None => (0..s.rank()).filter(|&i| s[i] == 1).collect(),
        Some(a) => i64s(a)?.into_iter().map(|a| axis(a, s.rank())).collect::<Result<_>>()?,
    };
    if let Some(a) = gone.iter().find(|a| s[**a] != 1) {
        return refuse(format!("axis {a} has size {}, not 1", s[*a]));
    }
    Ok(t.reshape((0..s.rank()).filter(|i| !gone.contains(i)).map(|i| s[i]).collect::<Shape>())?)
}

pub(crate) fn unsqueeze(x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let axes = i64s(x.tensor(1)?)?;
    let rank = t.shape().rank() + axes.len();
    let new = tensormill_ir::infer::axes(&axes, rank).map_err(|e| EvalError::Operand(e.0))?;
    let mut old = t.shape().iter();
    let shape: Shape =
        (0..rank).map(|i| if new.contains(&i) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
    Ok(t.reshape(shape)?)
}

pub(crate) fn transpose(op: &Transpose, t: &Tensor) -> Result<Tensor> {
    let rank = t.shape().rank();
    let perm: Vec<usize> = if op.perm.is_empty() { (0..rank).rev().collect() } else { op.perm.clone() };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return refuse(format!("perm {perm:?} does not fit rank {rank}"));
    }
    let own = t.shape().strides();
    let shape: Shape = perm.iter().map(|&p| t.shape()[p]).collect();
    let strides: Vec<usize> = perm.iter().map(|&p| own[p]).collect();
    let indices = strided_indices(&shape, &strides);
    take(t, shape, &indices)
}

pub(crate) fn expand(x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let shape = broadcast(t.shape(), &sizes(&i64s(x.tensor(1)?)?)?)?;
    x.limits.check(&shape)?;
    take(t, shape.clone(), &broadcast_indices(t.shape(), &shape))
}

pub(crate) fn tile(x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let repeats = sizes(&i64s(x.tensor(1)?)?)?;
    if repeats.rank() != t.shape().rank() {
        return refuse(format!("{} repeats for rank {}", repeats.rank(), t.shape().rank()));
    }
    let shape: Shape = t.shape().iter().zip(&*repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
    x.limits.check(&shape)?;
    // As an axis of repeats before each axis, the first of stride 0.
    let own = t.shape().strides();
    let (mut dims, mut strides) = (vec![], vec![]);
    for i in 0..t.shape().rank() {
        dims.extend([repeats[i], t.shape()[i]]);
        strides.extend([0, own[i]]);
    }
    take(t, shape, &strided_indices(&dims, &strides))
}

pub(crate) fn range(x: &Operands<'_>) -> Result<Tensor> {
    let [start, limit, step] = [x.tensor(0)?, x.tensor(1)?, x.tensor(2)?];
    if [start, limit, step].iter().any(|t| t.len() != 1) {
        return refuse("start, limit and step must be scalars");
    }
    let dtype = start.dtype();
    let length = |n: f64| -> Result<usize> {
        let n = if n.is_nan() { 0.0 } else { n.max(0.0) };
        let n = if n >= usize::MAX as f64 { usize::MAX } else { n as usize };
        x.limits.check(&Shape::from([n])).map(|()| n)
    };
    match (Wide::of(start)?, Wide::of(limit)?, Wide::of(step)?) {
        (Wide::Float(a), Wide::Float(b), Wide::Float(s)) => {
            if s[0] == 0.0 || s[0].is_nan() {
                return refuse("a step of 0");
            }
            let n = length(((b[0] - a[0]) / s[0]).ceil())?;
            Wide::Float((0..n).map(|i| a[0] + i as f64 * s[0]).collect()).tensor(dtype, [n])
        }
        (Wide::Int(a), Wide::Int(b), Wide::Int(s)) => {
            if s[0] == 0 {
                return refuse("a step of 0");
            }
            let span = if s[0] > 0 { b[0] - a[0] } else { a[0] - b[0] };
            let stride = s[0].abs();
            let n = length(((span.max(0) + stride - 1) / stride) as f64)?;
            from_ints(dtype, [n], (0..n as i128).map(|i| a[0] + i * s[0]).collect())
        }
        _ => wrong_dtype(start),
    }
}

use crate::{
    EvalError,
    data::{Wide, axis, from_ints, i64s, strided_indices},
    elementwise::{larger, smaller},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{ArgReduce, Reduce, ReduceKind};
use tensormill_tensor::{DType, Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// Where groups of elements begin, and the offsets within each.
fn groups(shape: &Shape, axes: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let strides = shape.strides();
    let pick = |inside: bool| -> (Vec<usize>, Vec<usize>) {
        (0..shape.rank()).filter(|i| axes.contains(i) == inside).map(|i| (shape[i], strides[i])).unzip()
    };
    let ((outer, os), (inner, is)) = (pick(false), pick(true));
    (strided_indices(&outer, &os), strided_indices(&inner, &is))
}

fn result_shape(shape: &Shape, axes: &[usize], keepdims: bool) -> Shape {
    (0..shape.rank())
        .filter_map(|i| if !axes.contains(&i) { Some(shape[i]) } else { keepdims.then_some(1) })
        .collect()
}

pub(crate) fn reduce(op: &Reduce, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let rank = t.shape().rank();
    let given = x.opt_tensor(1)?.map(i64s).transpose()?.unwrap_or_default();
    let axes: Vec<usize> = if given.is_empty() && !op.noop_with_empty_axes {
        (0..rank).collect()
    } else {
        given.iter().map(|&a| axis(a, rank)).collect::<Result<_>>()?
    };
    let shape = result_shape(t.shape(), &axes, op.keepdims);
    let (starts, offsets) = groups(t.shape(), &axes);
    match Wide::of(t)? {
        Wide::Float(v) => {
            let group = |&s: &usize| floats(op.kind, offsets.iter().map(move |o| s + o).map(|i| v[i]));
            Wide::Float(starts.iter().map(group).collect()).tensor(t.dtype(), shape)
        }
        Wide::Int(v) => {
            let group =
                |&s: &usize| ints(op.kind, offsets.iter().map(move |o| s + o).map(|i| v[i]), t.dtype());
            from_ints(t.dtype(), shape, starts.iter().map(group).collect::<Result<_>>()?)
        }
    }
}

fn floats(kind: ReduceKind, v: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = || v.clone().count() as f64;
    let sum = |f: fn(f64) -> f64| v.clone().map(f).sum::<f64>();
    // Of nothing, the largest is the least there is; one NaN makes the result NaN.
    let extreme = |start: f64, f: fn(f64, f64) -> f64| v.clone().fold(start, f);
    match kind {
        ReduceKind::Sum => sum(|x| x),
        ReduceKind::Mean => sum(|x| x) / n(),
        ReduceKind::Max => extreme(f64::NEG_INFINITY, larger),
        ReduceKind::Min => extreme(f64::INFINITY, smaller),
        ReduceKind::Prod => v.product(),
        ReduceKind::L1 => sum(f64::abs),
        ReduceKind::L2 => sum(|x| x * x).sqrt(),
        ReduceKind::LogSum => sum(|x| x).ln(),
        ReduceKind::LogSumExp => {
            let max = extreme(f64::NEG_INFINITY, larger);
            // An infinite or missing maximum is the result itself.
            if !max.is_finite() { max } else { max + v.map(|x| (x - max).exp()).sum::<f64>().ln() }
        }
        ReduceKind::SumSquare => sum(|x| x * x),
    }
}

fn ints(kind: ReduceKind, v: impl Iterator<Item = i128> + Clone, dtype: DType) -> Result<i128> {
    let (low, high) = if dtype == DType::Bool { (0, 1) } else { int_range(dtype) };
    let count = || v.clone().count() as i128;
    Ok(match kind {
        ReduceKind::Sum => v.sum(),
        ReduceKind::Mean => {
            let n = count();
            if n == 0 {
                return refuse("the mean of no integers");
            }
            v.sum::<i128>() / n
        }
        ReduceKind::Max => v.fold(low, i128::max),
        ReduceKind::Min => v.fold(high, i128::min),
        ReduceKind::Prod => v.fold(1, i128::wrapping_mul),
        ReduceKind::L1 => v.map(i128::abs).sum(),
        ReduceKind::SumSquare => v.fold(0, |s, x| s.wrapping_add(x.wrapping_mul(x))),
        // Computed as real numbers and cut to the integer below, as the reference implementation does.
        ReduceKind::L2 => (v.map(|x| (x as f64).powi(2)).sum::<f64>()).sqrt() as i128,
        ReduceKind::LogSum => (v.sum::<i128>() as f64).ln() as i128,
        ReduceKind::LogSumExp => v.map(|x| (x as f64).exp()).sum::<f64>().ln() as i128,
    })
}

/// Least and greatest value of an integer type.
pub(crate) fn int_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits() as u32;
    if dtype.is_signed_int() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

pub(crate) fn arg_reduce(op: &ArgReduce, t: &Tensor) -> Result<Tensor> {
    let axis = axis(op.axis, t.shape().rank())?;
    if t.shape()[axis] == 0 {
        return refuse("an empty axis has no largest or smallest element");
    }
    if !(t.dtype().is_float() || t.dtype().is_int()) {
        return wrong_dtype(t);
    }
    let shape = result_shape(t.shape(), &[axis], op.keepdims);
    let (starts, offsets) = groups(t.shape(), &[axis]);
    // The first NaN wins, as in numpy.
    let found: Vec<i64> = match Wide::of(t)? {
        Wide::Float(v) => starts
            .iter()
            .map(|s| {
                best(offsets.len(), op.select_last, |i, j| {
                    let (a, b) = (v[s + offsets[i]], v[s + offsets[j]]);
                    match (a.is_nan(), b.is_nan()) {
                        (true, _) => (false, b.is_nan()),
                        (false, true) => (true, false),
                        _ => (if op.max { b > a } else { b < a }, a == b),
                    }
                })
            })
            .collect(),
        Wide::Int(v) => starts
            .iter()
            .map(|s| {
                best(offsets.len(), op.select_last, |i, j| {
                    let (a, b) = (v[s + offsets[i]], v[s + offsets[j]]);
                    (if op.max { b > a } else { b < a }, a == b)
                })
            })
            .collect(),
    };
    Ok(Tensor::from_vec(shape, found)?)
}

/// Index of the best of `n` elements; `better(i, j)` says whether j beats i, and whether they are equal.
fn best(n: usize, last: bool, better: impl Fn(usize, usize) -> (bool, bool)) -> i64 {
    let mut found = 0;
    for j in 1..n {
        let (wins, equal) = better(found, j);
        if wins || (last && equal) {
            found = j;
        }
    }
    found as i64
}

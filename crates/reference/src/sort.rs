use crate::{
    EvalError,
    data::{Wide, axis, i64s, place, product, take},
    error::refuse,
    eval::Operands,
};
use std::cmp::Ordering;
use tensormill_ir::ops::{Compress, OneHot, ReverseSequence, TopK, Unique};
use tensormill_tensor::{DType, Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// Elements that can be put in order.
enum Keys<'a> {
    Wide(Wide),
    Text(&'a [String]),
}

impl<'a> Keys<'a> {
    fn of(t: &'a Tensor) -> Result<Self> {
        Ok(if t.dtype() == DType::Str { Keys::Text(t.strings()?) } else { Keys::Wide(Wide::of(t)?) })
    }

    /// NaN is larger than every number and equal to itself.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Text(v) => v[a].cmp(&v[b]),
            Keys::Wide(Wide::Int(v)) => v[a].cmp(&v[b]),
            Keys::Wide(Wide::Float(v)) => {
                v[a].partial_cmp(&v[b]).unwrap_or_else(|| v[a].is_nan().cmp(&v[b].is_nan()))
            }
        }
    }
}

/// The one element of an integer operand.
pub(crate) fn single(t: &Tensor) -> Result<i64> {
    match i64s(t)?.as_slice() {
        [n] => Ok(*n),
        n => refuse(format!("expected one number, got {}", n.len())),
    }
}

fn count(t: &Tensor) -> Result<usize> {
    let n = single(t)?;
    usize::try_from(n).or_else(|_| refuse(format!("a size of {n}")))
}

fn vector(v: impl IntoIterator<Item = usize>) -> Result<Value> {
    let v: Vec<i64> = v.into_iter().map(|i| i as i64).collect();
    Ok(Tensor::from_vec([v.len()], v)?.into())
}

pub(crate) fn top_k(op: &TopK, x: &Operands<'_>) -> Result<Vec<Value>> {
    let (t, k) = (x.tensor(0)?, count(x.tensor(1)?)?);
    let s = t.shape();
    let axis = axis(op.axis, s.rank())?;
    if k > s[axis] {
        return refuse(format!("the best {k} of {}", s[axis]));
    }
    let mut dims = s.to_vec();
    dims[axis] = k;
    let shape = Shape::from(dims);
    if shape.numel() == 0 {
        return Ok(vec![
            Tensor::zeros(t.dtype(), shape.clone())?.into(),
            Tensor::zeros(DType::I64, shape)?.into(),
        ]);
    }
    let keys = Keys::of(t)?;
    let (outer, inner) = (product(&s[..axis])?, product(&s[axis + 1..])?);
    let mut from = vec![0usize; shape.numel()];
    let mut places = vec![0i64; shape.numel()];
    for o in 0..outer {
        for i in 0..inner {
            let at = |p: usize| (o * s[axis] + p) * inner + i;
            let mut order: Vec<usize> = (0..s[axis]).collect();
            // The sort is stable, so that of equal elements the first comes first.
            order.sort_by(|&a, &b| {
                let c = keys.compare(at(a), at(b));
                if op.largest { c.reverse() } else { c }
            });
            for (j, &p) in order[..k].iter().enumerate() {
                from[(o * k + j) * inner + i] = at(p);
                places[(o * k + j) * inner + i] = p as i64;
            }
        }
    }
    Ok(vec![take(t, shape.clone(), &from)?.into(), Tensor::from_vec(shape, places)?.into()])
}

/// The slices of `t` at some places of an axis.
fn pick(t: &Tensor, axis: usize, places: &[usize], x: &Operands<'_>) -> Result<Tensor> {
    let s = t.shape();
    let mut dims = s.to_vec();
    dims[axis] = places.len();
    let shape = Shape::from(dims);
    x.limits.check(&shape)?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(t.dtype(), shape)?);
    }
    let (outer, inner) = (product(&s[..axis])?, product(&s[axis + 1..])?);
    let mut from = Vec::with_capacity(shape.numel());
    for o in 0..outer {
        for p in places {
            let start = (o * s[axis] + p) * inner;
            from.extend(start..start + inner);
        }
    }
    take(t, shape, &from)
}

/// x and the axis to work along: x as a vector where none is given.
fn along(t: &Tensor, given: Option<i64>) -> Result<(Tensor, usize)> {
    match given {
        None => Ok((t.reshape([t.len()])?, 0)),
        Some(a) => Ok((t.clone(), axis(a, t.shape().rank())?)),
    }
}

pub(crate) fn unique(op: &Unique, x: &Operands<'_>) -> Result<Vec<Value>> {
    let (t, axis) = along(x.tensor(0)?, op.axis)?;
    let s = t.shape();
    let n = s[axis];
    x.limits.check(&Shape::from([n]))?;
    let keys = Keys::of(&t)?;
    let (outer, inner) = if t.is_empty() { (0, 0) } else { (product(&s[..axis])?, product(&s[axis + 1..])?) };
    let compare = |a: usize, b: usize| {
        (0..outer)
            .flat_map(|o| (0..inner).map(move |i| (o * n, i)))
            .map(|(o, i)| keys.compare((o + a) * inner + i, (o + b) * inner + i))
            .find(|c| c.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> = vec![];
    for i in order {
        match groups.last_mut() {
            Some(g) if compare(g[0], i).is_eq() => g.push(i),
            _ => groups.push(vec![i]),
        }
    }
    if !op.sorted {
        groups.sort_by_key(|g| g[0]);
    }
    let first: Vec<usize> = groups.iter().map(|g| g[0]).collect();
    let mut inverse = vec![0; n];
    for (i, g) in groups.iter().enumerate() {
        for &member in g {
            inverse[member] = i;
        }
    }
    Ok(vec![
        pick(&t, axis, &first, x)?.into(),
        vector(first)?,
        vector(inverse)?,
        vector(groups.iter().map(Vec::len))?,
    ])
}

pub(crate) fn non_zero(x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let held: Vec<bool> = match t.strings() {
        Ok(s) => s.iter().map(|s| !s.is_empty()).collect(),
        Err(_) => t.to_bool_vec()?,
    };
    let found: Vec<usize> = held.iter().enumerate().filter(|(_, h)| **h).map(|(i, _)| i).collect();
    let s = t.shape();
    let shape = Shape::from([s.rank(), found.len()]);
    x.limits.check(&shape)?;
    let strides = s.strides();
    let rows = (0..s.rank()).flat_map(|a| found.iter().map(move |i| (a, i)));
    let places: Vec<i64> = rows.map(|(a, i)| (i / strides[a] % s[a]) as i64).collect();
    Ok(Tensor::from_vec(shape, places)?)
}

pub(crate) fn compress(op: &Compress, x: &Operands<'_>) -> Result<Tensor> {
    let (t, axis) = along(x.tensor(0)?, op.axis)?;
    let held = x.tensor(1)?.to_bool_vec()?;
    let places: Vec<usize> = held.iter().enumerate().filter(|(_, h)| **h).map(|(i, _)| i).collect();
    if let Some(p) = places.last().filter(|p| **p >= t.shape()[axis]) {
        return refuse(format!("condition {p} for an axis of size {}", t.shape()[axis]));
    }
    pick(&t, axis, &places, x)
}

/// Running sums, or products, along the axis that operand 1 says.
pub(crate) fn running(sum: bool, exclusive: bool, reverse: bool, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let s = t.shape();
    let axis = axis(single(x.tensor(1)?)?, s.rank())?;
    if t.is_empty() {
        return Ok(t.clone());
    }
    let n = s[axis];
    let (outer, inner) = (product(&s[..axis])?, product(&s[axis + 1..])?);
    // The places of one line after the other, each in the order of the sum.
    let lines = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
    let place = |(o, i): (usize, usize), j: usize| (o * n + if reverse { n - 1 - j } else { j }) * inner + i;
    match Wide::of(t)? {
        Wide::Float(mut v) => {
            let start = if sum { 0.0 } else { 1.0 };
            for line in lines {
                let mut total: f64 = start;
                for j in 0..n {
                    let e = &mut v[place(line, j)];
                    let next = if sum { total + *e } else { total * *e };
                    *e = if exclusive { total } else { next };
                    total = next;
                }
            }
            Wide::Float(v).tensor(t.dtype(), s)
        }
        Wide::Int(mut v) => {
            for line in lines {
                let mut total = i128::from(!sum);
                for j in 0..n {
                    let e = &mut v[place(line, j)];
                    let next = if sum { total.wrapping_add(*e) } else { total.wrapping_mul(*e) };
                    *e = if exclusive { total } else { next };
                    total = next;
                }
            }
            Wide::Int(v).tensor(t.dtype(), s)
        }
    }
}

pub(crate) fn one_hot(op: &OneHot, x: &Operands<'_>) -> Result<Tensor> {
    let (at, depth, values) = (x.tensor(0)?, count(x.tensor(1)?)?, x.tensor(2)?);
    if values.len() != 2 {
        return refuse(format!("{} values, not 2", values.len()));
    }
    let s = at.shape();
    let axis = axis(op.axis, s.rank() + 1)?;
    let mut dims = s.to_vec();
    dims.insert(axis, depth);
    let shape = Shape::from(dims);
    x.limits.check(&shape)?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(values.dtype(), shape)?);
    }
    let inner = product(&s[axis..])?;
    let mut from = vec![0usize; shape.numel()];
    for (i, index) in i64s(at)?.into_iter().enumerate() {
        if let Ok(d) = place(index, depth) {
            from[(i / inner * depth + d) * inner + i % inner] = 1;
        }
    }
    take(values, shape, &from)
}

pub(crate) fn reverse_sequence(op: &ReverseSequence, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let s = t.shape();
    let (batch, time) = (axis(op.batch_axis, s.rank())?, axis(op.time_axis, s.rank())?);
    let lengths = i64s(x.tensor(1)?)?;
    if batch == time || lengths.len() != s[batch] {
        return refuse(format!(
            "{} lengths for shape {s}, batch axis {batch}, time axis {time}",
            lengths.len()
        ));
    }
    let lengths: Vec<usize> = lengths
        .into_iter()
        .map(|n| match usize::try_from(n) {
            Ok(n) if n <= s[time] => Ok(n),
            _ => refuse(format!("a length of {n} for size {}", s[time])),
        })
        .collect::<Result<_>>()?;
    let strides = s.strides();
    let from: Vec<usize> = (0..t.len())
        .map(|i| {
            let (b, at) = (i / strides[batch] % s[batch], i / strides[time] % s[time]);
            if at < lengths[b] { i - at * strides[time] + (lengths[b] - 1 - at) * strides[time] } else { i }
        })
        .collect();
    take(t, s, &from)
}

use crate::{
    EvalError,
    data::{axis, from_narrow_codes, i64s, narrow_codes, sizes, take},
    error::refuse,
    eval::Operands,
};
use tensormill_ir::ops::{Concat, Split};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// The tensors one after the other along an axis.
pub(crate) fn join(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let first = parts[0].shape();
    let mut dims = first.to_vec();
    dims[axis] = 0;
    for p in parts {
        let s = p.shape();
        let fits = s.rank() == first.rank() && (0..s.rank()).all(|i| i == axis || s[i] == first[i]);
        if !fits || p.dtype() != parts[0].dtype() {
            return refuse(format!("{p:?} does not continue {:?} along axis {axis}", parts[0]));
        }
        dims[axis] += s[axis];
    }
    let outer: usize = first[..axis].iter().product();
    let inner: usize = first[axis + 1..].iter().product();
    let shape = Shape::from(dims);
    if let Ok(strings) = parts[0].strings() {
        let mut out: Vec<String> = Vec::with_capacity(strings.len());
        for o in 0..outer {
            for p in parts {
                let run = p.shape()[axis] * inner;
                out.extend_from_slice(&p.strings()?[o * run..(o + 1) * run]);
            }
        }
        return Ok(Tensor::from_strings(shape, out)?);
    }
    let Some(size) = parts[0].dtype().size() else {
        // Elements narrower than a byte do not join by bytes.
        let wide: Vec<Vec<u8>> = parts.iter().map(|p| narrow_codes(p)).collect();
        let mut out = vec![];
        for o in 0..outer {
            for (p, v) in parts.iter().zip(&wide) {
                let run = p.shape()[axis] * inner;
                out.extend_from_slice(&v[o * run..(o + 1) * run]);
            }
        }
        return from_narrow_codes(parts[0].dtype(), shape, out);
    };
    let mut out = Vec::with_capacity(shape.numel() * size);
    for o in 0..outer {
        for p in parts {
            let run = p.shape()[axis] * inner * size;
            out.extend_from_slice(&p.bytes()[o * run..(o + 1) * run]);
        }
    }
    Ok(Tensor::from_bytes(parts[0].dtype(), shape, out.into())?)
}

pub(crate) fn concat(op: &Concat, x: &Operands<'_>) -> Result<Tensor> {
    let parts: Vec<&Tensor> = (0..x.len()).map(|i| x.tensor(i)).collect::<Result<_>>()?;
    let Some(first) = parts.first() else { return refuse("takes one operand or more") };
    let axis = axis(op.axis, first.shape().rank())?;
    let along =
        parts.iter().try_fold(0usize, |n, p| n.checked_add(p.shape().get(axis).copied().unwrap_or(0)));
    let mut dims = first.shape().to_vec();
    dims[axis] = along.unwrap_or(usize::MAX);
    x.limits.check(&dims)?;
    join(&parts, axis)
}

/// The part of `t` from `start` on, `length` long, along an axis.
pub(crate) fn cut(t: &Tensor, axis: usize, start: usize, length: usize) -> Result<Tensor> {
    let s = t.shape();
    let inner: usize = s[axis + 1..].iter().product();
    let outer: usize = s[..axis].iter().product();
    let mut dims = s.to_vec();
    dims[axis] = length;
    let indices: Vec<usize> = (0..outer)
        .flat_map(|o| {
            let from = (o * s[axis] + start) * inner;
            from..from + length * inner
        })
        .collect();
    take(t, dims, &indices)
}

pub(crate) fn split(op: &Split, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    let axis = axis(op.axis, t.shape().rank())?;
    let whole = t.shape()[axis];
    let parts: Vec<usize> = match x.opt_tensor(1)? {
        Some(s) => sizes(&i64s(s)?)?.to_vec(),
        None => {
            let part = whole.div_ceil(op.outputs.max(1));
            (0..op.outputs).map(|i| whole.saturating_sub(i * part).min(part)).collect()
        }
    };
    if parts.len() != op.outputs || parts.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(whole) {
        return refuse(format!("parts {parts:?} do not make up an axis of size {whole}"));
    }
    let mut start = 0;
    parts
        .into_iter()
        .map(|n| {
            start += n;
            cut(t, axis, start - n, n).map(Value::Tensor)
        })
        .collect()
}

pub(crate) fn slice(x: &Operands<'_>) -> Result<Tensor> {
    let mut t = x.tensor(0)?.clone();
    let (starts, ends) = (i64s(x.tensor(1)?)?, i64s(x.tensor(2)?)?);
    let count = starts.len();
    let axes = x.opt_tensor(3)?.map_or_else(|| Ok((0..count as i64).collect()), i64s)?;
    let steps = x.opt_tensor(4)?.map_or_else(|| Ok(vec![1; count]), i64s)?;
    if [ends.len(), axes.len(), steps.len()] != [count; 3] {
        return refuse("starts, ends, axes and steps must have one length");
    }
    for i in 0..count {
        let axis = axis(axes[i], t.shape().rank())?;
        let places = places(t.shape()[axis] as i64, starts[i], ends[i], steps[i])?;
        let s = t.shape();
        let (outer, inner): (usize, usize) = (s[..axis].iter().product(), s[axis + 1..].iter().product());
        let mut dims = s.to_vec();
        dims[axis] = places.len();
        let mut indices = Vec::with_capacity(outer * places.len() * inner);
        for o in 0..outer {
            for &p in &places {
                let from = (o * s[axis] + p) * inner;
                indices.extend(from..from + inner);
            }
        }
        t = take(&t, dims, &indices)?;
    }
    Ok(t)
}

/// The places that one axis's slice visits, in order. Backwards it starts within the axis, unlike numpy,
/// where a start before the first element visits nothing.
fn places(n: i64, start: i64, end: i64, step: i64) -> Result<Vec<usize>> {
    let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let mut out = vec![];
    if step == 0 {
        return refuse("a step of 0");
    }
    let (mut at, end) = if step > 0 {
        (from_end(start).clamp(0, n), from_end(end).clamp(0, n))
    } else {
        (from_end(start).clamp(0, (n - 1).max(0)), from_end(end).clamp(-1, n - 1))
    };
    while n > 0 && (step > 0 && at < end || step < 0 && at > end) {
        out.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(out)
}

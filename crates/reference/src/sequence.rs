use crate::{
    EvalError,
    data::{axis, i64s, place, sizes},
    error::refuse,
    eval::Operands,
    slice::{cut, join},
};
use tensormill_ir::ops::{ConcatFromSequence, SplitToSequence};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn list<'a>(x: &Operands<'a>, i: usize) -> Result<&'a [Value]> {
    match x.value(i)? {
        Value::Sequence(v) => Ok(v),
        v => refuse(format!("expected a sequence, got a {}", v.kind())),
    }
}

fn position(x: &Operands<'_>, i: usize) -> Result<Option<i64>> {
    match x.opt_tensor(i)?.map(i64s).transpose()?.as_deref() {
        None => Ok(None),
        Some([p]) => Ok(Some(*p)),
        Some(p) => refuse(format!("a place of {} elements", p.len())),
    }
}

/// A sequence, if what it holds is within the limits.
fn sequence(v: Vec<Value>, x: &Operands<'_>) -> Result<Value> {
    let total =
        v.iter().try_fold(0usize, |n, v| Ok::<_, EvalError>(n.saturating_add(v.as_tensor()?.len())))?;
    x.limits.check(&Shape::from([total.max(v.len())]))?;
    Ok(Value::Sequence(v))
}

pub(crate) fn construct(x: &Operands<'_>) -> Result<Value> {
    sequence((0..x.len()).map(|i| x.value(i).cloned()).collect::<Result<_>>()?, x)
}

pub(crate) fn insert(x: &Operands<'_>) -> Result<Value> {
    let mut v = list(x, 0)?.to_vec();
    let at = match position(x, 2)? {
        None => v.len(),
        Some(p) if p == v.len() as i64 => v.len(),
        Some(p) => place(p, v.len())?,
    };
    v.insert(at, x.tensor(1)?.clone().into());
    sequence(v, x)
}

pub(crate) fn erase(x: &Operands<'_>) -> Result<Value> {
    let mut v = list(x, 0)?.to_vec();
    v.remove(place(position(x, 1)?.unwrap_or(-1), v.len())?);
    Ok(Value::Sequence(v))
}

pub(crate) fn at(x: &Operands<'_>) -> Result<Value> {
    let v = list(x, 0)?;
    match position(x, 1)? {
        Some(p) => Ok(v[place(p, v.len())?].clone()),
        None => refuse("the place is missing"),
    }
}

pub(crate) fn length(x: &Operands<'_>) -> Result<Value> {
    Ok(Tensor::scalar(list(x, 0)?.len() as i64).into())
}

pub(crate) fn split(op: &SplitToSequence, x: &Operands<'_>) -> Result<Value> {
    let t = x.tensor(0)?;
    let axis = axis(op.axis, t.shape().rank())?;
    let whole = t.shape()[axis];
    let each = |n: usize| (0..whole).step_by(n).map(|from| n.min(whole - from)).collect::<Vec<_>>();
    let given = x.opt_tensor(1)?;
    let parts = match given {
        None => each(1),
        Some(s) if s.shape().rank() == 0 => match i64s(s)?.as_slice() {
            [n] if *n > 0 => each(usize::try_from(*n).unwrap_or(usize::MAX)),
            n => return refuse(format!("parts of size {n:?}")),
        },
        Some(s) => sizes(&i64s(s)?)?.to_vec(),
    };
    // Empty parts of an empty axis could be any number.
    x.limits.check(&Shape::from([parts.len()]))?;
    if parts.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(whole) {
        return refuse(format!("the parts do not make up an axis of size {whole}"));
    }
    let mut start = 0;
    let mut out = Vec::with_capacity(parts.len());
    for n in parts {
        let mut part = cut(t, axis, start, n)?;
        if given.is_none() && !op.keepdims {
            let mut dims = part.shape().to_vec();
            dims.remove(axis);
            part = part.reshape(dims)?;
        }
        out.push(part.into());
        start += n;
    }
    Ok(Value::Sequence(out))
}

pub(crate) fn concat(op: &ConcatFromSequence, x: &Operands<'_>) -> Result<Tensor> {
    let mut parts: Vec<Tensor> =
        list(x, 0)?.iter().map(|v| Ok(v.as_tensor()?.clone())).collect::<Result<_>>()?;
    let Some(first) = parts.first() else { return refuse("a sequence of no tensors has nothing to join") };
    let at = axis(op.axis, first.shape().rank() + usize::from(op.new_axis))?;
    if op.new_axis {
        for p in &mut parts {
            let mut dims = p.shape().to_vec();
            dims.insert(at.min(dims.len()), 1);
            *p = p.reshape(dims)?;
        }
    }
    let total = parts.iter().fold(0usize, |n, p| n.saturating_add(p.len()));
    x.limits.check(&Shape::from([total]))?;
    join(&parts.iter().collect::<Vec<_>>(), at)
}

pub(crate) fn optional(x: &Operands<'_>) -> Value {
    Value::Optional(x.opt(0).cloned().map(Box::new))
}

pub(crate) fn has_element(x: &Operands<'_>) -> Result<Tensor> {
    let has = !matches!(x.opt(0), None | Some(Value::Optional(None)));
    Ok(Tensor::from_bools([], vec![has])?)
}

pub(crate) fn get_element(x: &Operands<'_>) -> Result<Value> {
    match x.value(0)? {
        Value::Optional(Some(v)) => Ok((**v).clone()),
        Value::Optional(None) => refuse("the optional has no value"),
        v => Ok(v.clone()),
    }
}

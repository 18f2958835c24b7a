use crate::{
    EvalError,
    data::{axis, i64s, place, product, strided_indices, take},
    error::refuse,
    eval::Operands,
};
use tensormill_ir::ops::{Gather, GatherElements, GatherND};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) fn gather(op: &Gather, x: &Operands<'_>) -> Result<Tensor> {
    let (t, at) = (x.tensor(0)?, x.tensor(1)?);
    let s = t.shape();
    let axis = axis(op.axis, s.rank())?;
    let shape: Shape = s[..axis].iter().chain(&**at.shape()).chain(&s[axis + 1..]).copied().collect();
    x.limits.check(&shape)?;
    let at = i64s(at)?.into_iter().map(|i| place(i, s[axis])).collect::<Result<Vec<_>>>()?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(t.dtype(), shape)?);
    }
    let (outer, inner) = (product(&s[..axis])?, product(&s[axis + 1..])?);
    let mut indices = Vec::with_capacity(shape.numel());
    for o in 0..outer {
        for i in &at {
            let from = (o * s[axis] + i) * inner;
            indices.extend(from..from + inner);
        }
    }
    take(t, shape, &indices)
}

/// Where each element of an index tensor points in a tensor of `shape`, of the same rank.
pub(crate) fn element_places(shape: &Shape, axis: usize, at: &Tensor) -> Result<Vec<usize>> {
    let s = at.shape();
    if s.rank() != shape.rank() {
        return refuse(format!("indices of rank {} for rank {}", s.rank(), shape.rank()));
    }
    if at.is_empty() {
        return Ok(vec![]);
    }
    if let Some(i) = (0..s.rank()).find(|&i| i != axis && s[i] > shape[i]) {
        return refuse(format!("{} indices along axis {i} of size {}", s[i], shape[i]));
    }
    let mut strides = shape.strides();
    let along = strides[axis];
    strides[axis] = 0;
    let starts = strided_indices(s, &strides);
    starts.into_iter().zip(i64s(at)?).map(|(s, i)| Ok(s + place(i, shape[axis])? * along)).collect()
}

pub(crate) fn gather_elements(op: &GatherElements, x: &Operands<'_>) -> Result<Tensor> {
    let (t, at) = (x.tensor(0)?, x.tensor(1)?);
    let axis = axis(op.axis, t.shape().rank())?;
    x.limits.check(at.shape())?;
    take(t, at.shape(), &element_places(t.shape(), axis, at)?)
}

/// Where the slices begin that indices name in a tensor of `shape`, and how many elements each has.
pub(crate) fn slice_places(shape: &Shape, batch: usize, at: &Tensor) -> Result<(Vec<usize>, usize)> {
    let s = at.shape();
    let Some((&k, lead)) = s.split_last() else { return refuse("indices must have an axis") };
    let used = batch.checked_add(k).filter(|&n| n <= shape.rank() && batch <= lead.len());
    let Some(used) = used else {
        return refuse(format!("indices {s} after {batch} shared axes for shape {shape}"));
    };
    if s[..batch] != shape[..batch] {
        return refuse(format!("the first {batch} axes of {s} and {shape} differ"));
    }
    let tuples = product(lead)?;
    if tuples == 0 {
        return Ok((vec![], 0));
    }
    let inner = product(&shape[used..])?;
    let strides = shape.strides();
    let per_batch = product(&lead[batch..])?;
    let at = i64s(at)?;
    let starts = (0..tuples).map(|t| {
        // Batches lie one after the other, so their number is their place among slices of x.
        let batch_start = if batch == 0 { 0 } else { (t / per_batch) * strides[batch - 1] };
        (0..k).try_fold(batch_start, |sum, j| {
            Ok(sum + place(at[t * k + j], shape[batch + j])? * strides[batch + j])
        })
    });
    Ok((starts.collect::<Result<_>>()?, inner))
}

pub(crate) fn gather_nd(op: &GatherND, x: &Operands<'_>) -> Result<Tensor> {
    let (t, at) = (x.tensor(0)?, x.tensor(1)?);
    let s = t.shape();
    let (starts, inner) = slice_places(s, op.batch_dims, at)?;
    let lead = &at.shape()[..at.shape().rank() - 1];
    let rest = s.get(op.batch_dims + at.shape()[lead.len()]..).unwrap_or_default();
    let shape: Shape = lead.iter().chain(rest).copied().collect();
    x.limits.check(&shape)?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(t.dtype(), shape)?);
    }
    let indices: Vec<usize> = starts.into_iter().flat_map(|s| s..s + inner).collect();
    take(t, shape, &indices)
}

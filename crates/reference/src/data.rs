//! Elements in the widest type of their class, so that each op is written once.

use crate::{EvalError, error::refuse};
use tensormill_tensor::{DType, Shape, Tensor};

/// The elements of a real tensor, all of one class.
#[derive(Debug, Clone)]
pub(crate) enum Wide {
    /// Floats: every one is exact in f64.
    Float(Vec<f64>),
    /// Integers and bools.
    Int(Vec<i128>),
}

impl Wide {
    pub(crate) fn of(t: &Tensor) -> Result<Wide, EvalError> {
        let d = t.dtype();
        if d.is_float() { Ok(Wide::Float(t.to_f64_vec()?)) } else { Ok(Wide::Int(ints(t)?)) }
    }

    /// A tensor of these elements: floats rounded, integers wrapped.
    pub(crate) fn tensor(self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor, EvalError> {
        match self {
            Wide::Float(v) => Ok(Tensor::from_f64s(dtype, shape, v)?),
            Wide::Int(v) => from_ints(dtype, shape, v),
        }
    }
}

/// The elements of an integer or bool tensor.
pub(crate) fn ints(t: &Tensor) -> Result<Vec<i128>, EvalError> {
    if t.dtype() == DType::U64 {
        return Ok(t.to_slice::<u64>()?.iter().map(|&v| i128::from(v)).collect());
    }
    Ok(t.to_i64_vec()?.into_iter().map(i128::from).collect())
}

/// An integer or bool tensor that keeps the low bits of each element.
pub(crate) fn from_ints(dtype: DType, shape: impl Into<Shape>, v: Vec<i128>) -> Result<Tensor, EvalError> {
    if dtype == DType::Bool {
        return Ok(Tensor::from_bools(shape, v.into_iter().map(|v| v != 0).collect())?);
    }
    Ok(Tensor::from_i64s(dtype, shape, v.into_iter().map(|v| v as i64))?)
}

/// An axis in `0..rank` from one that may count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, EvalError> {
    tensormill_ir::infer::axis(axis, rank).map_err(|e| EvalError::Operand(e.0))
}

/// A place in `0..size` from one that may count from the end.
pub(crate) fn place(i: i64, size: usize) -> Result<usize, EvalError> {
    let n = i64::try_from(size).unwrap_or(i64::MAX);
    match if i < 0 { i.checked_add(n) } else { Some(i) } {
        Some(at) if (0..n).contains(&at) => Ok(at as usize),
        _ => refuse(format!("index {i} is out of range for size {size}")),
    }
}

/// The product of some of a shape's dims, which may overflow where another dim is 0.
pub(crate) fn product(dims: &[usize]) -> Result<usize, EvalError> {
    match Shape::new(dims).checked_numel() {
        Some(n) => Ok(n),
        None => refuse(format!("the product of {dims:?} is beyond the address space")),
    }
}

/// The elements of an i64 operand.
pub(crate) fn i64s(t: &Tensor) -> Result<Vec<i64>, EvalError> {
    Ok(t.to_i64_vec()?)
}

/// A dimension list from signed sizes.
pub(crate) fn sizes(v: &[i64]) -> Result<Shape, EvalError> {
    v.iter().map(|&d| usize::try_from(d).map_err(|_| EvalError::Operand(format!("a size of {d}")))).collect()
}

/// The numpy broadcast of two shapes.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Shape, EvalError> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            (x, y) => refuse(format!("sizes {x} and {y} do not broadcast")),
        })
        .collect()
}

/// For every element of `to`, in order, the index of the element of `from` that broadcasts there.
pub(crate) fn broadcast_indices(from: &[usize], to: &Shape) -> Vec<usize> {
    let lead = to.rank() - from.len();
    let own = Shape::from(from).strides();
    let strides: Vec<usize> =
        (0..to.rank()).map(|i| if i < lead || from[i - lead] == 1 { 0 } else { own[i - lead] }).collect();
    strided_indices(to, &strides)
}

/// Index sums over all positions of a shape, in row-major order.
pub(crate) fn strided_indices(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let n = Shape::from(shape).numel();
    let mut out = Vec::with_capacity(n);
    let mut position = vec![0; shape.len()];
    let mut index = 0;
    for _ in 0..n {
        out.push(index);
        for i in (0..shape.len()).rev() {
            position[i] += 1;
            index += strides[i];
            if position[i] < shape[i] {
                break;
            }
            index -= strides[i] * shape[i];
            position[i] = 0;
        }
    }
    out
}

/// A tensor of the elements of `t` at these indices, of any dtype.
pub(crate) fn take(t: &Tensor, shape: impl Into<Shape>, indices: &[usize]) -> Result<Tensor, EvalError> {
    let shape = shape.into();
    if t.dtype() == DType::Str {
        let from = t.strings()?;
        return Ok(Tensor::from_strings(shape, indices.iter().map(|&i| from[i].clone()).collect())?);
    }
    let Some(size) = t.dtype().size() else {
        let codes = narrow_codes(t);
        return from_narrow_codes(t.dtype(), shape, indices.iter().map(|&i| codes[i]).collect());
    };
    let from = t.bytes();
    let mut to = Vec::with_capacity(indices.len() * size);
    for &i in indices {
        to.extend_from_slice(&from[i * size..(i + 1) * size]);
    }
    Ok(Tensor::from_bytes(t.dtype(), shape, to.into())?)
}

/// The bit patterns of elements narrower than a byte.
pub(crate) fn narrow_codes(t: &Tensor) -> Vec<u8> {
    let bits = t.dtype().bits();
    let per_byte = 8 / bits;
    let mask = (1u8 << bits) - 1;
    (0..t.len()).map(|i| (t.bytes()[i / per_byte] >> (bits * (i % per_byte))) & mask).collect()
}

/// The tensor of these bit patterns.
pub(crate) fn from_narrow_codes(dtype: DType, shape: Shape, codes: Vec<u8>) -> Result<Tensor, EvalError> {
    let bits = dtype.bits();
    let per_byte = 8 / bits;
    let mut bytes = vec![0u8; codes.len().div_ceil(per_byte)];
    for (i, c) in codes.into_iter().enumerate() {
        bytes[i / per_byte] |= c << (bits * (i % per_byte));
    }
    Ok(Tensor::from_bytes(dtype, shape, bytes.into())?)
}

use super::{
    OnnxError, ParseLimits, TensorProblem, dtype_of,
    proto::SparseTensorProto,
    proto::TensorProto,
    tensor::{problem, read_tensor, shape_of},
};
use crate::external::ExternalData;
use bytes::Bytes;
use std::fmt::Display;
use tensormill_tensor::{DType, Shape, Tensor, TensorError};

/// The dense tensor that a sparse one stands for.
///
/// # Errors
/// Those of [`read_tensor`] for its parts, and [`TensorProblem::Sparse`] when they do not fit each other.
pub fn read_sparse(
    proto: &SparseTensorProto,
    at: &dyn Display,
    limits: &ParseLimits,
    external: &ExternalData,
) -> Result<Tensor, OnnxError> {
    let none = TensorProto::default();
    let values_proto = proto.values.as_ref().unwrap_or(&none);
    if dense_bytes(proto, at)? > limits.max_dense_bytes {
        return Err(too_dense(at, limits));
    }
    let fail = |e| problem(values_proto, at, e);
    let sparse = |what: String| fail(TensorProblem::Sparse(what));
    let shape = shape_of(&proto.dims).map_err(fail)?;
    let values = read_tensor(values_proto, at, limits, external)?;
    let indices = proto.indices.as_ref().ok_or_else(|| sparse("a sparse tensor without indices".into()))?;
    let indices = read_tensor(indices, at, limits, external)?;
    if values.shape().rank() != 1 {
        return Err(sparse(format!("values of shape {}, where one axis is needed", values.shape())));
    }
    let positions = positions(&indices, &shape, values.len()).map_err(sparse)?;
    scatter(&values, shape, &positions).map_err(|e| fail(e.into()))
}

/// Bytes of the dense form; strings count as their empty forms.
pub(crate) fn dense_bytes(proto: &SparseTensorProto, at: &dyn Display) -> Result<u64, OnnxError> {
    let none = TensorProto::default();
    let values = proto.values.as_ref().unwrap_or(&none);
    let fail = |e| problem(values, at, e);
    if proto.values.is_none() {
        return Err(fail(TensorProblem::Sparse("a sparse tensor without values".into())));
    }
    let shape = shape_of(&proto.dims).map_err(fail)?;
    // An unknown type is reported when the values are read.
    let dtype = dtype_of(values.data_type).unwrap_or(DType::U8);
    let bytes = shape.checked_numel().and_then(|n| match dtype {
        DType::Str => n.checked_mul(size_of::<String>()),
        _ => dtype.bytes_for(n),
    });
    match bytes {
        Some(n) => Ok(n as u64),
        None => Err(fail(TensorError::Overflow { shape: shape.to_vec(), dtype }.into())),
    }
}

pub(crate) fn too_dense(at: &dyn Display, limits: &ParseLimits) -> OnnxError {
    OnnxError::Limit {
        at: at.to_string(),
        what: "bytes of sparse tensors made dense",
        limit: limits.max_dense_bytes,
        field: "max_dense_bytes",
    }
}

/// The flat position of every stored element: inside the shape and ascending.
fn positions(indices: &Tensor, shape: &Shape, count: usize) -> Result<Vec<usize>, String> {
    let numbers = indices.to_slice::<i64>().map_err(|e| format!("indices: {e}"))?;
    let flat: Vec<usize> = match indices.shape().dims() {
        [n] if *n == count => {
            let size = shape.numel();
            let inside = |&i: &i64| usize::try_from(i).ok().filter(|&i| i < size);
            let checked =
                numbers.iter().map(|i| inside(i).ok_or_else(|| format!("index {i} is outside of {shape}")));
            checked.collect::<Result<_, _>>()?
        }
        [n, rank] if *n == count && *rank == shape.rank() => {
            let mut flat = Vec::with_capacity(count);
            for row in 0..count {
                let mut position = 0;
                for (axis, &size) in shape.iter().enumerate() {
                    let i = numbers[row * rank + axis];
                    let Some(i) = usize::try_from(i).ok().filter(|&i| i < size) else {
                        return Err(format!(
                            "index {i} of element {row} is outside of axis {axis} of {shape}"
                        ));
                    };
                    // Below the element count, which the caller has checked not to overflow.
                    position = position * size + i;
                }
                flat.push(position);
            }
            flat
        }
        _ => return Err(format!("indices of shape {} for {count} elements of {shape}", indices.shape())),
    };
    match flat.windows(2).position(|w| w[0] >= w[1]) {
        Some(i) => Err(format!("index {} does not come after index {i}", i + 1)),
        None => Ok(flat),
    }
}

fn scatter(values: &Tensor, shape: Shape, positions: &[usize]) -> Result<Tensor, TensorError> {
    let dtype = values.dtype();
    let size = shape.numel();
    if dtype == DType::Str {
        let mut out = vec![String::new(); size];
        for (&at, s) in positions.iter().zip(values.strings()?) {
            out[at].clone_from(s);
        }
        return Tensor::from_strings(shape, out);
    }
    let mut out = vec![0u8; dtype.bytes_for(size).unwrap_or(0)];
    let from = values.bytes();
    if let Some(width) = dtype.size() {
        for (&at, element) in positions.iter().zip(from.chunks_exact(width)) {
            out[at * width..][..width].copy_from_slice(element);
        }
    } else {
        let (bits, per_byte) = (dtype.bits(), 8 / dtype.bits());
        let mask = (1u8 << bits) - 1;
        for (i, &at) in positions.iter().enumerate() {
            let element = (from[i / per_byte] >> (i % per_byte * bits)) & mask;
            out[at / per_byte] |= element << (at % per_byte * bits);
        }
    }
    Tensor::from_bytes(dtype, shape, Bytes::from(out))
}

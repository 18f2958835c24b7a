//! Element types and constant tensors.

use super::{TfliteError, model::Model, model::TensorInfo};
use tensormill_tensor::{DType, Tensor, TensorError};

/// The element type of a tensor by the file's number.
pub(super) fn dtype_of(code: u8) -> Option<DType> {
    Some(match code {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        6 => DType::Bool,
        7 => DType::I16,
        8 => DType::C64,
        9 => DType::I8,
        10 => DType::F64,
        11 => DType::C128,
        12 => DType::U64,
        15 => DType::U32,
        16 => DType::U16,
        17 => DType::I4,
        18 => DType::BF16,
        _ => return None,
    })
}

/// The element type of a tensor.
pub(super) fn dtype(t: &TensorInfo, place: &str) -> Result<DType, TfliteError> {
    dtype_of(t.dtype).ok_or_else(|| {
        let kind = match t.dtype {
            5 => "strings are".into(),
            13 | 14 => "resources are".into(),
            n => format!("element type {n} is"),
        };
        TfliteError::Unsupported { at: place.into(), what: kind }
    })
}

/// The numbers of a tensor whose buffer has them; `None` where it is computed.
pub(super) fn constant(model: &Model, t: &TensorInfo, place: &str) -> Result<Option<Tensor>, TfliteError> {
    let Some(data) = model.data(t) else { return Ok(None) };
    if t.sparse {
        return Err(TfliteError::Unsupported { at: place.into(), what: "a sparse tensor is".into() });
    }
    let dtype = dtype(t, place)?;
    let wrong = |source: TensorError| TfliteError::Tensor { at: place.into(), source };
    let tensor = Tensor::from_bytes(dtype, t.shape.as_slice(), data).map_err(wrong)?;
    if tensor.byte_len() as u64 > model.max_tensor_bytes {
        return Err(TfliteError::Limit {
            at: place.into(),
            what: "the tensor's bytes",
            limit: model.max_tensor_bytes,
            field: "max_tensor_bytes",
        });
    }
    Ok(Some(tensor))
}

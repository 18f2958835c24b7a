use super::LowerError;
use crate::onnx::{
    dtype_of,
    proto::{DimensionValue, TypeProto, TypeValue},
};
use tensormill_ir::{Dim, TensorType, Type};

/// The type that a message declares; `None` when it leaves the element type open.
pub(super) fn read_type(t: &TypeProto) -> Result<Option<Type>, LowerError> {
    // Types nest one message a level, which the decoder bounds.
    let inner = |t: Option<&TypeProto>| match t {
        Some(t) => read_type(t),
        None => Ok(None),
    };
    match &t.value {
        None => Ok(None),
        Some(TypeValue::Tensor(t)) => {
            if t.elem_type == 0 {
                return Ok(None);
            }
            let Some(dtype) = dtype_of(t.elem_type) else {
                return LowerError::operand(format!("element type {} is unknown", t.elem_type));
            };
            let Some(shape) = &t.shape else { return Ok(Some(TensorType::unranked(dtype).into())) };
            let dims = shape.dim.iter().map(|d| match &d.value {
                Some(DimensionValue::Size(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
                Some(DimensionValue::Name(name)) if !name.is_empty() => Dim::symbol(name),
                _ => Dim::Unknown,
            });
            Ok(Some(Type::tensor(dtype, dims)))
        }
        Some(TypeValue::Sequence(s)) => {
            Ok(inner(s.elem_type.as_deref())?.map(|t| Type::Sequence(Box::new(t))))
        }
        Some(TypeValue::Optional(o)) => {
            Ok(inner(o.elem_type.as_deref())?.map(|t| Type::Optional(Box::new(t))))
        }
        Some(_) => LowerError::feature("a map, sparse or opaque type"),
    }
}

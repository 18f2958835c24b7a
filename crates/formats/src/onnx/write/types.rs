use crate::onnx::{
    dtype_code,
    proto::{
        Dimension, DimensionValue, OptionalType, SequenceType, TensorShapeProto, TensorType, TypeProto,
        TypeValue, ValueInfoProto,
    },
    sizes,
};
use tensormill_ir::{Dim, Type};
use tensormill_tensor::DType;

/// The message of a type. Sizes that are more than a name or a sum are left open: a reader infers them.
pub(super) fn write_type(ty: &Type) -> TypeProto {
    let value = match ty {
        Type::Tensor(t) => TypeValue::Tensor(TensorType {
            elem_type: code(t.dtype),
            shape: t.dims.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(write_dim).collect() }),
        }),
        Type::Sequence(t) => TypeValue::Sequence(SequenceType { elem_type: Some(Box::new(write_type(t))) }),
        Type::Optional(t) => TypeValue::Optional(OptionalType { elem_type: Some(Box::new(write_type(t))) }),
        _ => return TypeProto::default(),
    };
    TypeProto { value: Some(value), ..TypeProto::default() }
}

fn write_dim(d: &Dim) -> Dimension {
    let value = match d {
        Dim::Known(n) => i64::try_from(*n).ok().map(DimensionValue::Size),
        Dim::Sym(e) => match e.as_symbol() {
            Some(s) => Some(DimensionValue::Name(s.to_string())),
            None => {
                let spelled = e.to_string();
                (sizes::sum(&spelled).as_ref() == Some(e)).then_some(DimensionValue::Name(spelled))
            }
        },
        Dim::Unknown => None,
    };
    Dimension { value, ..Dimension::default() }
}

/// The number of an element type; every one has a number.
pub(super) fn code(dtype: DType) -> i32 {
    dtype_code(dtype).unwrap_or(0)
}

/// A name and its type.
pub(super) fn write_info(name: &str, ty: &Type) -> ValueInfoProto {
    ValueInfoProto { name: name.to_owned(), r#type: Some(write_type(ty)), ..ValueInfoProto::default() }
}

/// The operator set that an element type came with.
pub(super) fn since(dtype: DType) -> i64 {
    match dtype {
        DType::U2 | DType::I2 => 25,
        DType::F8E8M0 => 24,
        DType::F4E2M1 => 23,
        DType::BF16 => 22,
        _ => 0,
    }
}

use super::{dtype_code, proto::*};
use bytes::Bytes;
use tensormill_tensor::{DType, Tensor, TensorError, Value};

/// Keeps a tensor alive for as long as a message refers to its bytes.
struct Shared(Tensor);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The message of a tensor. Its elements are shared with the tensor, strings excepted.
///
/// # Errors
/// [`TensorError::Unsupported`] for element types that ONNX has no number for.
pub fn write_tensor(name: &str, tensor: &Tensor) -> Result<TensorProto, TensorError> {
    let dtype = tensor.dtype();
    let data_type = dtype_code(dtype).ok_or(TensorError::Unsupported { what: "an ONNX form", dtype })?;
    let mut proto = TensorProto {
        name: name.to_owned(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type,
        ..TensorProto::default()
    };
    if dtype == DType::Str {
        proto.string_data = tensor.strings()?.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
    } else {
        proto.raw_data = Some(Bytes::from_owner(Shared(tensor.clone())));
    }
    Ok(proto)
}

/// A value as a message of its own: the three kinds that data files of models have.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ValueProto {
    /// A tensor.
    Tensor(TensorProto),
    /// A list.
    Sequence(SequenceProto),
    /// A value that may be absent.
    Optional(Box<OptionalProto>),
}

impl ValueProto {
    /// The encoded message.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        use prost::Message;
        match self {
            ValueProto::Tensor(p) => p.encode_to_vec(),
            ValueProto::Sequence(p) => p.encode_to_vec(),
            ValueProto::Optional(p) => p.encode_to_vec(),
        }
    }
}

/// The message of a value.
///
/// # Errors
/// As [`write_tensor`]; [`TensorError::Kind`] for lists of values of several kinds.
pub fn write_value(name: &str, value: &Value) -> Result<ValueProto, TensorError> {
    match value {
        Value::Tensor(t) => Ok(ValueProto::Tensor(write_tensor(name, t)?)),
        Value::Sequence(items) => {
            let mut proto = SequenceProto { name: name.to_owned(), elem_type: 1, ..SequenceProto::default() };
            for (i, item) in items.iter().enumerate() {
                let kind = items[0].kind();
                if item.kind() != kind {
                    return Err(TensorError::Kind { expected: kind, actual: items[i].kind() });
                }
                match write_value("", item)? {
                    ValueProto::Tensor(p) => proto.tensor_values.push(p),
                    ValueProto::Sequence(p) => {
                        proto.elem_type = 3;
                        proto.sequence_values.push(p);
                    }
                    ValueProto::Optional(p) => {
                        proto.elem_type = 5;
                        proto.optional_values.push(*p);
                    }
                }
            }
            Ok(ValueProto::Sequence(proto))
        }
        Value::Optional(inner) => {
            let mut proto = OptionalProto { name: name.to_owned(), ..OptionalProto::default() };
            match inner.as_deref().map(|v| write_value("", v)).transpose()? {
                None => {}
                Some(ValueProto::Tensor(p)) => {
                    proto.elem_type = 1;
                    proto.tensor_value = Some(p);
                }
                Some(ValueProto::Sequence(p)) => {
                    proto.elem_type = 3;
                    proto.sequence_value = Some(p);
                }
                Some(ValueProto::Optional(p)) => {
                    proto.elem_type = 5;
                    proto.optional_value = Some(p);
                }
            }
            Ok(ValueProto::Optional(Box::new(proto)))
        }
        other => Err(TensorError::Kind { expected: "tensor, sequence or optional", actual: other.kind() }),
    }
}

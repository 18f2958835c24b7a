use crate::{Tensor, TensorError};

/// What flows along an edge of a graph at run time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values of one type.
    Sequence(Vec<Value>),
    /// A value that may be absent.
    Optional(Option<Box<Value>>),
}

impl Value {
    /// The tensor inside.
    ///
    /// # Errors
    /// [`TensorError::Kind`] for sequences and optionals.
    pub fn as_tensor(&self) -> Result<&Tensor, TensorError> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => Err(TensorError::Kind { expected: "tensor", actual: other.kind() }),
        }
    }

    /// The tensor inside, taken out.
    ///
    /// # Errors
    /// [`TensorError::Kind`] for sequences and optionals.
    pub fn into_tensor(self) -> Result<Tensor, TensorError> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => Err(TensorError::Kind { expected: "tensor", actual: other.kind() }),
        }
    }

    /// `tensor`, `sequence` or `optional`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "tensor",
            Value::Sequence(_) => "sequence",
            Value::Optional(_) => "optional",
        }
    }

    /// Bytes of memory that the tensors inside take.
    pub fn byte_len(&self) -> usize {
        match self {
            Value::Tensor(t) => t.byte_len(),
            Value::Sequence(v) => v.iter().map(Value::byte_len).sum(),
            Value::Optional(v) => v.as_ref().map_or(0, |v| v.byte_len()),
        }
    }

    /// As [`Tensor::same_bits`], element by element.
    pub fn same_bits(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Tensor(a), Value::Tensor(b)) => a.same_bits(b),
            (Value::Sequence(a), Value::Sequence(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b))
            }
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same_bits(b),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Self {
        Value::Tensor(t)
    }
}

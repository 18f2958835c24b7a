use super::{
    OnnxError, ParseLimits,
    proto::{OptionalProto, SequenceProto, TensorProto, TypeProto, TypeValue},
    schema::Kind,
    sparse::read_sparse,
    tensor::read_tensor,
    wire,
};
use crate::external::ExternalData;
use bytes::Bytes;
use std::fmt::Display;
use tensormill_tensor::Value;

/// Which message a data file holds: the bytes do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// A `TensorProto`.
    Tensor,
    /// A `SequenceProto`.
    Sequence,
    /// An `OptionalProto`.
    Optional,
}

impl ValueKind {
    /// The message that holds values of a declared type; `None` for maps and other kinds that are no values here.
    pub fn of(declared: &TypeProto) -> Option<ValueKind> {
        match declared.value.as_ref()? {
            TypeValue::Tensor(_) => Some(ValueKind::Tensor),
            TypeValue::Sequence(_) => Some(ValueKind::Sequence),
            TypeValue::Optional(_) => Some(ValueKind::Optional),
            TypeValue::Map(_) | TypeValue::Opaque(_) | TypeValue::SparseTensor(_) => None,
        }
    }
}

/// Reads a value from a file of its own, such as the inputs and outputs of conformance cases.
///
/// # Errors
/// Those of decoding and of [`read_tensor`]; [`OnnxError::Unsupported`] for maps.
pub fn parse_value(
    kind: ValueKind,
    bytes: Bytes,
    limits: &ParseLimits,
    external: &ExternalData,
) -> Result<Value, OnnxError> {
    let cx = Cx { limits, external };
    match kind {
        ValueKind::Tensor => {
            let (proto, _) = wire::decode::<TensorProto>(Kind::Tensor, bytes, limits)?;
            Ok(read_tensor(&proto, &"tensor", limits, external)?.into())
        }
        ValueKind::Sequence => {
            let (proto, _) = wire::decode::<SequenceProto>(Kind::Sequence, bytes, limits)?;
            cx.sequence(&proto, &"sequence")
        }
        ValueKind::Optional => {
            let (proto, _) = wire::decode::<OptionalProto>(Kind::Optional, bytes, limits)?;
            cx.optional(&proto, &"optional")
        }
    }
}

struct Cx<'a> {
    limits: &'a ParseLimits,
    external: &'a ExternalData,
}

/// The fields of both messages, numbered as their `elem_type` is.
const FIELDS: [&str; 6] = ["nothing", "tensors", "sparse tensors", "sequences", "maps", "optionals"];

// Sequences and optionals call each other; the decoder has limited how deep they can be.
impl Cx<'_> {
    fn sequence(&self, p: &SequenceProto, at: &dyn Display) -> Result<Value, OnnxError> {
        let counts = [
            0,
            p.tensor_values.len(),
            p.sparse_tensor_values.len(),
            p.sequence_values.len(),
            p.map_values.len(),
            p.optional_values.len(),
        ];
        let items: Result<Vec<Value>, OnnxError> = match self.chosen(p.elem_type, counts, at)? {
            1 => each(&p.tensor_values, |t, i| {
                Ok(read_tensor(t, &format_args!("{at}[{i}]"), self.limits, self.external)?.into())
            }),
            2 => each(&p.sparse_tensor_values, |t, i| {
                Ok(read_sparse(t, &format_args!("{at}[{i}]"), self.limits, self.external)?.into())
            }),
            3 => each(&p.sequence_values, |s, i| self.sequence(s, &format!("{at}[{i}]"))),
            5 => each(&p.optional_values, |o, i| self.optional(o, &format!("{at}[{i}]"))),
            4 => Err(OnnxError::Unsupported { at: at.to_string(), what: "maps" }),
            _ => Ok(Vec::new()),
        };
        Ok(Value::Sequence(items?))
    }

    fn optional(&self, p: &OptionalProto, at: &dyn Display) -> Result<Value, OnnxError> {
        let counts = [
            0,
            p.tensor_value.is_some().into(),
            p.sparse_tensor_value.is_some().into(),
            p.sequence_value.is_some().into(),
            p.map_value.is_some().into(),
            p.optional_value.is_some().into(),
        ];
        let which = self.chosen(p.elem_type, counts, at)?;
        if counts[which] == 0 {
            return Ok(Value::Optional(None));
        }
        let inner = match (&p.tensor_value, &p.sparse_tensor_value, &p.sequence_value, &p.optional_value) {
            (Some(t), ..) => read_tensor(t, at, self.limits, self.external)?.into(),
            (_, Some(t), ..) => read_sparse(t, at, self.limits, self.external)?.into(),
            (_, _, Some(s), _) => self.sequence(s, at)?,
            (.., Some(o)) => self.optional(o, at)?,
            _ => return Err(OnnxError::Unsupported { at: at.to_string(), what: "maps" }),
        };
        Ok(Value::Optional(Some(Box::new(inner))))
    }

    /// The field that `elem_type` names, checked to be the only one with content.
    fn chosen(&self, elem_type: i32, counts: [usize; 6], at: &dyn Display) -> Result<usize, OnnxError> {
        let attribute = |what: String| OnnxError::Attribute { at: at.to_string(), what };
        let which = usize::try_from(elem_type).ok().filter(|&t| t < counts.len());
        let which = which.ok_or_else(|| attribute(format!("elem_type {elem_type} is unknown")))?;
        match (0..counts.len()).find(|&i| i != which && counts[i] > 0) {
            Some(other) => {
                Err(attribute(format!("elem_type says {}, but there are {}", FIELDS[which], FIELDS[other])))
            }
            None => Ok(which),
        }
    }
}

fn each<T>(
    items: &[T],
    mut read: impl FnMut(&T, usize) -> Result<Value, OnnxError>,
) -> Result<Vec<Value>, OnnxError> {
    items.iter().enumerate().map(|(i, item)| read(item, i)).collect()
}

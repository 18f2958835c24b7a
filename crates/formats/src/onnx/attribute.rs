use super::proto::{AttributeProto, GraphProto, SparseTensorProto, TensorProto, TypeProto};
use bytes::Bytes;

/// The value of an attribute, borrowed from its message.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum AttributeValue<'a> {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A string; most often UTF-8, which is for the operator to say.
    String(&'a [u8]),
    /// A tensor.
    Tensor(&'a TensorProto),
    /// A graph.
    Graph(&'a GraphProto),
    /// A sparse tensor.
    SparseTensor(&'a SparseTensorProto),
    /// A type.
    Type(&'a TypeProto),
    /// Floats.
    Floats(&'a [f32]),
    /// Integers.
    Ints(&'a [i64]),
    /// Strings.
    Strings(&'a [Bytes]),
    /// Tensors.
    Tensors(&'a [TensorProto]),
    /// Graphs.
    Graphs(&'a [GraphProto]),
    /// Sparse tensors.
    SparseTensors(&'a [SparseTensorProto]),
    /// Types.
    Types(&'a [TypeProto]),
    /// In a function body: the value of the function's attribute of this name.
    Reference(&'a str),
}

/// The numbers in `AttributeProto.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum AttributeType {
    /// A float, in `f`.
    Float = 1,
    /// An integer, in `i`.
    Int = 2,
    /// A string, in `s`.
    String = 3,
    /// A tensor, in `t`.
    Tensor = 4,
    /// A graph, in `g`.
    Graph = 5,
    /// Floats, in `floats`.
    Floats = 6,
    /// Integers, in `ints`.
    Ints = 7,
    /// Strings, in `strings`.
    Strings = 8,
    /// Tensors, in `tensors`.
    Tensors = 9,
    /// Graphs, in `graphs`.
    Graphs = 10,
    /// A sparse tensor, in `sparse_tensor`.
    SparseTensor = 11,
    /// Sparse tensors, in `sparse_tensors`.
    SparseTensors = 12,
    /// A type, in `tp`.
    Type = 13,
    /// Types, in `type_protos`.
    Types = 14,
}

use AttributeType as T;

/// Every type, the name of its field, and whether that field has something.
fn fields(a: &AttributeProto) -> [(AttributeType, &'static str, bool); 14] {
    [
        (T::Float, "f", a.f.is_some()),
        (T::Int, "i", a.i.is_some()),
        (T::String, "s", a.s.is_some()),
        (T::Tensor, "t", a.t.is_some()),
        (T::Graph, "g", a.g.is_some()),
        (T::Floats, "floats", !a.floats.is_empty()),
        (T::Ints, "ints", !a.ints.is_empty()),
        (T::Strings, "strings", !a.strings.is_empty()),
        (T::Tensors, "tensors", !a.tensors.is_empty()),
        (T::Graphs, "graphs", !a.graphs.is_empty()),
        (T::SparseTensor, "sparse_tensor", a.sparse_tensor.is_some()),
        (T::SparseTensors, "sparse_tensors", !a.sparse_tensors.is_empty()),
        (T::Type, "tp", a.tp.is_some()),
        (T::Types, "type_protos", !a.type_protos.is_empty()),
    ]
}

impl AttributeProto {
    /// The value, from the one field that the attribute's type names.
    ///
    /// A number or a string that is absent is 0 or empty, since some writers leave those out. An
    /// attribute without a type, which old files have, is of the type of its only field.
    ///
    /// # Errors
    /// What is wrong, in words: an unknown type, no value, or values in other fields.
    pub fn value(&self) -> Result<AttributeValue<'_>, String> {
        let fields = fields(self);
        let mut present = fields.iter().filter(|f| f.2);
        if !self.ref_attr_name.is_empty() {
            return match present.next() {
                None => Ok(AttributeValue::Reference(&self.ref_attr_name)),
                Some((_, name, _)) => Err(format!("ref_attr_name and {name} are both set")),
            };
        }
        let kind = match self.r#type {
            0 => match (present.next(), present.next()) {
                (Some((only, ..)), None) => *only,
                (None, _) => return Err("the attribute has neither a type nor a value".into()),
                (Some((_, a, _)), Some((_, b, _))) => {
                    return Err(format!("{a} and {b} are both set, and no type"));
                }
            },
            code => {
                let field = fields.iter().find(|f| f.0 as i32 == code);
                let (kind, own, _) = field.ok_or_else(|| format!("attribute type {code} is unknown"))?;
                if let Some((_, other, _)) = present.find(|f| f.0 != *kind) {
                    return Err(format!("the type asks for {own}, but {other} is set"));
                }
                *kind
            }
        };
        let missing = || "the attribute's type has no value".to_owned();
        Ok(match kind {
            T::Float => AttributeValue::Float(self.f.unwrap_or(0.0)),
            T::Int => AttributeValue::Int(self.i.unwrap_or(0)),
            T::String => AttributeValue::String(self.s.as_deref().unwrap_or(&[])),
            T::Tensor => AttributeValue::Tensor(self.t.as_deref().ok_or_else(missing)?),
            T::Graph => AttributeValue::Graph(self.g.as_deref().ok_or_else(missing)?),
            T::SparseTensor => {
                AttributeValue::SparseTensor(self.sparse_tensor.as_deref().ok_or_else(missing)?)
            }
            T::Type => AttributeValue::Type(self.tp.as_deref().ok_or_else(missing)?),
            T::Floats => AttributeValue::Floats(&self.floats),
            T::Ints => AttributeValue::Ints(&self.ints),
            T::Strings => AttributeValue::Strings(&self.strings),
            T::Tensors => AttributeValue::Tensors(&self.tensors),
            T::Graphs => AttributeValue::Graphs(&self.graphs),
            T::SparseTensors => AttributeValue::SparseTensors(&self.sparse_tensors),
            T::Types => AttributeValue::Types(&self.type_protos),
        })
    }
}

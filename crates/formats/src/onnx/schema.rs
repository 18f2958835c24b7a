//! What each field of each message is, as far as [`wire`](super::wire) must know to walk them.

use super::proto::*;

/// A message of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Entry,
    OpsetId,
    Function,
    Annotation,
    Tensor,
    Segment,
    SparseTensor,
    Type,
    TensorType,
    SequenceType,
    MapType,
    OptionalType,
    OpaqueType,
    Shape,
    Dimension,
    Sequence,
    Map,
    Optional,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Message(Kind),
    /// UTF-8.
    Text,
    /// Shared with the buffer when decoded.
    Bytes,
    /// Integers of so many bytes once decoded, one or packed.
    Varint(u64),
    /// Four bytes, one or packed.
    Fixed32,
    /// Eight bytes, one or packed.
    Fixed64,
}

impl Kind {
    /// The message's name in the format.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Model => "ModelProto",
            Kind::Graph => "GraphProto",
            Kind::Node => "NodeProto",
            Kind::Attribute => "AttributeProto",
            Kind::ValueInfo => "ValueInfoProto",
            Kind::Entry => "StringStringEntryProto",
            Kind::OpsetId => "OperatorSetIdProto",
            Kind::Function => "FunctionProto",
            Kind::Annotation => "TensorAnnotation",
            Kind::Tensor => "TensorProto",
            Kind::Segment => "TensorProto.Segment",
            Kind::SparseTensor => "SparseTensorProto",
            Kind::Type => "TypeProto",
            Kind::TensorType => "TypeProto.Tensor",
            Kind::SequenceType => "TypeProto.Sequence",
            Kind::MapType => "TypeProto.Map",
            Kind::OptionalType => "TypeProto.Optional",
            Kind::OpaqueType => "TypeProto.Opaque",
            Kind::Shape => "TensorShapeProto",
            Kind::Dimension => "TensorShapeProto.Dimension",
            Kind::Sequence => "SequenceProto",
            Kind::Map => "MapProto",
            Kind::Optional => "OptionalProto",
        }
    }

    /// Memory that one decoded message takes, its fields' own memory not counted.
    pub(crate) fn size(self) -> u64 {
        (match self {
            Kind::Model => size_of::<ModelProto>(),
            Kind::Graph => size_of::<GraphProto>(),
            Kind::Node => size_of::<NodeProto>(),
            Kind::Attribute => size_of::<AttributeProto>(),
            Kind::ValueInfo => size_of::<ValueInfoProto>(),
            Kind::Entry => size_of::<StringStringEntryProto>(),
            Kind::OpsetId => size_of::<OperatorSetIdProto>(),
            Kind::Function => size_of::<FunctionProto>(),
            Kind::Annotation => size_of::<TensorAnnotation>(),
            Kind::Tensor => size_of::<TensorProto>(),
            Kind::Segment => size_of::<Segment>(),
            Kind::SparseTensor => size_of::<SparseTensorProto>(),
            Kind::Type => size_of::<TypeProto>(),
            Kind::TensorType => size_of::<TensorType>(),
            Kind::SequenceType => size_of::<SequenceType>(),
            Kind::MapType => size_of::<MapType>(),
            Kind::OptionalType => size_of::<OptionalType>(),
            Kind::OpaqueType => size_of::<OpaqueType>(),
            Kind::Shape => size_of::<TensorShapeProto>(),
            Kind::Dimension => size_of::<Dimension>(),
            Kind::Sequence => size_of::<SequenceProto>(),
            Kind::Map => size_of::<MapProto>(),
            Kind::Optional => size_of::<OptionalProto>(),
        }) as u64
    }

    /// Name and content of a field; `None` when the format has no such field.
    pub(crate) fn field(self, number: u32) -> Option<(&'static str, Field)> {
        use Field::{Bytes, Fixed32, Fixed64, Message, Text, Varint};
        let entries = ("metadata_props", Message(Kind::Entry));
        Some(match (self, number) {
            (Kind::Model, 1) => ("ir_version", Varint(8)),
            (Kind::Model, 2) => ("producer_name", Text),
            (Kind::Model, 3) => ("producer_version", Text),
            (Kind::Model, 4) => ("domain", Text),
            (Kind::Model, 5) => ("model_version", Varint(8)),
            (Kind::Model, 6) => ("doc_string", Text),
            (Kind::Model, 7) => ("graph", Message(Kind::Graph)),
            (Kind::Model, 8) => ("opset_import", Message(Kind::OpsetId)),
            (Kind::Model, 14) => entries,
            (Kind::Model, 20) => ("training_info", Bytes),
            (Kind::Model, 25) => ("functions", Message(Kind::Function)),
            (Kind::Model, 26) => ("configuration", Bytes),

            (Kind::Graph, 1) => ("node", Message(Kind::Node)),
            (Kind::Graph, 2) => ("name", Text),
            (Kind::Graph, 5) => ("initializer", Message(Kind::Tensor)),
            (Kind::Graph, 10) => ("doc_string", Text),
            (Kind::Graph, 11) => ("input", Message(Kind::ValueInfo)),
            (Kind::Graph, 12) => ("output", Message(Kind::ValueInfo)),
            (Kind::Graph, 13) => ("value_info", Message(Kind::ValueInfo)),
            (Kind::Graph, 14) => ("quantization_annotation", Message(Kind::Annotation)),
            (Kind::Graph, 15) => ("sparse_initializer", Message(Kind::SparseTensor)),
            (Kind::Graph, 16) => entries,

            (Kind::Node, 1) => ("input", Text),
            (Kind::Node, 2) => ("output", Text),
            (Kind::Node, 3) => ("name", Text),
            (Kind::Node, 4) => ("op_type", Text),
            (Kind::Node, 5) => ("attribute", Message(Kind::Attribute)),
            (Kind::Node, 6) => ("doc_string", Text),
            (Kind::Node, 7) => ("domain", Text),
            (Kind::Node, 8) => ("overload", Text),
            (Kind::Node, 9) => entries,
            (Kind::Node, 10) => ("device_configurations", Bytes),

            (Kind::Attribute, 1) => ("name", Text),
            (Kind::Attribute, 2) => ("f", Fixed32),
            (Kind::Attribute, 3) => ("i", Varint(8)),
            (Kind::Attribute, 4) => ("s", Bytes),
            (Kind::Attribute, 5) => ("t", Message(Kind::Tensor)),
            (Kind::Attribute, 6) => ("g", Message(Kind::Graph)),
            (Kind::Attribute, 7) => ("floats", Fixed32),
            (Kind::Attribute, 8) => ("ints", Varint(8)),
            (Kind::Attribute, 9) => ("strings", Bytes),
            (Kind::Attribute, 10) => ("tensors", Message(Kind::Tensor)),
            (Kind::Attribute, 11) => ("graphs", Message(Kind::Graph)),
            (Kind::Attribute, 13) => ("doc_string", Text),
            (Kind::Attribute, 14) => ("tp", Message(Kind::Type)),
            (Kind::Attribute, 15) => ("type_protos", Message(Kind::Type)),
            (Kind::Attribute, 20) => ("type", Varint(4)),
            (Kind::Attribute, 21) => ("ref_attr_name", Text),
            (Kind::Attribute, 22) => ("sparse_tensor", Message(Kind::SparseTensor)),
            (Kind::Attribute, 23) => ("sparse_tensors", Message(Kind::SparseTensor)),

            (Kind::ValueInfo, 1) => ("name", Text),
            (Kind::ValueInfo, 2) => ("type", Message(Kind::Type)),
            (Kind::ValueInfo, 3) => ("doc_string", Text),
            (Kind::ValueInfo, 4) => entries,

            (Kind::Entry, 1) => ("key", Text),
            (Kind::Entry, 2) => ("value", Text),

            (Kind::OpsetId, 1) => ("domain", Text),
            (Kind::OpsetId, 2) => ("version", Varint(8)),

            (Kind::Function, 1) => ("name", Text),
            (Kind::Function, 4) => ("input", Text),
            (Kind::Function, 5) => ("output", Text),
            (Kind::Function, 6) => ("attribute", Text),
            (Kind::Function, 7) => ("node", Message(Kind::Node)),
            (Kind::Function, 8) => ("doc_string", Text),
            (Kind::Function, 9) => ("opset_import", Message(Kind::OpsetId)),
            (Kind::Function, 10) => ("domain", Text),
            (Kind::Function, 11) => ("attribute_proto", Message(Kind::Attribute)),
            (Kind::Function, 12) => ("value_info", Message(Kind::ValueInfo)),
            (Kind::Function, 13) => ("overload", Text),
            (Kind::Function, 14) => entries,

            (Kind::Annotation, 1) => ("tensor_name", Text),
            (Kind::Annotation, 2) => ("quant_parameter_tensor_names", Message(Kind::Entry)),

            (Kind::Tensor, 1) => ("dims", Varint(8)),
            (Kind::Tensor, 2) => ("data_type", Varint(4)),
            (Kind::Tensor, 3) => ("segment", Message(Kind::Segment)),
            (Kind::Tensor, 4) => ("float_data", Fixed32),
            (Kind::Tensor, 5) => ("int32_data", Varint(4)),
            (Kind::Tensor, 6) => ("string_data", Bytes),
            (Kind::Tensor, 7) => ("int64_data", Varint(8)),
            (Kind::Tensor, 8) => ("name", Text),
            (Kind::Tensor, 9) => ("raw_data", Bytes),
            (Kind::Tensor, 10) => ("double_data", Fixed64),
            (Kind::Tensor, 11) => ("uint64_data", Varint(8)),
            (Kind::Tensor, 12) => ("doc_string", Text),
            (Kind::Tensor, 13) => ("external_data", Message(Kind::Entry)),
            (Kind::Tensor, 14) => ("data_location", Varint(4)),
            (Kind::Tensor, 16) => entries,

            (Kind::Segment, 1) => ("begin", Varint(8)),
            (Kind::Segment, 2) => ("end", Varint(8)),

            (Kind::SparseTensor, 1) => ("values", Message(Kind::Tensor)),
            (Kind::SparseTensor, 2) => ("indices", Message(Kind::Tensor)),
            (Kind::SparseTensor, 3) => ("dims", Varint(8)),

            (Kind::Type, 1) => ("tensor_type", Message(Kind::TensorType)),
            (Kind::Type, 4) => ("sequence_type", Message(Kind::SequenceType)),
            (Kind::Type, 5) => ("map_type", Message(Kind::MapType)),
            (Kind::Type, 6) => ("denotation", Text),
            (Kind::Type, 7) => ("opaque_type", Message(Kind::OpaqueType)),
            // A sparse tensor's type has the fields of a tensor's.
            (Kind::Type, 8) => ("sparse_tensor_type", Message(Kind::TensorType)),
            (Kind::Type, 9) => ("optional_type", Message(Kind::OptionalType)),
            (Kind::TensorType, 1) => ("elem_type", Varint(4)),
            (Kind::TensorType, 2) => ("shape", Message(Kind::Shape)),
            (Kind::SequenceType | Kind::OptionalType, 1) => ("elem_type", Message(Kind::Type)),
            (Kind::MapType, 1) => ("key_type", Varint(4)),
            (Kind::MapType, 2) => ("value_type", Message(Kind::Type)),
            (Kind::OpaqueType, 1) => ("domain", Text),
            (Kind::OpaqueType, 2) => ("name", Text),
            (Kind::Shape, 1) => ("dim", Message(Kind::Dimension)),
            (Kind::Dimension, 1) => ("dim_value", Varint(8)),
            (Kind::Dimension, 2) => ("dim_param", Text),
            (Kind::Dimension, 3) => ("denotation", Text),

            (Kind::Sequence | Kind::Map | Kind::Optional, 1) => ("name", Text),
            (Kind::Sequence | Kind::Optional, 2) => ("elem_type", Varint(4)),
            (Kind::Sequence, 3) => ("tensor_values", Message(Kind::Tensor)),
            (Kind::Sequence, 4) => ("sparse_tensor_values", Message(Kind::SparseTensor)),
            (Kind::Sequence, 5) => ("sequence_values", Message(Kind::Sequence)),
            (Kind::Sequence, 6) => ("map_values", Message(Kind::Map)),
            (Kind::Sequence, 7) => ("optional_values", Message(Kind::Optional)),
            (Kind::Map, 2) => ("key_type", Varint(4)),
            (Kind::Map, 3) => ("keys", Varint(8)),
            (Kind::Map, 4) => ("string_keys", Bytes),
            (Kind::Map, 5) => ("values", Message(Kind::Sequence)),
            (Kind::Optional, 3) => ("tensor_value", Message(Kind::Tensor)),
            (Kind::Optional, 4) => ("sparse_tensor_value", Message(Kind::SparseTensor)),
            (Kind::Optional, 5) => ("sequence_value", Message(Kind::Sequence)),
            (Kind::Optional, 6) => ("map_value", Message(Kind::Map)),
            (Kind::Optional, 7) => ("optional_value", Message(Kind::Optional)),
            _ => return None,
        })
    }
}

use super::{SparseTensorProto, TensorProto};
use bytes::Bytes;

/// A list of values of one kind, outside of a model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SequenceProto {
    /// The value's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Which of the lists is used: 1 tensors, 2 sparse tensors, 3 sequences, 4 maps, 5 optionals.
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    /// Elements that are tensors.
    #[prost(message, repeated, tag = "3")]
    pub tensor_values: Vec<TensorProto>,
    /// Elements that are sparse tensors.
    #[prost(message, repeated, tag = "4")]
    pub sparse_tensor_values: Vec<SparseTensorProto>,
    /// Elements that are sequences.
    #[prost(message, repeated, tag = "5")]
    pub sequence_values: Vec<SequenceProto>,
    /// Elements that are maps.
    #[prost(message, repeated, tag = "6")]
    pub map_values: Vec<MapProto>,
    /// Elements that are optionals.
    #[prost(message, repeated, tag = "7")]
    pub optional_values: Vec<OptionalProto>,
}

/// A dictionary, outside of a model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapProto {
    /// The value's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number of the keys' type.
    #[prost(int32, tag = "2")]
    pub key_type: i32,
    /// Keys of an integer type.
    #[prost(int64, repeated, tag = "3")]
    pub keys: Vec<i64>,
    /// Keys of type STRING.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub string_keys: Vec<Bytes>,
    /// One value per key.
    #[prost(message, optional, tag = "5")]
    pub values: Option<SequenceProto>,
}

/// A value that may be absent, outside of a model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionalProto {
    /// The value's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Which of the fields is used, numbered as in [`SequenceProto`]; 0 when the value is absent.
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    /// A tensor.
    #[prost(message, optional, tag = "3")]
    pub tensor_value: Option<TensorProto>,
    /// A sparse tensor.
    #[prost(message, optional, tag = "4")]
    pub sparse_tensor_value: Option<SparseTensorProto>,
    /// A sequence.
    #[prost(message, optional, tag = "5")]
    pub sequence_value: Option<SequenceProto>,
    /// A map.
    #[prost(message, optional, tag = "6")]
    pub map_value: Option<MapProto>,
    /// An optional.
    #[prost(message, optional, boxed, tag = "7")]
    pub optional_value: Option<Box<OptionalProto>>,
}

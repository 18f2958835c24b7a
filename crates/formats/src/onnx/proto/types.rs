/// The type of a value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// What kind of value, and of what.
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 7, 8, 9")]
    pub value: Option<TypeValue>,
    /// A standard meaning of the value (`IMAGE`, `AUDIO`, ..).
    #[prost(string, tag = "6")]
    pub denotation: String,
}

/// The kinds of values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum TypeValue {
    /// A tensor.
    #[prost(message, tag = "1")]
    Tensor(TensorType),
    /// A list of values of one type.
    #[prost(message, tag = "4")]
    Sequence(SequenceType),
    /// A dictionary.
    #[prost(message, tag = "5")]
    Map(MapType),
    /// Something that only its domain knows.
    #[prost(message, tag = "7")]
    Opaque(OpaqueType),
    /// A sparse tensor.
    #[prost(message, tag = "8")]
    SparseTensor(SparseTensorType),
    /// A value that may be absent.
    #[prost(message, tag = "9")]
    Optional(OptionalType),
}

/// The type of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Number of the element type.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// The shape; without one, not even the rank is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// The type of a sparse tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseTensorType {
    /// Number of the element type.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// The shape of the tensor that it stands for.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// The type of a list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SequenceType {
    /// The type of every element.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// The type of a dictionary.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapType {
    /// Number of the keys' type: an integer or STRING.
    #[prost(int32, tag = "1")]
    pub key_type: i32,
    /// The type of every value.
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<TypeProto>>,
}

/// The type of what may be absent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionalType {
    /// The type when it is there.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// A type known by name only.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpaqueType {
    /// Namespace of the name.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Sizes of axes, known or not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// One entry per axis.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// The size of an axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// The size or its name; neither when it is just unknown.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
    /// A standard meaning of the axis.
    #[prost(string, tag = "3")]
    pub denotation: String,
}

/// What is known of an axis.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// Its size.
    #[prost(int64, tag = "1")]
    Size(i64),
    /// The name of its size: axes with equal names have equal sizes.
    #[prost(string, tag = "2")]
    Name(String),
}

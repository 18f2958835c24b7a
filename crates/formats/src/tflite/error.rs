use super::flat::FlatError;
use tensormill_tensor::TensorError;

/// Why a TensorFlow Lite file could not be read. Every variant says where in the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TfliteError {
    /// An offset, length or field that the bytes do not bear out.
    #[error("not a valid TensorFlow Lite file: {at} at byte {offset}: {what}")]
    Flat {
        /// The field, as a path of fields.
        at: String,
        /// Where in the file.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The bytes do not say that they are such a file.
    #[error("the file has no identifier TFL3: it is no TensorFlow Lite model, or it was cut off")]
    NoIdentifier,
    /// A version of the file format that is not known here.
    #[error("version {found} of the file format is not supported: known is 3; convert the model again")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The model has no subgraph.
    #[error("the model has no subgraph, so there is nothing to run")]
    NoGraph,
    /// The model asks for more than the limits allow.
    #[error("{at}: {what} exceed the limit of {limit}; if the file is trusted, raise `ParseLimits::{field}`")]
    Limit {
        /// Where the limit was reached.
        at: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit in force.
        limit: u64,
        /// The field of [`ParseLimits`](crate::tflite::ParseLimits) that holds it.
        field: &'static str,
    },
    /// A number in the file that names nothing, or makes no sense.
    #[error("{at}: {what}")]
    Value {
        /// The field.
        at: String,
        /// What is wrong.
        what: String,
    },
    /// A tensor whose type, shape and data do not make sense together.
    #[error("{at}: {source}")]
    Tensor {
        /// The tensor.
        at: String,
        /// What is wrong.
        #[source]
        source: TensorError,
    },
    /// Something that the format allows and this reader does not.
    #[error("{at}: {what} not supported")]
    Unsupported {
        /// Where.
        at: String,
        /// What, with its verb.
        what: String,
    },
}

impl TfliteError {
    pub(super) fn flat(at: impl std::fmt::Display, e: FlatError) -> TfliteError {
        TfliteError::Flat { at: at.to_string(), offset: e.offset, what: e.what }
    }

    pub(super) fn value<T>(at: impl std::fmt::Display, what: impl Into<String>) -> Result<T, TfliteError> {
        Err(TfliteError::Value { at: at.to_string(), what: what.into() })
    }
}

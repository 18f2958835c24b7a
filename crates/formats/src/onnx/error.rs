use crate::{external::ExternalError, onnx::TensorProblem};

/// Why an ONNX file could not be read. Every variant says where in the file; [`OnnxError::File`] adds
/// which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// An error in a file that was opened by its path.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<OnnxError>,
    },
    /// The file cannot be opened or mapped.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are no protobuf message of the expected kind.
    #[error("not a valid ONNX file: {at} at byte {offset}: {what}")]
    Wire {
        /// The field, as a path of fields.
        at: String,
        /// Where in the file, as far as known.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// The message has no graph: it may be another kind of protobuf file.
    #[error("the file has no graph: it is no ONNX model, or it was cut off")]
    NoGraph,
    /// A version of the file format that is not known here.
    #[error(
        "IR version {found} is not supported: known are {min} to {max}; convert the model with a newer or older exporter"
    )]
    IrVersion {
        /// The version in the file.
        found: i64,
        /// The oldest version that is read.
        min: i64,
        /// The newest version that is read.
        max: i64,
    },
    /// No version of ONNX's own operators is named.
    #[error("{at} imports no version of the standard operator set, but uses it")]
    NoOpset {
        /// The model or function.
        at: String,
    },
    /// A version of an operator set that is not known here.
    #[error("{at} asks for version {found} of operator set {domain}: known are 1 to {max}")]
    Opset {
        /// The model or function.
        at: String,
        /// The operator set, quoted.
        domain: String,
        /// The version in the file.
        found: i64,
        /// The newest version that is read.
        max: i64,
    },
    /// One operator set is imported in two versions.
    #[error("{at} imports operator set {domain} twice, as version {first} and as version {second}")]
    OpsetTwice {
        /// The model or function.
        at: String,
        /// The operator set, quoted.
        domain: String,
        /// One version.
        first: i64,
        /// The other.
        second: i64,
    },
    /// The model asks for more than the limits allow.
    #[error("{at}: {what} exceed the limit of {limit}; if the file is trusted, raise `ParseLimits::{field}`")]
    Limit {
        /// Where the limit was reached.
        at: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit in force.
        limit: u64,
        /// The field of [`ParseLimits`](crate::onnx::ParseLimits) that holds it.
        field: &'static str,
    },
    /// A tensor whose type, shape and data do not make sense together.
    #[error("{at}: {source}")]
    Tensor {
        /// The tensor.
        at: String,
        /// What is wrong.
        #[source]
        source: Box<TensorProblem>,
    },
    /// Data in another file that cannot be had.
    #[error("{at}: {source}")]
    External {
        /// The tensor.
        at: String,
        /// What is wrong.
        #[source]
        source: ExternalError,
    },
    /// An attribute whose type and value do not make sense together.
    #[error("{at}: {what}")]
    Attribute {
        /// The attribute.
        at: String,
        /// What is wrong.
        what: String,
    },
    /// Two functions of one identity.
    #[error("function {id} is defined twice")]
    FunctionTwice {
        /// The function.
        id: String,
    },
    /// A function that calls itself, perhaps through others.
    #[error("function {id} calls itself: {chain}")]
    Recursion {
        /// The function.
        id: String,
        /// The calls, from the function back to itself.
        chain: String,
    },
    /// Something that ONNX allows and this reader does not.
    #[error("{at}: {what} are not supported")]
    Unsupported {
        /// Where.
        at: String,
        /// What, in the plural.
        what: &'static str,
    },
}

impl OnnxError {
    /// The same error, naming the file that it is in.
    pub fn in_file(self, path: &std::path::Path) -> OnnxError {
        OnnxError::File { path: path.display().to_string(), source: Box::new(self) }
    }
}

/// What was odd about a file that could be read all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A field that this reader does not know, and skipped: the file may be of a newer format.
    UnknownField {
        /// The message that has it.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// An external file whose checksum was not verified.
    UncheckedChecksum {
        /// The name in the model, quoted.
        location: String,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::UnknownField { message, field } => {
                write!(f, "unknown field {field} of {message} is skipped")
            }
            Warning::UncheckedChecksum { location } => {
                write!(f, "the checksum of {location} is not verified")
            }
        }
    }
}

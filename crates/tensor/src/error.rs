use crate::DType;

/// What can be wrong with a tensor or a file of tensors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The element count does not fit in memory arithmetic.
    #[error("shape {shape:?} of {dtype} overflows the address space")]
    Overflow {
        /// The offending dims.
        shape: Vec<usize>,
        /// The element type.
        dtype: DType,
    },
    /// Data and shape disagree.
    #[error("{dtype} tensor of shape {shape:?} needs {expected} bytes or elements, but got {actual}")]
    Length {
        /// The declared dims.
        shape: Vec<usize>,
        /// The element type.
        dtype: DType,
        /// How many the shape asks for.
        expected: usize,
        /// How many were given.
        actual: usize,
    },
    /// A tensor of another element type was asked for.
    #[error("expected a {expected} tensor, got {actual}")]
    DType {
        /// The type that the caller asked for.
        expected: DType,
        /// The type that the tensor has.
        actual: DType,
    },
    /// A reshape that does not keep the element count.
    #[error("cannot view shape {from:?} as {to:?}: the element counts differ")]
    Reshape {
        /// The dims that are there.
        from: Vec<usize>,
        /// The dims that were asked for.
        to: Vec<usize>,
    },
    /// The operation has no meaning for this element type.
    #[error("{what} is not defined for {dtype}")]
    Unsupported {
        /// The operation.
        what: &'static str,
        /// The element type.
        dtype: DType,
    },
    /// Text that is not a number of the type asked for, or an integer beyond its range.
    #[error("`{text}` is not a value of {dtype}")]
    Parse {
        /// The text, cut off when long.
        text: String,
        /// The element type asked for.
        dtype: DType,
    },
    /// A sequence or an optional where a tensor was expected, or the reverse.
    #[error("expected a {expected}, got a {actual}")]
    Kind {
        /// What the caller asked for.
        expected: &'static str,
        /// What the value is.
        actual: &'static str,
    },
    /// A tensor file that could not be read or written.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: String,
        /// What went wrong.
        what: String,
    },
}

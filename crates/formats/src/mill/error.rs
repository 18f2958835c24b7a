use tensormill_ir::IrError;

/// Why a `.mill` file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MillError {
    /// An error in a file that was opened by its path.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<MillError>,
    },
    /// The file cannot be opened, mapped or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is no safetensors file, or was cut off.
    #[error("not a valid .mill file: {0}")]
    Header(String),
    /// A safetensors file without a graph: weights alone.
    #[error("the file holds tensors but no graph: it is a safetensors file of weights, not a model")]
    NoGraph,
    /// A version that is not known here.
    #[error("version {found} of the .mill format is not supported: known are 1 to {max}")]
    Version {
        /// The version in the file.
        found: String,
        /// The newest version that is read.
        max: u32,
    },
    /// The file asks for more than the limits allow.
    #[error(
        "{what} of {found} exceeds the limit of {limit}; if the file is trusted, raise `MillLimits::{field}`"
    )]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// The limit in force.
        limit: usize,
        /// The field of [`MillLimits`](super::MillLimits) that holds it.
        field: &'static str,
    },
    /// Two constants of one name in the text form, which the file cannot tell apart.
    #[error("two constants would have the name \"{}\" in the file: rename one", .0.escape_debug())]
    Name(String),
    /// The text is no graph, or names a tensor that is not there.
    #[error("the graph's text: {0}")]
    Graph(#[from] IrError),
}

impl MillError {
    pub(super) fn in_file(self, path: &std::path::Path) -> MillError {
        MillError::File { path: path.display().to_string(), source: Box::new(self) }
    }
}

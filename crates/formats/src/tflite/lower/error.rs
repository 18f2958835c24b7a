use crate::tflite::TfliteError;
use std::fmt;
use tensormill_ir::{InferError, IrError};

/// An operator that the model uses and this reader does not translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// Its name, or its number where it has none.
    pub op: String,
    /// The version of its meaning.
    pub version: i32,
    /// Positions among the model's operators.
    pub nodes: Vec<usize>,
}

impl fmt::Display for UnsupportedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let shown: Vec<String> = self.nodes.iter().take(SHOWN).map(|i| format!("operator {i}")).collect();
        write!(f, "{} (version {}) at {}", self.op, self.version, shown.join(", "))?;
        if self.nodes.len() > SHOWN {
            write!(f, " and {} more", self.nodes.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Why a checked model could not become a graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// Operators that are not translated: all of them, once.
    #[error(
        "{} operators are not supported:\n  {}\nconvert the model without them, or to ONNX (tf2onnx --tflite)",
        .0.len(), .0.iter().map(UnsupportedOp::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Unsupported(Vec<UnsupportedOp>),
    /// Something wrong with one operator.
    #[error("{at}: {source}")]
    Node {
        /// Its position and name.
        at: String,
        /// What is wrong.
        source: Box<LowerError>,
    },
    /// An option that is out of range, or that nothing reads.
    #[error("option `{name}` {what}")]
    Option {
        /// The option.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A combination of options and operands that the format allows and this reader does not translate.
    #[error("{0} is not supported")]
    Feature(String),
    /// Wrong number of operands or results, or operands of the wrong kind.
    #[error("{0}")]
    Operand(String),
    /// A tensor that cannot be read.
    #[error(transparent)]
    Parse(#[from] TfliteError),
    /// What the graph refuses.
    #[error(transparent)]
    Ir(#[from] IrError),
}

impl From<InferError> for LowerError {
    fn from(e: InferError) -> Self {
        LowerError::Operand(e.0)
    }
}

impl LowerError {
    /// A typed refusal of something that the format allows.
    pub(super) fn feature<T>(what: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Feature(what.into()))
    }

    /// A typed refusal of operands.
    pub(super) fn operand<T>(what: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Operand(what.into()))
    }

    /// A typed refusal of an option.
    pub(super) fn option<T>(name: &str, what: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Option { name: name.into(), what: what.into() })
    }

    /// Whether the model is valid but asks for something that is not translated.
    pub fn is_unsupported(&self) -> bool {
        match self {
            LowerError::Unsupported(_)
            | LowerError::Feature(_)
            | LowerError::Parse(TfliteError::Unsupported { .. }) => true,
            LowerError::Node { source, .. } => source.is_unsupported(),
            _ => false,
        }
    }
}

use crate::onnx::OnnxError;
use std::fmt;
use tensormill_ir::{InferError, IrError};

/// An operator that the model uses and this reader does not translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// Domain and operator: `Conv`, `com.microsoft::FusedGemm`.
    pub op: String,
    /// Version of the operator set that the model imports.
    pub opset: i64,
    /// Names (or places) of the nodes.
    pub nodes: Vec<String>,
}

impl fmt::Display for UnsupportedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        write!(
            f,
            "{} (opset {}) at {}",
            self.op,
            self.opset,
            self.nodes[..self.nodes.len().min(SHOWN)].join(", ")
        )?;
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
    #[error("{} operators are not supported:\n  {}", .0.len(), .0.iter().map(UnsupportedOp::to_string).collect::<Vec<_>>().join("\n  "))]
    Unsupported(Vec<UnsupportedOp>),
    /// Something wrong with one node.
    #[error("{at}: {source}")]
    Node {
        /// The body, position, name and operator of the node.
        at: String,
        /// What is wrong.
        source: Box<LowerError>,
    },
    /// An attribute that is missing, of another type, out of range, or that nothing reads.
    #[error("attribute \"{}\" {what}", tensormill_ir::shown(name))]
    Attribute {
        /// The attribute.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A combination of attributes and operands that ONNX allows and this reader does not translate.
    #[error("{0} is not supported")]
    Feature(String),
    /// A name that no node, input or initializer before it defines, or that two define.
    #[error("{0}")]
    Name(String),
    /// Wrong number of operands or results, or operands of the wrong kind.
    #[error("{0}")]
    Operand(String),
    /// A tensor that cannot be read.
    #[error(transparent)]
    Parse(#[from] OnnxError),
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
    /// A typed refusal of something that ONNX allows.
    pub(crate) fn feature<T>(what: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Feature(what.into()))
    }

    /// A typed refusal of operands.
    pub(crate) fn operand<T>(what: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Operand(what.into()))
    }

    /// Whether the model is valid but asks for something that is not translated.
    pub fn is_unsupported(&self) -> bool {
        match self {
            LowerError::Unsupported(_) | LowerError::Feature(_) => true,
            LowerError::Node { source, .. } => source.is_unsupported(),
            _ => false,
        }
    }
}

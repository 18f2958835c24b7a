use tensormill_tensor::TensorError;

/// Why an op cannot be evaluated on given operands.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The operands' values make no sense: an index out of range, an integer divided by zero.
    #[error("{0}")]
    Operand(String),
    /// The result would be larger than the limits allow.
    #[error(
        "the result would have {elements} elements; the limit is {limit}: raise it if the model is trusted"
    )]
    TooLarge {
        /// Elements of the result, saturated.
        elements: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A loop that runs longer than the limits allow.
    #[error("a loop exceeds {limit} iterations: raise the limit if the model is trusted")]
    TooLong {
        /// The limit in force.
        limit: u64,
    },
    /// A combination that ONNX allows and this code does not compute.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The caller asked to stop.
    #[error("the evaluation was cancelled")]
    Cancelled,
    /// A tensor operation that fails.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The same, in a node of a graph.
    #[error("{}`{op}`: {source}", node.as_ref().map_or_else(String::new, |n| format!("node \"{}\": ", tensormill_ir::shown(n))))]
    Node {
        /// The node's name in the source file.
        node: Option<String>,
        /// The op's name.
        op: &'static str,
        /// What is wrong.
        source: Box<EvalError>,
    },
}

/// Shorthand for a refusal of operands.
pub(crate) fn refuse<T>(what: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Operand(what.into()))
}

use tensormill_ir::IrError;

/// Why a graph cannot be compiled, or a plan cannot run at some sizes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Nodes that the backend does not run.
    #[error("{} nodes do not run on {backend}:\n  {}", nodes.len(), nodes.join("\n  "))]
    Unsupported {
        /// The backend.
        backend: &'static str,
        /// Each node with the reason.
        nodes: Vec<String>,
    },
    /// The graph refuses the operands at these sizes.
    #[error(transparent)]
    Infer(#[from] IrError),
    /// The values of a run would not fit in the limits.
    #[error(
        "a run would need {bytes} bytes for its values; the limit is {limit}: raise it if the model is trusted"
    )]
    TooLarge {
        /// Bytes needed, saturated.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// Something that the backend itself needs is missing or failed.
    #[error("{0}")]
    Device(String),
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A node failed on its operands.
    #[error("{}`{op}`: {what}", node.as_ref().map_or_else(String::new, |n| format!("node \"{}\": ", tensormill_ir::shown(n))))]
    Node {
        /// The node's name in the source file.
        node: Option<String>,
        /// The op's name.
        op: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The inputs are not those that the state was made for.
    #[error("{0}")]
    Input(String),
    /// The values of the run do not fit in the limits.
    #[error("the run needs more than {limit} bytes for its values: raise the limit if the model is trusted")]
    TooLarge {
        /// The limit in force.
        limit: usize,
    },
    /// The caller asked to stop.
    #[error("the run was cancelled")]
    Cancelled,
}

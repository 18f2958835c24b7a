use thiserror::Error;

/// Why an op's operands make no sense together. The graph adds the op and the node's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InferError(pub String);

impl InferError {
    /// An error that says `what` is wrong with the operands or attributes.
    pub fn new(what: impl Into<String>) -> Self {
        InferError(what.into())
    }
}

/// What can be wrong with a graph, a change to it, or its text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IrError {
    /// An op refuses its operands.
    #[error("{}`{op}`: {what}", node_prefix(node))]
    Infer {
        /// The node's name in the source file, if it had one.
        node: Option<String>,
        /// The op's name in the text form.
        op: &'static str,
        /// The reason, with the operand types.
        what: InferError,
    },
    /// An invariant of [`Graph::verify`](crate::Graph::verify) does not hold.
    #[error("invalid graph: {0}")]
    Verify(String),
    /// A patch that would change the meaning or the type of what it replaces.
    #[error("patch refused: {0}")]
    Patch(String),
    /// Text that is not a graph.
    #[error("line {line}: {what}")]
    Parse {
        /// Line number from 1.
        line: usize,
        /// What was expected.
        what: String,
    },
    /// A name that is taken or missing.
    #[error("{0}")]
    Name(String),
}

fn node_prefix(node: &Option<String>) -> String {
    node.as_ref().map_or_else(String::new, |n| format!("node \"{}\": ", shown(n)))
}

/// A name from a file, fit for a message: control characters, which could drive a terminal, escaped,
/// and cut off where it grows long.
pub fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut out: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.char_indices().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

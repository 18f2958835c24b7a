use std::{fmt, path::PathBuf};

/// Why a graph could not be written as an ONNX model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nodes that ONNX has no operators for, all of them.
    #[error("ONNX cannot say what these nodes compute: {}", Listed(.0))]
    Unwritable(Vec<UnwritableNode>),
    /// Names that one file cannot have together.
    #[error("the name \"{}\" stands for an output and for another value", .0.escape_debug())]
    Name(String),
    /// A message that is larger than readers take, without a file to put weights beside.
    #[error(
        "the model takes {bytes} bytes, and readers of ONNX take {limit} at most: write it to a file, which keeps weights beside it"
    )]
    TooLarge {
        /// Bytes of the message.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file that cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// What is written to fails.
    #[error("cannot be written: {0}")]
    Io(#[from] std::io::Error),
}

/// A node that has no ONNX form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnwritableNode {
    /// The node's name in the file that it came from, or where it is.
    pub node: String,
    /// The op's name in the text form.
    pub op: &'static str,
    /// Why it cannot be written.
    pub why: String,
}

impl fmt::Display for UnwritableNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\" ({})", self.op, self.node.escape_debug(), self.why)
    }
}

struct Listed<'a>(&'a [UnwritableNode]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, n) in self.0.iter().enumerate() {
            write!(f, "{}{n}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Why one node cannot be written; the writer adds which.
pub(super) struct Refused(pub(super) String);

pub(super) type Result<T> = std::result::Result<T, Refused>;

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Refused(why.into()))
}

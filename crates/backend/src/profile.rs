use std::time::Duration;

/// One node's part of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The node's name in the source file, or the name of its first result.
    pub node: String,
    /// The op's name.
    pub op: &'static str,
    /// The kernel.
    pub kernel: String,
    /// When it began, from the beginning of the run.
    pub start: Duration,
    /// How long it took; control flow without the nodes of its bodies, which have entries of their own.
    pub time: Duration,
    /// Floating-point operations, where the op has a usual count (a multiply-add is two).
    pub flops: u64,
    /// Bytes of operands read and results written.
    pub bytes: u64,
    /// The shapes of the results.
    pub shape: String,
}

/// The nodes of one run, in the order in which they ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// One entry per node.
    pub samples: Vec<Sample>,
    /// The whole run.
    pub total: Duration,
}

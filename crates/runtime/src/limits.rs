use std::time::Duration;

/// What a model may use, from its file to its runs. The defaults are safe for untrusted files and
/// generous for real ones; for a model that is trusted, raise the one that an error names.
///
/// ```
/// use tensormill::Limits;
/// let limits = Limits { max_memory: 1 << 30, ..Limits::default() };
/// assert!(limits.max_memory < Limits::default().max_memory);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory that one run may use for its values, and that all idle states of a session may
    /// keep. 16 GiB.
    pub max_memory: usize,
    /// Elements of one tensor. 2^30, about a billion.
    pub max_elements: usize,
    /// Nodes of a model, each call of a function counted with its whole body. One million.
    pub max_nodes: usize,
    /// Control-flow bodies inside each other. 16.
    pub max_nesting: usize,
    /// Iterations of all loops of one run together. Ten million.
    pub max_trips: u64,
    /// Bytes of constants that optimization may compute ahead of the runs. 64 MiB.
    pub max_folded: usize,
    /// Wall time of one run; it ends between two nodes. No limit.
    pub max_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_memory: 16 << 30,
            max_elements: 1 << 30,
            max_nodes: 1_000_000,
            max_nesting: 16,
            max_trips: 10_000_000,
            max_folded: 64 << 20,
            max_time: None,
        }
    }
}

/// What a file may ask of its reader. The defaults are safe for untrusted files and generous for real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseLimits {
    /// Nodes in all graphs and functions together, also after every call has been replaced by the
    /// called function's body. One million.
    pub max_nodes: u64,
    /// Control-flow bodies inside each other. 16; more than 30 is impossible, whatever is set here.
    pub max_nesting: u64,
    /// Bytes of one tensor. 64 GiB. Such a tensor exists in the file or beside it: nothing is allocated for it.
    pub max_tensor_bytes: u64,
    /// Bytes of all sparse tensors together, made dense. 1 GiB: a few bytes of file can ask for any size.
    pub max_dense_bytes: u64,
    /// Bytes of memory for the decoded messages, weights not counted where they are raw. 4 GiB.
    pub max_decoded_bytes: u64,
}

impl Default for ParseLimits {
    fn default() -> Self {
        ParseLimits {
            max_nodes: 1_000_000,
            max_nesting: 16,
            max_tensor_bytes: 64 << 30,
            max_dense_bytes: 1 << 30,
            max_decoded_bytes: 4 << 30,
        }
    }
}

/// What a file may ask of its reader. The defaults are safe for untrusted files and generous for real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseLimits {
    /// Operators in all subgraphs together. One million.
    pub max_nodes: u64,
    /// Bytes of one tensor. 64 GiB. Such a tensor exists in the file: nothing is allocated for it.
    pub max_tensor_bytes: u64,
    /// Bytes of memory for what is read, weights not counted. 4 GiB; whatever is set here, it is at most 32 times
    /// the size of the file and 64 KiB.
    pub max_decoded_bytes: u64,
}

impl Default for ParseLimits {
    fn default() -> Self {
        ParseLimits { max_nodes: 1_000_000, max_tensor_bytes: 64 << 30, max_decoded_bytes: 4 << 30 }
    }
}

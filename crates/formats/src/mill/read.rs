use super::{GRAPH_KEY, MillError, VERSION, VERSION_KEY, file_name, types::stored};
use bytes::Bytes;
use safetensors::{Dtype, tensor::Metadata};
use std::{collections::BTreeMap, path::Path};
use tensormill_ir::{Graph, text};
use tensormill_tensor::{DType, Shape, Tensor};

/// What a file may ask of its reader. The defaults are safe for untrusted files and generous for real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MillLimits {
    /// Bytes of the header, which holds the graph's text. 64 MiB.
    pub max_header_bytes: usize,
    /// Nodes in the graph, without its bodies. One million.
    pub max_nodes: usize,
}

impl Default for MillLimits {
    fn default() -> Self {
        MillLimits { max_header_bytes: 64 << 20, max_nodes: 1_000_000 }
    }
}

/// What a `.mill` file holds.
#[derive(Debug, Clone)]
pub struct MillModel {
    /// The graph, verified; its constants are ranges of the file.
    pub graph: Graph,
    /// The other metadata: what the source model said of itself.
    pub metadata: BTreeMap<String, String>,
    /// Version of the file format.
    pub version: u32,
}

/// Reads a model from a file, which is mapped: see [`map_file`](tensormill_tensor::map_file) on files
/// that change meanwhile.
///
/// # Errors
/// As [`parse`], naming the file.
pub fn parse_file(path: &Path, limits: &MillLimits) -> Result<MillModel, MillError> {
    let bytes = tensormill_tensor::map_file(path).map_err(|e| MillError::Io(e).in_file(path))?;
    parse(bytes, limits).map_err(|e| e.in_file(path))
}

/// Whether the bytes begin like a `.mill` file, rather than another safetensors file.
pub fn is_mill(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    // What we write has the key in front; a tool that rewrote the file may have moved it.
    let head = &rest[..rest.len().min(length).min(16 << 20)];
    head.first() == Some(&b'{') && head.windows(VERSION_KEY.len()).any(|w| w == VERSION_KEY.as_bytes())
}

/// Reads a model; its constants share `bytes`.
///
/// # Errors
/// [`MillError`], which says what is wrong.
pub fn parse(bytes: Bytes, limits: &MillLimits) -> Result<MillModel, MillError> {
    let (header, data) = header(&bytes, limits)?;
    let mut metadata: BTreeMap<String, String> =
        header.metadata().clone().unwrap_or_default().into_iter().collect();
    let source = metadata.remove(GRAPH_KEY).ok_or(MillError::NoGraph)?;
    let found = metadata.remove(VERSION_KEY).unwrap_or_default();
    let version = match found.parse::<u32>() {
        Ok(v) if (1..=VERSION).contains(&v) => v,
        _ => {
            let found = found.chars().take(20).flat_map(char::escape_debug).collect();
            return Err(MillError::Version { found, max: VERSION });
        }
    };
    let graph = text::parse_with(&source, &|name, dtype, shape| tensor(&header, &data, name, dtype, shape))?;
    let nodes = graph.nodes().count();
    if nodes > limits.max_nodes {
        return Err(MillError::Limit {
            what: "a number of nodes",
            found: nodes,
            limit: limits.max_nodes,
            field: "max_nodes",
        });
    }
    graph.verify()?;
    Ok(MillModel { graph, metadata, version })
}

/// The header, and the bytes after it, which it describes without gaps.
fn header(bytes: &Bytes, limits: &MillLimits) -> Result<(Metadata, Bytes), MillError> {
    let bad = |what: String| MillError::Header(what);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("it has {} bytes, and the length of the header takes 8", bytes.len())));
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > rest.len() {
        return Err(bad(format!("a header of {length} bytes is declared, and {} follow", rest.len())));
    }
    if length > limits.max_header_bytes {
        return Err(MillError::Limit {
            what: "a header",
            found: length,
            limit: limits.max_header_bytes,
            field: "max_header_bytes",
        });
    }
    // This checks that tensors follow each other without gaps and are as long as their types say.
    let header: Metadata = serde_json::from_slice(&rest[..length])
        .map_err(|e| bad(e.to_string().chars().take(300).flat_map(char::escape_debug).collect()))?;
    let data = bytes.slice(8 + length..);
    if header.data_len() != data.len() {
        return Err(bad(format!(
            "the header describes {} bytes of tensors, and {} are there",
            header.data_len(),
            data.len()
        )));
    }
    Ok((header, data))
}

/// The tensor that the text names, as a range of the file.
fn tensor(
    header: &Metadata,
    data: &Bytes,
    name: &str,
    dtype: DType,
    shape: &Shape,
) -> Result<Tensor, String> {
    let quoted = || name.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    let info =
        header.info(&file_name(name)).ok_or_else(|| format!("tensor \"{}\" is not in the file", quoted()))?;
    let fits = match stored(dtype) {
        Some((t, _)) => info.dtype == t && info.shape[..] == shape[..],
        None => info.dtype == Dtype::U8,
    };
    if !fits {
        return Err(format!(
            "tensor \"{}\" is {}{:?} in the file, not {dtype}{shape}",
            quoted(),
            info.dtype,
            info.shape
        ));
    }
    let (start, end) = info.data_offsets;
    if start > end || end > data.len() {
        return Err(format!("tensor \"{}\" lies outside of the file", quoted()));
    }
    Tensor::from_bytes(dtype, shape.clone(), data.slice(start..end)).map_err(|e| e.to_string())
}

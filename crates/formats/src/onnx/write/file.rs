//! A message to bytes and files.

use super::{WriteError, write};
use crate::onnx::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};
use tensormill_ir::Graph;
use tensormill_tensor::replace_file;

/// How a model is laid out in files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Bytes that the model's own file may have; a larger model's weights go to a file beside it. Readers of
    /// protobuf take 2 GiB less one byte.
    pub max_bytes: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions { max_bytes: i32::MAX as u64 }
    }
}

/// Weights of a file beside the model begin at multiples of a page, so that they can be mapped.
const PAGE: u64 = 4096;
/// Smaller constants stay in the model, where shapes are read from.
const SMALL: usize = 1024;

// Fields of messages that are written piece by piece.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_RAW_DATA: u32 = 9;

/// A model as bytes.
///
/// # Errors
/// As [`write()`], and [`WriteError::TooLarge`] beyond 2 GiB.
pub fn to_bytes(g: &Graph, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, WriteError> {
    let model = write(g, metadata)?;
    let (bytes, limit) = (model.encoded_len() as u64, WriteOptions::default().max_bytes);
    if bytes > limit {
        return Err(WriteError::TooLarge { bytes, limit });
    }
    let mut out = Vec::with_capacity(model.encoded_len());
    stream(&mut out, model)?;
    Ok(out)
}

/// Writes a model into a file, which appears under its name only once it is whole; so does the file of
/// weights, `NAME.data`, that a large model has beside it. An older model of that name stays as it was when
/// something fails before both are whole.
///
/// # Errors
/// As [`write()`], and [`WriteError::File`].
pub fn write_file(
    path: &Path,
    g: &Graph,
    metadata: &BTreeMap<String, String>,
    options: &WriteOptions,
) -> Result<(), WriteError> {
    let mut model = write(g, metadata)?;
    let at = |e: WriteError| match e {
        WriteError::Io(source) => WriteError::File { path: path.to_owned(), source },
        e => e,
    };
    if model.encoded_len() as u64 <= options.max_bytes {
        return replace_file(path, |out| stream(out, model)).map_err(at);
    }
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "not a file name in UTF-8").into()));
    };
    let weights = format!("{name}.data");
    let apart = model.graph.as_mut().map_or_else(Vec::new, |g| set_apart(g, &weights));
    // The model is made inside, so that neither takes its place before both are whole.
    replace_file(&path.with_file_name(&weights), |out| {
        let mut at = 0u64;
        for data in &apart {
            let gap = at.next_multiple_of(PAGE) - at;
            out.write_all(&vec![0; gap as usize])?;
            out.write_all(data)?;
            at += gap + data.len() as u64;
        }
        out.flush()?;
        replace_file(path, |out| stream(out, model))
    })
    .map_err(at)
}

/// Takes the bytes of large constants out of a graph, and says there where they will lie.
fn set_apart(g: &mut GraphProto, location: &str) -> Vec<Bytes> {
    let mut out = vec![];
    let mut at = 0u64;
    for t in &mut g.initializer {
        let Some(data) = t.raw_data.take_if(|d| d.len() >= SMALL) else { continue };
        at = at.next_multiple_of(PAGE);
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        t.external_data = vec![
            entry("location", location.into()),
            entry("offset", at.to_string()),
            entry("length", data.len().to_string()),
        ];
        t.data_location = 1;
        at += data.len() as u64;
        out.push(data);
    }
    out
}

/// Writes a message without a second copy of its weights in memory.
fn stream(out: &mut impl Write, mut model: ModelProto) -> Result<(), WriteError> {
    let graph = model.graph.take().unwrap_or_default();
    let mut head = model.encode_to_vec();
    encode_key(MODEL_GRAPH, WireType::LengthDelimited, &mut head);
    encode_varint(graph.encoded_len() as u64, &mut head);
    out.write_all(&head)?;
    let mut graph = graph;
    let constants = std::mem::take(&mut graph.initializer);
    out.write_all(&graph.encode_to_vec())?;
    for t in constants {
        tensor(out, t)?;
    }
    Ok(())
}

fn tensor(out: &mut impl Write, mut t: TensorProto) -> Result<(), WriteError> {
    let length = t.encoded_len() as u64;
    let raw = t.raw_data.take();
    let mut head = vec![];
    encode_key(GRAPH_INITIALIZER, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    let start = head.len();
    if let Err(e) = t.encode(&mut head) {
        return Err(io::Error::other(e).into());
    }
    if let Some(raw) = raw {
        encode_key(TENSOR_RAW_DATA, WireType::LengthDelimited, &mut head);
        encode_varint(raw.len() as u64, &mut head);
        debug_assert_eq!((head.len() - start + raw.len()) as u64, length);
        out.write_all(&head)?;
        out.write_all(&raw)?;
    } else {
        out.write_all(&head)?;
    }
    Ok(())
}

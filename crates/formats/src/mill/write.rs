use super::{GRAPH_KEY, MillError, VERSION, VERSION_KEY, file_name, types::stored};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, io::Write, path::Path};
use tensormill_ir::{Graph, text};
use tensormill_tensor::{ALIGNMENT, Tensor, replace_file};

/// Writes a model into a file, which appears under its name only once it is whole.
///
/// # Errors
/// As [`write()`], naming the file; an older file of that name then stays as it was.
pub fn write_file(path: &Path, graph: &Graph, metadata: &BTreeMap<String, String>) -> Result<(), MillError> {
    replace_file(path, |out| write(out, graph, metadata)).map_err(|e| e.in_file(path))
}

/// Writes a model: equal graphs give equal bytes.
///
/// # Errors
/// [`MillError::Io`] when `out` fails, [`MillError::Name`] when two constants cannot be told apart.
pub fn write(
    out: &mut impl Write,
    graph: &Graph,
    metadata: &BTreeMap<String, String>,
) -> Result<(), MillError> {
    let text = text::print(graph);
    let mut tensors: Vec<(String, &Tensor)> =
        text.tensors.iter().map(|(name, t)| (file_name(name).into_owned(), t)).collect();
    // Wide elements first, so that each tensor begins at a multiple of its element's size.
    tensors.sort_by(|(a, s), (b, t)| t.dtype().bits().cmp(&s.dtype().bits()).then_with(|| a.cmp(b)));
    let mut meta = Map::new();
    meta.insert(VERSION_KEY.into(), VERSION.to_string().into());
    for (key, value) in metadata.iter().filter(|(k, _)| *k != GRAPH_KEY && *k != VERSION_KEY) {
        meta.insert(key.clone(), value.clone().into());
    }
    meta.insert(GRAPH_KEY.into(), text.text.into());
    let mut header = Map::new();
    header.insert("__metadata__".into(), Value::Object(meta));
    let mut offset = 0;
    for (name, t) in &tensors {
        let end = offset + t.byte_len();
        let info = match stored(t.dtype()) {
            Some((_, dtype)) => {
                json!({"dtype": dtype, "shape": t.shape().dims(), "data_offsets": [offset, end]})
            }
            None => json!({"dtype": "U8", "shape": [t.byte_len()], "data_offsets": [offset, end]}),
        };
        if header.insert(name.clone(), info).is_some() {
            return Err(MillError::Name(name.clone()));
        }
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(std::io::Error::from)?;
    // Spaces may follow the header: they bring the first tensor to a cache line.
    header.resize((8 + header.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, t) in tensors {
        out.write_all(t.bytes())?;
    }
    Ok(())
}

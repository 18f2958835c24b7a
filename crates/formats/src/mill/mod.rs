//! `.mill`: Tensormill's own model file.
//!
//! A valid safetensors file whose metadata holds the graph's text under [`GRAPH_KEY`]. Tensors keep
//! their type where safetensors has it; those of the other types are `U8` vectors of their packed
//! bytes, and the text tells what they are. Nothing in the file is executed, and reading copies no
//! tensor: each is a range of the map.
//!
//! ```
//! use std::collections::BTreeMap;
//! use tensormill_formats::mill;
//! let graph = tensormill_ir::text::parse("graph @main(%x: f32[N]) -> (%y) {\n %y: f32[N] = relu %x\n}")?;
//! let mut file = vec![];
//! mill::write(&mut file, &graph, &BTreeMap::new())?;
//! let back = mill::parse(file.into(), &mill::MillLimits::default())?;
//! assert!(back.graph.same_as(&graph));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod read;
mod types;
mod write;

pub use error::MillError;
pub use read::{MillLimits, MillModel, is_mill, parse, parse_file};
pub use write::{write, write_file};

/// Version of the file format that is written; older ones are read.
pub const VERSION: u32 = 1;

/// Metadata key of the graph's text.
pub const GRAPH_KEY: &str = "tensormill.graph";

/// Metadata key of the format's version.
pub const VERSION_KEY: &str = "tensormill.version";

/// The name in the file of a tensor of this name: `__metadata__` is safetensors' own.
fn file_name(name: &str) -> std::borrow::Cow<'_, str> {
    if name == "__metadata__" || name.starts_with('\\') { format!("\\{name}").into() } else { name.into() }
}

#[cfg(test)]
mod tests;

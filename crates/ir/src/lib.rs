//! The graph that every reader produces, every pass rewrites and every backend compiles.
//!
//! [`Graph`] is dataflow in single-assignment form over tensors, sequences and optionals. Sizes may be
//! symbolic ([`Dim`]), ops are plain data ([`ops::Op`]), and every graph prints and parses back
//! ([`text`]). This crate knows no file format and no device.

pub mod attr;
mod builder;
pub mod dim;
mod error;
mod graph;
pub mod infer;
pub mod ops;
mod patch;
pub mod text;
mod types;
mod verify;

pub use builder::GraphBuilder;
pub use dim::{Bindings, Dim, Expr};
pub use error::{InferError, IrError, shown};
pub use graph::{Def, Graph, Node, NodeId, Output, ValueId, ValueInfo};
pub use ops::{Op, OpKind};
pub use patch::{New, Patch};
pub use types::{Dims, TensorType, Type};

//! ONNX: bytes to checked messages and tensors, these to a graph, and back.
//!
//! [`parse`] walks the encoded bytes before anything is allocated, decodes them, and checks all that
//! can be checked without knowing what operators mean. Weights stay where they are: in the mapped file.
//!
//! ```
//! use tensormill_formats::{external::ExternalData, onnx};
//! let cut_off = bytes::Bytes::from_static(&[0x08, 0x0a]);
//! let e = onnx::parse(cut_off, &onnx::ParseLimits::default(), ExternalData::deny()).unwrap_err();
//! assert!(e.to_string().contains("no graph"));
//! ```

mod attribute;
mod dtype;
mod encode;
mod error;
mod function;
mod limits;
mod lower;
mod parse;
pub mod proto;
mod schema;
mod sizes;
mod sparse;
mod tensor;
mod value;
mod walk;
mod wire;
mod write;

pub use attribute::{AttributeType, AttributeValue};
pub use dtype::{dtype_code, dtype_of};
pub use encode::{ValueProto, write_tensor, write_value};
pub use error::{OnnxError, Warning};
pub use function::FunctionId;
pub use limits::ParseLimits;
pub use lower::{LowerError, LowerWarning, Lowered, UnsupportedOp, lower, supported};
pub use parse::{IR_VERSIONS, Model, NEWEST_OPSET, Opsets, parse, parse_file};
pub use sparse::read_sparse;
pub use tensor::{TensorProblem, read_tensor};
pub use value::{ValueKind, parse_value};
pub use write::{UnwritableNode, WriteError, WriteOptions, to_bytes, write, write_file};

//! TensorFlow Lite: bytes to checked structs, and these to a graph.
//!
//! [`parse`] follows every offset of the FlatBuffers encoding by itself and checks it against the bytes that are
//! there; weights stay where they are: in the mapped file. [`lower`] makes channels-last operators the IR's
//! channels-first ones between transposes, and operators on quantized tensors the operation on real numbers
//! between steps of quantization, as ONNX files say it.
//!
//! ```
//! use tensormill_formats::tflite;
//! let cut_off = bytes::Bytes::from_static(b"\x1c\0\0\0TFL3");
//! let e = tflite::parse(cut_off, &tflite::ParseLimits::default()).unwrap_err();
//! assert!(e.to_string().contains("past the end"));
//! ```

mod error;
mod flat;
mod limits;
mod lower;
mod model;
mod operators;
mod parse;
mod tensor;

pub use error::TfliteError;
pub use limits::ParseLimits;
pub use lower::{LowerError, LowerWarning, Lowered, UnsupportedOp, lower, supported};
pub use model::{Model, Operator, OperatorCode, Quantization, SubGraph, TensorInfo};
pub use parse::parse;

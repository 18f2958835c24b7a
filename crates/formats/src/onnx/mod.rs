//! ONNX.
pub mod proto;

//! Model files to and from graphs.
//!
//! Each format has a *parse* half (bytes to plain structs: the surface that untrusted files meet) and
//! a *lower* half (structs to graphs). Readers never execute what they read, never trust a declared
//! size, and resolve every path that a file names through [`external`].

pub mod external;
#[cfg(feature = "mill")]
pub mod mill;
#[cfg(feature = "onnx")]
pub mod onnx;
mod text;
#[cfg(feature = "tflite")]
pub mod tflite;

//! Load a trained model, run it, fast: the embeddable Tensormill runtime.
//!
//! A [`Model`] is a file read, checked and understood. A [`Session`] is a model compiled for a machine;
//! any number of threads may [`run`](Session::run) it at once. Everything here is `Send + Sync`, nothing
//! panics on a bad file or bad inputs, and every error says what to do about it.
//!
//! ```
//! use tensormill::{Model, Tensor};
//! let bytes: &'static [u8] = include_bytes!("../../../tools/cli/assets/digits.onnx");
//! let session = Model::load(bytes)?.session()?;
//! let image = Tensor::from_vec([1, 1, 8, 8], vec![0.0f32; 64])?;
//! let outputs = session.run([("image", image)])?;
//! assert_eq!(outputs.tensor("probabilities")?.shape().dims(), [1, 10]);
//! # Ok::<(), tensormill::Error>(())
//! ```
//!
//! Features: `onnx` and `mill` read and write those formats, `tflite` reads TensorFlow Lite, `optimizer` rewrites
//! graphs before they run; all four are on by default. `ndarray` converts from and to that crate's arrays, `rayon` runs
//! on a thread pool of the caller's.

mod cancel;
mod engine;
mod error;
mod io;
mod limits;
mod model;
#[cfg(feature = "ndarray")]
mod nd;
mod optimize;
mod options;
#[cfg(feature = "optimizer")]
pub mod prune;
#[cfg(feature = "optimizer")]
pub mod quantize;
mod runner;
mod session;
mod sniff;
mod source;
mod specialize;
mod states;

pub use cancel::CancelToken;
pub use error::Error;
pub use io::{Inputs, Key, Outputs};
pub use limits::Limits;
pub use model::{Model, Port};
#[cfg(feature = "ndarray")]
pub use nd::ArrayExt;
pub use options::{Backend, Optimization, RunOptions, SessionOptions};
pub use runner::Runner;
pub use session::Session;
pub use sniff::FileKind;
pub use source::Source;
pub use tensormill_backend::{NodeReport, PlanReport, Profile, Sample};
pub use tensormill_ir::{Dim, Graph, TensorType, Type};
#[cfg(feature = "optimizer")]
pub use tensormill_optimizer::{Decline, LogEntry, OptLog};
pub use tensormill_tensor::{
    CastOptions, Complex, DType, Element, Shape, Tensor, TensorError, Value, bf16, f16,
};

/// Tensors in NumPy's files, and files that appear whole or not at all.
pub mod files {
    pub use tensormill_tensor::{
        parse_npy, parse_npz, read_npy, read_npz, replace_file, write_npy, write_npz,
    };
}

#[cfg(test)]
mod session_tests;

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// The guide's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
pub struct Guide;

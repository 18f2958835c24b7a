//! Dense row-major tensors of every ONNX element type, on the heap or in a memory map.
//!
//! A [`Tensor`] is immutable once shared; layouts, packing and arenas belong to backends. Elements
//! narrower than a byte are packed low bits first, as ONNX stores them.
//!
//! ```
//! use tensormill_tensor::{DType, Tensor};
//! let t = Tensor::from_vec([2, 2], vec![1.0f32, 2.0, 3.0, 4.0])?;
//! assert_eq!((t.dtype(), t.shape().dims()), (DType::F32, &[2, 2][..]));
//! assert_eq!(t.to_slice::<f32>()?[3], 4.0);
//! # Ok::<(), tensormill_tensor::TensorError>(())
//! ```

pub mod arena;
mod cast;
mod convert;
mod dtype;
mod element;
mod error;
pub mod float8;
pub mod narrow;
mod npy;
mod npz;
mod preview;
mod replace;
mod shape;
mod storage;
pub mod table;
mod tensor;
mod value;

pub use cast::CastOptions;
pub use dtype::DType;
pub use element::{Complex, Element};
pub use error::TensorError;
pub use float8::RoundMode;
pub use half::{bf16, f16};
pub use npy::{parse_npy, read_npy, write_npy};
pub use npz::{parse_npz, read_npz, write_npz};
pub use replace::replace_file;
pub use shape::Shape;
pub use storage::{ALIGNMENT, file_stamp, map_file, release_pages};
pub use tensor::Tensor;
pub use value::Value;

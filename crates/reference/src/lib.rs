//! What every op means, as plain scalar code for every dtype.
//!
//! This is the oracle of all tests, the folder of constants and the fallback of backends: obviously
//! right before fast. Floats are computed in f64 and rounded once, integers in i128 and wrapped once.

mod data;
mod error;
mod eval;
mod interpret;

mod elementwise;
mod epilogue;
mod matmul;
mod reduce;
mod shape;
mod slice;

// nn
mod conv;
mod grid;
mod integer;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod resize;
mod softmax;

// data
mod control;
mod gather;
mod pad;
mod random;
mod scatter;
mod sequence;
mod sort;

// more
mod attention;
mod detection;
mod einsum;
mod fourier;
mod linear_attention;
mod loss;
mod signal;
mod text;
mod trees;

pub use error::EvalError;
pub use eval::{Bodies, EvalLimits, eval, eval_with};
pub use interpret::{interpret, interpret_values};
pub use pad::pad_source;
pub use resize::resize_weights;

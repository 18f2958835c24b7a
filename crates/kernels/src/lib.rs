//! CPU kernels over slices: matrix products, convolution, elementwise maps, reductions, threads.
//!
//! Nothing here knows a graph or a tensor type. A kernel takes plain slices, sizes and strides, checks
//! them up front and returns a [`KernelError`] when they do not fit together; after that it runs without
//! further checks. Every parallel kernel takes a [`threads::Pool`], and its result is the same, bit for
//! bit, whatever the number of threads: work is split so that the arithmetic behind one output element
//! never depends on the split.
//!
//! Temporary room comes from buffers that each thread keeps between calls ([`scratch::release`] frees the
//! caller's), so that kernels allocate next to nothing in the steady state.
//!
//! Instruction sets are chosen at run time ([`simd::Level`]); the environment variable `TENSORMILL_CPU`
//! (`baseline`, `avx2`) forces a lower level than the machine has.

pub mod attention;
pub mod channels_last;
pub mod conv;
pub mod copy;
pub mod elementwise;
pub mod embed;
pub mod epilogue;
pub mod error;
pub mod gather;
mod math;
pub mod matmul;
pub mod norm;
pub mod packed;
pub mod pool;
pub mod quantized;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod running;
pub mod scratch;
pub mod simd;
pub mod softmax;
pub mod threads;
pub mod transpose;

pub use error::KernelError;

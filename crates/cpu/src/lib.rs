//! The CPU backend: lowering, weight preparation, plans and states.
//!
//! A plan keeps a graph with its constants folded and its weights packed. A state is made for inputs of
//! concrete types: values known from these are computed there and then, reshapes and most concatenations
//! and slices only look at other values, every op of known sizes gets a prepared kernel, and everything
//! with a fixed size a fixed place in one arena. What no kernel computes goes through
//! [`tensormill_reference`]; the plan's report says so.

mod attention;
mod bind;
mod block;
mod cache;
mod control;
mod conv;
mod convert;
mod elementwise;
mod epilogue;
mod exec;
mod gather;
mod layout;
mod matmul;
mod native;
mod norm;
mod order;
mod pad;
mod place;
mod plan;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod reference_backend;
mod resize;
mod resolve;
mod shape;
mod slice;
mod softmax;
mod sort;
mod state;
mod tune;

pub use plan::CpuBackend;
pub use reference_backend::ReferenceBackend;
pub use tensormill_kernels::threads::Pool;

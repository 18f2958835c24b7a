//! Elementwise maps of one and two operands.

mod binary;
mod chain;
mod select;
mod unary;

pub use binary::{BinaryOp, binary_f32, broadcast_map, broadcast_strides};
pub use chain::chain;
pub use select::select;
pub use unary::{UnaryOp, unary_f32, unary_f32_inplace};

/// Elements in a piece of a parallel map: below this the threads cost more than they save.
pub(crate) const GRAIN: usize = 32 * 1024;
/// Elements copied and then mapped in place at a time, so that the copy stays in the first-level cache.
pub(crate) const BLOCK: usize = 2048;

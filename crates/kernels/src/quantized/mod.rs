//! Products of small integers with exact sums, and what leads to them and away from them.
//!
//! Weights are packed as i8; bytes with a sign and without differ in their highest bit only, so that one of
//! both is enough. A zero point is taken off the sums of whole products, never off the elements; only Winograd's
//! transforms, whose words have room for that, begin with the difference.

mod after;
mod apart;
pub mod blocks;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod fill;
pub(crate) mod form;
pub mod groups;
mod one_row;
mod panel;
pub mod pool;
pub(crate) mod tile;
pub mod weights;
pub mod winograd;

use crate::simd::Level;

pub use conv::{Bytes, Output, Quantized, Scaling};
pub use fill::Order;
pub use weights::{ByteMatrix, ByteWeights};

/// What else than the level decides in what order weights are packed: packed weights are for machines that agree in it.
pub fn packing(level: Level) -> &'static str {
    form::Form::available(level)[1].name()
}

#[cfg(test)]
mod tests;

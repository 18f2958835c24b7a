//! Kernels over images whose channels lie together: pixels `[batch, height, width]`, each a run of
//! channels.
//!
//! From one pixel to the next is a pitch of at least as many floats as there are channels, so that a
//! kernel can write some of the channels of a wider image and a concatenation costs nothing.

pub mod bands;
pub mod conv;
pub mod convert;
pub mod depthwise;
pub(crate) mod fused;
pub(crate) mod lanes;
pub mod linear;
pub mod pool;
pub mod resize;
mod strassen;
mod winograd;

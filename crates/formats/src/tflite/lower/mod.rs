//! Structs to a graph: every TensorFlow Lite operator in the ops of the IR.
//!
//! One file per op family holds a table from operator to its options and function. A function reads options and
//! operands through [`NodeCx`] and emits ops; an option that it does not read is an error.

mod cx;
mod error;
mod graph;
mod held;

mod conv;
mod data;
mod elementwise;
mod linear;
mod pad;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod shape;
mod slice;
mod softmax;
mod space;

pub use error::{LowerError, UnsupportedOp};
pub use graph::{LowerWarning, Lowered, lower};

use cx::NodeCx;
use held::Order;

/// Translates one operator.
type LowerFn = fn(&mut NodeCx<'_, '_>) -> Result<(), LowerError>;

/// Operators with the kind of options that they have, by its number; 0: none.
type Table = &'static [(&'static str, u8, LowerFn)];

const TABLES: &[Table] = &[
    conv::TABLE,
    data::TABLE,
    elementwise::TABLE,
    linear::TABLE,
    pad::TABLE,
    pool::TABLE,
    quantize::TABLE,
    reduce::TABLE,
    resize::TABLE,
    shape::TABLE,
    slice::TABLE,
    softmax::TABLE,
    space::TABLE,
];

/// The options and function of an operator.
fn find(name: &str) -> Option<(u8, LowerFn)> {
    TABLES.iter().flat_map(|t| t.iter()).find(|(n, ..)| *n == name).map(|(_, options, f)| (*options, *f))
}

/// Every operator that is translated, sorted.
pub fn supported() -> Vec<&'static str> {
    let mut all: Vec<_> = TABLES.iter().flat_map(|t| t.iter().map(|(n, ..)| *n)).collect();
    all.sort_unstable();
    all
}

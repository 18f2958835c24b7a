//! Messages to a graph: every ONNX operator in the ops of the IR.
//!
//! One file per op family holds a table from operator to function. A function reads the attributes
//! and operands of its node through [`NodeCx`] and emits ops; what it does not read is an error.

mod body;
mod cx;
mod error;
mod graph;
mod scope;
mod types;

mod constant;
mod elementwise;
mod matmul;
mod reduce;
mod shape;
mod slice;

// nn
mod conv;
mod depth_to_space;
mod grid;
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
mod flex_attention;
mod linear_attention;
mod loss;
mod ml;
mod signal;
mod text;
mod training;
mod trees;

pub use error::{LowerError, UnsupportedOp};
pub use graph::{LowerWarning, Lowered, lower};

use cx::NodeCx;
use std::{collections::HashMap, sync::OnceLock};

/// Translates one node.
type LowerFn = fn(&mut NodeCx<'_, '_>) -> Result<(), LowerError>;

/// Operators of one domain.
type Table = &'static [(&'static str, LowerFn)];

const TABLES: &[(&str, Table)] = &[
    ("", constant::TABLE),
    ("", elementwise::TABLE),
    ("", matmul::TABLE),
    ("", reduce::TABLE),
    ("", shape::TABLE),
    ("", slice::TABLE),
    // nn
    ("", conv::TABLE),
    ("", depth_to_space::TABLE),
    ("", grid::TABLE),
    ("", norm::TABLE),
    ("", pool::TABLE),
    ("", quantize::TABLE),
    ("", recurrent::TABLE),
    ("", resize::TABLE),
    ("", softmax::TABLE),
    // data
    ("", control::TABLE),
    ("", pad::TABLE),
    ("", random::TABLE),
    ("", scatter::TABLE),
    ("", sequence::TABLE),
    ("", sort::TABLE),
    ("", gather::TABLE),
    // more
    ("", loss::TABLE),
    ("", attention::TABLE),
    ("", einsum::TABLE),
    ("", linear_attention::TABLE),
    ("", signal::TABLE),
    ("", detection::TABLE),
    ("", text::TABLE),
    ("ai.onnx.preview.training", training::TABLE),
    ("ai.onnx.preview", flex_attention::TABLE),
    ("ai.onnx.ml", trees::TABLE),
    ("ai.onnx.ml", ml::TABLE),
];

/// The function for an operator; `domain` is the plain one.
fn find(domain: &str, op_type: &str) -> Option<LowerFn> {
    static INDEX: OnceLock<HashMap<(&str, &str), LowerFn>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        TABLES.iter().flat_map(|(domain, table)| table.iter().map(|(op, f)| ((*domain, *op), *f))).collect()
    });
    index.get(&(domain, op_type)).copied()
}

/// Every operator that is translated, as `(domain, operator)`, sorted.
pub fn supported() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = TABLES.iter().flat_map(|(d, t)| t.iter().map(|(op, _)| (*d, *op))).collect();
    all.sort_unstable();
    all
}

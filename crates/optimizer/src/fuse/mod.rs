//! Rewrites that join nodes into one that computes them together.

mod epilogue;
mod gated;
mod gelu;
mod product;
mod weights;

pub use epilogue::Epilogue;
pub use gated::{HardSwish, Mish, Swish};
pub use gelu::{Gelu, GeluTanh};
pub use weights::ScaleIntoMatMul;

use crate::{driver::RuleSet, pass::Pass};

/// Finds again what exporters spell out: one op where the file has several.
pub fn patterns() -> Box<dyn Pass> {
    Box::new(RuleSet::new(
        "patterns",
        vec![Box::new(Gelu), Box::new(GeluTanh), Box::new(HardSwish), Box::new(Swish), Box::new(Mish)],
    ))
}

/// Multiplies what follows a product with constant weights into the weights.
pub fn weights() -> Box<dyn Pass> {
    Box::new(RuleSet::new("weights", vec![Box::new(ScaleIntoMatMul)]))
}

/// Collects elementwise steps after products into their epilogues.
pub fn epilogues() -> Box<dyn Pass> {
    Box::new(RuleSet::new("epilogues", vec![Box::new(Epilogue)]))
}

//! Rewrites that leave fewer and simpler nodes: folding, duplicates, dead code, nodes that do nothing.

mod branch;
mod clip;
mod common;
mod dead;
mod fold;
mod idempotent;
mod identity;
mod movement;
mod pad;
mod regroup;
mod reshape;
mod resize;
mod transpose;

pub use branch::{ConstantIf, UnrollLoop};
pub use clip::ClampConstants;
pub use common::Common;
pub use dead::{Dead, Refine};
pub use fold::Fold;
pub(crate) use fold::{fold_node, keeps_integers};
pub use idempotent::{CastOfCast, UnaryOfUnary};
pub use identity::{NegativeZero, Neutral};
pub use movement::{ConcatEmpty, Unmoved};
pub use pad::PadIntoConv;
pub use regroup::TransposeBetweenReshapes;
pub(crate) use reshape::operand_known;
pub use reshape::{ReshapeOfReshape, ToReshape};
pub use resize::{ResizeOfResize, ResizeUnmoved, SizesToScales};
pub(crate) use resize::{repeat, scales};
pub use transpose::{TransposeIntoMatMul, TransposeOfTranspose, TransposeToReshape};

use crate::{driver::RuleSet, pass::Pass};

/// Every rule of this folder as one pass, the cheapest to match first.
pub fn pass() -> Box<dyn Pass> {
    Box::new(RuleSet::new(
        "simplify",
        vec![
            Box::new(TransposeIntoMatMul),
            Box::new(Fold),
            Box::new(ConstantIf),
            Box::new(UnrollLoop),
            Box::new(PadIntoConv),
            Box::new(Neutral),
            Box::new(NegativeZero),
            Box::new(UnaryOfUnary),
            Box::new(CastOfCast),
            Box::new(ClampConstants),
            Box::new(Unmoved),
            Box::new(ConcatEmpty),
            Box::new(TransposeOfTranspose),
            Box::new(TransposeToReshape),
            Box::new(ReshapeOfReshape),
            Box::new(TransposeBetweenReshapes),
            Box::new(ToReshape),
            Box::new(ResizeUnmoved),
            Box::new(ResizeOfResize),
            Box::new(SizesToScales),
        ],
    ))
}

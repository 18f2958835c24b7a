//! Rewrites that join nodes into one that computes them together.

mod attention;
mod conv;
mod epilogue;
mod gated;
mod gelu;
mod group_norm;
mod layer_norm;
mod merge;
mod product;
mod quantized;
mod repeat;
mod rotary;
mod weights;

pub use attention::{Attention, AttentionOfRows, SharedHeads};
pub use conv::{BatchNormIntoConv, BiasIntoConv, ScaleIntoConv};
pub use epilogue::Epilogue;
pub use gated::{HardSigmoid, HardSwish, Mish, Swish};
pub use gelu::{Gelu, GeluTanh};
pub use group_norm::{AffineIntoNorm, GroupOfInstance};
pub use layer_norm::{Normalize, NormalizeBias};
pub(crate) use merge::joins_weights;
pub use merge::{JoinWeights, MergeProjections, PartProjections};
pub use quantized::{
    ClampBeforeQuantize, ConcatIntegers, DynamicConv, DynamicMatMul, GatherIntegers, MoveIntegers,
    QuantizedBinaryOps, QuantizedConvs, QuantizedMatMuls, QuantizedTwice, SplitIntegers, StoreQuantized,
    TableOfBytes, Unpack,
};
pub use repeat::NearestOfReshapes;
pub use rotary::Rotary;
pub use weights::ScaleIntoMatMul;

use crate::{driver::RuleSet, pass::Pass, simplify::Fold};

/// Finds again what exporters spell out: one op where the file has several.
pub fn patterns() -> Box<dyn Pass> {
    Box::new(RuleSet::new(
        "patterns",
        vec![
            Box::new(Gelu),
            Box::new(GeluTanh),
            Box::new(HardSwish),
            Box::new(HardSigmoid),
            Box::new(Swish),
            Box::new(Mish),
            Box::new(Normalize),
            Box::new(NormalizeBias),
            Box::new(GroupOfInstance),
            Box::new(AffineIntoNorm),
            Box::new(Rotary),
            Box::new(Attention),
            Box::new(SharedHeads),
            Box::new(AttentionOfRows),
            Box::new(NearestOfReshapes),
        ],
    ))
}

/// Computes with integers what stands between steps of quantization.
pub fn integers() -> Box<dyn Pass> {
    Box::new(RuleSet::new(
        "integers",
        vec![
            Box::new(QuantizedTwice),
            Box::new(ClampBeforeQuantize),
            Box::new(QuantizedConvs),
            Box::new(QuantizedMatMuls),
            Box::new(DynamicMatMul),
            Box::new(DynamicConv),
            Box::new(QuantizedBinaryOps),
            Box::new(MoveIntegers),
            Box::new(ConcatIntegers),
            Box::new(SplitIntegers),
            Box::new(GatherIntegers),
            Box::new(TableOfBytes),
        ],
    ))
}

/// Expands constants of integers that no op on integers took.
pub fn unpack() -> Box<dyn Pass> {
    Box::new(RuleSet::new("unpack", vec![Box::new(Unpack)]))
}

/// Works what follows a product or convolution with constant weights into weights and bias.
pub fn weights() -> Box<dyn Pass> {
    Box::new(RuleSet::new(
        "weights",
        vec![
            Box::new(BatchNormIntoConv),
            Box::new(ScaleIntoConv),
            Box::new(BiasIntoConv),
            Box::new(ScaleIntoMatMul),
            // What one rule multiplies must be a constant again before the next looks.
            Box::new(Fold),
        ],
    ))
}

/// Makes one product of several with the same left operand.
pub fn merges() -> Box<dyn Pass> {
    Box::new(RuleSet::new("merges", vec![Box::new(MergeProjections)]))
}

/// Undoes [`merges`]: every product has constant weights of its own again.
pub fn part() -> Box<dyn Pass> {
    Box::new(RuleSet::new("part", vec![Box::new(PartProjections)]))
}

/// Makes constants of weights that are still apart after [`part`].
pub fn join() -> Box<dyn Pass> {
    Box::new(RuleSet::new("join", vec![Box::new(JoinWeights)]))
}

/// Collects elementwise steps after products into their epilogues, and the quantization after them.
pub fn epilogues() -> Box<dyn Pass> {
    Box::new(RuleSet::new("epilogues", vec![Box::new(Epilogue), Box::new(StoreQuantized)]))
}

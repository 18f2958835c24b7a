use crate::{
    pass::Numerics,
    rule::{Outcome, Rule, RuleCx},
    simplify::{fold_node, keeps_integers},
};
use tensormill_ir::{Graph, NodeId, OpKind};

/// Computes constants of integers times scales that no op on integers took: weights that would be
/// dequantized in every run.
#[derive(Debug)]
pub struct Unpack;

impl Rule for Unpack {
    fn name(&self) -> &'static str {
        "unpack"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::DequantizeLinear]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        if keeps_integers(g, g.node(at)) { fold_node(g, at, cx) } else { Outcome::NoMatch }
    }
}

use crate::{
    pass::Numerics,
    pattern::{all_inputs, dims, find, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{Dim, Graph, Node, NodeId, OpKind, Patch, ValueId, infer::axis, ops::Op};

/// Removes ops that move elements to where they are: reshapes, expansions, slices, tilings to the
/// shape that x has, a concatenation or split of one, bounds that are not there.
#[derive(Debug)]
pub struct Unmoved;

impl Rule for Unmoved {
    fn name(&self) -> &'static str {
        "unmoved"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        use OpKind::*;
        &[Reshape, Flatten, Squeeze, Unsqueeze, Expand, Tile, Slice, Concat, Split, Clip]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let x = find!(node.input(0));
        let unchanged = match &node.op {
            Op::Concat(_) => node.inputs.len() == 1,
            Op::Split(s) => s.outputs == 1,
            Op::Clip(_) => node.inputs.len() == 1,
            Op::Slice(_) => forward(g, node) && same_type(g, x, node.output()),
            _ => same_type(g, x, node.output()),
        };
        if !unchanged {
            return Outcome::NoMatch;
        }
        let known = |v: ValueId| g.value(v).elements.is_some() || g.constant(v).is_some();
        let moves = !matches!(node.op, Op::Concat(_) | Op::Split(_) | Op::Clip(_));
        if moves && !node.inputs[1..].iter().flatten().all(|v| known(*v)) {
            return Outcome::Declined("where it moves elements comes from data");
        }
        let mut p = Patch::new();
        p.replace(node.output(), x);
        Outcome::Rewrite(p)
    }
}

/// Whether a slice certainly keeps the order: backwards ones keep shapes, too.
fn forward(g: &Graph, node: &Node) -> bool {
    match node.input(4) {
        None => true,
        Some(steps) => g.const_ints(steps).is_some_and(|s| s.iter().all(|s| *s > 0)),
    }
}

/// Leaves operands without elements out of a concatenation.
#[derive(Debug)]
pub struct ConcatEmpty;

impl Rule for ConcatEmpty {
    fn name(&self) -> &'static str {
        "concat_empty"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Concat]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Concat(c) = &node.op else { return Outcome::NoMatch };
        let inputs = find!(all_inputs(g, at));
        let rank = find!(dims(g, node.output())).len();
        let along = find!(axis(c.axis, rank).ok());
        let empty = |v| dims(g, v).is_some_and(|d| d.get(along) == Some(&Dim::Known(0)));
        let full: Vec<_> = inputs.iter().copied().filter(|v| !empty(*v)).map(Into::into).collect();
        if full.len() == inputs.len() || full.is_empty() {
            return Outcome::NoMatch;
        }
        let mut p = Patch::new();
        let new = p.op(c.clone(), &full);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

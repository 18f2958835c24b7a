//! Heads of keys and values that several heads of queries share.

use super::same;
use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{AttentionScores, Op},
};

/// Lets attention read heads of keys and values as they were before each was repeated for several of the
/// queries.
#[derive(Debug)]
pub struct SharedHeads;

/// The heads that were each repeated in a row to make those of `v`, `[batch, heads, sequence, size]`: an
/// axis put in behind them, expanded or tiled, and joined with theirs.
pub(super) fn shared(g: &Graph, v: ValueId) -> Option<ValueId> {
    let step = |v: ValueId, is: fn(&Op) -> bool| -> Option<ValueId> {
        let node: &Node = g.producer(v)?.1;
        if is(&node.op) { node.input(0) } else { None }
    };
    let moved = |op: &Op| matches!(op, Op::Reshape(_) | Op::Unsqueeze(_));
    let repeated = step(v, moved)?;
    let apart = step(repeated, |op| matches!(op, Op::Expand(_) | Op::Tile(_)))?;
    let x = step(apart, moved)?;
    let ([b, h, s, d], [rb, rh, n, rs, rd], [ab, ah, one, a_s, ad], [xb, xh, xs, xd]) =
        (&dims(g, v)?[..], &dims(g, repeated)?[..], &dims(g, apart)?[..], &dims(g, x)?[..])
    else {
        return None;
    };
    let kept = [[b, rb, ab], [s, rs, a_s], [d, rd, ad]];
    let same = kept.iter().zip([xb, xs, xd]).all(|(all, x)| all.iter().all(|a| a.same(x)));
    let (heads, times) = (xh.known()?, n.known()?);
    // Along an axis of one element, repeating a batch or a key would look like this, too, but changes a size.
    let by_head = [rh.known(), ah.known()] == [Some(heads); 2]
        && one.known() == Some(1)
        && heads.checked_mul(times) == h.known();
    (same && by_head).then_some(x)
}

impl Rule for SharedHeads {
    fn name(&self) -> &'static str {
        "shared_heads"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Attention]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Attention(op) = &node.op else { return Outcome::NoMatch };
        let (k, v) = (find!(node.input(1)), find!(node.input(2)));
        let (keys, values) = (find!(shared(g, k)), find!(shared(g, v)));
        let past = node.inputs.iter().skip(4).take(2).any(Option::is_some);
        if op.present || op.scores != AttentionScores::None || past || !same(g, (keys, 1), (values, 1)) {
            return Outcome::Declined("the attention has further results, or operands of other heads");
        }
        let mut inputs: Vec<Option<New>> = node.inputs.iter().map(|v| v.map(New::Old)).collect();
        (inputs[1], inputs[2]) = (Some(keys.into()), Some(values.into()));
        let mut p = Patch::new();
        let new = p.node(op.clone(), &inputs);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

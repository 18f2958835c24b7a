use super::{SWAP, transposed};
use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{Attention as AttentionOp, AttentionScores, Op},
};

/// Takes attention whose heads were only brought to the front, and back behind, on the rows as they were.
#[derive(Debug)]
pub struct AttentionOfRows;

/// The rows `[batch, sequence, heads * size]` of which `v` is `[batch, heads, sequence, size]`.
fn rows(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (split, perm) = transposed(g, v)?;
    let (_, n) = g.producer(split)?;
    let Op::Reshape(_) = n.op else { return None };
    let x = n.input(0)?;
    (perm == SWAP && merges(g, split, x)).then_some(x)
}

/// Whether `[batch, sequence, heads, size]` is certainly `rows` with its last axis in two.
fn merges(g: &Graph, split: ValueId, rows: ValueId) -> bool {
    let (Some([b, s, h, d]), Some([rb, rs, rd])) =
        (dims(g, split).map(|d| &d[..]), dims(g, rows).map(|d| &d[..]))
    else {
        return false;
    };
    let size = h.known().zip(d.known()).and_then(|(h, d)| h.checked_mul(d));
    b.same(rb) && s.same(rs) && size.is_some() && size == rd.known()
}

impl Rule for AttentionOfRows {
    fn name(&self) -> &'static str {
        "attention_of_rows"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let turned = find!(node.input(0));
        let (heads, perm) = find!(transposed(g, turned));
        let (_, below) = find!(g.producer(heads));
        let Op::Attention(op) = &below.op else { return Outcome::NoMatch };
        if perm != SWAP || !merges(g, turned, node.output()) {
            return Outcome::Declined("the result's heads are not put side by side");
        }
        if op.present || op.scores != AttentionScores::None {
            return Outcome::Declined("the attention has further results");
        }
        if !cx.is_private(g, turned) || !cx.is_private(g, heads) {
            return Outcome::Declined("the result by heads has other readers");
        }
        let operands: Option<Vec<ValueId>> = (0..3).map(|i| rows(g, below.input(i)?)).collect();
        let Some(operands) = operands else {
            return Outcome::Declined("queries, keys or values are no rows of all heads");
        };
        let count = |i: usize| dims(g, below.input(i)?)?.get(1).and_then(Dim::known);
        let (q_heads, kv_heads) = (find!(count(0)), find!(count(1)));
        let mut inputs: Vec<Option<New>> = below.inputs.iter().map(|v| v.map(New::Old)).collect();
        for (input, rows) in inputs.iter_mut().zip(operands) {
            *input = Some(rows.into());
        }
        // Unless it was given, the scale follows from the size of a head, which stays.
        let mut p = Patch::new();
        let new = p.node(AttentionOp { q_heads, kv_heads, ..op.clone() }, &inputs);
        p.origin(below.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

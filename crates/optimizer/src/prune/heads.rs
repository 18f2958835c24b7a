//! Heads of attention as channels: all that belongs to one head goes together.
//!
//! Where an op knows heads, it ties them; where attention is spelled in products, the axis of heads is one of a
//! batch, and splitting the rows into heads ties each head to its channels (`shapes.rs`).

use super::groups::{Axis, Groups, Place};
use crate::pattern::dims;
use tensormill_ir::{
    Graph, Node, NodeId, Op, ValueId,
    ops::{Attention, AttentionScores, MatMul, RotaryEmbedding},
};

/// Steps between a softmax and the product with the values.
const MAX_STEPS: usize = 4;

/// The axes that count heads, with the nodes that mix their values.
pub(super) fn all(g: &Graph) -> Vec<(NodeId, Axis)> {
    let of = |id: NodeId| {
        let n = g.node(id);
        match &n.op {
            // Heads of keys: whole groups of query heads go with them.
            Op::Attention(_) => {
                let k = n.input(1)?;
                Some((id, (k, if dims(g, k)?.len() == 4 { 1 } else { 2 })))
            }
            Op::MatMul(_) if mixes(g, n) => {
                Some((id, (n.output(), dims(g, n.output())?.len().checked_sub(3)?)))
            }
            _ => None,
        }
    };
    g.order().into_iter().filter_map(of).collect()
}

/// Whether a product's left operand comes from a softmax, and its right one is computed, too.
fn mixes(g: &Graph, n: &Node) -> bool {
    let (Some(mut p), Some(v)) = (n.input(0), n.input(1)) else { return false };
    if g.constant(v).is_some() {
        return false;
    }
    for _ in 0..MAX_STEPS {
        let Some((_, step)) = g.producer(p) else { return false };
        let from = match &step.op {
            Op::Softmax(_) => return true,
            Op::Cast(_) | Op::Unary(_) | Op::Binary(_) | Op::Reshape(_) => step.input(0),
            // Rows that see nothing are given zeros.
            Op::Where(_) => step.input(2),
            _ => None,
        };
        let Some(from) = from else { return false };
        p = from;
    }
    false
}

/// How many heads an attention has: of queries, and of keys.
pub(super) fn count(g: &Graph, n: &Node, op: &Attention) -> Option<(usize, usize)> {
    let of = |i: usize, given: usize| match &dims(g, n.input(i)?)?[..] {
        [_, h, _, _] => h.known(),
        _ => Some(given),
    };
    let (q, k) = (of(0, op.q_heads)?, of(1, op.kv_heads)?);
    (k > 0 && q.is_multiple_of(k)).then_some((q, k))
}

impl Groups<'_> {
    /// Ties everything of each head of keys, with the heads of queries that share it.
    pub(super) fn attention(&mut self, n: &Node, op: &Attention, place: Place, axis: usize) -> bool {
        let Some((q_heads, k_heads)) = count(self.g, n, op) else { return false };
        let shared = q_heads / k_heads;
        // The axis of heads of each value that has one, and how many heads there are for one of keys.
        let mut members: Vec<(Place, Axis, usize)> = vec![];
        let mut push = |place, v: Option<ValueId>, heads| {
            let rank = v.map_or(0, |v| self.rank(v));
            if let Some(v) = v {
                members.push((place, (v, if rank == 4 { 1 } else { 2 }), heads));
            }
        };
        for (i, heads) in [(0, shared), (1, 1), (2, 1), (4, 1), (5, 1)] {
            push(Place::Operand(i), n.input(i), heads);
        }
        let mut results = vec![shared];
        results.extend(if op.present { &[1, 1][..] } else { &[] });
        results.extend((op.scores != AttentionScores::None).then_some(shared));
        for (i, heads) in results.into_iter().enumerate() {
            push(Place::Result(i), n.outputs.get(i).copied(), heads);
        }
        if let Some(mask) = n.input(3)
            && let Some(own) = self.rank(mask).checked_sub(3)
            && (q_heads == 1 || self.size(mask, own) != Some(1))
        {
            members.push((Place::Operand(3), (mask, own), shared));
        }
        let is_here = members.iter().any(|(p, at, _)| *p == place && at.1 == axis);
        is_here
            && members.iter().all(|(p, at, heads)| {
                let rows = self.rank(at.0) == 3 && *p != Place::Operand(3);
                let Some(size) = self.size(at.0, at.1) else { return false };
                // Rows have the channels of a head side by side.
                let each = if rows { size / k_heads } else { *heads };
                each > 0 && each * k_heads == size && self.link_groups(members[0].1, *at, k_heads)
            })
    }

    /// Rotates pairs of channels of each head.
    pub(super) fn rotary(&mut self, n: &Node, op: &RotaryEmbedding, place: Place, axis: usize) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        if !matches!(place, Place::Operand(0) | Place::Result(_)) {
            return false;
        }
        match self.rank(x) {
            4 => axis == 1 && self.link((x, 1), (y, 1)),
            3 => axis == 2 && op.heads > 0 && self.link_groups((x, 2), (y, 2), op.heads),
            _ => false,
        }
    }

    /// A product of two computed matrices, each of a batch by itself.
    pub(super) fn product_of_two(&mut self, n: &Node, op: &MatMul, place: Place, axis: usize) -> bool {
        let (Some(a), Some(b), y) = (n.input(0), n.input(1), n.output()) else { return false };
        let (ra, rb, ry) = (self.rank(a), self.rank(b), self.rank(y));
        if ra < 2 || rb < 2 || !op.epilogue.is_empty() {
            return false;
        }
        // Axes that are multiplied over, and those that stay, counted from the end.
        let (inner_a, row) = if op.trans_a { (2, 1) } else { (1, 2) };
        let (inner_b, column) = if op.trans_b { (1, 2) } else { (2, 1) };
        let (rank, [inner, outer, to]) = match place {
            Place::Operand(0) => (ra, [inner_a, row, 2]),
            Place::Operand(1) => (rb, [inner_b, column, 1]),
            _ => (ry, [0, 0, 0]),
        };
        let back = rank - axis;
        match place {
            _ if back > 2 => self.broadcast(n, place, axis),
            Place::Result(_) if back == 2 => self.link((y, axis), (a, ra - row)),
            Place::Result(_) => self.link((y, axis), (b, rb - column)),
            _ if back == inner => self.link((a, ra - inner_a), (b, rb - inner_b)),
            Place::Operand(i) if back == outer => {
                self.link((y, ry - to), if i == 0 { (a, axis) } else { (b, axis) })
            }
            Place::Operand(_) => false,
        }
    }
}

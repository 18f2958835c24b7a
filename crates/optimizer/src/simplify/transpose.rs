use super::reshape::{reshape, shape_operand};
use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, Node, NodeId, OpKind, Patch, ValueId,
    ops::{MatMul, Op, Transpose},
};

/// A node's permutation, spelled out.
fn permutation(g: &Graph, node: &Node) -> Option<Vec<usize>> {
    let Op::Transpose(t) = &node.op else { return None };
    if !t.perm.is_empty() {
        return Some(t.perm.clone());
    }
    Some((0..dims(g, node.input(0)?)?.len()).rev().collect())
}

fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, p)| i == *p)
}

/// Whether a permutation, empty for the reversal, swaps the last two axes and nothing else.
pub(super) fn swaps_last_two(perm: &[usize], rank: usize) -> bool {
    if rank < 2 {
        return false;
    }
    if perm.is_empty() {
        return rank == 2;
    }
    perm.len() == rank && is_identity(&perm[..rank - 2]) && perm[rank - 2..] == [rank - 1, rank - 2]
}

/// Makes one transpose of two, or none.
#[derive(Debug)]
pub struct TransposeOfTranspose;

impl Rule for TransposeOfTranspose {
    fn name(&self) -> &'static str {
        "transpose_of_transpose"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Transpose]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let mid = find!(node.input(0));
        let outer = find!(permutation(g, node));
        let mut p = Patch::new();
        if is_identity(&outer) {
            p.replace(node.output(), mid);
            return Outcome::Rewrite(p);
        }
        let (_, below) = find!(g.producer(mid));
        let inner = find!(permutation(g, below));
        let x = find!(below.input(0));
        let perm: Vec<usize> = find!(outer.iter().map(|&i| inner.get(i).copied()).collect());
        if is_identity(&perm) {
            p.replace(node.output(), x);
        } else {
            let new = p.op(Transpose { perm }, &[x.into()]);
            p.origin(node.origin.clone());
            p.replace(node.output(), new);
        }
        Outcome::Rewrite(p)
    }
}

/// Spells a transpose that moves no axis but those of size 1 as a reshape.
#[derive(Debug)]
pub struct TransposeToReshape;

impl Rule for TransposeToReshape {
    fn name(&self) -> &'static str {
        "transpose_to_reshape"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Transpose]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let x = find!(node.input(0));
        let perm = find!(permutation(g, node));
        let (from, to) = (find!(dims(g, x)), find!(dims(g, node.output())));
        let long: Vec<usize> =
            perm.iter().copied().filter(|&a| from.get(a).is_none_or(|d| *d != Dim::Known(1))).collect();
        if is_identity(&perm) || !long.is_sorted() {
            return Outcome::NoMatch;
        }
        let Some(spec) = shape_operand(from, to) else {
            return Outcome::Declined("no constant shape says it for every size");
        };
        let mut p = Patch::new();
        let new = find!(reshape(&mut p, x.into(), spec));
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

/// Lets a matrix product read its operand transposed instead of transposing it first.
#[derive(Debug)]
pub struct TransposeIntoMatMul;

impl Rule for TransposeIntoMatMul {
    fn name(&self) -> &'static str {
        "transpose_into_matmul"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::MatMul]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::MatMul(m) = &node.op else { return Outcome::NoMatch };
        let below = |v: ValueId| -> Option<(Vec<usize>, usize, ValueId)> {
            let (_, n) = g.producer(v)?;
            let x = n.input(0)?;
            Some((permutation(g, n)?, dims(g, x)?.len(), x))
        };
        let mut new: MatMul = m.clone();
        let mut inputs: Vec<_> = node.inputs.iter().map(|v| v.map(Into::into)).collect();
        let (mut found, mut other) = (false, false);
        for (i, flag) in [&mut new.trans_a, &mut new.trans_b].into_iter().enumerate() {
            let Some((perm, rank, x)) = node.input(i).and_then(below) else { continue };
            if swaps_last_two(&perm, rank) {
                *flag = !*flag;
                inputs[i] = Some(x.into());
                found = true;
            } else {
                other = true;
            }
        }
        match (found, other) {
            (false, false) => Outcome::NoMatch,
            (false, true) => Outcome::Declined("the transpose moves more than the last two axes"),
            _ => {
                let mut p = Patch::new();
                let y = p.node(new, &inputs);
                p.origin(node.origin.clone());
                p.replace(node.output(), y);
                Outcome::Rewrite(p)
            }
        }
    }
}

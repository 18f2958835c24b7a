use crate::{
    pass::Numerics,
    pattern::{binary_at, dims, find, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, NodeId, OpKind, Patch,
    ops::{Binary, BinaryKind, Op},
};

/// Multiplies a constant factor after a product into the product's constant right operand.
#[derive(Debug)]
pub struct ScaleIntoMatMul;

impl Rule for ScaleIntoMatMul {
    fn name(&self) -> &'static str {
        "scale_into_matmul"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let (kind, a, b) = find!(binary_at(g, at));
        let (y, c) = match kind {
            BinaryKind::Mul if g.constant(a).is_some() => (b, a),
            BinaryKind::Mul | BinaryKind::Div => (a, b),
            _ => return Outcome::NoMatch,
        };
        let factor = find!(g.constant(c));
        let (_, product) = find!(g.producer(y));
        let Op::MatMul(m) = &product.op else { return Outcome::NoMatch };
        let w = find!(product.input(1));
        let weights = find!(g.constant(w));
        if !factor.dtype().is_float() {
            return Outcome::NoMatch;
        }
        if !m.epilogue.is_empty() {
            return Outcome::Declined("other steps come before the factor");
        }
        if !cx.is_private(g, y) || !cx.is_private(g, w) {
            return Outcome::Declined("the product or its weights have other readers");
        }
        // With trans_b the columns of the product are rows of the weights.
        let one_axis = factor.shape().iter().rev().skip(1).all(|d| *d == 1);
        let rank = find!(dims(g, w)).len();
        let columns = if m.trans_b { rank.checked_sub(2) } else { rank.checked_sub(1) };
        let per_column = one_axis
            && factor.shape().last() == weights.shape().get(find!(columns))
            && rank >= 2
            && dims(g, y).and_then(|d| d.last().and_then(Dim::known)) == factor.shape().last().copied();
        if factor.len() != 1 && !per_column {
            return Outcome::Declined("the factor is neither one number nor one a column");
        }
        if !same_type(g, y, g.node(at).output()) {
            return Outcome::Declined("the factor may enlarge the result");
        }
        if weights.byte_len() > cx.options.fold_bytes {
            return Outcome::Declined("the weights exceed the bytes of one fold");
        }
        let shape: Vec<usize> = match (factor.len(), m.trans_b) {
            (1, _) => vec![],
            (n, true) => vec![n, 1],
            (n, false) => vec![n],
        };
        let factor = find!(factor.reshape(shape).ok());
        let mut p = Patch::new();
        let factor = p.constant(factor);
        let scaled = p.op(Binary { kind }, &[w.into(), factor]);
        let mut inputs: Vec<_> = product.inputs.iter().map(|v| v.map(Into::into)).collect();
        inputs[1] = Some(scaled);
        let new = p.node(m.clone(), &inputs);
        p.origin(product.origin.clone());
        p.replace(g.node(at).output(), new);
        Outcome::Rewrite(p)
    }
}

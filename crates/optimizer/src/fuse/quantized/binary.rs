use super::{Real, Stored};
use crate::{
    pass::Numerics,
    pattern::{find, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch,
    ops::{Binary, BinaryKind, Op, QuantizedBinary, UnaryKind},
};

/// Makes a sum, difference or product of two dequantized tensors, and the ReLU after it, an op on the integers
/// where the result is quantized again.
#[derive(Debug)]
pub struct QuantizedBinaryOps;

impl Rule for QuantizedBinaryOps {
    fn name(&self) -> &'static str {
        "quantized_binary"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::QuantizeLinear]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let q = find!(Stored::at(g, node));
        let (relu, y) = match unary(g, q.x) {
            Some((UnaryKind::Relu, y)) => (true, y),
            _ => (false, q.x),
        };
        let (_, n) = find!(g.producer(y));
        let Op::Binary(Binary { kind: kind @ (BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul) }) = n.op
        else {
            return Outcome::NoMatch;
        };
        let (a, b) = match (Real::whole(g, find!(n.input(0))), Real::whole(g, find!(n.input(1)))) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => return Outcome::NoMatch,
            _ => return Outcome::Declined("one operand is no quantized tensor of one scale"),
        };
        if !cx.is_private(g, q.x) || !cx.is_private(g, y) {
            return Outcome::Declined("the real numbers have other readers");
        }
        let operands =
            [Some(a.x), Some(b.x), Some(a.scale), a.zero, Some(b.scale), b.zero, Some(q.scale), q.zero];
        let used = if q.zero.is_some() { 8 } else { 7 };
        let mut p = Patch::new();
        let op = QuantizedBinary { kind, relu, to: q.op.to };
        let new = p.node(op, &operands[..used].iter().map(|v| v.map(New::Old)).collect::<Vec<_>>());
        p.origin(n.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

use super::{Stored, range};
use crate::{
    pass::Numerics,
    pattern::{find, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch,
    ops::{Op, PostOp, PostOps, QuantizedConv, UnaryKind},
};
use tensormill_tensor::DType;

/// Quantizes the result of a quantized product in the product.
#[derive(Debug)]
pub struct StoreQuantized;

/// Removes a ReLU or clamp whose bounds are those of the quantization after it.
#[derive(Debug)]
pub struct ClampBeforeQuantize;

/// Whether a step does nothing before a quantization, whose own bounds are as narrow. Quantization keeps the
/// order of numbers: what lies beyond a bound that becomes the last integer becomes it, too.
fn does_nothing(g: &Graph, q: &Stored<'_>, kind: UnaryKind) -> bool {
    let (low, high) = range(q.op.to);
    let at = |v: f32, bound: i64| q.step(g, v) == Some(bound);
    match kind {
        UnaryKind::Relu => at(0.0, low),
        UnaryKind::Clamp { min, max } => at(min.0, low) && at(max.0, high),
        _ => false,
    }
}

impl Rule for ClampBeforeQuantize {
    fn name(&self) -> &'static str {
        "clamp_before_quantize"
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
        let (kind, x) = find!(unary(g, q.x));
        if !matches!(kind, UnaryKind::Relu | UnaryKind::Clamp { .. }) {
            return Outcome::NoMatch;
        }
        if !does_nothing(g, &q, kind) {
            return Outcome::Declined("its bounds are narrower than those of the integers");
        }
        if !cx.is_private(g, q.x) {
            return Outcome::Declined("the bounded numbers have other readers");
        }
        let mut p = Patch::new();
        let [scale, zero] = q.parameters().map(|v| v.map(New::Old));
        let new = p.node(q.op.clone(), &[Some(x.into()), scale, zero][..node.inputs.len()]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

/// The epilogue of a quantized product in f32, and where its result's dtype belongs.
fn result(op: &mut Op) -> Option<(&mut PostOps, &mut Option<DType>)> {
    match op {
        Op::QuantizedConv(c) if c.to.is_none() => Some((&mut c.epilogue, &mut c.to)),
        Op::QuantizedMatMul(m) if m.to.is_none() => Some((&mut m.epilogue, &mut m.to)),
        _ => None,
    }
}

impl Rule for StoreQuantized {
    fn name(&self) -> &'static str {
        "store_quantized"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::QuantizeLinear]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        /// Where scale and zero point of the result are in both ops.
        const SCALE: usize = 7;
        const { assert!(SCALE + 2 == QuantizedConv::OWN, "they come last of the op's own") };
        let node = g.node(at);
        let q = find!(Stored::at(g, node));
        let (_, product) = find!(g.producer(q.x));
        let mut op = product.op.clone();
        let (steps, to) = find!(result(&mut op));
        if !cx.is_private(g, q.x) {
            return Outcome::Declined("the real numbers have other readers");
        }
        while let Some(PostOp::Unary(kind)) = steps.0.last()
            && does_nothing(g, &q, *kind)
        {
            steps.0.pop();
        }
        *to = Some(q.op.to);
        let mut inputs: Vec<Option<New>> = product.inputs.iter().map(|v| v.map(New::Old)).collect();
        inputs.resize(inputs.len().max(SCALE + 1 + usize::from(q.zero.is_some())), None);
        for (i, v) in q.parameters().into_iter().enumerate().filter(|(_, v)| v.is_some()) {
            inputs[SCALE + i] = v.map(New::Old);
        }
        let mut p = Patch::new();
        let new = p.node(op, &inputs);
        p.origin(product.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

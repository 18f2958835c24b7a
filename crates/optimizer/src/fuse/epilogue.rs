use crate::{
    pass::Numerics,
    pattern::{dims, dtype, find, keeps_shape, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{Binary, BinaryKind, Conv, Op, PostOp, PostOps, QuantizedConv, QuantizedMatMul, Unary},
};
use tensormill_tensor::{DType, Tensor};

/// Appends an elementwise op to the epilogue of the product whose result only it reads: activations,
/// biases, residuals, clamps, scales.
///
/// Each step rounds as the op alone did, so nothing changes in the bits.
#[derive(Debug)]
pub struct Epilogue;

/// How many operands an op has besides those of its epilogue, and the epilogue; `None` for ops without one.
fn epilogue(op: &mut Op) -> Option<(usize, &mut PostOps)> {
    match op {
        Op::MatMul(m) => Some((2, &mut m.epilogue)),
        Op::Conv(c) => Some((Conv::OWN, &mut c.epilogue)),
        // What is quantized already is no longer the number that a step is for.
        Op::QuantizedConv(c) if c.to.is_none() => Some((QuantizedConv::OWN, &mut c.epilogue)),
        Op::QuantizedMatMul(m) if m.to.is_none() => Some((QuantizedMatMul::OWN, &mut m.epilogue)),
        _ => None,
    }
}

/// Whether an op has an epilogue.
fn has_epilogue(op: &Op) -> bool {
    match op {
        Op::MatMul(_) | Op::Conv(_) => true,
        Op::QuantizedConv(c) => c.to.is_none(),
        Op::QuantizedMatMul(m) => m.to.is_none(),
        _ => false,
    }
}

impl Rule for Epilogue {
    fn name(&self) -> &'static str {
        "epilogue"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Unary, OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let product = |v: ValueId| g.producer(v).filter(|(_, n)| has_epilogue(&n.op));
        let mut declined = Outcome::NoMatch;
        for (i, v) in node.inputs.iter().enumerate() {
            let Some((v, (_, below))) = v.and_then(|v| Some((v, product(v)?))) else { continue };
            declined = match absorb(g, node, i, v, below, cx) {
                Outcome::Rewrite(p) => return Outcome::Rewrite(p),
                why => why,
            };
        }
        declined
    }
}

/// The product `below` with the step that `node` applies to its result `v`, operand `place` of it.
fn absorb(g: &Graph, node: &Node, place: usize, v: ValueId, below: &Node, cx: &RuleCx<'_>) -> Outcome {
    if cx.is_output(v) {
        return Outcome::Declined("the product is an output of the graph");
    }
    if !cx.is_private(g, v) {
        return Outcome::Declined("the product has other readers");
    }
    let out = node.output();
    if dtype(g, out) != dtype(g, v) {
        return Outcome::Declined("the step changes the dtype");
    }
    let mut op = below.op.clone();
    let Some((own, steps)) = epilogue(&mut op) else { return Outcome::NoMatch };
    let mut inputs: Vec<Option<New>> = below.inputs.iter().map(|v| v.map(New::Old)).collect();
    let mut p = Patch::new();
    match &node.op {
        Op::Unary(Unary { kind }) => steps.0.push(PostOp::Unary(*kind)),
        Op::Binary(Binary { kind }) => {
            let other = find!(node.input(1 - place));
            if !same_type(g, v, out) && !keeps_shape(g, v, other) {
                return Outcome::Declined("the other operand may enlarge the result");
            }
            if *kind == BinaryKind::Add
                && steps.is_empty()
                && let Some(bias) = bias(g, below, v, other)
            {
                inputs.resize(inputs.len().max(BIAS + 1), None);
                inputs[BIAS] = Some(bias.map_or(New::Old(other), |t| p.constant(t)));
                return finish(p, op, &inputs, below, out);
            }
            inputs.resize(inputs.len().max(own), None);
            // An operand that a step before uses already is not given twice.
            let operand =
                (own..inputs.len()).find(|&i| inputs[i] == Some(New::Old(other))).unwrap_or_else(|| {
                    inputs.push(Some(New::Old(other)));
                    inputs.len() - 1
                });
            steps.0.push(PostOp::Binary {
                kind: *kind,
                operand,
                swapped: place == 1 && !kind.is_commutative(),
            });
        }
        _ => return Outcome::NoMatch,
    }
    finish(p, op, &inputs, below, out)
}

fn finish(mut p: Patch, op: Op, inputs: &[Option<New>], below: &Node, out: ValueId) -> Outcome {
    let new = p.node(op, inputs);
    p.origin(below.origin.clone());
    p.replace(out, new);
    Outcome::Rewrite(p)
}

/// Where the bias of a quantized product is.
const BIAS: usize = 2;

/// Whether a constant added to a quantized product `v` may be its bias: one number for each channel. The
/// tensor that it must become, or `None` where it is that vector.
fn bias(g: &Graph, below: &Node, v: ValueId, other: ValueId) -> Option<Option<Tensor>> {
    let t = g.constant(other)?;
    let from_end = match &below.op {
        Op::QuantizedConv(_) => dims(g, v)?.len().checked_sub(2)?,
        Op::QuantizedMatMul(_) => 0,
        _ => return None,
    };
    let y = dims(g, v)?;
    let channels = y.iter().rev().nth(from_end)?.known()?;
    let own = t.shape().iter().rev().nth(from_end) == Some(&channels) && t.len() == channels;
    if below.input(BIAS).is_some() || !own || t.dtype() != DType::F32 {
        return None;
    }
    if t.shape().rank() == 1 { Some(None) } else { Some(Some(t.reshape([channels]).ok()?)) }
}

use super::{Real, Stored};
use crate::{
    pass::Numerics,
    pattern::{find, scalar},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{Concat, CoordinateMode, Op, PadMode, ResizeMode},
};
use tensormill_tensor::Tensor;

/// Ops in a row that a quantization is moved over at most.
const MAX_MOVES: usize = 16;

/// Leaves out a dequantization and the quantization after it that finds the same integers again.
#[derive(Debug)]
pub struct QuantizedTwice;

/// Moves or selects integers where a file moves the numbers that they stand for.
#[derive(Debug)]
pub struct MoveIntegers;

/// Joins integers where a file joins the numbers that they stand for; those of other scales are brought to the
/// result's before, one by one.
#[derive(Debug)]
pub struct ConcatIntegers;

/// Splits integers where a file splits the numbers that they stand for.
#[derive(Debug)]
pub struct SplitIntegers;

/// A quantization of `x` by what `q` quantizes by.
fn requantize(p: &mut Patch, q: &Stored<'_>, x: New) -> New {
    let [scale, zero] = q.parameters().map(|v| v.map(New::Old));
    let inputs = [Some(x), scale, zero];
    p.node(q.op.clone(), &inputs[..if q.zero.is_some() { 3 } else { 2 }])
}

impl Rule for QuantizedTwice {
    fn name(&self) -> &'static str {
        "quantized_twice"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::QuantizeLinear]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let q = find!(Stored::at(g, node));
        let x = find!(Real::whole(g, q.x));
        if !x.matches(g, &q) {
            return Outcome::Declined("the scales differ");
        }
        let mut p = Patch::new();
        p.replace(node.output(), x.x);
        Outcome::Rewrite(p)
    }
}

/// Whether an op's result holds elements of its first operand and nothing else, or the greatest of some: then it
/// does not matter whether they are quantized before or after.
fn moves(node: &Node) -> bool {
    match &node.op {
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::Transpose(_)
        | Op::Expand(_)
        | Op::Tile(_)
        | Op::Slice(_)
        | Op::Gather(_)
        | Op::GatherElements(_)
        | Op::GatherND(_)
        | Op::ReverseSequence(_)
        | Op::Pad(_) => true,
        Op::MaxPool(p) => !p.with_indices,
        Op::Resize(r) => {
            r.mode == ResizeMode::Nearest && !r.antialias && r.coordinates != CoordinateMode::TfCropAndResize
        }
        _ => false,
    }
}

/// The value that pads, quantized; `None` where it is computed or there is none to quantize.
fn padding(g: &Graph, node: &Node, q: &Stored<'_>) -> Option<Option<Tensor>> {
    match &node.op {
        Op::Pad(p) if p.mode == PadMode::Constant => {
            let v = match node.input(2) {
                None => 0.0,
                Some(v) => scalar(g, v)?,
            };
            Some(Some(Tensor::from_i64s(q.op.to, [], [q.step(g, v as f32)?]).ok()?))
        }
        _ => Some(None),
    }
}

/// Whether, over ops that move elements and have no other readers, `v` comes from integers that the
/// quantization finds again, or from a product that can quantize.
fn arrives(g: &Graph, v: ValueId, q: &Stored<'_>, cx: &RuleCx<'_>) -> bool {
    let (mut v, mut selects) = (v, false);
    for _ in 0..MAX_MOVES {
        let Some((_, node)) = g.producer(v) else { return false };
        if let Some(x) = Real::whole(g, v) {
            return x.matches(g, q);
        }
        if !cx.is_private(g, v) {
            return false;
        }
        if matches!(node.op, Op::QuantizedConv(_) | Op::QuantizedMatMul(_)) {
            return !selects;
        }
        if !moves(node) {
            return false;
        }
        // What others do not select would be quantized for nothing.
        selects |= matches!(node.op, Op::Slice(_) | Op::Gather(_) | Op::GatherElements(_) | Op::GatherND(_));
        let Some(x) = node.input(0) else { return false };
        v = x;
    }
    false
}

impl Rule for MoveIntegers {
    fn name(&self) -> &'static str {
        "move_integers"
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
        let (_, mover) = find!(g.producer(q.x));
        if !moves(mover) {
            return Outcome::NoMatch;
        }
        let x = find!(mover.input(0));
        if !cx.is_private(g, q.x) {
            return Outcome::Declined("the real numbers have other readers");
        }
        if !arrives(g, x, &q, cx) {
            return Outcome::Declined("the numbers come from no integers of the same scale");
        }
        let Some(padding) = padding(g, mover, &q) else {
            return Outcome::Declined("what pads is computed");
        };
        let mut p = Patch::new();
        let x = match Real::whole(g, x) {
            Some(r) => New::Old(r.x),
            None => requantize(&mut p, &q, x.into()),
        };
        let mut inputs: Vec<Option<New>> = mover.inputs.iter().map(|v| v.map(New::Old)).collect();
        inputs[0] = Some(x);
        if let Some(t) = padding {
            inputs.resize(inputs.len().max(3), None);
            inputs[2] = Some(p.constant(t));
        }
        let new = p.node(mover.op.clone(), &inputs);
        p.origin(mover.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

impl Rule for ConcatIntegers {
    fn name(&self) -> &'static str {
        "concat_integers"
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
        let (_, joined) = find!(g.producer(q.x));
        let Op::Concat(Concat { axis }) = joined.op else { return Outcome::NoMatch };
        if !cx.is_private(g, q.x) {
            return Outcome::Declined("the real numbers have other readers");
        }
        let parts: Option<Vec<ValueId>> = joined.inputs.iter().copied().collect();
        let parts = find!(parts);
        let quantized = |v: &ValueId| {
            Real::whole(g, *v).is_some()
                || (cx.is_private(g, *v)
                    && g.producer(*v)
                        .is_some_and(|(_, n)| matches!(n.op, Op::QuantizedConv(_) | Op::QuantizedMatMul(_))))
        };
        if !parts.iter().all(quantized) {
            return Outcome::Declined("a part comes from no integers");
        }
        let mut p = Patch::new();
        let parts: Vec<New> = parts
            .into_iter()
            .map(|v| match Real::whole(g, v).filter(|r| r.matches(g, &q)) {
                Some(r) => New::Old(r.x),
                None => requantize(&mut p, &q, v.into()),
            })
            .collect();
        let new = p.op(Concat { axis }, &parts);
        p.origin(joined.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

impl Rule for SplitIntegers {
    fn name(&self) -> &'static str {
        "split_integers"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Split]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let x = find!(Real::whole(g, find!(node.input(0))));
        let mut p = Patch::new();
        let mut inputs: Vec<Option<New>> = node.inputs.iter().map(|v| v.map(New::Old)).collect();
        inputs[0] = Some(x.x.into());
        let new = p.node(node.op.clone(), &inputs);
        p.origin(node.origin.clone());
        for (i, part) in node.outputs.iter().enumerate() {
            let users = g.value(*part).users();
            if cx.is_output(*part) {
                return Outcome::Declined("a part is an output of the graph");
            }
            for u in users {
                let user = g.node(*u);
                if !Stored::at(g, user).is_some_and(|q| q.x == *part && x.matches(g, &q)) {
                    return Outcome::Declined("a part is not quantized by the same scale");
                }
                p.replace(user.output(), new.sibling(i));
            }
        }
        if p.replaced().next().is_none() { Outcome::NoMatch } else { Outcome::Rewrite(p) }
    }
}

use super::{Real, Scales, is_byte, moved};
use crate::{
    pass::Numerics,
    pattern::{dims, dtype, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{Conv, Op, PostOps, QuantizedConv, QuantizedMatMul},
};
use tensormill_tensor::DType;

/// Axes of a convolution that backends have kernels of bytes for, whose results are not the sums themselves.
pub(super) const MOST_AXES: usize = 4;

/// Makes a convolution of dequantized integers one of the integers.
#[derive(Debug)]
pub struct QuantizedConvs;

/// Makes a product with a constant matrix of dequantized integers one with the integers, whether the other
/// factor is dequantized, too, or is of real numbers.
#[derive(Debug)]
pub struct QuantizedMatMuls;

/// The nine own operands of a quantized product, then those of the epilogue of `node` from `own` on.
pub(super) fn operands(
    x: ValueId,
    w: &Real<'_>,
    bias: Option<ValueId>,
    scaled: Option<(ValueId, Option<ValueId>)>,
    rest: &[Option<ValueId>],
) -> Vec<Option<New>> {
    let mut v = vec![
        Some(x),
        Some(w.x),
        bias,
        scaled.map(|s| s.0),
        scaled.and_then(|s| s.1),
        Some(w.scale),
        w.zero,
        None,
        None,
    ];
    v.extend(rest);
    while v.last() == Some(&None) {
        v.pop();
    }
    v.into_iter().map(|v| v.map(New::Old)).collect()
}

/// The rewrite of a node to another op.
fn rewrite(node: &Node, op: impl Into<Op>, inputs: &[Option<New>]) -> Outcome {
    let mut p = Patch::new();
    let new = p.node(op, inputs);
    p.origin(node.origin.clone());
    p.replace(node.output(), new);
    Outcome::Rewrite(p)
}

impl Rule for QuantizedConvs {
    fn name(&self) -> &'static str {
        "quantized_conv"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Conv]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Conv(op) = &node.op else { return Outcome::NoMatch };
        let (x, w) = (find!(node.input(0)), find!(node.input(1)));
        let (x, w) = match (Real::of(g, x), Real::of(g, w)) {
            (None, None) => return Outcome::NoMatch,
            (Some(_), None) => return Outcome::Declined("only the input is quantized"),
            (None, Some(_)) => return Outcome::Declined("only the weights are quantized"),
            (Some(x), Some(w)) => (x, w),
        };
        if dims(g, w.x).is_some_and(|d| d.len() > MOST_AXES) {
            return Outcome::Declined("three spatial axes are convolved in f32");
        }
        if !is_byte(x.dtype) || !x.is_whole(g) {
            return Outcome::Declined("the input has several scales");
        }
        if !is_byte(w.dtype) || g.constant(w.x).is_none() {
            return Outcome::Declined("the weights are computed or no bytes");
        }
        if !matches!(Scales::of(g, &w, 0, None), Some(Scales::One | Scales::Channel)) {
            return Outcome::Declined("the scales of the weights do not differ by channel");
        }
        let Conv { strides, dilations, pads, group, auto_pad, epilogue } = op.clone();
        let epilogue = moved(&epilogue, Conv::OWN, QuantizedConv::OWN);
        let new = QuantizedConv { strides, dilations, pads, group, auto_pad, epilogue, to: None };
        let rest = node.inputs.get(Conv::OWN..).unwrap_or_default();
        rewrite(node, new, &operands(x.x, &w, node.input(2), Some((x.scale, x.zero)), rest))
    }
}

impl Rule for QuantizedMatMuls {
    fn name(&self) -> &'static str {
        "quantized_matmul"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::MatMul]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        /// Operands of a product before those of its epilogue.
        const OWN: usize = 2;
        let node = g.node(at);
        let Op::MatMul(op) = &node.op else { return Outcome::NoMatch };
        let (x, w) = (find!(node.input(0)), find!(node.input(1)));
        let Some(w) = Real::of(g, w) else {
            return match Real::of(g, x) {
                Some(_) => Outcome::Declined("only the left factor is quantized"),
                None => Outcome::NoMatch,
            };
        };
        if g.constant(w.x).is_none() {
            return Outcome::Declined("the right factor is computed");
        }
        if op.trans_a {
            return Outcome::Declined("the left factor is transposed");
        }
        if dims(g, w.x).is_none_or(|d| d.len() != 2) {
            return Outcome::Declined("the right factor is no matrix");
        }
        let narrow = matches!(w.dtype, DType::I4 | DType::U4);
        if !is_byte(w.dtype) && !narrow {
            return Outcome::Declined("the weights have neither 4 nor 8 bits");
        }
        let (inner, columns) = if op.trans_b { (1, 0) } else { (0, 1) };
        let block_size = match Scales::of(g, &w, columns, Some(inner)) {
            Some(Scales::Block(n)) => n,
            Some(_) => 0,
            None => return Outcome::Declined("the scales of the weights differ neither by column nor block"),
        };
        let scaled = Real::whole(g, x).filter(|_| !narrow);
        if scaled.is_none() && dtype(g, x) != Some(DType::F32) {
            return Outcome::NoMatch;
        }
        let epilogue: PostOps = moved(&op.epilogue, OWN, QuantizedMatMul::OWN);
        let new = QuantizedMatMul { trans_b: op.trans_b, block_size, epilogue, to: None };
        let parameters = scaled.as_ref().map(|s| (s.scale, s.zero));
        let x = scaled.map_or(x, |s| s.x);
        rewrite(node, new, &operands(x, &w, None, parameters, &node.inputs[OWN..]))
    }
}

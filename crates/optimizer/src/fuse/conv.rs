use crate::{
    pass::Numerics,
    pattern::{binary_at, dims, find, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{BatchNorm, Binary, BinaryKind, Conv, Op},
};
use tensormill_tensor::Tensor;

/// Multiplies a batch normalization into the weights and bias of the convolution before it.
#[derive(Debug)]
pub struct BatchNormIntoConv;

/// Multiplies a constant factor, one number or one a channel, into the convolution before it.
#[derive(Debug)]
pub struct ScaleIntoConv;

/// Adds a constant, one number or one a channel, to the bias of the convolution before it.
#[derive(Debug)]
pub struct BiasIntoConv;

/// A convolution whose weights and bias are constants that only it reads.
struct Weighted<'a> {
    op: &'a Conv,
    node: &'a Node,
    weights: ValueId,
    channels: usize,
    bias: Vec<f64>,
}

/// The convolution that computes `y`, or why its weights must stay as they are.
fn weighted<'a>(g: &'a Graph, y: ValueId, cx: &RuleCx<'_>) -> Option<Result<Weighted<'a>, &'static str>> {
    let (_, node) = g.producer(y)?;
    let Op::Conv(op) = &node.op else { return None };
    let weights = node.input(1)?;
    let Some(w) = g.constant(weights) else { return Some(Err("the weights are computed")) };
    if !w.dtype().is_float() {
        return None;
    }
    if !op.epilogue.is_empty() {
        return Some(Err("other steps come before it"));
    }
    if !cx.is_private(g, y) || !cx.is_private(g, weights) {
        return Some(Err("the convolution or its weights have other readers"));
    }
    if w.byte_len() > cx.options.fold_bytes {
        return Some(Err("the weights exceed the bytes of one fold"));
    }
    let channels = *w.shape().first()?;
    let bias = match node.input(2) {
        None => vec![0.0; channels],
        Some(b) => match g.constant(b) {
            Some(b) => b.to_f64_vec().ok()?,
            None => return Some(Err("the bias is computed")),
        },
    };
    (bias.len() == channels).then_some(Ok(Weighted { op, node, weights, channels, bias }))
}

/// The rewrite of `out` to the convolution with each channel's weights times `scale` and this bias.
fn rewrite(g: &Graph, c: &Weighted<'_>, scale: Option<&[f64]>, bias: Vec<f64>, out: ValueId) -> Outcome {
    let dtype = find!(g.constant(c.weights)).dtype();
    let finite = |v: &[f64]| v.iter().all(|x| x.is_finite());
    if !finite(&bias) || scale.is_some_and(|s| !finite(s)) {
        return Outcome::Declined("a weight would be infinite");
    }
    let mut p = Patch::new();
    let mut w = New::Old(c.weights);
    if let Some(scale) = scale {
        let mut shape = vec![1; find!(dims(g, c.weights)).len()];
        shape[0] = c.channels;
        let factor = p.constant(find!(Tensor::from_f64s(dtype, shape, scale.iter().copied()).ok()));
        w = p.op(Binary { kind: BinaryKind::Mul }, &[w, factor]);
    }
    let bias = p.constant(find!(Tensor::from_f64s(dtype, [c.channels], bias).ok()));
    let x = find!(c.node.input(0));
    let new = p.op(c.op.clone(), &[x.into(), w, bias]);
    p.origin(c.node.origin.clone());
    p.replace(out, new);
    Outcome::Rewrite(p)
}

/// The elements of a constant that broadcasts along the channels of a result, one a channel.
pub(super) fn per_channel(g: &Graph, c: ValueId, y: ValueId, channels: usize) -> Option<Vec<f64>> {
    let t = g.constant(c)?;
    let v = t.to_f64_vec().ok()?;
    if let [one] = v[..] {
        return Some(vec![one; channels]);
    }
    // Counted from the last axis, where broadcasting aligns, the channels come after the spatial axes.
    let from_end = dims(g, y)?.len().checked_sub(2)?;
    let axis = t.shape().rank().checked_sub(from_end + 1)?;
    (t.shape().get(axis) == Some(&channels) && t.len() == channels).then_some(v)
}

impl Rule for BatchNormIntoConv {
    fn name(&self) -> &'static str {
        "batch_norm_into_conv"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::BatchNorm]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::BatchNorm(BatchNorm { epsilon }) = &node.op else { return Outcome::NoMatch };
        let conv = match find!(weighted(g, find!(node.input(0)), cx)) {
            Ok(c) => c,
            Err(why) => return Outcome::Declined(why),
        };
        let vector = |i: usize| {
            let v = g.constant(node.input(i)?)?.to_f64_vec().ok()?;
            (v.len() == conv.channels).then_some(v)
        };
        let (Some(scale), Some(shift), Some(mean), Some(var)) = (vector(1), vector(2), vector(3), vector(4))
        else {
            return Outcome::Declined("the statistics are computed");
        };
        let epsilon = f64::from(epsilon.0);
        let k: Vec<f64> = scale.iter().zip(&var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let bias = (0..conv.channels).map(|i| (conv.bias[i] - mean[i]) * k[i] + shift[i]).collect();
        rewrite(g, &conv, Some(&k), bias, node.output())
    }
}

impl Rule for ScaleIntoConv {
    fn name(&self) -> &'static str {
        "scale_into_conv"
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
            BinaryKind::Mul | BinaryKind::Div if g.constant(b).is_some() => (a, b),
            _ => return Outcome::NoMatch,
        };
        constant_step(g, at, y, c, cx, |conv, mut k| {
            if kind == BinaryKind::Div {
                k.iter_mut().for_each(|k| *k = 1.0 / *k);
            }
            let bias = conv.bias.iter().zip(&k).map(|(b, k)| b * k).collect();
            (Some(k), bias)
        })
    }
}

impl Rule for BiasIntoConv {
    fn name(&self) -> &'static str {
        "bias_into_conv"
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
            BinaryKind::Add if g.constant(a).is_some() => (b, a),
            BinaryKind::Add | BinaryKind::Sub if g.constant(b).is_some() => (a, b),
            _ => return Outcome::NoMatch,
        };
        let sign = if kind == BinaryKind::Sub { -1.0 } else { 1.0 };
        constant_step(g, at, y, c, cx, |conv, c| {
            (None, conv.bias.iter().zip(c).map(|(b, c)| b + sign * c).collect())
        })
    }
}

/// The rewrite of a step with the constant `c` on the convolution `y`: `f` gives scale and bias.
fn constant_step(
    g: &Graph,
    at: NodeId,
    y: ValueId,
    c: ValueId,
    cx: &RuleCx<'_>,
    f: impl FnOnce(&Weighted<'_>, Vec<f64>) -> (Option<Vec<f64>>, Vec<f64>),
) -> Outcome {
    let conv = match find!(weighted(g, y, cx)) {
        Ok(c) => c,
        Err(why) => return Outcome::Declined(why),
    };
    let Some(v) = per_channel(g, c, y, conv.channels) else {
        return Outcome::Declined("the constant is neither one number nor one a channel");
    };
    let out = g.node(at).output();
    if !same_type(g, y, out) {
        return Outcome::Declined("the constant may enlarge the result");
    }
    let (scale, bias) = f(&conv, v);
    rewrite(g, &conv, scale.as_deref(), bias, out)
}

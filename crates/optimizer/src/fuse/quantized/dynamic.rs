use super::{is_single, product::MOST_AXES};
use crate::{
    fuse::conv::per_channel,
    pass::Numerics,
    pattern::{binary, dtype, find, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{Binary, BinaryKind, Cast, Op, QuantizedConv, QuantizedMatMul},
};
use tensormill_tensor::{DType, Tensor};

/// Terms of a sum of products of bytes that 32 bits certainly hold.
const MAX_TERMS: usize = i32::MAX as usize / (255 * 255);

/// Joins a product of integers with the cast to f32 and the scales that follow it: what quantization at run
/// time is written as.
#[derive(Debug)]
pub struct DynamicMatMul;

/// As [`DynamicMatMul`], of a convolution.
#[derive(Debug)]
pub struct DynamicConv;

/// The integers whose cast to f32 is a factor of a product, and the other factor.
struct Scaled<'a> {
    node: &'a Node,
    /// The integers as f32.
    cast: ValueId,
    factor: ValueId,
    private: bool,
}

/// The integers of a kind that a product multiplies by scales.
fn scaled<'a>(g: &'a Graph, at: NodeId, kind: OpKind, cx: &RuleCx<'_>) -> Option<Scaled<'a>> {
    let (a, b) = binary(g, g.node(at).output(), BinaryKind::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(cast, factor)| {
        let (_, n) = g.producer(cast)?;
        let Op::Cast(Cast { to: DType::F32, .. }) = n.op else { return None };
        let integers = n.input(0)?;
        let (_, node) = g.producer(integers)?;
        let private = cx.is_private(g, cast) && cx.is_private(g, integers);
        (node.op.kind() == kind).then_some(Scaled { node, cast, factor, private })
    })
}

/// The scale of x, one number, and the constant scales of w; 1 where the file has a single factor.
enum Factors {
    Both(ValueId, ValueId),
    OfX(ValueId),
    OfW(ValueId),
}

impl Factors {
    fn of(g: &Graph, factor: ValueId) -> Option<Factors> {
        if let Some((a, b)) = binary(g, factor, BinaryKind::Mul) {
            let both = |x: ValueId, w: ValueId| is_single(g, x) && g.constant(w).is_some();
            let found = [(a, b), (b, a)].into_iter().find(|(x, w)| both(*x, *w));
            return found.map(|(x, w)| Factors::Both(x, w));
        }
        if g.constant(factor).is_some() {
            return Some(Factors::OfW(factor));
        }
        is_single(g, factor).then_some(Factors::OfX(factor))
    }

    /// The scales of x and w in a patch; the constant of w has the shape that `per_channel` gives it.
    fn add(&self, g: &Graph, p: &mut Patch, shape: impl Fn(&Tensor) -> Option<Tensor>) -> Option<[New; 2]> {
        let weights = |p: &mut Patch, w: ValueId| {
            let t = g.constant(w)?;
            Some(if t.shape().rank() <= 1 { New::Old(w) } else { p.constant(shape(t)?) })
        };
        Some(match *self {
            Factors::Both(x, w) => [x.into(), weights(p, w)?],
            Factors::OfX(x) => [x.into(), p.constant(Tensor::scalar(1f32))],
            Factors::OfW(w) => [p.constant(Tensor::scalar(1f32)), weights(p, w)?],
        })
    }
}

/// The rewrite of a product with scales to an op with the operands that both have: x, w, their zero points.
fn rewrite(
    g: &Graph,
    at: NodeId,
    s: &Scaled<'_>,
    op: impl Into<Op>,
    scales: [New; 2],
    mut p: Patch,
) -> Outcome {
    let old = |i: usize| s.node.input(i).map(New::Old);
    let new = p.node(op, &[old(0), old(1), None, Some(scales[0]), old(2), Some(scales[1]), old(3)]);
    p.origin(s.node.origin.clone());
    p.replace(g.node(at).output(), new);
    Outcome::Rewrite(p)
}

/// Why a product with scales stays as it is.
fn refusal(g: &Graph, at: NodeId, s: &Scaled<'_>) -> Option<&'static str> {
    if !s.private {
        return Some("the integers have other readers");
    }
    if s.node.input(1).is_none_or(|w| g.constant(w).is_none()) {
        return Some("the right factor is computed");
    }
    if dtype(g, s.factor) != Some(DType::F32) || !same_type(g, s.cast, g.node(at).output()) {
        return Some("the scales may enlarge the result");
    }
    if s.node.input(2).is_some_and(|z| !is_single(g, z)) {
        return Some("the left factor has several zero points");
    }
    None
}

impl Rule for DynamicMatMul {
    fn name(&self) -> &'static str {
        "dynamic_matmul"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        if !matches!(g.node(at).op, Op::Binary(Binary { kind: BinaryKind::Mul })) {
            return Outcome::NoMatch;
        }
        let s = find!(scaled(g, at, OpKind::MatMulInteger, cx));
        if let Some(why) = refusal(g, at, &s) {
            return Outcome::Declined(why);
        }
        let w = find!(g.constant(find!(s.node.input(1))));
        let &[k, n] = w.shape().dims() else { return Outcome::Declined("the right factor is no matrix") };
        if k > MAX_TERMS {
            return Outcome::Declined("the sums may not fit in 32 bits");
        }
        // One for all, or a vector or row of one for each column.
        let flat = |t: &Tensor| {
            let fits = t.len() == 1 || (t.len() == n && t.shape().last() == Some(&n));
            fits.then(|| t.reshape([t.len()]).ok()).flatten()
        };
        let zeros = s
            .node
            .input(3)
            .is_none_or(|z| g.constant(z).is_some_and(|z| flat(z).is_some() && z.shape().rank() <= 1));
        let factors = match Factors::of(g, s.factor) {
            Some(f) if zeros => f,
            _ => return Outcome::Declined("scales or zero points differ neither by nothing nor by column"),
        };
        let scale = match factors {
            Factors::Both(_, w) | Factors::OfW(w) => g.constant(w),
            Factors::OfX(_) => None,
        };
        if scale.is_some_and(|t| flat(t).is_none()) {
            return Outcome::Declined("scales or zero points differ neither by nothing nor by column");
        }
        let mut p = Patch::new();
        let scales = find!(factors.add(g, &mut p, flat));
        rewrite(g, at, &s, QuantizedMatMul::default(), scales, p)
    }
}

impl Rule for DynamicConv {
    fn name(&self) -> &'static str {
        "dynamic_conv"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        if !matches!(g.node(at).op, Op::Binary(Binary { kind: BinaryKind::Mul })) {
            return Outcome::NoMatch;
        }
        let s = find!(scaled(g, at, OpKind::ConvInteger, cx));
        let Op::ConvInteger(op) = &s.node.op else { return Outcome::NoMatch };
        if let Some(why) = refusal(g, at, &s) {
            return Outcome::Declined(why);
        }
        let w = find!(g.constant(find!(s.node.input(1))));
        let channels = *find!(w.shape().first());
        if w.shape().rank() > MOST_AXES {
            return Outcome::Declined("sums over three spatial axes are scaled by themselves");
        }
        if w.len() / channels.max(1) > MAX_TERMS {
            return Outcome::Declined("the sums may not fit in 32 bits");
        }
        let factors = match Factors::of(g, s.factor) {
            Some(f) if s.node.input(3).is_none_or(|z| g.constant(z).is_some()) => f,
            _ => return Outcome::Declined("scales or zero points differ neither by nothing nor by channel"),
        };
        // Counted from the last axis the channels come after the spatial axes.
        if let Factors::Both(_, w) | Factors::OfW(w) = factors {
            let t = find!(g.constant(w));
            if per_channel(g, w, s.cast, channels).is_none() || (t.len() != 1 && t.shape().rank() <= 1) {
                return Outcome::Declined("scales or zero points differ neither by nothing nor by channel");
            }
        }
        let mut p = Patch::new();
        let scales = find!(factors.add(g, &mut p, |t| t.reshape([t.len()]).ok()));
        let new = QuantizedConv {
            strides: op.strides.clone(),
            dilations: op.dilations.clone(),
            pads: op.pads.clone(),
            group: op.group,
            auto_pad: op.auto_pad,
            ..QuantizedConv::default()
        };
        rewrite(g, at, &s, new, scales, p)
    }
}

use crate::{
    pass::Numerics,
    pattern::{binary, binary_at, dims, dtype, find, same_type, scalar, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, Cast, InstanceNorm, LayerNorm, Op, Reduce, ReduceKind, RmsNorm, UnaryKind},
};
use tensormill_tensor::Tensor;

/// Finds layer, instance and root-mean-square normalizations in the means, differences and roots that
/// exporters write, together with the scale after them where it is one of a row's elements.
#[derive(Debug)]
pub struct Normalize;

/// Gives a layer normalization without bias the addition after it.
#[derive(Debug)]
pub struct NormalizeBias;

/// What is normalized, over the axes from `axis` on.
struct Normalized {
    x: ValueId,
    axis: usize,
    epsilon: f32,
    centered: bool,
}

/// The operand and first axis of a mean over trailing axes that keeps them.
fn mean(g: &Graph, v: ValueId) -> Option<(ValueId, usize)> {
    let (_, n) = g.producer(v)?;
    let Op::Reduce(Reduce { kind: ReduceKind::Mean, keepdims: true, noop_with_empty_axes }) = n.op else {
        return None;
    };
    let x = n.input(0)?;
    let rank = dims(g, x)?.len();
    let given = match n.input(1) {
        Some(a) => g.const_ints(a)?,
        None => vec![],
    };
    if given.is_empty() {
        return (!noop_with_empty_axes && rank > 0).then_some((x, 0));
    }
    let mut axes = tensormill_ir::infer::axes(&given, rank).ok()?;
    axes.sort_unstable();
    let first = axes[0];
    (axes.len() == rank - first).then_some((x, first))
}

/// The `d` of `mean(d^2) + epsilon`, with the first axis and epsilon.
fn mean_square(g: &Graph, v: ValueId) -> Option<(ValueId, usize, f64)> {
    let (a, b) = binary(g, v, BinaryKind::Add)?;
    let (m, epsilon) = [(a, b), (b, a)].into_iter().find_map(|(m, e)| Some((m, scalar(g, e)?)))?;
    let (square, axis) = mean(g, m)?;
    let d = match (binary(g, square, BinaryKind::Pow), binary(g, square, BinaryKind::Mul)) {
        (Some((d, two)), _) if scalar(g, two) == Some(2.0) => d,
        (_, Some((d, e))) if d == e => d,
        _ => return None,
    };
    Some((d, axis, epsilon))
}

/// The sum under the root, of the forms `sqrt(s)` and, inverse, `1/sqrt(s)` and `s^-0.5`.
fn under_root(g: &Graph, v: ValueId, inverse: bool) -> Option<ValueId> {
    if !inverse {
        return unary(g, v).filter(|u| u.0 == UnaryKind::Sqrt).map(|u| u.1);
    }
    if let Some((UnaryKind::Reciprocal, root)) = unary(g, v) {
        return under_root(g, root, false);
    }
    if let Some((s, e)) = binary(g, v, BinaryKind::Pow) {
        return (scalar(g, e) == Some(-0.5)).then_some(s);
    }
    let (one, root) = binary(g, v, BinaryKind::Div)?;
    (scalar(g, one) == Some(1.0)).then(|| under_root(g, root, false)).flatten()
}

/// What `v` is the normalized form of.
fn normalized(g: &Graph, v: ValueId) -> Option<Normalized> {
    let (d, sum) = match binary(g, v, BinaryKind::Div) {
        Some((d, root)) => (d, under_root(g, root, false)?),
        None => {
            let (a, b) = binary(g, v, BinaryKind::Mul)?;
            [(a, b), (b, a)].into_iter().find_map(|(d, r)| Some((d, under_root(g, r, true)?)))?
        }
    };
    let (squared, axis, epsilon) = mean_square(g, sum)?;
    if squared != d {
        return None;
    }
    let epsilon = epsilon as f32;
    if let Some((x, m)) = binary(g, d, BinaryKind::Sub)
        && mean(g, m) == Some((x, axis))
    {
        return Some(Normalized { x, axis, epsilon, centered: true });
    }
    Some(Normalized { x: d, axis, epsilon, centered: false })
}

/// A product of what is normalized, maybe cast before, and a scale.
struct Scaled {
    norm: Normalized,
    n: ValueId,
    scale: ValueId,
    /// Whether a cast is between them.
    cast: bool,
}

/// What is cast to a narrower float type.
fn cast_of(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (_, n) = g.producer(v)?;
    let Op::Cast(_) = n.op else { return None };
    let x = n.input(0)?;
    let (from, to) = (dtype(g, x)?, dtype(g, v)?);
    (from.is_float() && to.is_float() && from.bits() > to.bits()).then_some(x)
}

/// The scaled normalization at a product.
fn scaled(g: &Graph, at: NodeId) -> Option<Scaled> {
    let (BinaryKind::Mul, a, b) = binary_at(g, at)? else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(n, scale)| {
        if let Some(norm) = normalized(g, n) {
            return Some(Scaled { norm, n, scale, cast: false });
        }
        let norm = normalized(g, cast_of(g, n)?)?;
        Some(Scaled { norm, n, scale, cast: true })
    })
}

/// Whether the scale has one element for each of a row, as kernels read it, and the product is no larger
/// than what it scales.
fn takes(g: &Graph, s: &Scaled, out: ValueId) -> bool {
    let long = |d: &[Dim]| d.iter().skip_while(|d| d.known() == Some(1)).cloned().collect::<Vec<_>>();
    let (Some(x), Some(scale)) = (dims(g, s.norm.x), dims(g, s.scale)) else { return false };
    let (row, own) = (long(&x[s.norm.axis..]), long(scale));
    scale.len() <= x.len()
        && row.len() == own.len()
        && row.iter().zip(&own).all(|(a, b)| a.same(b))
        && same_type(g, s.n, out)
}

/// Whether the only reader of `n`, behind a cast or not, takes it with its scale.
fn scaled_later(g: &Graph, n: ValueId, cx: &RuleCx<'_>) -> bool {
    let sole = |v: ValueId| if cx.is_private(g, v) { g.value(v).users().first().copied() } else { None };
    let takes_at = |at: NodeId| scaled(g, at).is_some_and(|s| takes(g, &s, g.node(at).output()));
    sole(n).is_some_and(|user| {
        takes_at(user)
            || matches!(g.node(user).op, Op::Cast(_)) && sole(g.node(user).output()).is_some_and(takes_at)
    })
}

impl Normalized {
    /// The op over `x` with this scale.
    fn op(&self, g: &Graph, p: &mut Patch, scale: New) -> Option<New> {
        let (axis, epsilon) = (self.axis as i64 - dims(g, self.x)?.len() as i64, self.epsilon.into());
        Some(if self.centered {
            p.op(LayerNorm { axis, epsilon, with_stats: false }, &[self.x.into(), scale])
        } else {
            p.op(RmsNorm { axis, epsilon }, &[self.x.into(), scale])
        })
    }

    /// The op over `x` with a scale that changes nothing, where sizes are known enough to have one.
    fn bare(&self, g: &Graph, p: &mut Patch) -> Option<New> {
        let (x, dtype) = (dims(g, self.x)?, dtype(g, self.x)?);
        let filled = |shape: &[usize], v: f64| {
            let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_ROW)?;
            Tensor::from_f64s(dtype, shape, std::iter::repeat_n(v, n)).ok()
        };
        // Planes with their own mean: what scales them has an element for each channel.
        if self.centered && self.axis == 2 && x.len() > 3 {
            let channels = [x[1].known()?];
            let (one, zero) = (p.constant(filled(&channels, 1.0)?), p.constant(filled(&channels, 0.0)?));
            return Some(p.op(InstanceNorm { epsilon: self.epsilon.into() }, &[self.x.into(), one, zero]));
        }
        let row: Vec<usize> = x[self.axis..].iter().map(Dim::known).collect::<Option<_>>()?;
        let one = p.constant(filled(&row, 1.0)?);
        self.op(g, p, one)
    }
}

/// Elements of a row whose scale of ones is worth its memory.
const MAX_ROW: usize = 1 << 16;

impl Rule for Normalize {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let out = node.output();
        let mut p = Patch::new();
        let new = match scaled(g, at) {
            Some(s) => {
                if !takes(g, &s, out) {
                    return Outcome::Declined("the scale is not one of a row's elements");
                }
                if !cx.is_private(g, s.n) {
                    return Outcome::Declined("what is normalized has other readers before it is scaled");
                }
                if !s.cast {
                    find!(s.norm.op(g, &mut p, s.scale.into()))
                } else if find!(cast_of(g, s.n).map(|x| cx.is_private(g, x))) {
                    let (inner, outer) = (find!(dtype(g, s.norm.x)), find!(dtype(g, out)));
                    let scale = p.op(Cast { to: inner, ..Cast::default() }, &[s.scale.into()]);
                    let wide = find!(s.norm.op(g, &mut p, scale));
                    p.op(Cast { to: outer, ..Cast::default() }, &[wide])
                } else {
                    return Outcome::Declined("what is normalized has other readers before it is scaled");
                }
            }
            None => {
                let norm = find!(normalized(g, out));
                if scaled_later(g, out, cx) {
                    return Outcome::NoMatch;
                }
                if !same_type(g, norm.x, out) {
                    return Outcome::Declined("the result may be larger than x");
                }
                match norm.bare(g, &mut p) {
                    Some(new) => new,
                    None => return Outcome::Declined("rows are not of known or of moderate length"),
                }
            }
        };
        p.origin(node.origin.clone());
        p.replace(out, new);
        Outcome::Rewrite(p)
    }
}

impl Rule for NormalizeBias {
    fn name(&self) -> &'static str {
        "layer_norm_bias"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let (kind, a, b) = find!(binary_at(g, at));
        if kind != BinaryKind::Add {
            return Outcome::NoMatch;
        }
        let found = [(a, b), (b, a)].into_iter().find_map(|(y, bias)| {
            let (_, n) = g.producer(y)?;
            match &n.op {
                Op::LayerNorm(op) if n.inputs.len() == 2 && !op.with_stats => Some((y, n, op, bias)),
                _ => None,
            }
        });
        let (y, n, op, bias) = find!(found);
        // A residual is no bias: kernels read a bias once for all rows.
        if g.constant(bias).is_none() {
            return Outcome::Declined("what is added is computed");
        }
        if !cx.is_private(g, y) || !same_type(g, y, g.node(at).output()) {
            return Outcome::Declined("the normalization has other readers, or the sum is larger");
        }
        let (x, scale) = (find!(n.input(0)), find!(n.input(1)));
        let mut p = Patch::new();
        let new = p.op(op.clone(), &[x.into(), scale.into(), bias.into()]);
        p.origin(n.origin.clone());
        p.replace(g.node(at).output(), new);
        Outcome::Rewrite(p)
    }
}

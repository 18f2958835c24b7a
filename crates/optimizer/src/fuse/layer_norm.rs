use crate::{
    pass::Numerics,
    pattern::{binary, binary_at, dims, find, same_type, scalar, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, LayerNorm, Op, Reduce, ReduceKind, RmsNorm, UnaryKind},
};

/// Finds layer and root-mean-square normalizations in the means, differences and roots that exporters
/// write, together with the scale after them.
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
        let (kind, a, b) = find!(binary_at(g, at));
        if kind != BinaryKind::Mul {
            return Outcome::NoMatch;
        }
        let found = [(a, b), (b, a)].into_iter().find_map(|(n, s)| Some((normalized(g, n)?, n, s)));
        let (norm, n, scale) = find!(found);
        if !cx.is_private(g, n) {
            return Outcome::Declined("what is normalized has other readers before it is scaled");
        }
        if !same_type(g, norm.x, node.output()) {
            return Outcome::Declined("the scale may enlarge the result");
        }
        let (axis, epsilon) = (norm.axis as i64 - find!(dims(g, norm.x)).len() as i64, norm.epsilon.into());
        let mut p = Patch::new();
        let operands: [New; 2] = [norm.x.into(), scale.into()];
        let new = if norm.centered {
            p.op(LayerNorm { axis, epsilon, with_stats: false }, &operands)
        } else {
            p.op(RmsNorm { axis, epsilon }, &operands)
        };
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
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

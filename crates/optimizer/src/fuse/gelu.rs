use super::product::{Product, close, plus, tolerance};
use crate::{
    pass::Numerics,
    pattern::{find, same_type, unary},
    rule::{Outcome, Rule, RuleCx},
};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};
use tensormill_ir::{
    Graph, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, Unary, UnaryKind},
};

/// `x/2 * (1 + erf(x / sqrt 2))`, however it is nested.
#[derive(Debug)]
pub struct Gelu;

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`, also as `x * (1 + 0.044715 x^2)` inside.
#[derive(Debug)]
pub struct GeluTanh;

/// Replaces a node by one function of `x`; declines where broadcasting would make its type another.
pub(super) fn becomes(g: &Graph, at: NodeId, kind: UnaryKind, x: ValueId) -> Outcome {
    let node = g.node(at);
    if !same_type(g, x, node.output()) {
        return Outcome::Declined("the result may be larger than x");
    }
    let mut p = Patch::new();
    let new = p.op(Unary { kind }, &[x.into()]);
    p.origin(node.origin.clone());
    p.replace(node.output(), new);
    Outcome::Rewrite(p)
}

/// The x of `x/2 * (1 + f(..))` and the operand of f.
fn halves(
    g: &Graph,
    at: NodeId,
    cx: &RuleCx<'_>,
    is_f: fn(UnaryKind) -> bool,
) -> impl Iterator<Item = (ValueId, ValueId)> {
    let product = Product::at(g, at, cx);
    let tol = tolerance(g, g.node(at).output());
    let half = close(product.constant, 0.5, tol);
    let one = close(product.constant, 1.0, tol);
    product.pairs().filter_map(move |(x, sum)| {
        // (1 + f) with the half outside, or (1/2 + f/2) with it inside.
        if half {
            let f = plus(g, sum, 1.0, tol)?;
            return unary(g, f).filter(|(k, _)| is_f(*k)).map(|(_, u)| (x, u));
        }
        if !one {
            return None;
        }
        let scaled = Product::of(g, plus(g, sum, 0.5, tol)?, None, cx);
        let &[f] = &scaled.factors[..] else { return None };
        (close(scaled.constant, 0.5, tol) && unary(g, f).is_some_and(|(k, _)| is_f(k)))
            .then(|| (x, unary(g, f).map_or(f, |u| u.1)))
    })
}

impl Rule for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        find!(candidate(g, at));
        let tol = tolerance(g, g.node(at).output());
        let mut seen = false;
        for (x, u) in halves(g, at, cx, |k| k == UnaryKind::Erf) {
            seen = true;
            if Product::of(g, u, Some(x), cx).is(FRAC_1_SQRT_2, x, 1, tol) {
                return becomes(g, at, UnaryKind::Gelu, x);
            }
        }
        if seen { Outcome::Declined("erf is of something else than x / sqrt 2") } else { Outcome::NoMatch }
    }
}

impl Rule for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu_tanh"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        find!(candidate(g, at));
        let mut seen = false;
        for (x, u) in halves(g, at, cx, |k| k == UnaryKind::Tanh) {
            seen = true;
            if is_cubic(g, u, x, cx) {
                return becomes(g, at, UnaryKind::GeluTanh, x);
            }
        }
        if seen { Outcome::Declined("tanh is of something else than GELU's cubic") } else { Outcome::NoMatch }
    }
}

/// Both forms end in a product, or in a quotient by a constant.
fn candidate(g: &Graph, at: NodeId) -> Option<()> {
    let (kind, _, _) = crate::pattern::binary_at(g, at)?;
    matches!(kind, BinaryKind::Mul | BinaryKind::Div).then_some(())
}

/// Whether `u` is `sqrt(2/pi) * (x + 0.044715 x^3)`.
fn is_cubic(g: &Graph, u: ValueId, x: ValueId, cx: &RuleCx<'_>) -> bool {
    const CUBE: f64 = 0.044715;
    let tol = tolerance(g, u);
    let outer = Product::of(g, u, Some(x), cx);
    if !close(outer.constant, FRAC_2_PI.sqrt(), tol) {
        return false;
    }
    let cube = |sum: ValueId| {
        crate::pattern::binary(g, sum, BinaryKind::Add).is_some_and(|(a, b)| {
            [(a, b), (b, a)]
                .into_iter()
                .any(|(one, three)| one == x && Product::of(g, three, Some(x), cx).is(CUBE, x, 3, tol))
        })
    };
    let square = |sum: ValueId| {
        plus(g, sum, 1.0, tol).is_some_and(|t| Product::of(g, t, Some(x), cx).is(CUBE, x, 2, tol))
    };
    match outer.factors[..] {
        [sum] => cube(sum),
        [a, b] => (a == x && square(b)) || (b == x && square(a)),
        _ => false,
    }
}

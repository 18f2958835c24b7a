use super::{
    gelu::becomes,
    product::{Product, close, plus, tolerance},
};
use crate::{
    pass::Numerics,
    pattern::{binary, binary_at, find, scalar, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, NodeId, OpKind, ValueId,
    ops::{BinaryKind, UnaryKind},
};

/// `x * sigmoid(alpha x)`
#[derive(Debug)]
pub struct Swish;

/// `x * hard_sigmoid(x)` with slope 1/6, and `x * relu6(x + 3) / 6`.
#[derive(Debug)]
pub struct HardSwish;

/// `x * tanh(softplus(x))`
#[derive(Debug)]
pub struct Mish;

/// The two factors of a product without a constant, either way round.
fn gates(g: &Graph, at: NodeId) -> Option<[(ValueId, ValueId); 2]> {
    match binary_at(g, at)? {
        (BinaryKind::Mul, a, b) => Some([(a, b), (b, a)]),
        _ => None,
    }
}

impl Rule for Swish {
    fn name(&self) -> &'static str {
        "swish"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        for (x, gate) in find!(gates(g, at)) {
            let Some((UnaryKind::Sigmoid, u)) = unary(g, gate) else { continue };
            let inner = Product::of(g, u, Some(x), cx);
            let alpha = inner.constant as f32;
            if inner.factors[..] == [x] && alpha.is_finite() {
                return becomes(g, at, UnaryKind::Swish { alpha: alpha.into() }, x);
            }
        }
        Outcome::NoMatch
    }
}

impl Rule for Mish {
    fn name(&self) -> &'static str {
        "mish"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        for (x, gate) in find!(gates(g, at)) {
            let Some((UnaryKind::Tanh, u)) = unary(g, gate) else { continue };
            if unary(g, u) == Some((UnaryKind::Softplus, x)) {
                return becomes(g, at, UnaryKind::Mish, x);
            }
        }
        Outcome::NoMatch
    }
}

impl Rule for HardSwish {
    fn name(&self) -> &'static str {
        "hard_swish"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let (kind, _, _) = find!(binary_at(g, at));
        if !matches!(kind, BinaryKind::Mul | BinaryKind::Div) {
            return Outcome::NoMatch;
        }
        let product = Product::at(g, at, cx);
        let tol = tolerance(g, g.node(at).output());
        for (x, gate) in product.pairs() {
            let Some((kind, u)) = unary(g, gate) else { continue };
            let matches = match kind {
                UnaryKind::HardSigmoid { alpha, beta } => {
                    u == x
                        && close(product.constant, 1.0, tol)
                        && close(f64::from(alpha.0), 1.0 / 6.0, tol)
                        && beta.0 == 0.5
                }
                UnaryKind::Clamp { min, max } => {
                    min.0 == 0.0
                        && max.0 == 6.0
                        && close(product.constant, 1.0 / 6.0, tol)
                        && plus(g, u, 3.0, 0.0) == Some(x)
                }
                _ => false,
            };
            if matches {
                return becomes(g, at, UnaryKind::HardSwish, x);
            }
        }
        Outcome::NoMatch
    }
}

/// `clamp(a x + b, 0, m) / m`, as `relu6(x + 3) / 6`.
#[derive(Debug)]
pub struct HardSigmoid;

impl Rule for HardSigmoid {
    fn name(&self) -> &'static str {
        "hard_sigmoid"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary, OpKind::Unary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let out = g.node(at).output();
        let (factor, gate) = match binary_at(g, at) {
            None => (1.0, out),
            Some((BinaryKind::Mul | BinaryKind::Div, ..)) => {
                let product = Product::at(g, at, cx);
                let &[gate] = &product.factors[..] else { return Outcome::NoMatch };
                (product.constant, gate)
            }
            Some(_) => return Outcome::NoMatch,
        };
        let Some((UnaryKind::Clamp { min, max }, u)) = unary(g, gate) else { return Outcome::NoMatch };
        let tol = tolerance(g, out);
        if min.0 != 0.0 || !close(factor * f64::from(max.0), 1.0, tol) {
            return Outcome::NoMatch;
        }
        let (t, b) = find!(shifted(g, u));
        let inner = Product::of(g, t, None, cx);
        let &[x] = &inner.factors[..] else { return Outcome::NoMatch };
        let (alpha, beta) = ((factor * inner.constant) as f32, (factor * b) as f32);
        if !alpha.is_finite() || !beta.is_finite() {
            return Outcome::Declined("the slope or the shift is not finite");
        }
        if gate != out && !cx.is_private(g, gate) {
            return Outcome::Declined("the clamp has other readers");
        }
        becomes(g, at, UnaryKind::HardSigmoid { alpha: alpha.into(), beta: beta.into() }, x)
    }
}

/// The term and the constant of `term + constant` or `term - constant`.
fn shifted(g: &Graph, v: ValueId) -> Option<(ValueId, f64)> {
    if let Some((a, b)) = binary(g, v, BinaryKind::Add) {
        return [(a, b), (b, a)].into_iter().find_map(|(t, c)| Some((t, scalar(g, c)?)));
    }
    let (t, c) = binary(g, v, BinaryKind::Sub)?;
    Some((t, -scalar(g, c)?))
}

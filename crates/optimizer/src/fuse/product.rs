//! Products taken apart: a constant times factors, however the exporter nested and ordered them.

use crate::{
    pattern::{binary, dtype, scalar, unary},
    rule::RuleCx,
};
use smallvec::SmallVec;
use tensormill_ir::{
    Graph, NodeId, ValueId,
    ops::{BinaryKind, UnaryKind},
};
use tensormill_tensor::DType;

/// Factors that a product is taken apart into at most.
const MAX_FACTORS: usize = 6;

/// `constant * factors[0] * factors[1] * ..`
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub(super) constant: f64,
    pub(super) factors: SmallVec<[ValueId; 4]>,
}

impl Product {
    /// The product that computes `v`, taken apart down to values that others read, too, and to `stop`.
    pub(super) fn of(g: &Graph, v: ValueId, stop: Option<ValueId>, cx: &RuleCx<'_>) -> Product {
        let mut out = Product { constant: 1.0, factors: SmallVec::new() };
        let mut stack = vec![(v, true)];
        while let Some((v, root)) = stack.pop() {
            if let Some(c) = scalar(g, v) {
                out.constant *= c;
                continue;
            }
            let open = Some(v) != stop
                && (root || cx.is_private(g, v))
                && out.factors.len() + stack.len() < MAX_FACTORS;
            if open {
                if let Some((a, b)) = binary(g, v, BinaryKind::Mul) {
                    stack.extend([(b, false), (a, false)]);
                    continue;
                }
                if let Some((a, b)) = binary(g, v, BinaryKind::Div)
                    && let Some(c) = scalar(g, b)
                {
                    out.constant /= c;
                    stack.push((a, false));
                    continue;
                }
                if let Some((a, b)) = binary(g, v, BinaryKind::Pow)
                    && let Some(n @ (2.0 | 3.0)) = scalar(g, b)
                {
                    out.factors.extend(std::iter::repeat_n(a, n as usize));
                    continue;
                }
                if let Some((UnaryKind::Neg, a)) = unary(g, v) {
                    out.constant = -out.constant;
                    stack.push((a, false));
                    continue;
                }
            }
            out.factors.push(v);
        }
        out
    }

    /// The product at a node.
    pub(super) fn at(g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Product {
        Product::of(g, g.node(at).output(), None, cx)
    }

    /// The two factors, either way round.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (ValueId, ValueId)> + use<> {
        let two = if let [a, b] = self.factors[..] { vec![(a, b), (b, a)] } else { vec![] };
        two.into_iter()
    }

    /// Whether it is this constant times so many times `x`.
    pub(super) fn is(&self, constant: f64, x: ValueId, times: usize, tolerance: f64) -> bool {
        self.factors.len() == times
            && self.factors.iter().all(|f| *f == x)
            && close(self.constant, constant, tolerance)
    }
}

/// Whether a constant of a file is the number meant: exporters round to few digits.
pub(super) fn close(given: f64, meant: f64, tolerance: f64) -> bool {
    (given - meant).abs() <= tolerance * meant.abs()
}

/// How far constants of this dtype may be from the number meant.
pub(super) fn tolerance(g: &Graph, v: ValueId) -> f64 {
    match dtype(g, v) {
        Some(DType::F16) => 1e-3,
        Some(DType::BF16) => 8e-3,
        _ => 2e-5,
    }
}

/// The other term of `v = constant + term`, either way round.
pub(super) fn plus(g: &Graph, v: ValueId, constant: f64, tolerance: f64) -> Option<ValueId> {
    let (a, b) = binary(g, v, BinaryKind::Add)?;
    [(a, b), (b, a)]
        .into_iter()
        .find_map(|(t, c)| scalar(g, c).filter(|c| close(*c, constant, tolerance)).map(|_| t))
}

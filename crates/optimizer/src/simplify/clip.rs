use crate::{
    pass::Numerics,
    pattern::{binary, binary_at, dtype, find, same_type, scalar},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, Op, Unary, UnaryKind},
};

/// Makes a clip with constant bounds, also one written as a minimum of a maximum or the other way round, a
/// clamp, and one at 0 from below a ReLU: ops that an epilogue takes.
#[derive(Debug)]
pub struct ClampConstants;

/// What is clipped, and the values that bound it.
fn clipped(g: &Graph, at: NodeId) -> Option<(ValueId, [Option<ValueId>; 2])> {
    let node = g.node(at);
    if matches!(node.op, Op::Clip(_)) {
        return Some((node.input(0)?, [node.input(1), node.input(2)]));
    }
    let (kind, a, b) = binary_at(g, at)?;
    let inside = match kind {
        BinaryKind::Min => BinaryKind::Max,
        BinaryKind::Max => BinaryKind::Min,
        _ => return None,
    };
    let bounded =
        |(a, b): (ValueId, ValueId)| [(a, b), (b, a)].into_iter().find(|(_, c)| scalar(g, *c).is_some());
    let (mid, outer) = bounded((a, b))?;
    let (x, inner) = bounded(binary(g, mid, inside)?)?;
    let (low, high) = if kind == BinaryKind::Min { (inner, outer) } else { (outer, inner) };
    // Which bound comes last matters where they cross. Integers keep their type's range, which f32 does not hold.
    let fits =
        dtype(g, x)?.is_float() && same_type(g, x, node.output()) && scalar(g, low)? <= scalar(g, high)?;
    fits.then_some((x, [Some(low), Some(high)]))
}

impl Rule for ClampConstants {
    fn name(&self) -> &'static str {
        "clamp_constants"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Clip, OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (x, given) = find!(clipped(g, at));
        let dtype = find!(dtype(g, x));
        let mut bounds = [f32::NEG_INFINITY, f32::INFINITY];
        for (v, bound) in given.into_iter().zip(&mut bounds) {
            let Some(v) = v else { continue };
            let Some(c) = scalar(g, v) else {
                return Outcome::Declined("a bound is computed");
            };
            // Integers reach here rounded to f64, so only those that are exact in it count.
            let exact = f64::from(c as f32) == c && (dtype.is_float() || c.abs() < 16_777_216.0);
            if !exact {
                return Outcome::Declined("a bound is no f32");
            }
            *bound = c as f32;
        }
        let [min, max] = bounds;
        if min == f32::INFINITY || max == f32::NEG_INFINITY {
            return Outcome::Declined("a bound is the wrong infinity");
        }
        // Which zero the larger of 0 and -0 is, is left to whoever computes it.
        if bounds.contains(&0.0) && dtype.is_float() && cx.options.numerics < Numerics::Reassociates {
            return Outcome::Declined("the sign of a zero may change");
        }
        let kind = if min == 0.0 && min.is_sign_positive() && max == f32::INFINITY {
            UnaryKind::Relu
        } else {
            UnaryKind::Clamp { min: min.into(), max: max.into() }
        };
        let mut p = Patch::new();
        let new = p.op(Unary { kind }, &[x.into()]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

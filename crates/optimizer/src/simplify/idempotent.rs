use crate::{
    pass::Numerics,
    pattern::{dtype, find, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, NodeId, OpKind, Patch,
    ops::{Op, Unary, UnaryKind},
};
use tensormill_tensor::DType;

/// Joins two unary ops: one that the other makes superfluous, two that cancel, two clamps.
#[derive(Debug)]
pub struct UnaryOfUnary;

/// What `outer(inner(x))` is.
enum Joined {
    Inner,
    Nothing,
    One(UnaryKind),
    /// One clamp, but for the sign of a zero that is at a bound.
    SignOfZero(Option<UnaryKind>),
}

fn join(inner: UnaryKind, outer: UnaryKind, dtype: DType) -> Option<Joined> {
    use UnaryKind::*;
    Some(match (inner, outer) {
        (Neg, Neg) | (Not, Not) | (BitwiseNot, BitwiseNot) => Joined::Nothing,
        (Abs, Abs) if dtype.is_float() => Joined::Inner,
        (Relu, Relu) | (Ceil | Floor | Round, Ceil | Floor | Round) | (Sign, Sign) => Joined::Inner,
        (Sigmoid, Relu | Abs) => Joined::Inner,
        (Neg, Abs) if dtype.is_float() => Joined::One(Abs),
        (Clamp { .. }, Clamp { .. }) if inner == outer => Joined::Inner,
        (Relu | Clamp { .. }, Relu | Clamp { .. }) => {
            let range = |k| match k {
                Clamp { min, max } => (min.0, max.0),
                _ => (0.0, f32::INFINITY),
            };
            let ((a, b), (c, d)) = (range(inner), range(outer));
            if !(a <= b && c <= d) {
                return None;
            }
            let (min, max) = (a.max(c).min(d), b.min(d).max(c));
            let one = if (min, max) == (a, b) {
                None
            } else if (min, max) == (0.0, f32::INFINITY) {
                Some(Relu)
            } else {
                Some(Clamp { min: min.into(), max: max.into() })
            };
            match one {
                _ if [a, b, c, d].contains(&0.0) && dtype.is_float() => Joined::SignOfZero(one),
                None => Joined::Inner,
                Some(kind) => Joined::One(kind),
            }
        }
        _ => return None,
    })
}

impl Rule for UnaryOfUnary {
    fn name(&self) -> &'static str {
        "unary_of_unary"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Unary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Unary(Unary { kind: outer }) = node.op else { return Outcome::NoMatch };
        let mid = find!(node.input(0));
        let (inner, x) = find!(unary(g, mid));
        let mut p = Patch::new();
        let joined = find!(join(inner, outer, find!(dtype(g, x))));
        if matches!(joined, Joined::SignOfZero(_)) && cx.options.numerics < Numerics::Reassociates {
            return Outcome::Declined("the sign of a zero may change");
        }
        match joined {
            Joined::Inner | Joined::SignOfZero(None) => p.replace(node.output(), mid),
            Joined::Nothing => p.replace(node.output(), x),
            Joined::One(kind) | Joined::SignOfZero(Some(kind)) => {
                let new = p.op(Unary { kind }, &[x.into()]);
                p.origin(node.origin.clone());
                p.replace(node.output(), new);
            }
        }
        Outcome::Rewrite(p)
    }
}

/// Removes casts to the same dtype, and casts through a dtype that holds every value of the first.
#[derive(Debug)]
pub struct CastOfCast;

/// Whether every number of `from` is one of `to`.
fn widens(from: DType, to: DType) -> bool {
    use DType::*;
    matches!(
        (from, to),
        (F16 | BF16, F32 | F64)
            | (F32, F64)
            | (I8 | U8 | I16 | U16, F32 | F64)
            | (I32 | U32, F64)
            | (U8, I16 | U16 | I32 | U32 | I64 | U64)
            | (I8, I16 | I32 | I64)
            | (U16, I32 | U32 | I64 | U64)
            | (I16, I32 | I64)
            | (U32, I64 | U64)
            | (I32, I64)
            | (Bool, I8 | U8 | I16 | U16 | I32 | U32 | I64 | U64 | F16 | BF16 | F32 | F64)
    )
}

impl Rule for CastOfCast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Cast]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Cast(outer) = &node.op else { return Outcome::NoMatch };
        let mid = find!(node.input(0));
        let mut p = Patch::new();
        if dtype(g, mid) == Some(outer.to) {
            p.replace(node.output(), mid);
            return Outcome::Rewrite(p);
        }
        let (_, inner) = find!(g.producer(mid));
        let Op::Cast(first) = &inner.op else { return Outcome::NoMatch };
        let x = find!(inner.input(0));
        if !widens(find!(dtype(g, x)), first.to) {
            return Outcome::Declined("the cast between may round or wrap");
        }
        if dtype(g, x) == Some(outer.to) {
            p.replace(node.output(), x);
        } else {
            let new = p.op(outer.clone(), &[x.into()]);
            p.origin(node.origin.clone());
            p.replace(node.output(), new);
        }
        Outcome::Rewrite(p)
    }
}

use crate::{
    pass::Numerics,
    pattern::{binary_at, dtype, find, same_type, uniform},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, Op},
};
use tensormill_tensor::DType;

/// Removes binary ops with a constant that leaves every bit of the other operand: `x*1`, `x/1`, `x-0`,
/// `x + -0.0`, integer `x+0`, `x and true`; and `where(c, x, x)`.
#[derive(Debug)]
pub struct Neutral;

/// Removes `x + 0.0` and `x - -0.0`, which turn a negative zero into a positive one and change nothing else.
#[derive(Debug)]
pub struct NegativeZero;

/// How faithfully `kind` with the constant `c` on the given side returns its other operand.
fn neutral(kind: BinaryKind, c: f64, right: bool, dtype: DType) -> Option<Numerics> {
    use BinaryKind::*;
    let zero = c == 0.0;
    let minus = c.is_sign_negative();
    let exact_if = |e: bool| if e { Numerics::Exact } else { Numerics::Reassociates };
    match kind {
        Mul if c == 1.0 => Some(Numerics::Exact),
        Div | Pow if c == 1.0 && right => Some(Numerics::Exact),
        Add if zero => Some(exact_if(!dtype.is_float() || minus)),
        Sub if zero && right => Some(exact_if(!dtype.is_float() || !minus)),
        ShiftLeft | ShiftRight if zero && right => Some(Numerics::Exact),
        BitOr | BitXor if zero => Some(Numerics::Exact),
        _ => None,
    }
}

/// The operand that a binary node returns unchanged.
fn kept(g: &Graph, at: NodeId) -> Option<(ValueId, Numerics)> {
    let (kind, a, b) = binary_at(g, at)?;
    for (x, c, right) in [(a, b, true), (b, a, false)] {
        let found = match kind {
            BinaryKind::And | BinaryKind::Or | BinaryKind::Xor => {
                logical(g, c).filter(|&t| t == (kind == BinaryKind::And)).map(|_| Numerics::Exact)
            }
            _ => uniform(g, c).and_then(|v| neutral(kind, v, right, dtype(g, x)?)),
        };
        if let Some(numerics) = found {
            return Some((x, numerics));
        }
    }
    None
}

/// The truth value that every element of a bool constant has.
fn logical(g: &Graph, v: ValueId) -> Option<bool> {
    let t = g.constant(v).filter(|t| t.dtype() == DType::Bool && !t.is_empty() && t.len() <= 4096)?;
    let all = t.to_bool_vec().ok()?;
    all.iter().all(|b| *b == all[0]).then_some(all[0])
}

fn remove(g: &Graph, at: NodeId, x: ValueId) -> Outcome {
    let out = g.node(at).output();
    if !same_type(g, x, out) {
        return Outcome::Declined("the constant may enlarge the result");
    }
    let mut p = Patch::new();
    p.replace(out, x);
    Outcome::Rewrite(p)
}

impl Rule for Neutral {
    fn name(&self) -> &'static str {
        "neutral"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary, OpKind::Where]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        if let Op::Where(_) = node.op {
            let (a, b) = (find!(node.input(1)), find!(node.input(2)));
            return if a == b { remove(g, at, a) } else { Outcome::NoMatch };
        }
        match find!(kept(g, at)) {
            (x, Numerics::Exact) => remove(g, at, x),
            _ => Outcome::NoMatch,
        }
    }
}

impl Rule for NegativeZero {
    fn name(&self) -> &'static str {
        "negative_zero"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        match find!(kept(g, at)) {
            (x, Numerics::Reassociates) => remove(g, at, x),
            _ => Outcome::NoMatch,
        }
    }
}

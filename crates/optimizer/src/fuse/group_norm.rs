use super::conv::per_channel;
use crate::{
    pass::Numerics,
    pattern::{binary_at, dims, dtype, find, same_dims, same_type},
    rule::{Outcome, Rule, RuleCx},
    simplify::operand_known,
};
use tensormill_ir::{
    Dim, Graph, Node, NodeId, OpKind, Patch, ValueId,
    ops::{BinaryKind, GroupNorm, Op},
};
use tensormill_tensor::Tensor;

/// Finds group normalization in an instance normalization whose channels are the groups: PyTorch writes it
/// between two reshapes.
#[derive(Debug)]
pub struct GroupOfInstance;

/// Multiplies or adds a constant, one number or one a channel, into the scale and bias of an instance or
/// group normalization before it.
#[derive(Debug)]
pub struct AffineIntoNorm;

/// The scale and bias of a normalization by channels, where they are constants.
fn affine(g: &Graph, node: &Node) -> Option<[Vec<f64>; 2]> {
    let vector = |i: usize| g.constant(node.input(i)?)?.to_f64_vec().ok();
    Some([vector(1)?, vector(2)?])
}

fn finite(v: &[Vec<f64>; 2]) -> bool {
    v.iter().flatten().all(|x| (*x as f32).is_finite())
}

/// Replaces `out` by this normalization with this scale and bias.
fn rewrite(
    g: &Graph,
    op: Op,
    norm: &Node,
    x: ValueId,
    [scale, bias]: [Vec<f64>; 2],
    out: ValueId,
) -> Outcome {
    let mut p = Patch::new();
    let mut constant = |i: usize, v: Vec<f64>| {
        let dtype = dtype(g, norm.input(i)?)?;
        Some(p.constant(Tensor::from_f64s(dtype, [v.len()], v).ok()?))
    };
    let (scale, bias) = (find!(constant(1, scale)), find!(constant(2, bias)));
    let new = p.op(op, &[x.into(), scale, bias]);
    p.origin(norm.origin.clone());
    p.replace(out, new);
    Outcome::Rewrite(p)
}

impl Rule for GroupOfInstance {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let out = g.node(at).output();
        let normalized = find!(g.node(at).input(0));
        let (_, norm) = find!(g.producer(normalized));
        let Op::InstanceNorm(op) = &norm.op else { return Outcome::NoMatch };
        let grouped = find!(norm.input(0));
        let (split_at, split) = find!(g.producer(grouped));
        let Op::Reshape(_) = split.op else { return Outcome::NoMatch };
        let x = find!(split.input(0));
        let (whole, parts) = (find!(dims(g, x)), find!(dims(g, grouped)));
        if !operand_known(g, at) || !operand_known(g, split_at) {
            return Outcome::Declined("the shapes come from data");
        }
        if !same_type(g, x, out) {
            return Outcome::Declined("the result does not have the shape from before the groups");
        }
        if whole.len() < 2 || parts.len() < 2 || !whole[0].same(&parts[0]) {
            return Outcome::Declined("the instances are not those from before the groups");
        }
        let (Some(channels), Some(groups)) = (whole[1].known(), parts[1].known()) else {
            return Outcome::Declined("the numbers of channels and groups are unknown");
        };
        if groups == 0 || channels == 0 || channels % groups != 0 {
            return Outcome::Declined("the groups do not divide the channels");
        }
        if !cx.is_private(g, normalized) {
            return Outcome::Declined("the groups have other readers");
        }
        let Some(by_group) = affine(g, norm) else {
            return Outcome::Declined("the scale or bias of the groups is computed");
        };
        let each = channels / groups;
        let spread = by_group.map(|v| v.into_iter().flat_map(|f| std::iter::repeat_n(f, each)).collect());
        rewrite(g, GroupNorm { groups, epsilon: op.epsilon }.into(), norm, x, spread, out)
    }
}

impl Rule for AffineIntoNorm {
    fn name(&self) -> &'static str {
        "affine_into_norm"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let out = g.node(at).output();
        let (kind, a, b) = find!(binary_at(g, at));
        if !matches!(kind, BinaryKind::Mul | BinaryKind::Add) {
            return Outcome::NoMatch;
        }
        let found = [(a, b), (b, a)].into_iter().find_map(|(y, c)| {
            let (_, n) = g.producer(y)?;
            matches!(n.op, Op::InstanceNorm(_) | Op::GroupNorm(_)).then_some((y, n, c))
        });
        let (y, norm, c) = find!(found);
        let x = find!(norm.input(0));
        let Some(channels) = find!(dims(g, x)).get(1).and_then(Dim::known) else {
            return Outcome::Declined("the number of channels is unknown");
        };
        let (Some([mut scale, mut bias]), Some(c)) = (affine(g, norm), per_channel(g, c, y, channels)) else {
            return Outcome::Declined("the scale, the bias or what follows is no constant of a channel");
        };
        if !cx.is_private(g, y) {
            return Outcome::Declined("the normalization has other readers");
        }
        let same = dims(g, y).zip(dims(g, out)).is_some_and(|(y, out)| same_dims(y, out));
        if !same || [scale.len(), bias.len()] != [channels; 2] {
            return Outcome::Declined("the result is larger");
        }
        if kind == BinaryKind::Mul {
            scale.iter_mut().zip(&c).for_each(|(s, c)| *s *= c);
            bias.iter_mut().zip(&c).for_each(|(b, c)| *b *= c);
        } else {
            bias.iter_mut().zip(&c).for_each(|(b, c)| *b += c);
        }
        let both = [scale, bias];
        if !finite(&both) {
            return Outcome::Declined("a factor would be infinite");
        }
        rewrite(g, norm.op.clone(), norm, x, both, out)
    }
}

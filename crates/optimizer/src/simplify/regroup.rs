use super::reshape::{operand_known, reshape, shape_operand};
use crate::{
    pass::Numerics,
    pattern::{dims, find, same_dims},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Dims, Expr, Graph, New, Node, NodeId, OpKind, Patch,
    ops::{Op, Transpose},
};

/// Leaves out one of two reshapes around a transpose, or both, by transposing axes as they were before the
/// first or will be after the second.
///
/// Exporters join batches and heads before they turn keys, `[b, h, s, d]` as `[b * h, s, d]`, and part them
/// again.
#[derive(Debug)]
pub struct TransposeBetweenReshapes;

/// A run of elements that neither of two shapes parts further, and the axes of both that it belongs to.
struct Part {
    size: Expr,
    axes: [usize; 2],
}

/// The parts that the axes of both shapes are made of, row-major, without those of size 1. `None` where
/// an axis of one begins within a part of the other.
fn parts(a: &[Expr], b: &[Expr]) -> Option<Vec<Part>> {
    let one = Expr::constant(1);
    let mut out = vec![];
    let (mut i, mut j) = (0, 0);
    // What is left of the axes before `i` and `j`.
    let (mut x, mut y) = (one.clone(), one.clone());
    loop {
        while x == one && i < a.len() {
            (x, i) = (a[i].clone(), i + 1);
        }
        while y == one && j < b.len() {
            (y, j) = (b[j].clone(), j + 1);
        }
        if x == one && y == one {
            return Some(out);
        }
        if x == one || y == one {
            return None;
        }
        let axes = [i - 1, j - 1];
        if let Some(rest) = x.exact_div(&y) {
            out.push(Part { size: std::mem::replace(&mut y, one.clone()), axes });
            x = rest;
        } else {
            y = y.exact_div(&x)?;
            out.push(Part { size: std::mem::replace(&mut x, one.clone()), axes });
        }
    }
}

/// The parts of `x` that belong to each axis of `mid`, in order; `of` picks which shape of the pair that is.
fn by_axis(parts: &[Part], of: usize, rank: usize) -> Vec<Vec<(Expr, usize)>> {
    let mut out = vec![vec![]; rank];
    for p in parts {
        out[p.axes[of]].push((p.size.clone(), p.axes[1 - of]));
    }
    out
}

/// Axes in the order of the places of their parts, where each axis' parts lie side by side; those without
/// parts come first.
fn gathered(places: &[Vec<usize>]) -> Option<Vec<usize>> {
    let run = |p: &Vec<usize>| p.windows(2).all(|w| w[1] == w[0] + 1);
    if !places.iter().all(run) {
        return None;
    }
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&a| places[a].first().map_or(0, |p| p + 1));
    Some(order)
}

/// What is left of the two reshapes and the transpose.
struct Found {
    /// The shape before the transpose, if it is another than x has.
    before: Option<Dims>,
    perm: Vec<usize>,
    reshape_after: bool,
}

fn find_axes(x: &Dims, mid: &Dims, perm: &[usize], to: &Dims) -> Option<Found> {
    let exprs = |d: &[Dim]| d.iter().map(Dim::expr).collect::<Option<Vec<_>>>();
    let turned: Dims = perm.iter().map(|&i| mid.get(i).cloned()).collect::<Option<_>>()?;
    let (ex, em, et, eto) = (exprs(x)?, exprs(mid)?, exprs(&turned)?, exprs(to)?);
    let first = by_axis(&parts(&ex, &em)?, 1, mid.len());
    let second = by_axis(&parts(&et, &eto)?, 0, mid.len());
    // For every axis in the middle the parts that neither end parts further: its place in both ends.
    let mut fine: Vec<Vec<(usize, usize)>> = vec![];
    for m in 0..mid.len() {
        let at = perm.iter().position(|&p| p == m)?;
        let sizes = |v: &[(Expr, usize)]| v.iter().map(|p| p.0.clone()).collect::<Vec<_>>();
        let both = parts(&sizes(&first[m]), &sizes(&second[at]))?;
        fine.push(both.iter().map(|p| (first[m][p.axes[0]].1, second[at][p.axes[1]].1)).collect());
    }
    // Parts are counted as they lie in x, and as they lie in the result.
    let source: Vec<(usize, usize)> = fine.iter().flatten().copied().collect();
    let starts: Vec<usize> = fine
        .iter()
        .scan(0, |n, f| {
            let at = *n;
            *n += f.len();
            Some(at)
        })
        .collect();
    let target: Vec<usize> = perm.iter().flat_map(|&m| starts[m]..starts[m] + fine[m].len()).collect();
    let mut in_source = vec![vec![]; to.len()];
    target.iter().for_each(|&p| in_source[source[p].1].push(p));
    if let Some(order) = gathered(&in_source) {
        let before: Dims = order.iter().map(|&a| to[a].clone()).collect();
        let perm = (0..to.len()).map(|a| order.iter().position(|&o| o == a)).collect::<Option<_>>()?;
        let before = (!same_dims(&before, x)).then_some(before);
        return Some(Found { before, perm, reshape_after: false });
    }
    let mut in_target = vec![vec![]; x.len()];
    for (p, part) in source.iter().enumerate() {
        in_target[part.0].push(target.iter().position(|&t| t == p)?);
    }
    let perm = gathered(&in_target)?;
    Some(Found { before: None, perm, reshape_after: true })
}

fn reshapes(node: &Node) -> bool {
    matches!(node.op, Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_))
}

impl Rule for TransposeBetweenReshapes {
    fn name(&self) -> &'static str {
        "transpose_between_reshapes"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape, OpKind::Flatten, OpKind::Squeeze]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (_, turn) = find!(node.input(0).and_then(|v| g.producer(v)));
        let Op::Transpose(Transpose { perm }) = &turn.op else { return Outcome::NoMatch };
        let mid = find!(turn.input(0));
        let (first, split) = find!(g.producer(mid));
        if !reshapes(split) || perm.is_empty() {
            return Outcome::NoMatch;
        }
        if !operand_known(g, at) || !operand_known(g, first) {
            return Outcome::Declined("the shapes come from data");
        }
        let x = find!(split.input(0));
        let (from, middle, to) = (find!(dims(g, x)), find!(dims(g, mid)), find!(dims(g, node.output())));
        // Heads that are repeated next are looked for as they lie before this.
        let long =
            |d: &mut dyn Iterator<Item = &Dim>| d.filter(|d| d.known() != Some(1)).cloned().collect::<Dims>();
        let turned: Dims = find!(perm.iter().map(|&i| middle.get(i).cloned()).collect());
        if to.len() > turned.len() && same_dims(&long(&mut to.iter()), &long(&mut turned.iter())) {
            return Outcome::Declined("the reshape after it only puts in axes of size 1");
        }
        let Some(found) = find_axes(from, middle, perm, to) else {
            return Outcome::Declined("axes are parted and joined across the transpose");
        };
        let mut p = Patch::new();
        let mut new = New::Old(x);
        if let Some(before) = &found.before {
            let Some(spec) = shape_operand(from, before) else {
                return Outcome::Declined("no constant shape says it for every size");
            };
            new = find!(reshape(&mut p, new, spec));
        }
        let between: Dims =
            found.perm.iter().map(|&i| found.before.as_ref().unwrap_or(from)[i].clone()).collect();
        new = p.op(Transpose { perm: found.perm }, &[new]);
        if found.reshape_after {
            let Some(spec) = shape_operand(&between, to) else {
                return Outcome::Declined("no constant shape says it for every size");
            };
            new = find!(reshape(&mut p, new, spec));
        }
        p.origin(turn.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

use crate::{
    pass::Numerics,
    pattern::{dims, dtype, find, same_type},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Dims, Expr, Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{AspectPolicy, CoordinateMode, NearestMode, Op, Resize, ResizeMode},
};
use tensormill_tensor::Tensor;

/// Sizes up to which every whole number is one of single precision, as scales multiply them.
const MAX_SIZE: i64 = 1 << 24;

/// Removes a resize to the size that x has.
#[derive(Debug)]
pub struct ResizeUnmoved;

/// Makes one resize of two that repeat every element a whole number of times.
#[derive(Debug)]
pub struct ResizeOfResize;

/// Gives constant scales to a resize whose sizes are computed from those of x, as multiples: what computed them
/// goes.
#[derive(Debug)]
pub struct SizesToScales;

/// A resize's operands: x, and scales or sizes.
fn operands(node: &Node) -> Option<(&Resize, ValueId, Option<ValueId>, Option<ValueId>)> {
    let Op::Resize(op) = &node.op else { return None };
    Some((op, node.input(0)?, node.input(2), node.input(3)))
}

/// How many times `b` is `a`, a whole number above 0.
fn times(a: &Dim, b: &Dim) -> Option<i64> {
    if a.same(b) {
        return Some(1);
    }
    let n = b.expr()?.exact_div(&a.expr()?)?.as_const()?;
    (n > 0).then_some(n)
}

/// For every axis of x how often each of its elements is repeated in the result, where this is all that a resize
/// does.
fn repeats(g: &Graph, node: &Node) -> Option<Vec<i64>> {
    let (op, x, scales, sizes) = operands(node)?;
    let from = dims(g, x)?;
    // Without a tie, or with the lower of two.
    let below = match op.coordinates {
        CoordinateMode::HalfPixel | CoordinateMode::HalfPixelSymmetric | CoordinateMode::PytorchHalfPixel => {
            matches!(op.nearest, NearestMode::RoundPreferFloor | NearestMode::RoundPreferCeil)
        }
        CoordinateMode::Asymmetric => matches!(op.nearest, NearestMode::Floor | NearestMode::Simple),
        _ => false,
    };
    if op.mode != ResizeMode::Nearest || !below {
        return None;
    }
    let mut out = vec![1; from.len()];
    let axes = op.axes_of(from.len()).ok()?;
    if let Some(scales) = scales {
        let scales = g.constant(scales)?.to_f32_vec().ok()?;
        for (&axis, &s) in axes.iter().zip(&scales) {
            out[axis] = (s >= 1.0 && s.fract() == 0.0 && s < MAX_SIZE as f32).then_some(s as i64)?;
        }
        return (scales.len() == axes.len()).then_some(out);
    }
    let given = g.value(sizes?).elements.as_deref()?;
    if op.policy != AspectPolicy::Stretch || given.len() != axes.len() {
        return None;
    }
    for (&axis, n) in axes.iter().zip(given) {
        // Of an axis without elements nothing is a multiple.
        out[axis] = times(&from[axis], &n.clone().into())?;
    }
    Some(out)
}

/// The scales of a resize that repeats elements of a tensor of these sizes so often; `None` where a product in
/// single precision might not be that of the numbers.
pub(crate) fn scales(from: &Dims, repeats: &[i64]) -> Option<Tensor> {
    let exact = |(d, &n): (&Dim, &i64)| match d.known() {
        Some(d) => i64::try_from(d).ok()?.checked_mul(n).filter(|n| *n <= MAX_SIZE),
        None => (n.count_ones() == 1 && n < MAX_SIZE).then_some(n),
    };
    if !from.iter().zip(repeats).all(|p| exact(p).is_some()) {
        return None;
    }
    Tensor::from_vec([repeats.len()], repeats.iter().map(|&n| n as f32).collect()).ok()
}

/// A resize that repeats the elements of x by these scales, one for every axis.
pub(crate) fn repeat(p: &mut Patch, x: New, scales: Tensor) -> New {
    let op =
        Resize { coordinates: CoordinateMode::Asymmetric, nearest: NearestMode::Floor, ..Resize::default() };
    let scales = p.constant(scales);
    p.node(op, &[Some(x), None, Some(scales)])
}

impl Rule for ResizeUnmoved {
    fn name(&self) -> &'static str {
        "resize_unmoved"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Resize]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (op, x, by, sizes) = find!(operands(node));
        if op.coordinates == CoordinateMode::TfCropAndResize {
            return Outcome::NoMatch;
        }
        let unmoved = match (by, sizes) {
            (Some(by), _) => {
                let scales = find!(g.constant(by).and_then(|t| t.to_f32_vec().ok()));
                scales.iter().all(|s| *s == 1.0)
            }
            (_, Some(sizes)) => {
                let given = find!(g.value(sizes).elements.as_deref());
                let (from, axes) =
                    (find!(dims(g, x)), find!(dims(g, x).and_then(|d| op.axes_of(d.len()).ok())));
                axes.len() == given.len()
                    && axes.iter().zip(given).all(|(&a, n)| from[a].same(&Dim::from(n.clone())))
            }
            _ => false,
        };
        if !unmoved || !same_type(g, x, node.output()) {
            return Outcome::NoMatch;
        }
        // Interpolation computes in floats, which may not hold a large integer.
        if op.mode != ResizeMode::Nearest && !find!(dtype(g, x)).is_float() {
            return Outcome::Declined("integers are rounded on their way");
        }
        let mut p = Patch::new();
        p.replace(node.output(), x);
        Outcome::Rewrite(p)
    }
}

impl Rule for ResizeOfResize {
    fn name(&self) -> &'static str {
        "resize_of_resize"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Resize]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (_, mid, ..) = find!(operands(node));
        let (_, below) = find!(g.producer(mid));
        let (_, x, ..) = find!(operands(below));
        let (Some(outer), Some(inner)) = (repeats(g, node), repeats(g, below)) else {
            return Outcome::Declined("one of them does more than repeat elements");
        };
        if !cx.is_private(g, mid) {
            return Outcome::Declined("what is between them has other readers");
        }
        let all: Option<Vec<i64>> = inner.iter().zip(&outer).map(|(a, b)| a.checked_mul(*b)).collect();
        let Some(scales) = all.and_then(|all| scales(dims(g, x)?, &all)) else {
            return Outcome::Declined("the scales may not be exact");
        };
        let mut p = Patch::new();
        let new = repeat(&mut p, x.into(), scales);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

impl Rule for SizesToScales {
    fn name(&self) -> &'static str {
        "sizes_to_scales"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Resize]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (op, x, _, sizes) = find!(operands(node));
        let sizes = find!(sizes);
        // Sizes that are numbers become a constant, which is as good.
        let given = find!(g.value(sizes).elements.as_deref());
        if g.constant(sizes).is_some() || given.iter().all(|n| n.as_const().is_some()) {
            return Outcome::NoMatch;
        }
        if op.policy != AspectPolicy::Stretch {
            return Outcome::Declined("the sizes are bounds");
        }
        let from = find!(dims(g, x));
        let axes = find!(op.axes_of(from.len()).ok());
        let of: Option<Vec<i64>> = axes
            .iter()
            .zip(given)
            .map(|(&a, n): (&usize, &Expr)| times(&from[a], &n.clone().into()))
            .collect();
        let Some(of) = of.filter(|_| axes.len() == given.len()) else {
            return Outcome::Declined("a size is no multiple of what x has");
        };
        let resized: Dims = axes.iter().map(|&a| from[a].clone()).collect();
        let Some(scales) = scales(&resized, &of) else {
            return Outcome::Declined("the scales may not be exact");
        };
        let mut p = Patch::new();
        let scales = p.constant(scales);
        let new = p.node(op.clone(), &[Some(x.into()), node.input(1).map(New::Old), Some(scales)]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

//! Nodes with constant weights, and what follows them element by element.

use super::{options::QuantOptions, weights::Rows};
use crate::pattern::{dims, dtype, same_type};
use rustc_hash::FxHashSet;
use tensormill_ir::{
    Graph, NodeId, ValueId,
    ops::{BinaryKind, Conv, MatMul, Op, UnaryKind},
};
use tensormill_tensor::DType;

/// Nodes that are taken for one activation at most.
const MAX_ABSORBED: usize = 16;

/// A convolution or matrix product with constant weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighted {
    pub(super) x: ValueId,
    pub(super) weights: ValueId,
    /// The axis of the weights that output channels lie along.
    pub(super) axis: usize,
    pub(super) inputs: Inputs,
}

/// How elements of an activation meet the weights of one output channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inputs {
    /// The last axis, one weight an element.
    Last,
    /// The last axis but one, as the left factor of a product is transposed.
    BeforeLast,
    /// Channels of axis 1, so many weights each.
    Channels {
        /// Weights that meet one channel.
        window: usize,
        /// Groups of channels.
        groups: usize,
    },
}

impl Weighted {
    /// The weighted node at `id`: `None` for other ops, or why its weights must stay as they are.
    pub(super) fn at(g: &Graph, id: NodeId, o: &QuantOptions) -> Option<Result<Weighted, &'static str>> {
        let node = g.node(id);
        let (epilogue, conv) = match &node.op {
            Op::Conv(c) => (&c.epilogue, Some(c)),
            Op::MatMul(m) => (&m.epilogue, None),
            _ => return None,
        };
        let (x, w) = (node.input(0)?, node.input(1)?);
        if !dtype(g, w)?.is_float() {
            return None;
        }
        if o.excludes(g, id) {
            return Some(Err("it was excluded"));
        }
        let Some(weights) = g.constant(w) else {
            return Some(Err(match g.constant(x) {
                Some(_) => "the left factor is the constant one",
                None => "both operands are computed",
            }));
        };
        if weights.dtype() != DType::F32 {
            return Some(Err("the weights are not f32"));
        }
        if !epilogue.is_empty() {
            return Some(Err("other steps are fused into it"));
        }
        if !weights.to_f32_vec().is_ok_and(|w| w.iter().all(|v| v.is_finite())) {
            return Some(Err("a weight is not finite"));
        }
        let shape = weights.shape();
        let (axis, inputs) = match (&node.op, conv) {
            (_, Some(Conv { group, .. })) => {
                let window = shape.dims()[2..].iter().product();
                (0, Inputs::Channels { window, groups: *group })
            }
            (Op::MatMul(MatMul { trans_a, trans_b, .. }), _) if shape.rank() == 2 => {
                if dims(g, x).is_none_or(|d| d.len() < 2) {
                    return Some(Err("the rank of its input is not known, or below 2"));
                }
                let inputs = if *trans_a { Inputs::BeforeLast } else { Inputs::Last };
                (usize::from(!*trans_b), inputs)
            }
            _ => return Some(Err("the weights are no matrix")),
        };
        if weights.is_empty() {
            return Some(Err("there are no weights"));
        }
        Some(Ok(Weighted { x, weights: w, axis, inputs }))
    }

    pub(super) fn rows(&self, g: &Graph) -> Option<Rows> {
        Rows::of(g.constant(self.weights)?, self.axis)
    }

    /// Whether sums of products of its inputs' elements tell all of its error: where every output is one
    /// product with elements along an axis.
    pub(super) fn is_plain_product(&self) -> bool {
        matches!(self.inputs, Inputs::Last | Inputs::Channels { window: 1, groups: 1 })
    }

    /// The axis of the activation whose elements have weights of their own.
    pub(super) fn input_axis(&self, g: &Graph) -> Option<usize> {
        let rank = dims(g, self.x)?.len();
        match self.inputs {
            Inputs::Last => rank.checked_sub(1),
            Inputs::BeforeLast => rank.checked_sub(2),
            Inputs::Channels { .. } => Some(1),
        }
    }

    /// For each weight of row `row` of `count`, the element along the input axis that it meets.
    pub(super) fn input_of(&self, k: usize, row: usize, count: usize, len: usize) -> usize {
        match self.inputs {
            Inputs::Channels { window, groups } => {
                let each = len / window.max(1);
                row / count.div_ceil(groups.max(1)).max(1) * each + k / window.max(1)
            }
            _ => k,
        }
    }
}

/// The activation that follows a value: the nodes that compute from it and constants alone, element by
/// element, up to the one value that others read.
#[derive(Debug, Clone)]
pub(super) struct Absorbed {
    /// That value; the first one when nothing follows.
    pub(super) end: ValueId,
    /// The nodes, in order.
    pub(super) nodes: Vec<NodeId>,
}

impl Absorbed {
    /// What follows `y`.
    pub(super) fn after(g: &Graph, y: ValueId, o: &QuantOptions) -> Absorbed {
        let mut best = Absorbed { end: y, nodes: vec![] };
        let (mut inside, mut nodes): (FxHashSet<ValueId>, Vec<NodeId>) = ([y].into_iter().collect(), vec![]);
        let mut values = vec![y];
        while nodes.len() < MAX_ABSORBED {
            let next =
                values.iter().flat_map(|v| g.value(*v).users()).copied().filter(|u| !nodes.contains(u));
            let Some(id) = next.filter(|u| follows(g, *u, y, &inside, o)).min() else { break };
            let out = g.node(id).output();
            nodes.push(id);
            values.push(out);
            inside.insert(out);
            let seen =
                |v: &&ValueId| g.is_output(**v) || g.value(**v).users().iter().any(|u| !nodes.contains(u));
            let mut exits = values.iter().filter(seen);
            if let (Some(end), None) = (exits.next(), exits.next()) {
                best = Absorbed { end: *end, nodes: nodes.clone() };
            }
        }
        best
    }
}

/// Whether a node computes element by element from values of the activation and constants.
fn follows(g: &Graph, id: NodeId, y: ValueId, inside: &FxHashSet<ValueId>, o: &QuantOptions) -> bool {
    let node = g.node(id);
    let elementwise = match &node.op {
        Op::Unary(u) => !matches!(u.kind, UnaryKind::IsNan | UnaryKind::IsInf { .. } | UnaryKind::Not),
        Op::Binary(b) => matches!(
            b.kind,
            BinaryKind::Add
                | BinaryKind::Sub
                | BinaryKind::Mul
                | BinaryKind::Div
                | BinaryKind::Min
                | BinaryKind::Max
                | BinaryKind::Pow
                | BinaryKind::Prelu
        ),
        Op::Clip(_) => true,
        _ => false,
    };
    elementwise
        && !o.excludes(g, id)
        && node.inputs.iter().flatten().all(|v| inside.contains(v) || g.constant(*v).is_some())
        && same_type(g, y, node.output())
}

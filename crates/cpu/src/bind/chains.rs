//! Elementwise nodes in a row that run as one step: a piece of the result goes through all of them while it
//! is in the first-level cache, and none of the values between them exists.

use super::{Binder, Operands, embed::Embeddings};
use crate::elementwise::{binary_op, unary_op};
use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Known, Native, Prep};
use crate::order::{self, Order, either, padded};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tensormill_ir::{
    Node, NodeId, ValueId,
    ops::{Op, PostOp, PostOps},
};
use tensormill_kernels::elementwise::chain;
use tensormill_tensor::{DType, Shape};

/// Nodes of one chain at most.
const LONGEST: usize = 16;

/// Rows shorter than this are not worth a call each.
const SHORTEST_ROW: usize = 64;

/// Which nodes follow each other.
#[derive(Default)]
pub(super) struct Chains {
    /// The node before, for those that go on with its result.
    before: FxHashMap<NodeId, NodeId>,
    /// Nodes that another one goes on from.
    goes_on: FxHashSet<NodeId>,
}

impl Chains {
    /// Whether the node runs as a part of one that comes later.
    pub fn goes_on(&self, id: NodeId) -> bool {
        self.goes_on.contains(&id)
    }

    /// The nodes that end with this one, if it does not stand alone.
    pub fn ending_with(&self, id: NodeId) -> Option<Vec<NodeId>> {
        let mut all = vec![id];
        while let Some(&before) = self.before.get(all.last()?) {
            all.push(before);
        }
        all.reverse();
        (all.len() > 1).then_some(all)
    }
}

impl Binder<'_> {
    /// Finds the chains of the graph.
    pub(super) fn chains(&self, embeddings: &Embeddings) -> Chains {
        let g = &self.shared.graph;
        let mut chains = Chains::default();
        let mut lengths: FxHashMap<NodeId, usize> = FxHashMap::default();
        for &id in &self.shared.order {
            let node = g.node(id);
            if embeddings.inside(id) || !self.maps(node) || self.carried(node).is_none() {
                continue;
            }
            let v = node.output();
            let &[user] = g.value(v).users() else { continue };
            let next = g.node(user);
            let length = lengths.get(&id).copied().unwrap_or(1);
            let joins = length < LONGEST
                && !self.shared.wanted.contains(&v)
                && self.maps(next)
                && !embeddings.inside(user)
                && self.ty(v) == self.ty(next.output())
                && !chains.before.contains_key(&user);
            if joins {
                chains.before.insert(user, id);
                chains.goes_on.insert(id);
                lengths.insert(user, length + 1);
            }
        }
        chains
    }

    /// Whether the node is a function of f32 elements that pieces can be put through.
    fn maps(&self, node: &Node) -> bool {
        let known = match &node.op {
            Op::Unary(u) => unary_op(u.kind).is_some(),
            Op::Binary(b) => binary_op(b.kind).is_some(),
            _ => false,
        };
        let number = |v: ValueId| self.ty(v).is_some_and(|t| t.0 == DType::F32 && !t.1.contains(&0));
        known
            && self.needed[node.output().index()]
            && !self.shared.constants.contains_key(&node.output())
            && node.outputs.iter().chain(node.inputs.iter().flatten()).all(|&v| number(v))
    }

    /// The operand whose elements become those of the result one by one.
    fn carried(&self, node: &Node) -> Option<usize> {
        let out = self.ty(node.output())?;
        (0..node.inputs.len()).find(|&i| node.input(i).is_some_and(|v| self.ty(v) == Some(out)))
    }

    /// Prepares one step for the nodes; false where their operands do not allow it.
    pub(super) fn chain(&mut self, nodes: &[NodeId]) -> bool {
        let Some((native, ins, order)) = self.chained(nodes) else { return false };
        let Some((&last, rest)) = nodes.split_last() else { return false };
        let ins: Operands = ins.into_iter().map(|(v, o)| Some(self.in_order(last, v, o))).collect();
        for id in rest {
            let node = self.shared.graph.node(*id);
            self.tell(node, "chain", "runs with the node that goes on from it", false);
        }
        let out = self.shared.graph.node(last).output();
        let plain = self.ty(out).is_none_or(|t| either(&t.1));
        self.orders[out.index()] = if plain { Order::Plain } else { order };
        self.runs(last, native, ins, order);
        true
    }

    /// The kernel, its operands with the order that each must be in, and the order of its result.
    fn chained(&mut self, nodes: &[NodeId]) -> Option<(Native, SmallVec<[(ValueId, Order); 8]>, Order)> {
        let g = &self.shared.graph;
        let head = g.node(*nodes.first()?);
        let mut carried = self.carried(head)?;
        let mut operands: SmallVec<[ValueId; 8]> = SmallVec::from_elem(head.input(carried)?, 1);
        let mut steps = vec![];
        for (i, id) in nodes.iter().enumerate() {
            let node = g.node(*id);
            if i > 0 {
                let before = g.node(nodes[i - 1]).output();
                carried = (0..node.inputs.len()).find(|&i| node.input(i) == Some(before))?;
            }
            steps.push(match &node.op {
                Op::Unary(u) => PostOp::Unary(u.kind),
                Op::Binary(b) => {
                    operands.push(node.input(1 - carried)?);
                    PostOp::Binary { kind: b.kind, operand: operands.len() - 1, swapped: carried == 1 }
                }
                _ => return None,
            });
        }
        // What is known before the run is computed before it: sizes may depend on it.
        let known = operands.iter().filter(|v| self.constant(**v).is_some()).count();
        if known == operands.len() {
            return None;
        }
        let out = self.ty(head.output())?.1.clone();
        let rank = out.rank();
        let full = |b: &Self, v: ValueId| b.ty(v).is_some_and(|t| t.1 == out);
        let last = |b: &Self, v: ValueId| b.orders[v.index()] == Order::ChannelsLast;
        let order = match operands.iter().any(|&v| full(self, v) && last(self, v)) {
            true => Order::ChannelsLast,
            false => Order::Plain,
        };
        let memory = |shape: &Shape| match order {
            Order::Plain => shape.clone(),
            Order::ChannelsLast => order::channels_last(shape),
        };
        let mut row = None;
        let mut shapes: SmallVec<[Shape; 8]> = SmallVec::new();
        for v in &operands {
            let shape = self.ty(*v)?.1.clone();
            if shape == out {
                shapes.push(memory(&shape));
            } else if shape.iter().all(|&d| d == 1) {
                shapes.push(shape);
            } else {
                // A number for each place of the innermost axis.
                let shape = padded(&shape, rank);
                if shape.rank() != rank || order == Order::ChannelsLast && !either(&shape) {
                    return None;
                }
                let shape = memory(&shape);
                let length = *shape.last()?;
                let single = shape[..rank - 1].iter().all(|&d| d == 1);
                if !single || length < SHORTEST_ROW || memory(&out).last() != Some(&length) {
                    return None;
                }
                row = Some(length);
                shapes.push(shape);
            }
        }
        let known: SmallVec<[Option<Known<'_>>; 8]> = shapes
            .iter()
            .map(|shape| {
                Some(Known { dtype: DType::F32, shape, constant: None, known: None, strides: None, order })
            })
            .collect();
        let outs = [(DType::F32, memory(&out))];
        let prep = Prep {
            op: &head.op,
            ins: &known,
            outs: &outs,
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            beside: &[],
            node: None,
            fewer_multiplications: false,
            tuner: None,
        };
        let mut native = prepare(&prep, PostOps(steps), row).ok()?;
        native.in_place = true;
        native.reason = format!("{} nodes as one", nodes.len());
        native.flops = (nodes.len() * out.numel()) as u64;
        let wants = |v: ValueId| if full(self, v) { order } else { self.orders[v.index()] };
        let ins = operands.iter().map(|&v| (v, wants(v))).collect();
        Some((native, ins, order))
    }
}

/// A step that puts its first operand through `steps`, in rows of `row` if an operand has one number for
/// each place of a row.
fn prepare(p: &Prep<'_>, steps: PostOps, row: Option<usize>) -> Built {
    let rank = p.out().rank();
    let by_row =
        Layout { rows: rank.saturating_sub(2), columns: rank.saturating_sub(1)..rank, merged: false };
    let steps = Steps::plan(p, &steps, Some(&by_row))?;
    if !steps.all_hot() {
        return Err("an operand lies in another way".into());
    }
    let row = row.unwrap_or(p.out().numel());
    Native::new("chain", move |c| {
        steps.run(c, |out, epilogue, c| {
            let x = if c.in_place { None } else { Some(c.get::<f32>(0)?) };
            Ok(chain(c.pool, x, row, out, epilogue)?)
        })
    })
}

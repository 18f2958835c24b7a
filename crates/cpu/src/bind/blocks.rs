//! Convolutions that run as one step: a depthwise one with those by one pixel before and after it, where
//! nobody else reads what lies between.

use super::{Binder, Operands};
use crate::block::{Part, block};
use crate::native::{Known, Native, Prep};
use crate::order::{Order, channels_last, either};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tensormill_ir::{
    Node, NodeId, ValueId,
    ops::{Conv, Op, PostOp, PostOps},
};
use tensormill_tensor::{DType, Shape};

/// The convolutions of a block, the last of them the product behind the depthwise one.
type Nodes = SmallVec<[NodeId; 3]>;

/// Which nodes may run together.
#[derive(Default)]
pub(super) struct Blocks {
    by_last: FxHashMap<NodeId, Nodes>,
    inside: FxHashSet<NodeId>,
}

impl Blocks {
    /// Whether the node runs, if at all, with one that comes later.
    pub fn inside(&self, id: NodeId) -> bool {
        self.inside.contains(&id)
    }

    /// The nodes that end with this one, if it does not stand alone.
    pub fn ending_with(&self, id: NodeId) -> Option<Nodes> {
        self.by_last.get(&id).cloned()
    }
}

/// An operand of the step: how it lies, and the shape that the kernel is told.
struct Operand {
    value: ValueId,
    order: Order,
    shape: Shape,
}

impl Binder<'_> {
    /// Finds the blocks of the graph.
    pub(super) fn blocks(&self) -> Blocks {
        let g = &self.shared.graph;
        let mut blocks = Blocks::default();
        for &id in &self.shared.order {
            let Some(op) = self.image_conv(g.node(id)) else { continue };
            if !self.by_one_pixel(op, g.node(id)) {
                continue;
            }
            let Some(middle) = self.only_before(g.node(id)) else { continue };
            let each = |c: &Conv, n: &Node| {
                let channels = n.input(0).and_then(|v| self.ty(v)).map_or(0, |t| t.1[1]);
                let sane = c.dilations.iter().all(|&d| d == 1);
                c.group == channels && channels > 1 && sane && self.channels(n) == channels
            };
            if !self.image_conv(g.node(middle)).is_some_and(|c| each(c, g.node(middle))) {
                continue;
            }
            let mut nodes = Nodes::from_slice(&[middle, id]);
            if let Some(first) = self.only_before(g.node(middle))
                && self.image_conv(g.node(first)).is_some_and(|c| self.by_one_pixel(c, g.node(first)))
                && !blocks.by_last.contains_key(&first)
            {
                nodes.insert(0, first);
            }
            blocks.inside.extend(&nodes[..nodes.len() - 1]);
            blocks.by_last.insert(id, nodes);
        }
        blocks
    }

    /// A needed convolution of f32 images by constant weights.
    fn image_conv<'n>(&self, node: &'n Node) -> Option<&'n Conv> {
        let Op::Conv(c) = &node.op else { return None };
        let image = |v: ValueId| {
            self.ty(v).is_some_and(|(d, s)| *d == DType::F32 && matches!(s.rank(), 3 | 4) && !s.contains(&0))
        };
        let known = |v: ValueId| self.shared.constants.get(&v).is_some_and(|w| w.dtype() == DType::F32);
        let fits = self.needed[node.output().index()]
            && !self.shared.constants.contains_key(&node.output())
            && node.input(0).is_some_and(image)
            && image(node.output())
            && node.input(1).is_some_and(known);
        fits.then_some(c)
    }

    fn channels(&self, node: &Node) -> usize {
        self.ty(node.output()).map_or(0, |t| t.1[1])
    }

    /// Whether the window is one pixel, at every place.
    fn by_one_pixel(&self, c: &Conv, node: &Node) -> bool {
        let plain = |v: Option<ValueId>| v.and_then(|v| self.ty(v)).map(|t| t.1.clone());
        let (Some(x), Some(w), Some(out)) =
            (plain(node.input(0)), plain(node.input(1)), plain(Some(node.output())))
        else {
            return false;
        };
        c.group == 1
            && w[2..].iter().all(|&k| k == 1)
            && c.strides.iter().all(|&s| s == 1)
            && c.pads.iter().all(|&p| p == 0)
            && x[2..] == out[2..]
    }

    /// The node that makes the first operand, if nobody else reads that.
    fn only_before(&self, node: &Node) -> Option<NodeId> {
        let v = node.input(0)?;
        let (id, _) = self.shared.graph.producer(v)?;
        let reads = node.inputs.iter().flatten().filter(|i| **i == v).count();
        let alone = self.shared.graph.value(v).users().len() == 1 && reads == 1;
        (alone && !self.shared.wanted.contains(&v)).then_some(id)
    }

    /// Prepares one step for the nodes; false where it is no gain or their operands do not allow it.
    pub(super) fn block(&mut self, nodes: &[NodeId]) -> bool {
        let Some((&last, inside)) = nodes.split_last() else { return false };
        let g = &self.shared.graph;
        // What is known before the run is computed before it: sizes may depend on it.
        let x = nodes.first().and_then(|id| g.node(*id).input(0));
        if x.is_none_or(|x| self.constant(x).is_some()) {
            return false;
        }
        // What lies between exists for nobody, and would lie so.
        for id in inside {
            self.orders[g.node(*id).output().index()] = Order::ChannelsLast;
        }
        let Some((native, operands)) = self.prepared(nodes) else {
            for id in inside {
                self.orders[g.node(*id).output().index()] = Order::Plain;
            }
            return false;
        };
        for o in &operands {
            self.constant(o.value);
        }
        let ins: Operands =
            operands.into_iter().map(|o| Some(self.in_order(last, o.value, o.order))).collect();
        for id in inside {
            let node = self.shared.graph.node(*id);
            self.tell(node, "inverted-residual", "runs with the convolution that ends the block", false);
        }
        let out = self.shared.graph.node(last).output();
        let plain = self.ty(out).is_none_or(|t| either(&t.1));
        self.orders[out.index()] = if plain { Order::Plain } else { Order::ChannelsLast };
        self.runs(last, native, ins, Order::ChannelsLast);
        true
    }

    /// The kernel and its operands.
    fn prepared(&self, nodes: &[NodeId]) -> Option<(Native, Vec<Operand>)> {
        let g = &self.shared.graph;
        let mut operands: Vec<Operand> = vec![];
        let mut parts = vec![];
        for (i, id) in nodes.iter().enumerate() {
            let node = g.node(*id);
            let Op::Conv(op) = &node.op else { return None };
            let (own, wanted) = self.form(node, &node.inputs)?;
            debug_assert!(matches!(own, Op::Conv(_)));
            let mut number_of = |at: usize| -> Option<usize> {
                let (value, w) = (node.input(at)?, wanted.get(at)?.as_ref()?);
                operands.push(Operand { value, order: w.order, shape: w.shape.clone() });
                Some(operands.len() - 1)
            };
            if i == 0 {
                number_of(0)?;
            }
            let bias = match node.input(2) {
                Some(_) => Some(number_of(2)?),
                None => None,
            };
            let mut epilogue = vec![];
            for step in &op.epilogue.0 {
                epilogue.push(match *step {
                    PostOp::Unary(kind) => PostOp::Unary(kind),
                    PostOp::Binary { kind, operand, swapped } => {
                        PostOp::Binary { kind, operand: number_of(operand)?, swapped }
                    }
                });
            }
            parts.push(Part {
                op,
                node: id.index(),
                x: &self.ty(node.input(0)?)?.1,
                out: &self.ty(node.output())?.1,
                weights: self.shared.constants.get(&node.input(1)?)?,
                bias,
                epilogue: PostOps(epilogue),
            });
        }
        if operands.first()?.order != Order::ChannelsLast {
            return None;
        }
        let known: Option<Vec<Option<Known<'_>>>> = operands
            .iter()
            .map(|o| {
                let dtype = self.ty(o.value)?.0;
                let (constant, known, strides) = (None, None, None);
                Some(Some(Known { dtype, shape: &o.shape, constant, known, strides, order: o.order }))
            })
            .collect();
        let (last, rest) = parts.split_last()?;
        let outs = [(DType::F32, channels_last(last.out))];
        let prep = Prep {
            op: &g.node(*nodes.last()?).op,
            ins: &known?,
            outs: &outs,
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            beside: &[],
            node: None,
            fewer_multiplications: false,
            tuner: None,
        };
        let made = match rest {
            [expand, middle] => block(&prep, Some(expand), middle, last),
            [middle] => block(&prep, None, middle, last),
            _ => return None,
        };
        Some((made.ok()?, operands))
    }
}

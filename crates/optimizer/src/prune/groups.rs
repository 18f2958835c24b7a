//! Which channels of which values must go together: union-find over the elements of channel axes.
//!
//! An axis of a value is a slot, an index along it a cell. Ops tie cells: a convolution those of its result to
//! rows of its weights, a sum those of its operands, a concatenation those of its parts to places in the whole. An
//! op that is not known to bear the loss of a cell freezes it.

use super::heads;
use crate::pattern::dims;
use std::collections::BTreeMap;
use tensormill_ir::{
    Graph, Node, NodeId, Op, ValueId,
    ops::{Conv, MatMul, PostOps},
};

/// Cells at most; a graph beyond keeps its channels.
const MAX_CELLS: usize = 1 << 25;

/// An axis of a value.
pub(super) type Axis = (ValueId, usize);

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    base: usize,
    pub(super) size: usize,
}

/// Why a cell cannot go; of several reasons the first is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// An input or output of the graph has it.
    Interface,
    /// It was asked to stay.
    Excluded,
    /// This node is not known to bear the loss.
    Node(NodeId),
}

/// The cells of all axes that channels are tied through.
pub(super) struct Groups<'g> {
    pub(super) g: &'g Graph,
    parent: Vec<u32>,
    /// By root.
    frozen: Vec<Option<Why>>,
    pub(super) slots: BTreeMap<Axis, Slot>,
    queue: Vec<Axis>,
    /// Which axis loses cells where a node makes several of one: by node and its operand's first axis there.
    pub(super) chosen: BTreeMap<(NodeId, usize), usize>,
    /// Axes that such nodes have in one, until that is decided.
    pub(super) waiting: Vec<Waiting>,
    /// Axes of heads, with the nodes that mix their values.
    pub(super) heads: Vec<(NodeId, Axis)>,
}

/// An axis that a node has in several, of which none is chosen yet.
pub(super) struct Waiting {
    pub(super) key: (NodeId, usize),
    pub(super) at: Axis,
    /// The first of the several.
    pub(super) leading: (Place, usize),
}

/// Where a value stands at a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Operand(usize),
    Result(usize),
}

impl Place {
    fn index(self) -> usize {
        match self {
            Place::Operand(i) | Place::Result(i) => i,
        }
    }
}

impl<'g> Groups<'g> {
    /// Ties what belongs together, starting from heads of attention, then from the results of all products with
    /// constant weights.
    pub(super) fn of(g: &'g Graph, keep: &dyn Fn(&Node) -> bool) -> Groups<'g> {
        let mut s = Groups {
            g,
            parent: vec![],
            frozen: vec![],
            slots: BTreeMap::new(),
            queue: vec![],
            chosen: BTreeMap::new(),
            waiting: vec![],
            heads: heads::all(g),
        };
        for (id, at) in s.heads.clone() {
            if s.slot(at).is_some() && keep(g.node(id)) {
                s.freeze(at, Why::Excluded);
            }
        }
        s.visit_all();
        // Heads that are repeated for several others come first, those others after them.
        while let Some(w) = s.waiting.pop() {
            if !s.chosen.contains_key(&w.key) && !s.reshaped(w.key.0, w.leading.0, w.leading.1) {
                s.freeze(w.at, Why::Node(w.key.0));
            }
            s.visit_all();
        }
        for id in g.order() {
            let n = g.node(id);
            let fixed = n.input(1).is_some_and(|w| g.constant(w).is_some());
            let axis = match &n.op {
                Op::Conv(_) if fixed => Some(1),
                Op::MatMul(_) if fixed => dims(g, n.output()).and_then(|d| d.len().checked_sub(1)),
                _ => None,
            };
            if let Some(axis) = axis
                && s.slot((n.output(), axis)).is_some()
                && keep(n)
            {
                s.freeze((n.output(), axis), Why::Excluded);
            }
        }
        s.visit_all();
        for w in std::mem::take(&mut s.waiting) {
            if !s.chosen.contains_key(&w.key) {
                s.freeze(w.at, Why::Node(w.key.0));
            }
        }
        s
    }

    fn visit_all(&mut self) {
        while let Some(at) = self.queue.pop() {
            self.visit(at);
        }
    }

    /// The slot of an axis, which is looked at later if it is new; `None` for open sizes.
    pub(super) fn slot(&mut self, at: Axis) -> Option<Slot> {
        if let Some(s) = self.slots.get(&at) {
            return Some(*s);
        }
        let size = dims(self.g, at.0)?.get(at.1)?.known()?;
        if size == 0 || self.parent.len() + size > MAX_CELLS {
            return None;
        }
        let base = self.parent.len();
        self.parent.extend((base..base + size).map(|i| i as u32));
        self.frozen.resize(base + size, None);
        let slot = Slot { base, size };
        self.slots.insert(at, slot);
        self.queue.push(at);
        Some(slot)
    }

    /// The cell that stands for all that a cell is tied to.
    pub(super) fn root(&mut self, s: Slot, i: usize) -> usize {
        let mut at = s.base + i;
        while self.parent[at] as usize != at {
            self.parent[at] = self.parent[self.parent[at] as usize];
            at = self.parent[at] as usize;
        }
        at
    }

    /// Why a group cannot go, if it cannot.
    pub(super) fn frozen(&self, root: usize) -> Option<Why> {
        self.frozen[root]
    }

    fn freeze(&mut self, at: Axis, why: Why) {
        if let Some(s) = self.slots.get(&at).copied() {
            for i in 0..s.size {
                let r = self.root(s, i);
                self.frozen[r] = first(self.frozen[r], Some(why));
            }
        }
    }

    pub(super) fn tie(&mut self, a: (Slot, usize), b: (Slot, usize)) {
        let (a, b) = (self.root(a.0, a.1), self.root(b.0, b.1));
        let (low, high) = (a.min(b), a.max(b));
        // The first cell stands for all, so that the order of ties does not matter.
        self.parent[high] = low as u32;
        self.frozen[low] = first(self.frozen[low], self.frozen[high]);
    }

    /// Ties all cells of each of `n` equal parts of two axes.
    pub(super) fn link_groups(&mut self, a: Axis, b: Axis, n: usize) -> bool {
        let (Some(x), Some(y)) = (self.slot(a), self.slot(b)) else { return false };
        if n == 0 || !x.size.is_multiple_of(n) || !y.size.is_multiple_of(n) {
            return false;
        }
        for s in [x, y] {
            for i in 0..s.size {
                self.tie((x, i / (s.size / n) * (x.size / n)), (s, i));
            }
        }
        true
    }

    /// Ties equal places of two axes; whether they are of one size.
    pub(super) fn link(&mut self, a: Axis, b: Axis) -> bool {
        self.link_blocks(a, 0, b, 1)
    }

    /// Ties each cell `offset + i` of the first axis to the cells `i * each ..` of the second.
    pub(super) fn link_blocks(&mut self, a: Axis, offset: usize, b: Axis, each: usize) -> bool {
        let (Some(x), Some(y)) = (self.slot(a), self.slot(b)) else { return false };
        let n = y.size / each;
        if !y.size.is_multiple_of(each) || offset + n > x.size || (offset == 0 && each > 1 && n != x.size) {
            return false;
        }
        for i in 0..y.size {
            self.tie((x, offset + i / each), (y, i));
        }
        true
    }

    fn visit(&mut self, at: Axis) {
        let (v, axis) = at;
        let g = self.g;
        let mut why = (g.is_output(v) || g.inputs().contains(&v)).then_some(Why::Interface);
        if let Some((id, n)) = g.producer(v)
            && !matches!(n.op, Op::Const(_))
        {
            let j = n.outputs.iter().position(|o| *o == v).unwrap_or(0);
            if !self.relate(id, Place::Result(j), axis) {
                why = first(why, Some(Why::Node(id)));
            }
        }
        for &id in g.value(v).users() {
            for (i, operand) in g.node(id).inputs.iter().enumerate() {
                if *operand == Some(v) && !self.relate(id, Place::Operand(i), axis) {
                    why = first(why, Some(Why::Node(id)));
                }
            }
        }
        if let Some(why) = why {
            self.freeze(at, why);
        }
    }

    pub(super) fn rank(&self, v: ValueId) -> usize {
        dims(self.g, v).map_or(0, |d| d.len())
    }

    pub(super) fn size(&self, v: ValueId, axis: usize) -> Option<usize> {
        dims(self.g, v)?.get(axis)?.known()
    }

    /// Ties an axis of a node's operand or result to what the node ties it to; false when the node cannot
    /// lose cells of it.
    fn relate(&mut self, id: NodeId, place: Place, axis: usize) -> bool {
        let g = self.g;
        let n = g.node(id);
        let y = n.output();
        let (Some(x), single) = (n.input(0), n.outputs.len() == 1) else { return false };
        match &n.op {
            Op::Conv(op) => self.conv(n, op, place, axis),
            Op::MatMul(op) => self.matmul(n, op, place, axis),
            Op::BatchNorm(_) => match place {
                Place::Operand(1..) => self.per_channel(n),
                _ if axis == 1 => self.per_channel(n),
                _ => self.link((x, axis), (y, axis)),
            },
            Op::Unary(_) | Op::Cast(_) => self.link((x, axis), (y, axis)),
            Op::Clip(_) => {
                matches!(place, Place::Operand(0) | Place::Result(_)) && self.link((x, axis), (y, axis))
            }
            Op::Binary(_) | Op::Where(_) => self.broadcast(n, place, axis),
            Op::MaxPool(_) | Op::AveragePool(_) | Op::LpPool(_) => {
                single && axis < 2 && self.link((x, axis), (y, axis))
            }
            Op::Softmax(s) => !self.is(s.axis, x, axis) && self.link((x, axis), (y, axis)),
            Op::LogSoftmax(s) => !self.is(s.axis, x, axis) && self.link((x, axis), (y, axis)),
            Op::Reduce(r) => self.reduce(n, r.keepdims, place, axis),
            Op::Concat(c) => self.concat(n, c.axis, axis),
            Op::Transpose(t) => self.transpose(&t.perm, x, y, place, axis),
            Op::Flatten(_) | Op::Reshape(_) => self.reshaped(id, place, axis),
            Op::Squeeze(_) | Op::Unsqueeze(_) => self.squeezed(n, place, axis),
            Op::Expand(_) => self.expanded(n, place, axis),
            Op::Split(s) => {
                matches!(place, Place::Operand(0) | Place::Result(_)) && self.split(n, s.axis, axis)
            }
            Op::Slice(_) => self.sliced(n, place, axis),
            Op::Gather(o) => self.gathered(n, o.axis, place, axis),
            Op::ShapeOf(o) => self.is_unasked(n, o, x, axis),
            // Each row by itself: what goes must not be of the rows that are averaged.
            Op::LayerNorm(o) => single && self.normalized(n, o.axis, place, axis),
            Op::RmsNorm(o) => self.normalized(n, o.axis, place, axis),
            Op::Attention(o) => self.attention(n, o, place, axis),
            Op::RotaryEmbedding(o) => self.rotary(n, o, place, axis),
            Op::Resize(_) => {
                // Scales leave the axis alone; sizes would have to change with it.
                let scale = n.input(2).and_then(|s| g.constant(s)?.to_f64_vec().ok());
                let kept = n.input(3).is_none() && scale.is_some_and(|s| s.get(axis) == Some(&1.0));
                let data = matches!(place, Place::Operand(0) | Place::Result(_));
                data && kept && self.link((x, axis), (y, axis))
            }
            _ => false,
        }
    }

    /// Whether an attribute that may count from the end means this axis of `v`.
    pub(super) fn is(&self, attribute: i64, v: ValueId, axis: usize) -> bool {
        let rank = self.rank(v) as i64;
        (if attribute < 0 { attribute + rank } else { attribute }) == axis as i64
    }

    fn conv(&mut self, n: &Node, op: &Conv, place: Place, axis: usize) -> bool {
        let (Some(x), Some(w), y) = (n.input(0), n.input(1), n.output()) else { return false };
        if self.g.constant(w).is_none() {
            return false;
        }
        let rows = |s: &mut Self| {
            s.link((y, 1), (w, 0))
                && n.input(2).is_none_or(|b| s.link((w, 0), (b, 0)))
                && s.epilogue(n, &op.epilogue, Conv::OWN, Place::Result(0), 1)
        };
        // Every channel by itself.
        let apart = op.group > 1
            && self.size(x, 1) == Some(op.group)
            && self.size(w, 0) == Some(op.group)
            && self.size(w, 1) == Some(1);
        match (place, axis) {
            (Place::Operand(0) | Place::Result(_), 0) => false,
            (Place::Operand(0), 1) if op.group == 1 => self.link((x, 1), (w, 1)),
            (Place::Operand(1), 1) if op.group == 1 => self.link((x, 1), (w, 1)),
            (Place::Result(_), 1) | (Place::Operand(1), 0) | (Place::Operand(2), 0) if op.group == 1 => {
                rows(self)
            }
            (Place::Operand(0) | Place::Result(_), 1) | (Place::Operand(1 | 2), 0) if apart => {
                rows(self) && self.link((x, 1), (y, 1))
            }
            (Place::Operand(3..), _) => {
                axis + self.rank(y) == n.input(place.index()).map_or(0, |v| self.rank(v)) + 1
                    && self.epilogue(n, &op.epilogue, Conv::OWN, place, axis)
            }
            _ => false,
        }
    }

    fn matmul(&mut self, n: &Node, op: &MatMul, place: Place, axis: usize) -> bool {
        let (Some(x), Some(w), y) = (n.input(0), n.input(1), n.output()) else { return false };
        if self.g.constant(x).is_none() && self.g.constant(w).is_none() {
            return self.product_of_two(n, op, place, axis);
        }
        let plain = !op.trans_a && self.g.constant(w).is_some();
        let (rx, ry) = (self.rank(x), self.rank(y));
        if !plain || self.rank(w) != 2 || rx < 2 || ry != rx {
            return false;
        }
        let (inner, outer) = if op.trans_b { (1, 0) } else { (0, 1) };
        match place {
            Place::Operand(0) if axis + 1 == rx => self.link((x, axis), (w, inner)),
            Place::Operand(1) if axis == inner => self.link((x, rx - 1), (w, inner)),
            Place::Operand(1) => self.link((y, ry - 1), (w, outer)),
            Place::Result(_) if axis + 1 == ry => {
                self.link((y, axis), (w, outer)) && self.epilogue(n, &op.epilogue, 2, place, axis)
            }
            Place::Result(_) => {
                self.link((x, axis), (y, axis)) && self.epilogue(n, &op.epilogue, 2, place, axis)
            }
            Place::Operand(0) => self.link((x, axis), (y, axis)),
            Place::Operand(_) => self.epilogue(n, &op.epilogue, 2, place, axis),
        }
    }

    /// The operands of an epilogue, which begin behind the op's own and stretch to the result's shape.
    fn epilogue(&mut self, n: &Node, steps: &PostOps, own: usize, place: Place, axis: usize) -> bool {
        let mut operands = n.clone();
        operands.inputs.drain(..own.min(n.inputs.len()));
        match place {
            Place::Operand(i) => i >= own && self.broadcast(&operands, Place::Operand(i - own), axis),
            Place::Result(_) => steps.is_empty() || self.broadcast(&operands, place, axis),
        }
    }

    /// A normalization over the last axes, of which none loses a cell.
    fn normalized(&mut self, n: &Node, first: i64, place: Place, axis: usize) -> bool {
        let Some(x) = n.input(0) else { return false };
        let rank = self.rank(x) as i64;
        let first = if first < 0 { first + rank } else { first };
        let v = match place {
            Place::Operand(i) => n.input(i).map_or(0, |v| self.rank(v)),
            Place::Result(_) => rank as usize,
        };
        (axis + rank as usize) < first as usize + v && self.broadcast(n, place, axis)
    }

    /// A normalization with four vectors of one number per channel.
    fn per_channel(&mut self, n: &Node) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        let vectors: Vec<ValueId> = n.inputs[1..].iter().flatten().copied().collect();
        self.link((x, 1), (y, 1)) && vectors.into_iter().all(|p| self.link((x, 1), (p, 0)))
    }

    /// Operands that stretch to the result's shape; those of size 1 along the axis stay as they are.
    pub(super) fn broadcast(&mut self, n: &Node, place: Place, axis: usize) -> bool {
        let y = n.output();
        let rank = self.rank(y);
        let axis = match place {
            Place::Result(_) => axis,
            Place::Operand(i) => {
                let Some(v) = n.input(i) else { return false };
                axis + rank - self.rank(v)
            }
        };
        n.inputs.iter().flatten().all(|v| {
            let Some(own) = (axis + self.rank(*v)).checked_sub(rank) else { return true };
            match self.size(*v, own) {
                Some(1) if self.size(y, axis) != Some(1) => true,
                _ => self.link((y, axis), (*v, own)),
            }
        })
    }

    fn reduce(&mut self, n: &Node, keepdims: bool, place: Place, axis: usize) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        let Some(axes) = n.input(1).and_then(|a| self.g.const_ints(a)) else { return false };
        if axes.is_empty() {
            return false;
        }
        let rank = self.rank(x);
        let gone: Vec<bool> = (0..rank).map(|i| axes.iter().any(|a| self.is(*a, x, i))).collect();
        // The axes of x that the result has, in order.
        let kept: Vec<usize> = (0..rank).filter(|i| keepdims || !gone[*i]).collect();
        let own = match place {
            Place::Operand(0) => axis,
            Place::Result(_) => match kept.get(axis) {
                Some(i) => *i,
                None => return false,
            },
            Place::Operand(_) => return false,
        };
        let Some(to) = kept.iter().position(|i| *i == own) else { return false };
        !gone[own] && self.link((x, own), (y, to))
    }

    fn concat(&mut self, n: &Node, along: i64, axis: usize) -> bool {
        let y = n.output();
        let parts: Vec<ValueId> = n.inputs.iter().flatten().copied().collect();
        if !self.is(along, y, axis) {
            return parts.into_iter().all(|p| self.link((y, axis), (p, axis)));
        }
        let mut offset = 0;
        for p in parts {
            let Some(size) = self.size(p, axis) else { return false };
            if !self.link_blocks((y, axis), offset, (p, axis), 1) {
                return false;
            }
            offset += size;
        }
        true
    }

    fn transpose(&mut self, perm: &[usize], x: ValueId, y: ValueId, place: Place, axis: usize) -> bool {
        let rank = self.rank(x);
        let from = |i: usize| if perm.is_empty() { rank - 1 - i } else { perm[i] };
        match place {
            Place::Result(_) => self.link((x, from(axis)), (y, axis)),
            Place::Operand(_) => match (0..rank).find(|i| from(*i) == axis) {
                Some(to) => self.link((x, axis), (y, to)),
                None => false,
            },
        }
    }
}

/// The first of two reasons, where there is any.
fn first(a: Option<Why>, b: Option<Why>) -> Option<Why> {
    [a, b].into_iter().flatten().min()
}

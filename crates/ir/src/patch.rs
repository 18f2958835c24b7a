use crate::{
    error::IrError,
    graph::{Def, Graph, NodeId, ValueId},
    ops::{Const, Op},
};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};
use tensormill_tensor::Tensor;

/// A planned change: nodes to add, and values to replace by others.
///
/// A patch is made against a graph and applied to it with [`Graph::apply`], which checks before it
/// touches. New nodes refer to values of the graph and to results of nodes added to the patch before.
#[derive(Debug, Default)]
pub struct Patch {
    nodes: Vec<NewNode>,
    replace: Vec<(ValueId, New)>,
}

#[derive(Debug)]
struct NewNode {
    op: Op,
    inputs: SmallVec<[Option<New>; 4]>,
    origin: Option<Arc<str>>,
}

/// A value that a patch may use: one of the graph, or a result of a node of the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New {
    /// A value of the graph.
    Old(ValueId),
    /// The result at a place of the patch's node at a place.
    Result(usize, usize),
}

impl From<ValueId> for New {
    fn from(v: ValueId) -> New {
        New::Old(v)
    }
}

impl New {
    /// The result at place `i` of the same node.
    pub fn sibling(self, i: usize) -> New {
        match self {
            New::Result(node, _) => New::Result(node, i),
            old => old,
        }
    }
}

impl Patch {
    /// An empty patch.
    pub fn new() -> Self {
        Patch::default()
    }

    /// Adds a node; returns its first result.
    pub fn node(&mut self, op: impl Into<Op>, inputs: &[Option<New>]) -> New {
        self.nodes.push(NewNode { op: op.into(), inputs: inputs.into(), origin: None });
        New::Result(self.nodes.len() - 1, 0)
    }

    /// Adds a node all of whose operands are given; returns its first result.
    pub fn op(&mut self, op: impl Into<Op>, inputs: &[New]) -> New {
        let inputs: SmallVec<[_; 4]> = inputs.iter().copied().map(Some).collect();
        self.node(op, &inputs)
    }

    /// Adds a constant.
    pub fn constant(&mut self, tensor: Tensor) -> New {
        self.node(Const { tensor }, &[])
    }

    /// Names the source node that the nodes added so far without a name come from.
    pub fn origin(&mut self, origin: Option<Arc<str>>) {
        for n in self.nodes.iter_mut().filter(|n| n.origin.is_none()) {
            n.origin = origin.clone();
        }
    }

    /// Makes every user of `old`, and every output of the graph that is `old`, use `new` instead.
    pub fn replace(&mut self, old: ValueId, new: impl Into<New>) {
        self.replace.push((old, new.into()));
    }

    /// The values that it replaces.
    pub fn replaced(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.replace.iter().map(|r| r.0)
    }
}

/// A value and those that it is computed from, nearest first.
struct Ancestors {
    seen: FxHashSet<ValueId>,
    queue: VecDeque<ValueId>,
}

impl Ancestors {
    fn new(v: ValueId) -> Self {
        Ancestors { seen: FxHashSet::from_iter([v]), queue: VecDeque::from([v]) }
    }

    fn next(&mut self, g: &Graph) -> Option<ValueId> {
        let v = self.queue.pop_front()?;
        if let Some((_, n)) = g.producer(v) {
            self.queue.extend(n.inputs.iter().flatten().copied().filter(|i| self.seen.insert(*i)));
        }
        Some(v)
    }
}

impl Graph {
    /// Applies a patch, then removes the nodes whose results nobody uses any more.
    ///
    /// A replacement must be of a type that agrees with what it replaces (equal dtype and rank, no
    /// number contradicting another), and must not depend on the value it replaces unless through a
    /// node that the patch adds.
    ///
    /// # Errors
    /// [`IrError::Patch`] and [`IrError::Infer`]; the graph is then unchanged.
    pub fn apply(&mut self, patch: Patch) -> Result<(), IrError> {
        let (values, nodes) = (self.values.len(), self.nodes.len());
        match self.add_checked(&patch) {
            Ok(added) => {
                self.redirect(&patch, &added);
                Ok(())
            }
            Err(e) => {
                // Undo the additions, newest first, so that users are gone before what they use.
                for i in (nodes..self.nodes.len()).rev() {
                    self.remove_node(NodeId(i as u32));
                }
                self.nodes.truncate(nodes);
                self.values.truncate(values);
                Err(e)
            }
        }
    }

    fn add_checked(&mut self, patch: &Patch) -> Result<Vec<NodeId>, IrError> {
        let mut added: Vec<NodeId> = Vec::with_capacity(patch.nodes.len());
        for n in &patch.nodes {
            let inputs: SmallVec<[Option<ValueId>; 4]> = n
                .inputs
                .iter()
                .map(|i| i.map(|i| self.resolve(i, &added)).transpose())
                .collect::<Result<_, _>>()?;
            added.push(self.push_node(n.op.clone(), &inputs, n.origin.clone())?);
        }
        let replaced: HashSet<ValueId> = patch.replace.iter().map(|r| r.0).collect();
        for (old, new) in &patch.replace {
            let new = self.resolve(*new, &added)?;
            let Some(info) = self.get_value(*old) else {
                return Err(IrError::Patch("the replaced value is not in the graph".into()));
            };
            let ty = self.ty(new);
            // Sizes proved elsewhere may be finer on either side; only a contradiction is wrong.
            if ty.meet(&info.ty).is_none() {
                return Err(IrError::Patch(format!("{ty} cannot replace {}", info.ty)));
            }
            if replaced.contains(&new) {
                return Err(IrError::Patch("a replacement is itself replaced".into()));
            }
            if matches!(info.def, Def::Node(n, _) if added.contains(&n)) {
                return Err(IrError::Patch("a value of the patch is replaced".into()));
            }
            let below_old =
                self.producer(new).is_some_and(|(n, _)| !added.contains(&n)) && self.depends_on(new, *old);
            if below_old {
                return Err(IrError::Patch("a replacement depends on what it replaces".into()));
            }
        }
        Ok(added)
    }

    fn resolve(&self, v: New, added: &[NodeId]) -> Result<ValueId, IrError> {
        let found = match v {
            New::Old(v) => self.get_value(v).map(|_| v),
            New::Result(n, i) => added.get(n).and_then(|n| self.node(*n).outputs.get(i).copied()),
        };
        found.ok_or_else(|| IrError::Patch("an operand is not in the graph".into()))
    }

    /// Whether `v` depends on `on`, or is it.
    ///
    /// The graph has no cycles, so finding `v` above `on` refutes it. Both are looked for at the same
    /// time, nearest first: a rewrite replaces values by others close by, and a walk to the inputs for
    /// each would make long chains quadratic.
    fn depends_on(&self, v: ValueId, on: ValueId) -> bool {
        // A twin with the same operands: neither is above the other, which no search would soon tell.
        if let (Some((a, above)), Some((b, below))) = (self.producer(v), self.producer(on))
            && a != b
            && above.inputs.iter().all(|i| below.inputs.contains(i))
        {
            return false;
        }
        let mut up = Ancestors::new(v);
        let mut back = Ancestors::new(on);
        loop {
            match up.next(self) {
                None => return false,
                Some(found) if found == on => return true,
                Some(_) => {}
            }
            if back.next(self) == Some(v) {
                return v == on;
            }
        }
    }

    fn redirect(&mut self, patch: &Patch, added: &[NodeId]) {
        let mut suspects: Vec<NodeId> = added.to_vec();
        for (old, new) in &patch.replace {
            let new = self.resolve(*new, added).expect("resolved before");
            if *old == new {
                continue;
            }
            // The patch's own nodes keep reading the old value: that is how one wraps a value.
            let users: Vec<NodeId> =
                self.value(*old).users.iter().copied().filter(|u| !added.contains(u)).collect();
            for u in users {
                let node = self.nodes[u.index()].as_mut().expect("a user is live");
                let place = node.inputs.iter_mut().find(|i| **i == Some(*old)).expect("a user uses");
                *place = Some(new);
                let list = &mut self.value_mut(*old).users;
                let at = list.iter().position(|&x| x == u).expect("as listed");
                list.swap_remove(at);
                self.value_mut(new).users.push(u);
            }
            for o in &mut self.outputs {
                if o.value == *old {
                    o.value = new;
                }
            }
            self.inherit(*old, new);
            if let Def::Node(n, _) = self.value(*old).def {
                suspects.push(n);
            }
        }
        self.sweep(suspects);
    }

    /// What was known of the old value holds of the new one.
    fn inherit(&mut self, old: ValueId, new: ValueId) {
        let from_node = matches!(self.value(old).def, Def::Node(..));
        let (name, ty, elements) = {
            let o = self.value(old);
            (o.name.clone(), o.ty.clone(), o.elements.clone())
        };
        let info = self.value_mut(new);
        if let Some(met) = info.ty.meet(&ty)
            && !matches!(info.def, Def::Input(_))
        {
            info.ty = met;
        }
        if info.elements.is_none() {
            info.elements = elements;
        }
        if info.name.is_none()
            && from_node
            && let Some(name) = name
        {
            self.value_mut(old).name = None;
            self.names.insert(name.clone(), new);
            self.value_mut(new).name = Some(name);
        }
    }

    /// Removes those of `suspects` that nobody uses, and then whatever only they used.
    pub(crate) fn sweep(&mut self, mut suspects: Vec<NodeId>) -> usize {
        let outputs: HashSet<ValueId> = self.outputs.iter().map(|o| o.value).collect();
        let mut removed = 0;
        while let Some(id) = suspects.pop() {
            let Some(node) = self.get_node(id) else { continue };
            if node.outputs.iter().any(|v| outputs.contains(v) || !self.value(*v).users.is_empty()) {
                continue;
            }
            let inputs: SmallVec<[ValueId; 4]> = node.inputs.iter().flatten().copied().collect();
            self.remove_node(id);
            removed += 1;
            suspects.extend(inputs.into_iter().filter_map(|v| match self.value(v).def {
                Def::Node(n, _) => Some(n),
                Def::Input(_) => None,
            }));
        }
        removed
    }

    /// Removes every node that no output depends on; returns how many.
    pub fn remove_dead(&mut self) -> usize {
        let all: Vec<NodeId> = self.nodes().map(|(id, _)| id).collect();
        self.sweep(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        GraphBuilder, Type,
        ops::{Unary, UnaryKind},
    };
    use tensormill_tensor::DType;

    fn chain() -> (Graph, ValueId, ValueId, ValueId) {
        let mut b = GraphBuilder::new("main");
        let x = b.input("x", Type::tensor(DType::F32, [2.into()])).unwrap();
        let y = b.unary(UnaryKind::Relu, x).unwrap();
        b.name(y, "y").unwrap();
        let z = b.unary(UnaryKind::Neg, y).unwrap();
        b.output("z", z).unwrap();
        (b.finish().unwrap(), x, y, z)
    }

    #[test]
    fn replacing_moves_users_and_sweeps() {
        let (mut g, x, y, _) = chain();
        let mut p = Patch::new();
        let abs = p.op(Unary { kind: UnaryKind::Abs }, &[x.into()]);
        p.replace(y, abs);
        g.apply(p).unwrap();
        g.verify().unwrap();
        assert_eq!(crate::text::print(&g).text.matches("abs").count(), 1);
        assert_eq!(g.nodes().count(), 2);
        assert!(g.value_by_name("y").is_some(), "the name moves to the replacement");
    }

    #[test]
    fn a_refused_patch_changes_nothing() {
        let (mut g, x, y, z) = chain();
        let before = crate::text::print(&g).text;
        let mut p = Patch::new();
        let not = p.op(Unary { kind: UnaryKind::IsNan }, &[x.into()]);
        p.replace(y, not);
        assert!(matches!(g.apply(p), Err(IrError::Patch(_))));
        let mut p = Patch::new();
        p.replace(y, z);
        assert!(matches!(g.apply(p), Err(IrError::Patch(_))));
        g.verify().unwrap();
        assert_eq!(crate::text::print(&g).text, before);
    }

    #[test]
    fn cycles_are_refused_and_twins_are_not() {
        let mut b = GraphBuilder::new("main");
        let x = b.input("x", Type::tensor(DType::F32, [2.into()])).unwrap();
        let (p, q) = (b.unary(UnaryKind::Relu, x).unwrap(), b.unary(UnaryKind::Relu, x).unwrap());
        let far = b.unary(UnaryKind::Neg, p).unwrap();
        let far = b.unary(UnaryKind::Exp, far).unwrap();
        let y = b.binary(crate::ops::BinaryKind::Add, far, q).unwrap();
        b.output("y", y).unwrap();
        let mut g = b.finish().unwrap();
        for (old, new, ok) in [(p, y, false), (p, far, false), (x, p, false), (q, p, true), (far, x, true)] {
            let mut patch = Patch::new();
            patch.replace(old, new);
            assert_eq!(g.apply(patch).is_ok(), ok, "{old:?} by {new:?}");
            g.verify().unwrap();
        }
    }

    #[test]
    fn a_value_can_be_wrapped() {
        let (mut g, _, y, _) = chain();
        let mut p = Patch::new();
        let abs = p.op(Unary { kind: UnaryKind::Abs }, &[y.into()]);
        p.replace(y, abs);
        g.apply(p).unwrap();
        g.verify().unwrap();
        assert_eq!(g.nodes().count(), 3);
    }
}

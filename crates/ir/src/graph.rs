use crate::{
    dim::Expr,
    error::IrError,
    infer::{self, Fact},
    ops::Op,
    types::Type,
};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::Arc;
use tensormill_tensor::Tensor;

/// Names a value within one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// Names a node within one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl ValueId {
    /// Position in tables of [`Graph::value_capacity`] entries.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The value at this position; one past a graph's own names something that only the caller knows, such
    /// as a copy that a backend makes. `None` beyond 32 bits.
    pub fn at(index: usize) -> Option<ValueId> {
        u32::try_from(index).ok().map(ValueId)
    }
}

impl NodeId {
    /// Position in tables of [`Graph::node_capacity`] entries.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Def {
    /// The graph's input at this position.
    Input(usize),
    /// An output of a node.
    Node(NodeId, usize),
}

/// A value: what flows along an edge.
#[derive(Debug, Clone)]
pub struct ValueInfo {
    /// Its type, as precise as inference could make it.
    pub ty: Type,
    /// Its name in the source file. Unique within the graph.
    pub name: Option<Arc<str>>,
    /// Where it comes from.
    pub def: Def,
    /// Its elements as expressions, for small integer tensors such as shapes.
    pub elements: Option<Arc<[Expr]>>,
    /// Nodes that use it, once per use.
    pub(crate) users: SmallVec<[NodeId; 2]>,
}

impl ValueInfo {
    /// Nodes that use the value, once per use.
    pub fn users(&self) -> &[NodeId] {
        &self.users
    }
}

/// An operation applied to values.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it computes, with its attributes.
    pub op: Op,
    /// Operands; `None` for an optional operand left out before one that is given.
    pub inputs: SmallVec<[Option<ValueId>; 4]>,
    /// Results, as many as the op's inference says.
    pub outputs: SmallVec<[ValueId; 1]>,
    /// The node's name in the source file.
    pub origin: Option<Arc<str>>,
}

impl Node {
    /// The operand at `i`, if it is given.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// The first result.
    pub fn output(&self) -> ValueId {
        self.outputs[0]
    }
}

/// A named result of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The name that callers know it by.
    pub name: Arc<str>,
    /// The value.
    pub value: ValueId,
}

/// A dataflow graph in single-assignment form.
///
/// Only [`GraphBuilder`](crate::GraphBuilder) and [`Graph::apply`](crate::Graph::apply) change one, so
/// that types, users and names are always those of the nodes; [`Graph::verify`] lists the invariants.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<ValueInfo>>,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) names: FxHashMap<Arc<str>, ValueId>,
}

impl Graph {
    /// A graph without inputs, nodes or outputs.
    pub fn empty(name: &str) -> Self {
        Graph {
            name: name.into(),
            values: vec![],
            nodes: vec![],
            inputs: vec![],
            outputs: vec![],
            names: FxHashMap::default(),
        }
    }

    /// The graph's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The value of this id.
    ///
    /// # Panics
    /// When the id is of another graph or its value was removed.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        self.values[id.index()].as_ref().expect("a live value")
    }

    /// The node of this id.
    ///
    /// # Panics
    /// When the id is of another graph or its node was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.index()].as_ref().expect("a live node")
    }

    /// The node of this id, if it was not removed meanwhile.
    pub fn get_node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    /// The value of this id, if it was not removed meanwhile.
    pub fn get_value(&self, id: ValueId) -> Option<&ValueInfo> {
        self.values.get(id.index())?.as_ref()
    }

    /// Every node, in the order of their ids; see [`Graph::order`] for an order to run them in.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| Some((NodeId(i as u32), n.as_ref()?)))
    }

    /// The ids from this [`NodeId::index`] on of nodes that are still there: those added since then.
    pub fn nodes_from(&self, index: usize) -> impl Iterator<Item = NodeId> + '_ {
        (index..self.nodes.len()).filter(|&i| self.nodes[i].is_some()).map(|i| NodeId(i as u32))
    }

    /// Every value, in the order of their ids.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &ValueInfo)> {
        self.values.iter().enumerate().filter_map(|(i, v)| Some((ValueId(i as u32), v.as_ref()?)))
    }

    /// One more than the largest [`NodeId::index`].
    pub fn node_capacity(&self) -> usize {
        self.nodes.len()
    }

    /// One more than the largest [`ValueId::index`].
    pub fn value_capacity(&self) -> usize {
        self.values.len()
    }

    /// The value of this name.
    pub fn value_by_name(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.value(id).ty
    }

    /// The node that computes a value; `None` for inputs.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(id).def {
            Def::Node(n, _) => Some((n, self.node(n))),
            Def::Input(_) => None,
        }
    }

    /// The tensor, if the value is a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        match &self.producer(id)?.1.op {
            Op::Const(c) => Some(&c.tensor),
            _ => None,
        }
    }

    /// The elements as numbers, if the value is a small integer tensor that is known.
    pub fn const_ints(&self, id: ValueId) -> Option<Vec<i64>> {
        if let Some(e) = &self.value(id).elements {
            return e.iter().map(Expr::as_const).collect();
        }
        let t = self.constant(id)?;
        (t.dtype().is_int() || t.dtype() == tensormill_tensor::DType::Bool)
            .then(|| infer::int_elements(t))
            .flatten()
    }

    /// Whether the value is an output of the graph.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == id)
    }

    /// The nodes in an order in which every operand comes before its users: that of their ids where
    /// that is one already.
    pub fn order(&self) -> Vec<NodeId> {
        let mut done = vec![false; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        // An explicit stack: chains may be a million nodes deep.
        let mut stack: Vec<(NodeId, usize)> = vec![];
        for (root, _) in self.nodes() {
            if done[root.index()] {
                continue;
            }
            stack.push((root, 0));
            while let Some((id, next)) = stack.pop() {
                if done[id.index()] {
                    continue;
                }
                let node = self.node(id);
                let pending = node.inputs[next..].iter().enumerate().find_map(|(i, v)| {
                    match self.get_value((*v)?)?.def {
                        Def::Node(p, _) if !done[p.index()] => Some((next + i, p)),
                        _ => None,
                    }
                });
                match pending {
                    // A cycle would come back to a node on the stack; the verifier reports those.
                    Some((i, p)) if stack.len() <= self.nodes.len() => {
                        stack.push((id, i));
                        stack.push((p, 0));
                    }
                    _ => {
                        done[id.index()] = true;
                        order.push(id);
                    }
                }
            }
        }
        order
    }

    /// Number of bytes in constants.
    pub fn constant_bytes(&self) -> usize {
        self.nodes().map(|(_, n)| if let Op::Const(c) = &n.op { c.tensor.byte_len() } else { 0 }).sum()
    }

    /// Whether both graphs print the same text over the same constants.
    pub fn same_as(&self, other: &Graph) -> bool {
        let (a, b) = (crate::text::print(self), crate::text::print(other));
        a.text == b.text
            && a.tensors.len() == b.tensors.len()
            && a.tensors.iter().zip(&b.tensors).all(|((m, x), (n, y))| m == n && x.same_bits(y))
    }

    pub(crate) fn fact(&self, id: ValueId) -> Fact<'_> {
        let v = self.value(id);
        Fact { ty: &v.ty, elements: v.elements.as_deref(), constant: self.constant(id) }
    }

    /// Appends a node with outputs of the inferred types.
    pub(crate) fn push_node(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        origin: Option<Arc<str>>,
    ) -> Result<NodeId, IrError> {
        // Operands left out at the end say nothing.
        let inputs = &inputs[..inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1)];
        let outputs = {
            let facts: SmallVec<[Option<Fact<'_>>; 4]> =
                inputs.iter().map(|v| v.map(|v| self.fact(v))).collect();
            infer::infer(&op, &facts).map_err(|what| IrError::Infer {
                node: origin.as_deref().map(str::to_owned),
                op: op.name(),
                what,
            })?
        };
        let id = NodeId(
            u32::try_from(self.nodes.len()).map_err(|_| IrError::Verify("more than 2^32 nodes".into()))?,
        );
        for v in inputs.iter().flatten() {
            self.value_mut(*v).users.push(id);
        }
        let outputs = outputs
            .into_iter()
            .enumerate()
            .map(|(i, o)| {
                self.push_value(ValueInfo {
                    ty: o.ty,
                    name: None,
                    def: Def::Node(id, i),
                    elements: o.elements.map(Into::into),
                    users: SmallVec::new(),
                })
            })
            .collect();
        self.nodes.push(Some(Node { op, inputs: inputs.into(), outputs, origin }));
        Ok(id)
    }

    pub(crate) fn push_value(&mut self, info: ValueInfo) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Some(info));
        id
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut ValueInfo {
        self.values[id.index()].as_mut().expect("a live value")
    }

    pub(crate) fn set_name(&mut self, id: ValueId, name: &str) -> Result<(), IrError> {
        if self.names.contains_key(name) {
            return Err(IrError::Name(format!("two values are named \"{}\"", crate::shown(name))));
        }
        let name: Arc<str> = name.into();
        if let Some(old) = self.value_mut(id).name.replace(name.clone()) {
            self.names.remove(&old);
        }
        self.names.insert(name, id);
        Ok(())
    }

    /// Removes a node none of whose results is used.
    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let Some(node) = self.nodes[id.index()].take() else { return };
        for v in node.inputs.iter().flatten() {
            let users = &mut self.value_mut(*v).users;
            let at = users.iter().position(|&u| u == id).expect("a user list has every use");
            users.swap_remove(at);
        }
        for v in node.outputs {
            if let Some(ValueInfo { name: Some(name), .. }) = self.values[v.index()].take() {
                self.names.remove(&name);
            }
        }
    }
}

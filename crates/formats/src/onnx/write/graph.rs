//! One graph on its way into a message: names, constants, and nodes in the order they run.

use super::{
    error::{Refused, Result, UnwritableNode},
    names::Names,
    node::NodeCx,
    pattern::{Form, Plan},
    types::{self, write_info},
};
use crate::onnx::{
    encode::write_tensor,
    proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto},
};
use std::collections::HashMap;
use tensormill_ir::{Dim, Graph, Node, NodeId, Op, Type, ValueId, attr::Body};
use tensormill_tensor::Tensor;

/// Constants of bodies from this size on lie in the model's own graph, so that branches share them.
const HOISTED: usize = 1024;

/// What all graphs of a model share.
pub(super) struct Writer {
    pub(super) names: Names,
    node_names: Names,
    /// Version of ONNX's own operators that the nodes so far need.
    pub(super) opset: i64,
    /// Version of the operators of classical machine learning, where any is used.
    pub(super) ml: Option<i64>,
    pub(super) problems: Vec<UnwritableNode>,
    /// Constants of the model's own graph with the position that they are sorted by.
    initializers: Vec<(usize, TensorProto)>,
    /// Names of constants that every graph below sees, by where their bytes lie.
    shared: HashMap<Place, String>,
}

/// Bytes in memory under one type: two tensors of one place are one constant.
type Place = (usize, usize, tensormill_tensor::DType, Vec<usize>);

fn place(t: &Tensor) -> Option<Place> {
    if t.dtype() == tensormill_tensor::DType::Str || t.byte_len() < HOISTED {
        return None;
    }
    Some((t.bytes().as_ptr() as usize, t.byte_len(), t.dtype(), t.shape().to_vec()))
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer {
            names: Names::default(),
            node_names: Names::default(),
            opset: 21,
            ml: None,
            problems: vec![],
            initializers: vec![],
            shared: HashMap::new(),
        }
    }

    pub(super) fn require(&mut self, opset: i64) {
        self.opset = self.opset.max(opset);
    }

    pub(super) fn require_ml(&mut self, version: i64) {
        self.ml = Some(self.ml.unwrap_or(0).max(version));
    }

    pub(super) fn node_name(&mut self, wanted: &str) -> String {
        self.node_names.fresh(wanted)
    }

    /// The message of the model's own graph.
    pub(super) fn main(&mut self, g: &Graph) -> std::result::Result<GraphProto, super::WriteError> {
        let mut cx = GraphCx::new(self, g, true);
        for (i, &v) in g.inputs().iter().enumerate() {
            let name = g.value(v).name.as_deref().map_or_else(|| i.to_string(), str::to_owned);
            cx.w.names.take(&name);
            cx.names[v.index()] = Some(name);
        }
        for o in g.outputs() {
            // An input that is an output under its own name needs nothing in between.
            if cx.names[o.value.index()].as_deref() == Some(&*o.name) {
                continue;
            }
            if !cx.w.names.take(&o.name) {
                return Err(super::WriteError::Name(o.name.to_string()));
            }
            if cx.is_computed(o.value) && cx.names[o.value.index()].is_none() {
                cx.names[o.value.index()] = Some(o.name.to_string());
            }
        }
        // Before any name is made up, so that none takes one that the graph gives.
        for (v, info) in g.values() {
            if let Some(name) = &info.name
                && cx.names[v.index()].is_none()
                && cx.w.names.take(name)
            {
                cx.names[v.index()] = Some(name.to_string());
            }
        }
        cx.nodes_of_graph();
        for o in g.outputs() {
            if cx.names[o.value.index()].as_deref() != Some(&*o.name) {
                let from = cx.name(o.value);
                cx.push(NodeProto {
                    op_type: "Identity".into(),
                    input: vec![from],
                    output: vec![o.name.to_string()],
                    ..NodeProto::default()
                });
            }
        }
        let input = g.inputs().iter().map(|v| cx.info(*v)).collect();
        let output = g.outputs().iter().map(|o| write_info(&o.name, g.ty(o.value))).collect();
        let (node, infos) = (cx.nodes, cx.infos);
        let mut constants = std::mem::take(&mut self.initializers);
        constants.sort_by_key(|(at, _)| *at);
        Ok(GraphProto {
            node,
            name: if g.name().is_empty() { "main".into() } else { g.name().to_owned() },
            initializer: constants.into_iter().map(|(_, t)| t).collect(),
            input,
            output,
            value_info: infos,
            ..GraphProto::default()
        })
    }
}

/// One graph: the model's own or a body.
pub(super) struct GraphCx<'w, 'g> {
    pub(super) w: &'w mut Writer,
    pub(super) g: &'g Graph,
    /// The names of values in the file, by position.
    pub(super) names: Vec<Option<String>>,
    /// Constants that are initializers already, by position: a name may be reserved before that.
    stored: Vec<bool>,
    /// Whether it is the model's own.
    is_main: bool,
    nodes: Vec<NodeProto>,
    infos: Vec<ValueInfoProto>,
    /// Small constants of a body.
    own: Vec<TensorProto>,
}

impl<'w, 'g> GraphCx<'w, 'g> {
    fn new(w: &'w mut Writer, g: &'g Graph, is_main: bool) -> Self {
        let n = g.value_capacity();
        GraphCx {
            w,
            g,
            names: vec![None; n],
            stored: vec![false; n],
            is_main,
            nodes: vec![],
            infos: vec![],
            own: vec![],
        }
    }

    /// Whether a node of the file defines the value, rather than an input or an initializer.
    fn is_computed(&self, v: ValueId) -> bool {
        matches!(self.g.producer(v), Some((_, n)) if !matches!(n.op, Op::Const(_)))
    }

    /// The name of a value; a constant becomes an initializer when it is first named.
    pub(super) fn name(&mut self, v: ValueId) -> String {
        let info = self.g.value(v);
        if let Some(t) = info.ty.as_tensor() {
            self.w.require(types::since(t.dtype));
        }
        if let Some(t) = self.g.constant(v) {
            return self.constant_of(v, t);
        }
        if let Some(name) = &self.names[v.index()] {
            return name.clone();
        }
        let wanted = match (&info.name, self.g.producer(v)) {
            (Some(name), _) => name.to_string(),
            (None, Some((_, n))) => n.origin.as_deref().unwrap_or_else(|| n.op.name()).to_owned() + "_out",
            (None, None) => "value".to_owned(),
        };
        let name = self.w.names.fresh(&wanted);
        self.names[v.index()] = Some(name.clone());
        name
    }

    fn constant_of(&mut self, v: ValueId, t: &Tensor) -> String {
        let at = place(t);
        if let Some(name) = at.as_ref().and_then(|p| self.w.shared.get(p)) {
            return name.clone();
        }
        if let Some(name) = &self.names[v.index()]
            && self.stored[v.index()]
        {
            return name.clone();
        }
        let name = match &self.names[v.index()] {
            Some(name) => name.clone(),
            None => {
                let wanted = self.g.value(v).name.as_deref().unwrap_or("constant").to_owned();
                self.w.names.fresh(&wanted)
            }
        };
        self.names[v.index()] = Some(name.clone());
        self.stored[v.index()] = true;
        self.initializer(&name, t, v.index());
        if let Some(p) = at {
            self.w.shared.insert(p, name.clone());
        }
        name
    }

    fn initializer(&mut self, name: &str, t: &Tensor, at: usize) {
        self.w.require(types::since(t.dtype()));
        let Ok(proto) = write_tensor(name, t) else { unreachable!("every element type has a number") };
        if self.is_main {
            self.w.initializers.push((at, proto));
        } else if t.byte_len() >= HOISTED {
            self.w.initializers.push((usize::MAX, proto));
        } else {
            self.own.push(proto);
        }
    }

    /// A constant of the writer's own.
    pub(super) fn new_constant(&mut self, wanted: &str, t: &Tensor) -> String {
        let name = self.w.names.fresh(wanted);
        self.initializer(&name, t, usize::MAX);
        name
    }

    pub(super) fn push(&mut self, mut node: NodeProto) -> &mut NodeProto {
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        self.nodes.push(node);
        self.nodes.last_mut().expect("just pushed")
    }

    fn info(&mut self, v: ValueId) -> ValueInfoProto {
        let name = self.name(v);
        write_info(&name, self.g.ty(v))
    }

    /// Every node that an output needs, in order.
    fn nodes_of_graph(&mut self) {
        let plan = Plan::of(self.g);
        for id in self.g.order() {
            for form in plan.at(id) {
                self.node(id, form);
            }
        }
    }

    fn node(&mut self, id: NodeId, form: &Form) {
        let node = self.g.node(id);
        let (nodes, infos) = (self.nodes.len(), self.infos.len());
        let done = super::write_node(&mut NodeCx::new(self, node), form);
        if let Err(Refused(why)) = done {
            self.nodes.truncate(nodes);
            self.infos.truncate(infos);
            let node_name = node.origin.as_deref().map_or_else(|| format!("#{}", id.index()), str::to_owned);
            self.w.problems.push(UnwritableNode { node: node_name, op: node.op.name(), why });
            return;
        }
        self.describe(node);
    }

    /// Notes the types of a node's results: readers need not infer them, and people see them.
    fn describe(&mut self, node: &Node) {
        if !self.is_main {
            return;
        }
        for &v in &node.outputs {
            let told = match self.g.ty(v) {
                Type::Tensor(t) => t.dims.as_ref().is_some_and(|d| {
                    d.iter().all(|d| match d {
                        Dim::Known(_) => true,
                        Dim::Sym(e) => e.as_symbol().is_some(),
                        Dim::Unknown => false,
                    })
                }),
                _ => false,
            };
            if told && !self.g.is_output(v) && self.names[v.index()].is_some() {
                let info = self.info(v);
                self.infos.push(info);
            }
        }
    }

    /// The message of a body whose last inputs are these values around it.
    pub(super) fn body(&mut self, body: &Body, captured: &[String]) -> Result<GraphProto> {
        let g = &*body.0;
        let Some(own) = g.inputs().len().checked_sub(captured.len()) else {
            return super::error::refuse("a body takes fewer inputs than it captures");
        };
        let mut cx = GraphCx::new(self.w, g, false);
        for (v, name) in g.inputs()[own..].iter().zip(captured) {
            cx.names[v.index()] = Some(name.clone());
        }
        let input = g.inputs()[..own].iter().map(|v| cx.info(*v)).collect();
        cx.nodes_of_graph();
        let mut output = vec![];
        let mut given: Vec<String> = vec![];
        for o in g.outputs() {
            let mut name = cx.name(o.value);
            // A body's result must be a node's own, and each one another.
            if !cx.is_computed(o.value) || given.contains(&name) {
                let copy = cx.w.names.fresh(&format!("{name}_out"));
                cx.push(NodeProto {
                    op_type: "Identity".into(),
                    input: vec![name],
                    output: vec![copy.clone()],
                    ..NodeProto::default()
                });
                name = copy;
            }
            output.push(write_info(&name, g.ty(o.value)));
            given.push(name);
        }
        Ok(GraphProto {
            node: cx.nodes,
            name: if g.name().is_empty() { "body".into() } else { g.name().to_owned() },
            initializer: cx.own,
            input,
            output,
            ..GraphProto::default()
        })
    }
}

//! A walk over every node and tensor of a graph and of the bodies inside it, without recursion.

use super::{
    OnnxError,
    attribute::AttributeValue,
    function::FunctionId,
    proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto},
};
use crate::text::quoted;
use std::{collections::HashSet, fmt};

/// Where a node is: its body, its position there, its name and its operator.
pub(crate) struct Place<'a> {
    pub(crate) body: &'a str,
    pub(crate) index: usize,
    pub(crate) node: &'a NodeProto,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.node[{}]", self.body, self.index)?;
        if !self.node.name.is_empty() {
            write!(f, " {}", quoted(&self.node.name))?;
        }
        write!(f, " ({})", quoted(&self.node.op_type).trim_matches('`'))
    }
}

/// What a walk meets.
pub(crate) enum Item<'a> {
    Node(&'a NodeProto),
    Tensor(&'a TensorProto),
    Sparse(&'a SparseTensorProto),
}

/// Calls `visit` with every node, dense tensor and sparse tensor of `body` and of the bodies inside.
pub(crate) fn walk<'a>(
    body: Body<'a>,
    visit: &mut dyn FnMut(&dyn fmt::Display, Item<'a>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let mut stack = vec![body];
    while let Some(Body { path, nodes, graph }) = stack.pop() {
        if let Some(g) = graph {
            for (i, t) in g.initializer.iter().enumerate() {
                visit(&format_args!("{path}.initializer[{i}]"), Item::Tensor(t))?;
            }
            for (i, t) in g.sparse_initializer.iter().enumerate() {
                visit(&format_args!("{path}.sparse_initializer[{i}]"), Item::Sparse(t))?;
            }
        }
        for (index, node) in nodes.iter().enumerate() {
            let place = Place { body: &path, index, node };
            visit(&place, Item::Node(node))?;
            attributes(&place, &node.attribute, &mut stack, visit)?;
        }
    }
    Ok(())
}

/// The nodes of a graph or of a function.
pub(crate) struct Body<'a> {
    pub(crate) path: String,
    pub(crate) nodes: &'a [NodeProto],
    pub(crate) graph: Option<&'a GraphProto>,
}

impl<'a> Body<'a> {
    pub(crate) fn graph(path: String, graph: &'a GraphProto) -> Self {
        Body { path, nodes: &graph.node, graph: Some(graph) }
    }

    pub(crate) fn function(f: &'a FunctionProto) -> Self {
        Body { path: format!("function {}", FunctionId::of(f)), nodes: &f.node, graph: None }
    }
}

/// As [`walk`], for the attributes of a node or the defaults of a function; bodies go onto `stack`.
pub(crate) fn attributes<'a>(
    at: &dyn fmt::Display,
    attributes: &'a [AttributeProto],
    stack: &mut Vec<Body<'a>>,
    visit: &mut dyn FnMut(&dyn fmt::Display, Item<'a>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let mut names = HashSet::with_capacity(attributes.len());
    for a in attributes {
        let name = quoted(&a.name);
        let here = format_args!("{at}, attribute {name}");
        let fail = |what: String| OnnxError::Attribute { at: here.to_string(), what };
        if !names.insert(a.name.as_str()) {
            return Err(fail("the attribute is given twice".into()));
        }
        match a.value().map_err(fail)? {
            AttributeValue::Tensor(t) => visit(&here, Item::Tensor(t))?,
            AttributeValue::SparseTensor(t) => visit(&here, Item::Sparse(t))?,
            AttributeValue::Tensors(all) => {
                for (i, t) in all.iter().enumerate() {
                    visit(&format_args!("{here}[{i}]"), Item::Tensor(t))?;
                }
            }
            AttributeValue::SparseTensors(all) => {
                for (i, t) in all.iter().enumerate() {
                    visit(&format_args!("{here}[{i}]"), Item::Sparse(t))?;
                }
            }
            AttributeValue::Graph(g) => stack.push(Body::graph(here.to_string(), g)),
            AttributeValue::Graphs(all) => {
                stack.extend(all.iter().enumerate().map(|(i, g)| Body::graph(format!("{here}[{i}]"), g)));
            }
            _ => {}
        }
    }
    Ok(())
}

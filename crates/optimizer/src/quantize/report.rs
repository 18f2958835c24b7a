use std::fmt;
use tensormill_ir::{Graph, NodeId, ValueId};

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Treatment {
    /// It computes with integers, or from weights stored as such; how its weights are stored, if it has any.
    Quantized {
        /// As `i8 per channel`.
        weights: Option<String>,
    },
    /// It stays in float, for this reason.
    Float(&'static str),
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Treatment::Quantized { weights: Some(w) } => f.write_str(w),
            Treatment::Quantized { weights: None } => f.write_str("integers"),
            Treatment::Float(why) => write!(f, "float: {why}"),
        }
    }
}

/// A node that quantization is for, or that stands between such.
#[derive(Debug, Clone)]
pub struct NodeEntry {
    /// The node, in the float graph.
    pub node: NodeId,
    /// Its source name, its result's, or its op.
    pub name: String,
    /// Its op.
    pub op: &'static str,
    /// What became of it.
    pub treatment: Treatment,
    /// The value that it reads data from first.
    pub input: Option<ValueId>,
    /// The same in the quantized graph, where it is still there.
    pub quantized_input: Option<ValueId>,
    /// The value that readers of the node, or of the activation after it, read: in the float graph.
    pub value: ValueId,
    /// The same in the quantized graph, where it is still there.
    pub quantized: Option<ValueId>,
}

impl NodeEntry {
    pub(super) fn new(g: &Graph, id: NodeId, value: ValueId, treatment: Treatment) -> NodeEntry {
        let name = crate::driver::label(g, id);
        let input = g.node(id).inputs.iter().flatten().copied().find(|v| g.constant(*v).is_none());
        NodeEntry {
            node: id,
            name,
            op: g.node(id).op.name(),
            treatment,
            value,
            quantized: None,
            input,
            quantized_input: None,
        }
    }

    /// The entry with the values' places in the new graph.
    pub(super) fn mapped(self, map: &[Option<ValueId>]) -> NodeEntry {
        let quantized_input = self.input.and_then(|v| map[v.index()]);
        NodeEntry { quantized: map[self.value.index()], quantized_input, ..self }
    }

    /// Whether it was quantized.
    pub fn is_quantized(&self) -> bool {
        matches!(self.treatment, Treatment::Quantized { .. })
    }
}

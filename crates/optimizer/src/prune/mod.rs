//! Pruning: weights set to zero, or whole channels and heads of attention taken out so that shapes shrink.
//!
//! [`prune`] decides by magnitude and trains nothing: how much a model bears is for its caller to measure.

mod channels;
mod groups;
mod heads;
#[cfg(test)]
mod heads_tests;
mod operands;
mod shapes;
mod weights;

use crate::pass::PassError;
use operands::Operand;
use std::collections::{BTreeMap, BTreeSet};
use tensormill_ir::{Graph, GraphBuilder, IrError, Node, NodeId, Op, ValueId, ops::Concat};
use tensormill_tensor::{Tensor, TensorError};

/// What is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// The smallest weights of each product become zero.
    Magnitude,
    /// Of every four weights along the inputs of a product the two smallest become zero.
    TwoOfFour,
    /// Channels, and heads of attention, whose weights are smallest are taken out, in every node that has them.
    Channels,
}

/// What a [`PruneEntry`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pruning {
    /// Weights of a product that are not zero.
    Weights,
    /// Channels that one or more products make.
    Channels,
    /// Heads of attention; where several share their keys and values, such groups.
    Heads,
}

/// What to prune, and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneOptions {
    /// What is pruned.
    pub pattern: Pattern,
    /// The part of the weights, or of the channels, that goes: from 0 to less than 1. Two of four are always half.
    pub ratio: f64,
    /// Nodes that stay as they are, by their name in the source file or that of a result.
    pub exclude: BTreeSet<String>,
}

/// What became of a product, or of channels or heads that several share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneEntry {
    /// What is counted.
    pub what: Pruning,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// Weights, channels or heads before.
    pub before: usize,
    /// Weights that are not zero, channels or heads after.
    pub after: usize,
    /// Why all of them had to stay.
    pub kept: Option<String>,
}

/// A pruned graph, and what was pruned in it.
#[derive(Debug, Clone)]
pub struct Pruned {
    /// The graph.
    pub graph: Graph,
    /// What became of products or channels, in order.
    pub entries: Vec<PruneEntry>,
}

/// Why a graph could not be pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// A ratio that makes no sense.
    #[error("a ratio of {0}: ask for 0 to less than 1")]
    Ratio(f64),
    /// A name to exclude that no node has.
    #[error("no node is named \"{}\"", .0.escape_debug())]
    Name(String),
    /// The pruned graph cannot be built: a defect.
    #[error(transparent)]
    Graph(#[from] IrError),
    /// The graph cannot be simplified: a defect.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Weights cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Prunes a graph.
///
/// # Errors
/// [`PruneError::Ratio`] and [`PruneError::Name`].
pub fn prune(g: &Graph, o: &PruneOptions) -> Result<Pruned, PruneError> {
    if !(0.0..1.0).contains(&o.ratio) {
        return Err(PruneError::Ratio(o.ratio));
    }
    for name in &o.exclude {
        if !g.nodes().any(|(_, n)| is_named(g, n, |m| m == name)) {
            return Err(PruneError::Name(name.clone()));
        }
    }
    match o.pattern {
        Pattern::Channels => channels::prune(g, o),
        _ => weights::prune(g, o),
    }
}

fn is_named(g: &Graph, n: &Node, is: impl Fn(&str) -> bool) -> bool {
    n.origin.as_deref().is_some_and(&is)
        || n.outputs.iter().any(|v| g.value(*v).name.as_deref().is_some_and(&is))
}

fn excluded(g: &Graph, n: &Node, o: &PruneOptions) -> bool {
    !o.exclude.is_empty() && is_named(g, n, |m| o.exclude.contains(m))
}

/// What is other in a graph that is built again.
#[derive(Default)]
struct Changes {
    /// Values whose shape changes; all others keep what was declared of them.
    resized: BTreeSet<ValueId>,
    constants: BTreeMap<ValueId, Tensor>,
    ops: BTreeMap<NodeId, Op>,
    operands: BTreeMap<(NodeId, usize), Operand>,
}

/// A graph built again with changes.
fn rebuilt(g: &Graph, c: &Changes) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new(g.name());
    let mut new: Vec<Option<ValueId>> = vec![None; g.value_capacity()];
    for &v in g.inputs() {
        let info = g.value(v);
        new[v.index()] = Some(match &info.name {
            Some(name) => b.input(name, info.ty.clone())?,
            None => b.unnamed_input(info.ty.clone()),
        });
    }
    for id in g.order() {
        let node = g.node(id);
        b.set_origin(node.origin.as_deref());
        let results = match &node.op {
            Op::Const(kept) => {
                let t = c.constants.get(&node.output()).unwrap_or(&kept.tensor);
                [b.constant(t.clone())?].into_iter().collect()
            }
            kept => {
                let mut operands: Vec<_> =
                    node.inputs.iter().map(|v| v.and_then(|v| new[v.index()])).collect();
                for ((_, i), operand) in c.operands.range((id, 0)..=(id, usize::MAX)) {
                    operands.resize(operands.len().max(i + 1), None);
                    operands[*i] = Some(built(&mut b, operand, &new)?);
                }
                b.node(c.ops.get(&id).unwrap_or(kept).clone(), &operands)?
            }
        };
        for (&old, v) in node.outputs.iter().zip(results) {
            if !c.resized.contains(&old) {
                b.refine(v, g.ty(old))?;
            }
            if let Some(name) = &g.value(old).name {
                b.name(v, name)?;
            }
            new[old.index()] = Some(v);
        }
    }
    for o in g.outputs() {
        let Some(v) = new[o.value.index()] else {
            return Err(IrError::Verify("an output is not computed".into()));
        };
        b.output(&o.name, v)?;
    }
    b.finish()
}

/// An operand that takes the place of another.
fn built(b: &mut GraphBuilder, operand: &Operand, new: &[Option<ValueId>]) -> Result<ValueId, IrError> {
    let parts = match operand {
        Operand::Constant(t) => return b.constant(t.clone()),
        Operand::Joined(parts) => parts,
    };
    let mut joined = vec![];
    for part in parts {
        joined.push(match part {
            operands::Part::Value(v) => new[v.index()],
            operands::Part::Numbers(n) => Some(b.ints(n)?),
        });
    }
    Ok(b.node(Concat { axis: 0 }, &joined)?[0])
}

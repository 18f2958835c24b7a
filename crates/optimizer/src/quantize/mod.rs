//! Quantization: fewer bits for weights and activations, said in the graph by `quantize` and `dequantize`.
//!
//! A float graph is [prepared](prepare), [`wanted`] says what must be observed of its values, and [`quantize`]
//! rewrites it by what was observed. What stays in float says why ([`NodeEntry`]).

mod compensate;
mod dynamic;
mod equalize;
mod histogram;
mod observe;
mod options;
mod plan;
mod qdq;
mod range;
mod rebuild;
mod report;
mod statistics;
mod weight_only;
mod weighted;
mod weights;

pub use compensate::Moments;
pub use equalize::equalize;
pub use histogram::Histogram;
pub use observe::{Observer, showing};
pub use options::{Method, QuantError, QuantOptions, Scheme};
pub use range::{Affine, choose};
pub use report::{NodeEntry, Treatment};
pub use statistics::{Channels, Statistics, Wanted};

use crate::{
    fuse,
    pass::{OptOptions, PassError},
    pattern::dims,
    pipeline::Pipeline,
    simplify,
};
use plan::{Plan, Role};
use std::collections::BTreeMap;
use tensormill_ir::{Dim, Graph};
use tensormill_tensor::DType;
use weighted::Weighted;

/// Simplifies a graph and works batch norms, factors and biases into its weights, as [`quantize`] takes it. No
/// op is fused that a file could not hold.
///
/// # Errors
/// As [`Pipeline::run`].
pub fn prepare(g: &mut Graph, options: &OptOptions) -> Result<(), PassError> {
    if let Some(basic) = Pipeline::by_name("basic") {
        basic.run(g, options)?;
    }
    let weights = vec![
        fuse::part(),
        fuse::join(),
        fuse::weights(),
        simplify::pass(),
        Box::new(simplify::Common) as _,
        Box::new(simplify::Dead),
    ];
    Pipeline::new("weights", weights).run(g, options)?;
    Ok(())
}

/// What must be observed of a prepared graph before [`equalize()`] may change it.
pub fn wanted_to_equalize(g: &Graph, o: &QuantOptions) -> Wanted {
    Wanted { channels: equalize::observed(g, o), ..Wanted::default() }
}

/// What must be observed of a prepared graph. Without samples, only the static scheme fails.
pub fn wanted(g: &Graph, o: &QuantOptions) -> Wanted {
    let mut channels = BTreeMap::new();
    let mut moments = BTreeMap::new();
    let mut look = |w: &Weighted| {
        let Some(axis) = w.input_axis(g) else { return };
        if o.scheme == Scheme::StaticInt8 {
            channels.insert(w.x, axis);
        }
        let size = dims(g, w.x).and_then(|d| d.get(axis)).and_then(Dim::known);
        if let Some(size) =
            size.filter(|s| o.compensate && w.is_plain_product() && *s <= compensate::MAX_INPUTS)
        {
            moments.insert(w.x, (axis, size));
        }
    };
    let mut ranges = vec![];
    match o.scheme {
        Scheme::StaticInt8 => {
            let plan = Plan::of(g, o);
            ranges.extend(plan.observed());
            for c in plan.nodes.values() {
                if let Role::Product(w) = &c.role {
                    look(w);
                }
            }
        }
        Scheme::F16Weights | Scheme::Bf16Weights => {}
        _ => g.nodes().filter_map(|(id, _)| Weighted::at(g, id, o)?.ok()).for_each(|w| look(&w)),
    }
    Wanted {
        ranges,
        channels: channels.into_iter().collect(),
        moments: moments.into_iter().map(|(v, (axis, size))| (v, axis, size)).collect(),
    }
}

/// A graph rewritten, with what became of its nodes.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The graph.
    pub graph: Graph,
    /// Nodes that quantization is for, in the order of the float graph.
    pub nodes: Vec<NodeEntry>,
}

/// Rewrites a prepared graph by what was observed of its values.
///
/// # Errors
/// [`QuantError`].
pub fn quantize(g: &Graph, o: &QuantOptions, stats: &Statistics) -> Result<Quantized, QuantError> {
    o.check()?;
    for name in &o.exclude {
        let known = |label: Option<&str>| label == Some(name);
        let nodes = g.nodes().any(|(_, n)| known(n.origin.as_deref()));
        if !nodes && !g.values().any(|(_, v)| known(v.name.as_deref())) {
            return Err(QuantError::NoNode(name.clone()));
        }
    }
    let (graph, mut nodes) = match o.scheme {
        Scheme::StaticInt8 => qdq::rewrite(g, o, stats)?,
        Scheme::DynamicInt8 => dynamic::rewrite(g, o, stats)?,
        Scheme::Int8Weights | Scheme::Int4Weights { .. } => weight_only::integers(g, o, stats)?,
        Scheme::F16Weights => weight_only::halves(g, o, DType::F16)?,
        Scheme::Bf16Weights => weight_only::halves(g, o, DType::BF16)?,
    };
    for (id, node) in g.nodes() {
        if let (false, Some(v)) = (node.op.bodies().is_empty(), node.outputs.first()) {
            nodes.push(NodeEntry::new(g, id, *v, Treatment::Float("its bodies are not looked into")));
        }
    }
    Ok(Quantized { graph, nodes })
}

//! Every node through the reference: slow, and right.

use std::sync::Arc;
use tensormill_backend::{
    Backend, BackendError, CompileOptions, Io, NodeReport, Plan, PlanReport, RunError, State, Support,
};
use tensormill_ir::infer::{Inferred, infer_graph};
use tensormill_ir::{Graph, Node, NodeId, ValueId};
use tensormill_reference::{EvalError, EvalLimits, interpret_values};

/// A backend that runs every node as [`tensormill_reference`] defines it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceBackend;

#[derive(Debug)]
struct Shared {
    graph: Graph,
    options: CompileOptions,
}

struct ReferencePlan(Arc<Shared>);

struct ReferenceState(Arc<Shared>);

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn supports(&self, _: &Graph, _: NodeId, _: &Node) -> Support {
        Support::Native { kernel: "reference" }
    }

    fn compile(&self, g: Graph, options: &CompileOptions) -> Result<Arc<dyn Plan>, BackendError> {
        Ok(Arc::new(ReferencePlan(Arc::new(Shared { graph: g, options: options.clone() }))))
    }
}

impl Plan for ReferencePlan {
    fn report(&self) -> PlanReport {
        let g = &self.0.graph;
        let nodes = g.order().into_iter().map(|id| g.node(id)).map(|n| NodeReport {
            node: n.origin.as_deref().map(str::to_owned),
            op: n.op.name(),
            backend: "reference",
            kernel: "reference".into(),
            reason: String::new(),
            fallback: false,
        });
        PlanReport { nodes: nodes.collect(), constant_bytes: g.constant_bytes() }
    }

    fn graph(&self) -> &Graph {
        &self.0.graph
    }

    fn state(&self, inputs: &[Inferred]) -> Result<Box<dyn State>, BackendError> {
        infer_graph(&self.0.graph, inputs)?;
        Ok(Box::new(ReferenceState(self.0.clone())))
    }
}

impl State for ReferenceState {
    fn run(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        let Shared { graph, options } = &*self.0;
        let wanted: Vec<ValueId> =
            graph.outputs().iter().map(|o| o.value).chain(options.extra_outputs.iter().copied()).collect();
        let limits = EvalLimits {
            max_elements: options.max_elements,
            max_trips: options.max_trips,
            cancel: io.cancel,
        };
        let outs = interpret_values(graph, io.inputs, &wanted, &limits).map_err(failed)?;
        io.outputs.extend(outs);
        Ok(())
    }

    fn bytes(&self) -> usize {
        0
    }
}

fn failed(e: EvalError) -> RunError {
    match e {
        EvalError::Cancelled => RunError::Cancelled,
        EvalError::Node { node, op, source } => RunError::Node { node, op, what: source.to_string() },
        e => RunError::Input(e.to_string()),
    }
}

//! The plan: a graph with its constants prepared, from which states are made.

use crate::bind::bind;
use crate::cache::Cache;
use crate::control::BodyPlans;
use crate::exec::{self, Surroundings, aligned};
use crate::native::Weights;
use crate::resolve::{self, Decisions};
use crate::state::CpuState;
use crate::tune::Tuner;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tensormill_backend::{
    Backend, BackendError, CompileOptions, NodeReport, Plan, PlanReport, State, Support,
};
use tensormill_ir::infer::Inferred;
use tensormill_ir::{Dim, Graph, Node, NodeId, TensorType, Type, ValueId, ops::Op};
use tensormill_kernels::threads::Pool;
use tensormill_reference::EvalLimits;
use tensormill_tensor::{DType, Tensor, Value};

/// Constants up to this size are computed when the plan is made.
const FOLDED_BYTES: usize = 64 << 20;

/// The CPU backend.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Pool,
}

impl std::fmt::Debug for CpuBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuBackend({} threads, {})", self.pool.threads(), self.pool.level().name())
    }
}

impl CpuBackend {
    /// A backend whose plans run on these threads.
    pub fn new(pool: Pool) -> Self {
        CpuBackend { pool }
    }
}

/// What all states of a plan share.
pub(crate) struct Shared {
    pub graph: Graph,
    pub order: Vec<NodeId>,
    /// The graph's outputs, then the extra ones.
    pub wanted: Vec<ValueId>,
    pub options: CompileOptions,
    pub pool: Pool,
    /// Values that are the same in every run, wherever files put them in memory.
    pub constants: FxHashMap<ValueId, Tensor>,
    /// Aligned copies of those that runs read.
    read: Mutex<FxHashMap<ValueId, Tensor>>,
    /// Concatenations of constants that are nowhere in memory: products pack their parts beside one another.
    pub beside: FxHashMap<ValueId, Vec<Tensor>>,
    pub weights: Weights,
    pub tuner: Option<Tuner>,
    pub bodies: BodyPlans,
    report: Mutex<Option<PlanReport>>,
    /// Plans of this graph with branches taken, by what was decided; `None` when there is no branch.
    taken: Option<Mutex<FxHashMap<Decisions, Arc<Shared>>>>,
}

impl Shared {
    pub fn new(graph: Graph, options: &CompileOptions, pool: &Pool) -> Result<Shared, BackendError> {
        let wanted: Vec<ValueId> =
            graph.outputs().iter().map(|o| o.value).chain(options.extra_outputs.iter().copied()).collect();
        if let Some(v) = wanted.iter().find(|v| graph.get_value(**v).is_none()) {
            return Err(BackendError::Device(format!("the graph has no value {v:?}")));
        }
        let order = graph.order();
        let mut shared = Shared {
            graph,
            order,
            wanted,
            options: options.clone(),
            pool: pool.clone(),
            constants: FxHashMap::default(),
            read: Mutex::default(),
            beside: FxHashMap::default(),
            weights: Weights::default(),
            tuner: options.tune.map(|budget| Tuner::new(budget, options.cache_dir.as_deref(), pool)),
            bodies: BodyPlans::default(),
            report: Mutex::new(None),
            taken: None,
        };
        shared.taken = resolve::has_branches(&shared.graph).then(Mutex::default);
        shared.fold();
        if let Some(folder) = &options.cache_dir {
            shared.weights.cache = Some(Cache::open(folder, &shared.graph, pool));
        }
        Ok(shared)
    }

    /// Computes what depends on constants alone. Errors wait for the run, which may never get there.
    fn fold(&mut self) {
        let limits = EvalLimits { max_elements: self.options.max_elements, ..EvalLimits::default() };
        for &id in &self.order {
            let node = self.graph.node(id);
            if let Op::Const(c) = &node.op {
                self.constants.insert(node.output(), c.tensor.clone());
                continue;
            }
            if node.op.is_random() || !node.op.bodies().is_empty() || self.is_operand_transposed(node) {
                continue;
            }
            if let Some(parts) = self.packed_beside(node) {
                self.beside.insert(node.output(), parts);
                continue;
            }
            let bytes = |v: &ValueId| {
                let t = self.graph.ty(*v).as_tensor()?;
                t.dtype.bytes_for(t.static_shape()?.checked_numel()?)
            };
            if node.outputs.iter().any(|v| bytes(v).is_none_or(|b| b > FOLDED_BYTES)) {
                continue;
            }
            let ins: Option<Vec<Option<Value>>> = node
                .inputs
                .iter()
                .map(|v| match v {
                    None => Some(None),
                    Some(v) => self.constants.get(v).map(|t| Some(t.clone().into())),
                })
                .collect();
            let Some(ins) = ins else { continue };
            let ins: Vec<Option<&Value>> = ins.iter().map(Option::as_ref).collect();
            let around = Surroundings {
                pool: &self.pool,
                weights: &self.weights,
                node: None,
                constant: &|_| false,
                limits: &limits,
            };
            let Ok((outs, _)) = exec::on_values(&node.op, &ins, &around) else { continue };
            for (v, out) in node.outputs.clone().into_iter().zip(outs) {
                if let Value::Tensor(t) = out {
                    self.constants.insert(v, aligned(&t));
                }
            }
        }
    }

    /// Whether the node is a transposition that only matrix products use: they read it by strides.
    fn is_operand_transposed(&self, node: &Node) -> bool {
        matches!(node.op, Op::Transpose(_))
            && !self.wanted.contains(&node.output())
            && self.graph.ty(node.output()).as_tensor().is_some_and(|t| t.dtype == DType::F32)
            && self.graph.value(node.output()).users().iter().all(|&u| {
                let user = self.graph.node(u);
                matches!(user.op, Op::MatMul(_))
                    && user.inputs.iter().skip(2).all(|i| *i != Some(node.output()))
            })
    }

    /// The parts of a concatenation of constants, if only products read it, whose columns its parts are. In memory
    /// they would be there three times: in the file, put together, and packed.
    fn packed_beside(&self, node: &Node) -> Option<Vec<Tensor>> {
        let (Op::Concat(c), v) = (&node.op, node.outputs.first().copied()?) else { return None };
        let axis = tensormill_ir::infer::axis(c.axis, 2).ok()?;
        let parts: Vec<Tensor> = node
            .inputs
            .iter()
            .map(|i| self.constants.get(&(*i)?).filter(|t| t.dtype() == DType::F32 && t.shape().rank() == 2))
            .map(|t| t.cloned())
            .collect::<Option<_>>()?;
        let users = self.graph.value(v).users();
        let by_columns = |&u: &NodeId| {
            let user = self.graph.node(u);
            matches!(&user.op, Op::MatMul(m) if !m.trans_a && m.trans_b == (axis == 0))
                && user.inputs.iter().enumerate().all(|(i, input)| (*input == Some(v)) == (i == 1))
        };
        let small = parts.iter().map(Tensor::byte_len).sum::<usize>() <= crate::matmul::LARGEST_PACKED;
        let whole = !self.wanted.contains(&v) && !users.is_empty() && users.iter().all(by_columns);
        (whole && small).then_some(parts)
    }

    /// A constant as kernels read it; a copy, if it takes one, is shared by all states.
    pub fn readable(&self, v: ValueId, t: &Tensor) -> Tensor {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = || {
            let copy = aligned(t);
            if !std::ptr::eq(copy.bytes(), t.bytes()) {
                t.release();
            }
            copy
        };
        read.entry(v).or_insert_with(copy).clone()
    }

    /// Bytes of constants in memory: all but those of a mapped file that only packing reads.
    fn constants_held(&self) -> usize {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |(v, t): (&ValueId, &Tensor)| {
            read.get(v).map_or_else(|| if t.release() { 0 } else { t.byte_len() }, Tensor::byte_len)
        };
        self.constants.iter().map(held).sum()
    }

    /// The plan with the branches taken that inputs of these types decide, if they decide any.
    pub fn resolved(&self, inputs: &[Inferred]) -> Option<Arc<Shared>> {
        let taken = self.taken.as_ref()?;
        let decisions = resolve::decide(&self.graph, &self.wanted, inputs)?;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = taken.get(&decisions) {
            return Some(found.clone());
        }
        let graph = resolve::taken(&self.graph, &self.wanted, &decisions).ok()?;
        let mut options = self.options.clone();
        options.extra_outputs.clear();
        let mut made = Shared::new(graph, &options, &self.pool).ok()?;
        // What sizes did not decide is left to the run.
        made.taken = None;
        let made = Arc::new(made);
        taken.insert(decisions, made.clone());
        Some(made)
    }

    /// Bytes of packed weights, of the plans with branches taken too.
    fn packed_bytes(&self) -> usize {
        let taken = self.taken.as_ref().map(|t| t.lock().unwrap_or_else(PoisonError::into_inner));
        let taken = taken.iter().flat_map(|t| t.values()).map(|s| s.weights.bytes());
        self.weights.bytes() + taken.sum::<usize>()
    }

    /// Keeps the newest layout's report.
    pub fn note(&self, report: &PlanReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }
}

/// A compiled graph.
pub(crate) struct CpuPlan(pub Arc<Shared>);

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn supports(&self, g: &Graph, id: NodeId, node: &Node) -> Support {
        // A kernel is chosen by sizes; any will do where they are symbols.
        let mut trial = tensormill_ir::GraphBuilder::new("trial");
        let fallback = |reason: String| Support::Fallback { reason };
        let _ = id;
        let mut ins = vec![];
        for v in &node.inputs {
            let made = v.map(|v| match g.constant(v) {
                Some(t) => trial.constant(t.clone()),
                None => Ok(trial.unnamed_input(sized(g.ty(v), 4))),
            });
            ins.push(match made.transpose() {
                Ok(v) => v,
                Err(e) => return fallback(e.to_string()),
            });
        }
        let outs = match trial.node(node.op.clone(), &ins) {
            Ok(outs) => outs,
            Err(e) => return fallback(e.to_string()),
        };
        for (i, v) in outs.iter().enumerate() {
            if let Err(e) = trial.output(&format!("y{i}"), *v) {
                return fallback(e.to_string());
            }
        }
        let report = trial
            .finish()
            .map_err(BackendError::Infer)
            .and_then(|t| Shared::new(t, &CompileOptions::default(), &self.pool))
            .and_then(|s| {
                let types: Vec<Inferred> = s.graph.inputs().iter().map(|&v| s.graph.input_fact(v)).collect();
                bind(&s, &types).map(|l| l.report)
            });
        match report {
            Err(e) => fallback(e.to_string()),
            Ok(r) => match r.nodes.iter().find(|n| n.fallback) {
                Some(n) => fallback(n.reason.clone()),
                None => Support::Native { kernel: "cpu" },
            },
        }
    }

    fn compile(&self, g: Graph, options: &CompileOptions) -> Result<Arc<dyn Plan>, BackendError> {
        Ok(Arc::new(CpuPlan(Arc::new(Shared::new(g, options, &self.pool)?))))
    }
}

/// The type with a number in place of every size that is none.
fn sized(ty: &Type, size: usize) -> Type {
    match ty {
        Type::Tensor(TensorType { dtype, dims: Some(d) }) => {
            Type::tensor(*dtype, d.iter().map(|d| Dim::Known(d.known().unwrap_or(size))))
        }
        other => other.clone(),
    }
}

impl Plan for CpuPlan {
    fn report(&self) -> PlanReport {
        let noted = self.0.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report = noted.unwrap_or_else(|| {
            // No state was made yet: lay the graph out for some size that it accepts.
            let g = &self.0.graph;
            let try_size = |size| {
                let types: Vec<Inferred> = g
                    .inputs()
                    .iter()
                    .map(|&v| Inferred { ty: sized(g.ty(v), size), elements: None })
                    .collect();
                bind(&self.0, &types).ok().map(|l| l.report)
            };
            [1, 64, 224, 16, 7].into_iter().find_map(try_size).unwrap_or_else(|| unsized_report(g))
        });
        report.constant_bytes = self.0.constants_held() + self.0.packed_bytes();
        report
    }

    fn graph(&self) -> &Graph {
        &self.0.graph
    }

    fn state(&self, inputs: &[Inferred]) -> Result<Box<dyn State>, BackendError> {
        Ok(Box::new(CpuState::new(self.0.clone(), inputs)?))
    }
}

/// The nodes of a graph that could not be laid out.
fn unsized_report(g: &Graph) -> PlanReport {
    let nodes = g
        .order()
        .into_iter()
        .map(|id| g.node(id))
        .filter(|n| !matches!(n.op, Op::Const(_)))
        .map(|n| NodeReport {
            node: n.origin.as_deref().map(str::to_owned),
            op: n.op.name(),
            backend: "cpu",
            kernel: "unknown".into(),
            reason: "chosen when sizes are known".into(),
            fallback: false,
        })
        .collect();
    PlanReport { nodes, constant_bytes: 0 }
}

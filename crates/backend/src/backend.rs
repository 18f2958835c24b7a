use crate::{BackendError, PlanReport, Profile, RunError};
use std::path::PathBuf;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::Duration;
use tensormill_ir::{Graph, Node, NodeId, ValueId, infer::Inferred};
use tensormill_tensor::Value;

/// How well a backend runs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// A kernel of this backend runs it.
    Native {
        /// The kernel.
        kernel: &'static str,
    },
    /// It runs, but not by a kernel of this backend.
    Fallback {
        /// Why.
        reason: String,
    },
    /// It does not run.
    No {
        /// Why.
        reason: String,
    },
}

/// What a plan is compiled for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompileOptions {
    /// Bytes of memory that one state may use for its values.
    pub max_state_bytes: usize,
    /// Elements that one value may have.
    pub max_elements: usize,
    /// Iterations of all loops of one run together.
    pub max_trips: u64,
    /// Whether convolutions and large linear layers may be computed in ways that take fewer multiplications and
    /// round more: to some 1e-5 of the largest products.
    pub fewer_multiplications: bool,
    /// Inner values that a run may ask for besides the outputs.
    pub extra_outputs: Vec<ValueId>,
    /// A folder where prepared constants may be kept from one start to the next.
    pub cache_dir: Option<PathBuf>,
    /// The time that measuring which kernel is the fastest may take, all states of the plan together; the
    /// folder keeps the choices. Without, estimates decide.
    pub tune: Option<Duration>,
}

impl Default for CompileOptions {
    /// 16 GiB a state, a billion elements a value, ten million loop iterations a run.
    fn default() -> Self {
        CompileOptions {
            max_state_bytes: 16 << 30,
            max_elements: 1 << 30,
            max_trips: 10_000_000,
            fewer_multiplications: true,
            extra_outputs: vec![],
            cache_dir: None,
            tune: None,
        }
    }
}

/// A device, or a way of using one.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// A short name: `cpu`, `reference`.
    fn name(&self) -> &'static str;

    /// How a node of a graph would run.
    fn supports(&self, g: &Graph, id: NodeId, node: &Node) -> Support;

    /// Compiles a graph; its constants are prepared here, once.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] lists every node that does not run here.
    fn compile(&self, g: Graph, options: &CompileOptions) -> Result<Arc<dyn Plan>, BackendError>;
}

/// A compiled graph. Immutable; any number of states may run it at once.
pub trait Plan: Send + Sync {
    /// What runs each node, and why.
    fn report(&self) -> PlanReport;

    /// The graph that the plan runs, after whatever the backend did to it.
    fn graph(&self) -> &Graph;

    /// An arena for inputs of these types, whose sizes are all numbers.
    ///
    /// # Errors
    /// [`BackendError::Infer`] when the graph refuses the sizes, [`BackendError::TooLarge`] when the values
    /// would not fit the limits.
    fn state(&self, inputs: &[Inferred]) -> Result<Box<dyn State>, BackendError>;
}

/// What goes into a run and what comes out of it.
#[derive(Debug)]
pub struct Io<'a> {
    /// The graph's inputs in order, of the types that the state was made for.
    pub inputs: &'a [Value],
    /// Receives the graph's outputs in order, then the plan's extra outputs.
    pub outputs: &'a mut Vec<Value>,
    /// Receives the time of each node, when given.
    pub profile: Option<&'a mut Profile>,
    /// Set by another thread to stop the run between nodes.
    pub cancel: Option<&'a AtomicBool>,
}

/// One caller's arena for one set of input sizes.
pub trait State: Send {
    /// Runs the plan once.
    ///
    /// # Errors
    /// [`RunError`] naming the node; the state stays usable.
    fn run(&mut self, io: &mut Io<'_>) -> Result<(), RunError>;

    /// Bytes that the state keeps between runs.
    fn bytes(&self) -> usize;
}

//! Bodies of control flow: plans of their own, with states kept from run to run.

use crate::plan::Shared;
use crate::state::CpuState;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tensormill_backend::{CompileOptions, Io, Profile, RunError, Sample};
use tensormill_ir::{Graph, Type, infer::Inferred};
use tensormill_kernels::threads::Pool;
use tensormill_reference::{Bodies, EvalError};
use tensormill_tensor::Value;

/// States of one body that are kept for sizes to come.
const KEPT: usize = 4;
/// Samples of bodies that one step adds to a profile at most, give or take one body: loops may be long.
const MEASURED: usize = 1 << 16;

/// The plans of a graph's bodies, made when first run.
#[derive(Default)]
pub(crate) struct BodyPlans(Mutex<FxHashMap<usize, Arc<Shared>>>);

impl BodyPlans {
    /// The plan of a body that lives as long as the graph it belongs to.
    fn get(
        &self,
        body: &Arc<Graph>,
        options: &CompileOptions,
        pool: &Pool,
    ) -> Result<Arc<Shared>, EvalError> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(body) as usize;
        if let Some(found) = plans.get(&key) {
            return Ok(found.clone());
        }
        let mut options = options.clone();
        options.extra_outputs.clear();
        options.cache_dir = None;
        let made =
            Shared::new((**body).clone(), &options, pool).map_err(|e| EvalError::Operand(e.to_string()))?;
        let made = Arc::new(made);
        plans.insert(key, made.clone());
        Ok(made)
    }
}

struct Kept {
    body: usize,
    types: Vec<Inferred>,
    state: CpuState,
}

impl Kept {
    /// Whether the state was made for values of these types; without allocating for tensors.
    fn fits(&self, inputs: &[Value]) -> bool {
        let same = |(f, v): (&Inferred, &Value)| match (&f.ty, v) {
            (Type::Tensor(t), Value::Tensor(v)) => {
                let dims = t.dims.as_deref().unwrap_or_default();
                t.dtype == v.dtype()
                    && t.dims.is_some()
                    && dims.iter().map(|d| d.known()).eq(v.shape().iter().map(|&n| Some(n)))
            }
            (ty, v) => Type::of(v).is_some_and(|t| t == *ty),
        };
        self.types.len() == inputs.len() && self.types.iter().zip(inputs).all(same)
    }
}

/// One state's states for the bodies inside it.
#[derive(Default)]
pub(crate) struct BodyStates(Vec<Kept>);

/// Runs bodies through plans.
pub(crate) struct Runner<'a> {
    pub shared: &'a Shared,
    pub states: RefCell<BodyStates>,
    pub cancel: Option<&'a AtomicBool>,
    /// When the run began and what its bodies were measured at, where the run is measured.
    pub measured: Option<(Instant, RefCell<Vec<Sample>>)>,
}

impl Bodies for Runner<'_> {
    fn run(&self, body: &Arc<Graph>, inputs: &[Value], trips: &Cell<u64>) -> Result<Vec<Value>, EvalError> {
        let plan = self.shared.bodies.get(body, &self.shared.options, &self.shared.pool)?;
        let key = Arc::as_ptr(body) as usize;
        let mut states = self.states.borrow_mut();
        let found = states.0.iter().position(|k| k.body == key && k.fits(inputs));
        let mut kept = match found {
            Some(i) => states.0.swap_remove(i),
            None => {
                let declared = body.inputs().iter().map(|&v| body.ty(v));
                let types: Vec<Inferred> = inputs
                    .iter()
                    .zip(declared)
                    .map(|(v, ty)| Inferred { ty: Type::of(v).unwrap_or_else(|| ty.clone()), elements: None })
                    .collect();
                let state = CpuState::new(plan, &types).map_err(|e| EvalError::Operand(e.to_string()))?;
                Kept { body: key, types, state }
            }
        };
        let mut outputs = vec![];
        let room = self.measured.as_ref().filter(|m| m.1.borrow().len() < MEASURED);
        let start = room.map(|m| m.0.elapsed());
        let mut profile = Profile::default();
        let into = room.is_some().then_some(&mut profile);
        let mut io = Io { inputs, outputs: &mut outputs, profile: into, cancel: self.cancel };
        let done = kept.state.run_within(&mut io, trips);
        if let (Some((_, samples)), Some(start)) = (room, start) {
            let shifted = profile.samples.into_iter().map(|s| Sample { start: s.start + start, ..s });
            samples.borrow_mut().extend(shifted);
        }
        if states.0.iter().filter(|k| k.body == key).count() >= KEPT
            && let Some(i) = states.0.iter().position(|k| k.body == key)
        {
            states.0.remove(i);
        }
        states.0.push(kept);
        done.map(|()| outputs).map_err(|e| match e {
            RunError::Cancelled => EvalError::Cancelled,
            e => EvalError::Operand(e.to_string()),
        })
    }
}

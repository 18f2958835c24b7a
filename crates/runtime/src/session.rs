use crate::{
    Error, Inputs, Limits, Model, Outputs, Port, Profile, RunOptions, Runner, SessionOptions, cancel,
    engine::engine,
    error::list,
    model::{known, ports},
    optimize::optimize,
    specialize::specialize,
    states::{Kept, StatePool, types},
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tensormill_backend::{CompileOptions, Io, Plan, PlanReport};
use tensormill_ir::{Bindings, Graph};
use tensormill_tensor::Value;

/// Different sizes of inputs whose states are kept.
const SIGNATURES: usize = 8;

/// A compiled model. Clones are the same session; any number of threads may run it at once, each with
/// memory of its own that is kept for the next run.
///
/// ```
/// use tensormill::{Model, SessionOptions, Tensor};
/// # let bytes: &'static [u8] = include_bytes!("../../../tools/cli/assets/digits.onnx");
/// let session = Model::load(bytes)?.session_with(&SessionOptions::new().threads(1))?;
/// for batch in [1, 4] {
///     let images = Tensor::from_vec([batch, 1, 8, 8], vec![0.5f32; batch * 64])?;
///     assert_eq!(session.run(images)?.tensor(0)?.shape().dims(), [batch, 10]);
/// }
/// # Ok::<(), tensormill::Error>(())
/// ```
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    plan: Arc<dyn Plan>,
    inputs: Vec<Port>,
    outputs: Arc<[Port]>,
    states: StatePool,
    signatures: usize,
    limits: Limits,
    threads: usize,
}

impl Session {
    pub(crate) fn new(model: &Model, options: &SessionOptions) -> Result<Session, Error> {
        let limits = options.limits.as_ref().unwrap_or(model.limits()).clone();
        let graph = prepare(model, options)?;
        let (inputs, outputs) = ports(&graph);
        let mut compile = CompileOptions::default();
        compile.max_state_bytes = limits.max_memory;
        compile.max_elements = limits.max_elements;
        compile.max_trips = limits.max_trips;
        compile.fewer_multiplications = options.fewer_multiplications.unwrap_or(true);
        compile.tune = options.autotune;
        let named = || std::env::var_os("TENSORMILL_CACHE").filter(|v| !v.is_empty()).map(Into::into);
        compile.cache_dir = options.cache_dir.clone().or_else(named);
        let (backend, threads) = engine(options)?;
        let plan = backend.compile(graph, &compile)?;
        let signatures = options.signatures.unwrap_or(SIGNATURES);
        let states = StatePool::new(Kept::new(signatures, limits.max_memory));
        let outputs = outputs.into();
        Ok(Session(Arc::new(Inner { plan, inputs, outputs, states, signatures, limits, threads })))
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    /// The outputs in order, then the extra ones.
    pub fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    /// Threads that one run uses.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// What runs each node, and why.
    pub fn report(&self) -> PlanReport {
        self.0.plan.report()
    }

    /// The graph that runs, after all rewriting: for tools.
    pub fn graph(&self) -> &Graph {
        self.0.plan.graph()
    }

    /// Runs the model: inputs by name, by position or in order; sizes may differ from run to run.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::Input`] for wrong inputs, [`Error::Run`] when a node fails on their
    /// values, [`Error::Limit`] and [`Error::TimedOut`].
    pub fn run<'a>(&self, inputs: impl Into<Inputs<'a>>) -> Result<Outputs, Error> {
        self.run_with(inputs, &RunOptions::default())
    }

    /// As [`Session::run`], with a token to cancel it by, a limit of time, or a profile.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Error::Cancelled`].
    pub fn run_with<'a>(
        &self,
        inputs: impl Into<Inputs<'a>>,
        options: &RunOptions,
    ) -> Result<Outputs, Error> {
        let mut values = Vec::with_capacity(self.0.outputs.len());
        let profile = self.once(inputs.into(), options, &mut values, None)?;
        Ok(Outputs { ports: self.0.outputs.clone(), values, profile })
    }

    /// A caller's own memory for runs of this session: what to use where even a short wait or an allocation
    /// is too long. See [`Runner`].
    pub fn runner(&self) -> Runner {
        Runner::new(self.clone())
    }

    /// One run, with a state out of `own` or of those that all callers share.
    pub(crate) fn once(
        &self,
        inputs: Inputs<'_>,
        options: &RunOptions,
        outputs: &mut Vec<Value>,
        own: Option<&mut Kept>,
    ) -> Result<Option<Profile>, Error> {
        let s = &*self.0;
        let values = inputs.arrange(&s.inputs)?;
        let limit = options.max_time.or(s.limits.max_time);
        let timer = limit.map(|l| Timer::start(l, options)).transpose()?;
        let flag = match (&timer, &options.cancel) {
            (Some(t), _) => Some(&*t.flag),
            (None, Some(token)) => Some(token.flag()),
            (None, None) => None,
        };
        let mut profile = options.profile.then(Profile::default);
        let mut own = own;
        let found = match &mut own {
            Some(kept) => kept.take(&values),
            None => s.states.take(&values),
        };
        let mut state = match found {
            Some(state) => state,
            None => s.plan.state(&types(&s.inputs, &values))?,
        };
        let mut io = Io { inputs: &values, outputs, profile: profile.as_mut(), cancel: flag };
        // A panic is a defect of a kernel or of a custom op; the state that it left behind is not used again.
        let done = catch_unwind(AssertUnwindSafe(|| state.run(&mut io)));
        match done {
            Ok(done) => {
                let types = || Some(types(&s.inputs, &values));
                match own {
                    Some(kept) => kept.put(&values, state, types),
                    None => s.states.put(&values, state, types),
                }
                done.map_err(|e| self.explain(e.into(), limit, options))?;
            }
            Err(panic) => return Err(Error::Run { what: panicked(&*panic) }),
        }
        Ok(profile)
    }

    /// Nothing yet, for a runner to keep states in.
    pub(crate) fn own_states(&self) -> Kept {
        Kept::new(self.0.signatures, self.0.limits.max_memory)
    }

    /// The outputs, for a runner to share.
    pub(crate) fn ports(&self) -> Arc<[Port]> {
        self.0.outputs.clone()
    }

    /// Tells a run that ran out of time from one that the caller stopped.
    fn explain(&self, e: Error, limit: Option<Duration>, options: &RunOptions) -> Error {
        match (e, limit) {
            (Error::Cancelled, Some(limit))
                if !options.cancel.as_ref().is_some_and(crate::CancelToken::is_cancelled) =>
            {
                Error::TimedOut { limit }
            }
            (e, _) => e,
        }
    }

    /// Makes everybody wait who asks for a state that callers share.
    #[cfg(test)]
    pub(crate) fn hold_states(&self) -> impl Sized + '_ {
        self.0.states.hold()
    }

    #[cfg(test)]
    pub(crate) fn idle_states(&self) -> Vec<usize> {
        self.0.states.counts()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.0.inputs)
            .field("outputs", &self.0.outputs)
            .field("threads", &self.0.threads)
            .finish_non_exhaustive()
    }
}

/// A run's deadline: the flag is set when it has passed, or when the caller's token is used.
struct Timer {
    flag: Arc<AtomicBool>,
}

impl Timer {
    fn start(limit: Duration, options: &RunOptions) -> Result<Timer, Error> {
        let flag = Arc::new(AtomicBool::new(limit.is_zero()));
        if let Some(token) = &options.cancel {
            token.attach(&flag);
        }
        // A time that the clock cannot count to never comes.
        if let Some(at) = Instant::now().checked_add(limit)
            && !cancel::alarm(at, &flag)
        {
            return Err(Error::Option("no thread could be started to watch the time limit".into()));
        }
        Ok(Timer { flag })
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let what = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no reason given".into());
    format!(
        "a kernel panicked, which is a defect worth reporting: {}",
        what.chars().take(400).flat_map(char::escape_debug).collect::<String>()
    )
}

/// The graph that a session of these options compiles.
pub(crate) fn prepare(model: &Model, options: &SessionOptions) -> Result<Graph, Error> {
    let g = model.graph();
    let mut bindings = Bindings::new();
    let dims = model.dims();
    for (name, &size) in &options.dims {
        if !dims.contains(name) {
            let names = list(dims.iter().map(|d| (d.as_str(), String::new())));
            let known = match dims.is_empty() {
                true => "the model has no open sizes".into(),
                false => format!("the open sizes are {names}"),
            };
            let what = format!("no size of the inputs is named \"{}\"", name.escape_debug());
            return Err(Error::Name { what, known });
        }
        let size = i64::try_from(size)
            .map_err(|_| Error::Option(format!("size {size} of `{}` is too large", name.escape_debug())))?;
        bindings.insert(name.as_str().into(), size);
    }
    let mut extra = vec![];
    for name in &options.outputs {
        let taken = g.outputs().iter().any(|o| *o.name == **name) || extra.iter().any(|(n, _)| n == name);
        if taken {
            continue;
        }
        let Some(v) = g.value_by_name(name) else { return Err(no_value(g, name)) };
        extra.push((name.clone(), v));
    }
    let graph = if bindings.is_empty() && extra.is_empty() {
        g.clone()
    } else {
        specialize(g, &bindings, &extra).map_err(|e| Error::Compile { what: e.to_string() })?
    };
    let limits = options.limits.as_ref().unwrap_or(model.limits());
    optimize(graph, options.optimization, limits)
}

/// The error for a value that the graph does not have, with the names nearest to it.
fn no_value(g: &Graph, name: &str) -> Error {
    let mut names: Vec<(usize, &str)> =
        g.values().filter_map(|(_, v)| v.name.as_deref()).map(|n| (distance(n, name), n)).collect();
    names.sort_unstable();
    names.truncate(8);
    let near = list(names.iter().map(|(_, n)| (*n, String::new())));
    Error::Name {
        what: format!(
            "no value of the graph is named \"{}\"",
            name.chars().take(80).flat_map(char::escape_debug).collect::<String>()
        ),
        known: if names.is_empty() { known(&[]) } else { format!("the nearest names are {near}") },
    }
}

/// Edit distance of the first 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

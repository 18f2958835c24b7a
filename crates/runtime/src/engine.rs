use crate::{Backend, Error, SessionOptions};
use std::{num::NonZero, sync::Arc};
use tensormill_kernels::threads::Pool;

/// Threads beyond this many would only wait for each other.
const MAX_THREADS: usize = 1024;

/// The backend that the options ask for, and the threads that it uses.
pub(crate) fn engine(
    options: &SessionOptions,
) -> Result<(Arc<dyn tensormill_backend::Backend>, usize), Error> {
    if options.backend == Backend::Reference {
        return Ok((Arc::new(interim::ReferenceBackend), 1));
    }
    let pool = pool(options)?;
    let threads = pool.threads();
    Ok((Arc::new(interim::ReferenceBackend), threads))
}

fn pool(options: &SessionOptions) -> Result<Pool, Error> {
    #[cfg(feature = "rayon")]
    if let Some(pool) = &options.pool {
        return Ok(Pool::external(pool.clone()));
    }
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS));
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(Error::Option(format!("{threads} threads: ask for 1 to {MAX_THREADS}")));
    }
    Pool::new(threads).map_err(|e| Error::Option(format!("{threads} threads could not be started: {e}")))
}

mod interim {
    use std::{sync::Arc, time::Instant};
    use tensormill_backend::*;
    use tensormill_ir::{Graph, Node, NodeId, infer::Inferred};
    use tensormill_reference::{EvalError, EvalLimits, interpret};

    #[derive(Debug)]
    pub(super) struct ReferenceBackend;
    struct P(Arc<(Graph, CompileOptions)>);
    struct S(Arc<(Graph, CompileOptions)>);

    impl Backend for ReferenceBackend {
        fn name(&self) -> &'static str {
            "reference"
        }
        fn supports(&self, _: &Graph, _: NodeId, _: &Node) -> Support {
            Support::Native { kernel: "scalar" }
        }
        fn compile(&self, g: Graph, o: &CompileOptions) -> Result<Arc<dyn Plan>, BackendError> {
            Ok(Arc::new(P(Arc::new((g, o.clone())))))
        }
    }
    impl Plan for P {
        fn report(&self) -> PlanReport {
            PlanReport::default()
        }
        fn graph(&self) -> &Graph {
            &self.0.0
        }
        fn state(&self, _: &[Inferred]) -> Result<Box<dyn State>, BackendError> {
            Ok(Box::new(S(self.0.clone())))
        }
    }
    impl State for S {
        fn run(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
            let (g, o) = &*self.0;
            let start = Instant::now();
            let limits =
                EvalLimits { max_elements: o.max_elements, max_trips: o.max_trips, cancel: io.cancel };
            let out = interpret(g, io.inputs, &limits).map_err(|e| match e {
                EvalError::Cancelled => RunError::Cancelled,
                e => RunError::Input(e.to_string()),
            })?;
            io.outputs.extend(out);
            if let Some(p) = io.profile.as_deref_mut() {
                p.total = start.elapsed();
            }
            Ok(())
        }
        fn bytes(&self) -> usize {
            0
        }
    }
}

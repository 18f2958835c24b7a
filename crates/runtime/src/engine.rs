use crate::{Backend, Error, SessionOptions};
use std::{num::NonZero, sync::Arc};
use tensormill_cpu::{CpuBackend, Pool, ReferenceBackend};

/// Threads beyond this many would only wait for each other.
const MAX_THREADS: usize = 1024;

/// The backend that the options ask for, and the threads that it uses.
pub(crate) fn engine(
    options: &SessionOptions,
) -> Result<(Arc<dyn tensormill_backend::Backend>, usize), Error> {
    if options.backend == Backend::Reference {
        return Ok((Arc::new(ReferenceBackend), 1));
    }
    let pool = pool(options)?;
    let threads = pool.threads();
    Ok((Arc::new(CpuBackend::new(pool)), threads))
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

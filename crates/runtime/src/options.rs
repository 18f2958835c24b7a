use crate::{CancelToken, Limits};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// The processor, with the kernels that suit it best.
    #[default]
    Cpu,
    /// Plain scalar code that says what every op means: slow, for comparing.
    Reference,
}

impl Backend {
    /// Every backend that is built in.
    pub const ALL: &[Backend] = &[Backend::Cpu, Backend::Reference];

    /// Its name: `cpu`, `reference`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Reference => "reference",
        }
    }
}

/// How much a graph is rewritten before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Optimization {
    /// Not at all.
    None,
    /// Constants are computed ahead; what does nothing is removed. Results keep their bits.
    Basic,
    /// Also fuses nodes; sums may be added in another order.
    #[default]
    Default,
}

impl Optimization {
    /// Every level, the least first.
    pub const ALL: &[Optimization] = &[Optimization::None, Optimization::Basic, Optimization::Default];

    /// Its name: `none`, `basic`, `default`.
    pub fn name(self) -> &'static str {
        match self {
            Optimization::None => "none",
            Optimization::Basic => "basic",
            Optimization::Default => "default",
        }
    }
}

/// How a [`Session`](crate::Session) is made from a model.
///
/// ```
/// use tensormill::{Optimization, SessionOptions};
/// let options = SessionOptions::new().threads(2).dim("batch", 8).optimization(Optimization::Basic);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    pub(crate) threads: Option<usize>,
    pub(crate) backend: Backend,
    pub(crate) optimization: Optimization,
    pub(crate) dims: BTreeMap<String, usize>,
    pub(crate) outputs: Vec<String>,
    pub(crate) limits: Option<Limits>,
    pub(crate) signatures: Option<usize>,
    pub(crate) fewer_multiplications: Option<bool>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) autotune: Option<Duration>,
    #[cfg(feature = "rayon")]
    pub(crate) pool: Option<std::sync::Arc<rayon::ThreadPool>>,
}

impl SessionOptions {
    /// All processors, every optimization, sizes as they come.
    pub fn new() -> Self {
        SessionOptions::default()
    }

    /// Threads that one run uses, the caller's among them. As many as there are processors, unless set.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// What computes.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// How much the graph is rewritten before it runs.
    #[must_use]
    pub fn optimization(mut self, level: Optimization) -> Self {
        self.optimization = level;
        self
    }

    /// Fixes a named size of the inputs, which lets more be decided before the runs.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, size: usize) -> Self {
        self.dims.insert(name.into(), size);
        self
    }

    /// Whether convolutions and large linear layers may take fewer multiplications at the price of some more
    /// rounding (Winograd's way for windows of 3 by 3, Strassen's for products of hundreds of rows and columns;
    /// an infinity or NaN among the operands then spreads to neighbouring results). They may, unless set.
    #[must_use]
    pub fn fewer_multiplications(mut self, allowed: bool) -> Self {
        self.fewer_multiplications = Some(allowed);
        self
    }

    /// Returns an inner value of the graph too, after the model's own outputs.
    #[must_use]
    pub fn output(mut self, value: impl Into<String>) -> Self {
        self.outputs.push(value.into());
        self
    }

    /// Limits on compiling and running; those that the model was loaded under, unless set.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Different sizes of inputs whose memory is kept for later runs, the most recent ones. 8, unless set.
    #[must_use]
    pub fn cached_sizes(mut self, sizes: usize) -> Self {
        self.signatures = Some(sizes);
        self
    }

    /// Keeps weights, once they are prepared for this processor, in a file in this folder, so that later
    /// starts map them instead; the folder that the environment variable `TENSORMILL_CACHE` names, unless
    /// set. Whoever can write there decides what models compute. Results are the same with and without;
    /// files that do not fit are replaced, and a folder that cannot be written only saves no time.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Measures which kernel is the fastest for each layer of sizes that are new, instead of estimating it,
    /// for at most this long in all. The choices are kept in [`cache_dir`](Self::cache_dir), for all models on
    /// this processor. Off, unless set: it makes the first run with new sizes slower, and different choices may
    /// round differently.
    #[must_use]
    pub fn autotune(mut self, budget: Duration) -> Self {
        self.autotune = Some(budget);
        self
    }

    /// Runs on threads that belong to the caller, instead of starting any.
    #[cfg(feature = "rayon")]
    #[must_use]
    pub fn thread_pool(mut self, pool: std::sync::Arc<rayon::ThreadPool>) -> Self {
        self.pool = Some(pool);
        self
    }
}

/// How one run is made.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) max_time: Option<Duration>,
    pub(crate) profile: bool,
}

impl RunOptions {
    /// A run that ends when it is done.
    pub fn new() -> Self {
        RunOptions::default()
    }

    /// A token by which another thread may stop the run.
    #[must_use]
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// The wall time that the run may take; [`Limits::max_time`], unless set.
    #[must_use]
    pub fn max_time(mut self, limit: Duration) -> Self {
        self.max_time = Some(limit);
        self
    }

    /// Measures each node: see [`Outputs::profile`](crate::Outputs::profile).
    #[must_use]
    pub fn profile(mut self) -> Self {
        self.profile = true;
        self
    }
}

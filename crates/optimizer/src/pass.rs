use crate::log::OptLog;
use tensormill_ir::{Graph, IrError};

/// What a rewrite may do to the numbers, from the strictest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numerics {
    /// Every bit stays, signs of zeros included; only which NaN a NaN is may change.
    Exact,
    /// Equal in real arithmetic; roundings differ.
    Reassociates,
    /// An approximation.
    Lossy,
}

/// Whether a pass changed the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is as it was.
    No,
    /// It is not.
    Yes,
}

impl From<bool> for Changed {
    fn from(yes: bool) -> Changed {
        if yes { Changed::Yes } else { Changed::No }
    }
}

/// What passes may do and spend.
#[derive(Debug, Clone)]
pub struct OptOptions {
    /// The loosest numerics allowed; passes and rules beyond it stay away.
    pub numerics: Numerics,
    /// Stop after this many rewrites: what bisects a wrong one.
    pub fuel: Option<u64>,
    /// Verify the graph after every pass.
    pub verify: bool,
    /// Bytes of one constant that folding may create.
    pub fold_bytes: usize,
    /// Bytes by which folding may grow all constants together.
    pub fold_growth: usize,
}

impl Default for OptOptions {
    /// Reassociation allowed, 32 MiB a fold and 64 MiB of growth, verification in debug builds.
    fn default() -> Self {
        OptOptions {
            numerics: Numerics::Reassociates,
            fuel: None,
            verify: cfg!(debug_assertions),
            fold_bytes: 32 << 20,
            fold_growth: 64 << 20,
        }
    }
}

/// What is left to spend, over all passes and bodies of one run.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Rewrites.
    pub fuel: u64,
    /// Bytes that folding may still add to the constants.
    pub growth: usize,
}

/// What a pass works with besides the graph.
#[derive(Debug)]
pub struct PassCx<'a> {
    /// The options of the run.
    pub options: &'a OptOptions,
    /// What happened so far.
    pub log: OptLog,
    /// What is left to spend.
    pub budget: Budget,
    /// How many bodies enclose the graph at hand.
    pub(crate) depth: usize,
}

impl<'a> PassCx<'a> {
    /// The context at the start of a run.
    pub fn new(options: &'a OptOptions) -> Self {
        let budget = Budget { fuel: options.fuel.unwrap_or(u64::MAX), growth: options.fold_growth };
        PassCx { options, log: OptLog::default(), budget, depth: 0 }
    }

    /// Takes fuel for one rewrite; false when there is none left.
    pub fn spend(&mut self) -> bool {
        let some = self.budget.fuel > 0;
        self.budget.fuel = self.budget.fuel.saturating_sub(1);
        some
    }
}

/// Why a pass failed: a defect of the pass, or a model whose sizes turn out to contradict each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// A rule made a patch that the graph refuses.
    #[error("rule `{rule}`: {source}")]
    Rule {
        /// The rule.
        rule: &'static str,
        /// What the graph says.
        source: IrError,
    },
    /// The graph is invalid, or a change of the pass itself was refused.
    #[error("pass `{pass}`: {source}")]
    Graph {
        /// The pass.
        pass: &'static str,
        /// What the graph says.
        source: IrError,
    },
}

/// A change of a whole graph that keeps what it computes.
pub trait Pass: Send + Sync {
    /// Its name, as pipelines, golden files and logs spell it.
    fn name(&self) -> &'static str;

    /// What it does to the numbers. A set of rules gives the strictest of its rules and holds the others
    /// back one by one.
    fn numerics(&self) -> Numerics;

    /// Changes the graph; bodies of control flow are the pipeline's to enter.
    ///
    /// # Errors
    /// [`PassError`] when the graph refuses a change.
    fn run(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError>;
}

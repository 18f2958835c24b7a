//! Pruning: fewer weights, or fewer channels and heads.

pub use tensormill_optimizer::prune::{Pattern, PruneEntry, PruneOptions, Pruning};

use crate::{Error, Model};
use tensormill_optimizer::prune::{self, PruneError};

impl Model {
    /// The model with weights set to zero, or with channels and heads of attention taken out so that shapes shrink,
    /// and what became of each product. Nothing is trained: measure what the model is still worth. Zeros alone make no
    /// file smaller, and only products of single rows faster.
    ///
    /// # Errors
    /// [`Error::Option`] for a ratio that makes no sense and a name to exclude that no node has.
    pub fn pruned(&self, options: &PruneOptions) -> Result<(Model, Vec<PruneEntry>), Error> {
        match prune::prune(self.graph(), options) {
            Ok(done) => Ok((self.with_graph(done.graph), done.entries)),
            Err(e @ (PruneError::Ratio(_) | PruneError::Name(_))) => Err(Error::Option(e.to_string())),
            Err(e) => Err(Error::Compile { what: format!("a defect of pruning, worth reporting: {e}") }),
        }
    }
}

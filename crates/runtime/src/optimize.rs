use crate::{Error, Limits, Optimization};
use tensormill_ir::Graph;

/// Rewrites a graph as a level says.
pub(crate) fn optimize(g: Graph, _level: Optimization, _limits: &Limits) -> Result<Graph, Error> {
    Ok(g)
}

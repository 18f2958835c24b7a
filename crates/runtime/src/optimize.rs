use crate::{Error, Limits, Optimization};
use tensormill_ir::Graph;
#[cfg(feature = "optimizer")]
use tensormill_optimizer::{OptLog, OptOptions, Pipeline};

/// Rewrites a graph as a level says.
#[cfg(feature = "optimizer")]
pub(crate) fn optimize(mut g: Graph, level: Optimization, limits: &Limits) -> Result<Graph, Error> {
    logged(&mut g, level, limits)?;
    Ok(g)
}

/// Rewrites a graph as a level says, and tells what was done.
#[cfg(feature = "optimizer")]
pub(crate) fn logged(g: &mut Graph, level: Optimization, limits: &Limits) -> Result<OptLog, Error> {
    if level == Optimization::None {
        return Ok(OptLog::default());
    }
    let Some(pipeline) = Pipeline::by_name(level.name()) else {
        return Err(Error::Option(format!("there is no optimization `{}`", level.name())));
    };
    let mut options = OptOptions::default();
    options.fold_growth = limits.max_folded;
    options.fold_bytes = options.fold_bytes.min(limits.max_folded);
    pipeline.run(g, &options).map_err(|e| Error::Compile {
        what: format!("a defect of the optimizer, worth reporting (`Optimization::None` avoids it): {e}"),
    })
}

/// Without the optimizer, graphs run as they are.
#[cfg(not(feature = "optimizer"))]
pub(crate) fn optimize(g: Graph, _: Optimization, _: &Limits) -> Result<Graph, Error> {
    Ok(g)
}

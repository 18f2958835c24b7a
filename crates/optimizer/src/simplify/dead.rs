use crate::pass::{Changed, Numerics, Pass, PassCx, PassError};
use tensormill_ir::Graph;

/// Removes nodes that no output depends on.
#[derive(Debug)]
pub struct Dead;

impl Pass for Dead {
    fn name(&self) -> &'static str {
        "dead"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn run(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        Ok((cx.spend() && g.remove_dead() > 0).into())
    }
}

/// Infers every type again: a folded constant may tell a size that was unknown before.
#[derive(Debug)]
pub struct Refine;

impl Pass for Refine {
    fn name(&self) -> &'static str {
        "refine"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn run(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if !cx.spend() {
            return Ok(Changed::No);
        }
        let gained = g.refine_types().map_err(|source| PassError::Graph { pass: self.name(), source })?;
        Ok((gained > 0).into())
    }
}

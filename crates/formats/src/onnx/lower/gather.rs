//! Picking elements by index.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{Gather, GatherElements, GatherND};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("Gather", gather), ("GatherElements", gather_elements), ("GatherND", gather_nd)];

fn gather(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let y = cx.op(Gather { axis: cx.int("axis", 0)? }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn gather_elements(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let y = cx.op(GatherElements { axis: cx.int("axis", 0)? }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn gather_nd(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let batch = cx.int("batch_dims", 0)?;
    let batch_dims = usize::try_from(batch).or_else(|_| cx.bad("batch_dims", "must not be negative"))?;
    let y = cx.op(GatherND { batch_dims }, &inputs)?;
    cx.set(0, y);
    Ok(())
}

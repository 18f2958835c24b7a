//! What follows the boxes that a detector finds.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::NonMaxSuppression;

pub(super) const TABLE: Table = &[("NonMaxSuppression", non_max_suppression)];

fn non_max_suppression(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let op = NonMaxSuppression { center_point: cx.flag("center_point_box", false)? };
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2), cx.opt(3), cx.opt(4)];
    let y = cx.node(op, &operands)?;
    cx.set_all(&y);
    Ok(())
}

//! Normalizations.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Lrn, RmsNorm};

pub(super) fn batch_norm(cx: &mut NodeCx<'_, '_, '_>, op: &BatchNorm) -> Result<()> {
    cx.plain("BatchNormalization").float("epsilon", op.epsilon.0);
    Ok(())
}

pub(super) fn layer_norm(cx: &mut NodeCx<'_, '_, '_>, op: &LayerNorm) -> Result<()> {
    cx.plain("LayerNormalization").int("axis", op.axis).float("epsilon", op.epsilon.0);
    Ok(())
}

pub(super) fn rms_norm(cx: &mut NodeCx<'_, '_, '_>, op: &RmsNorm) -> Result<()> {
    cx.plain("RMSNormalization").int("axis", op.axis).float("epsilon", op.epsilon.0);
    Ok(())
}

pub(super) fn instance_norm(cx: &mut NodeCx<'_, '_, '_>, op: &InstanceNorm) -> Result<()> {
    cx.plain("InstanceNormalization").float("epsilon", op.epsilon.0);
    Ok(())
}

pub(super) fn group_norm(cx: &mut NodeCx<'_, '_, '_>, op: &GroupNorm) -> Result<()> {
    cx.plain("GroupNormalization").size("num_groups", op.groups).float("epsilon", op.epsilon.0);
    Ok(())
}

pub(super) fn lrn(cx: &mut NodeCx<'_, '_, '_>, op: &Lrn) -> Result<()> {
    let made = cx.plain("LRN").size("size", op.size);
    made.float("alpha", op.alpha.0).float("beta", op.beta.0).float("bias", op.bias.0);
    Ok(())
}

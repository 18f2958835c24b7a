//! Losses over classes.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{LossReduction, NllLoss, SoftmaxCrossEntropy};

pub(super) const TABLE: Table =
    &[("NegativeLogLikelihoodLoss", nll), ("SoftmaxCrossEntropyLoss", cross_entropy)];

fn reduction(cx: &NodeCx<'_, '_>) -> Result<LossReduction, LowerError> {
    let word = cx.string("reduction")?;
    match LossReduction::from_word(word.as_deref().unwrap_or("mean")) {
        Some(r) => Ok(r),
        None => cx.bad("reduction", "must be none, mean or sum"),
    }
}

fn nll(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2)];
    let op = NllLoss { reduction: reduction(cx)?, ignore_index: cx.opt_int("ignore_index")? };
    let y = cx.node(op, &operands)?;
    cx.set_all(&y);
    Ok(())
}

fn cross_entropy(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2)];
    let op = SoftmaxCrossEntropy { reduction: reduction(cx)?, ignore_index: cx.opt_int("ignore_index")? };
    let y = cx.node(op, &operands)?;
    cx.set_all(&y);
    Ok(())
}

//! Signals, losses, sums over labelled axes, and what follows a detector.

use super::{
    error::Result,
    node::{Made, NodeCx},
};
use tensormill_ir::ops::{
    Dft, Einsum, LossReduction, MelWeights, NonMaxSuppression, Stft, WindowFunction, WindowKind,
};

pub(super) fn dft(cx: &mut NodeCx<'_, '_, '_>, op: &Dft) -> Result<()> {
    cx.plain("DFT").flag("inverse", op.inverse).flag("onesided", op.onesided);
    Ok(())
}

pub(super) fn stft(cx: &mut NodeCx<'_, '_, '_>, op: &Stft) -> Result<()> {
    cx.plain("STFT").int("onesided", i64::from(op.onesided));
    Ok(())
}

pub(super) fn window(cx: &mut NodeCx<'_, '_, '_>, op: &WindowFunction) -> Result<()> {
    let name = match op.kind {
        WindowKind::Hann => "HannWindow",
        WindowKind::Hamming => "HammingWindow",
        WindowKind::Blackman => "BlackmanWindow",
    };
    cx.plain(name).int("periodic", i64::from(op.periodic)).dtype("output_datatype", op.to);
    Ok(())
}

pub(super) fn mel_weights(cx: &mut NodeCx<'_, '_, '_>, op: &MelWeights) -> Result<()> {
    cx.plain("MelWeightMatrix").dtype("output_datatype", op.to);
    Ok(())
}

fn loss(made: Made<'_>, reduction: LossReduction, ignore_index: Option<i64>) {
    let made = made.string("reduction", reduction.word());
    if let Some(i) = ignore_index {
        made.int("ignore_index", i);
    }
}

pub(super) fn labelled_loss(
    cx: &mut NodeCx<'_, '_, '_>,
    op_type: &str,
    reduction: LossReduction,
    ignore_index: Option<i64>,
) -> Result<()> {
    loss(cx.plain(op_type), reduction, ignore_index);
    Ok(())
}

pub(super) fn einsum(cx: &mut NodeCx<'_, '_, '_>, op: &Einsum) -> Result<()> {
    cx.plain("Einsum").string("equation", &op.equation);
    Ok(())
}

pub(super) fn non_max_suppression(cx: &mut NodeCx<'_, '_, '_>, op: &NonMaxSuppression) -> Result<()> {
    cx.plain("NonMaxSuppression").flag("center_point_box", op.center_point);
    Ok(())
}

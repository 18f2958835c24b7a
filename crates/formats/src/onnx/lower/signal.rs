//! Fourier transforms and what goes with them.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{Dft, MelWeights, Stft, WindowFunction, WindowKind};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("DFT", dft),
    ("STFT", stft),
    ("HannWindow", window),
    ("HammingWindow", window),
    ("BlackmanWindow", window),
    ("MelWeightMatrix", mel_weights),
];

fn dft(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    // An attribute, with a default of its own, before opset 20.
    let axis = if cx.opset() < 20 {
        let axis = cx.int("axis", 1)?;
        Some(cx.constant(tensormill_tensor::Tensor::scalar(axis))?)
    } else {
        cx.opt(2)
    };
    let op = Dft { inverse: cx.flag("inverse", false)?, onesided: cx.flag("onesided", false)? };
    let operands = [Some(x), cx.opt(1), axis];
    let y = cx.node(op, &operands)?;
    cx.set_all(&y);
    Ok(())
}

fn stft(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2), cx.opt(3)];
    let y = cx.node(Stft { onesided: cx.flag("onesided", true)? }, &operands)?;
    cx.set_all(&y);
    Ok(())
}

fn window(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let kind = match cx.op_type() {
        "HannWindow" => WindowKind::Hann,
        "HammingWindow" => WindowKind::Hamming,
        _ => WindowKind::Blackman,
    };
    let op = WindowFunction {
        kind,
        periodic: cx.flag("periodic", true)?,
        to: cx.dtype_attribute("output_datatype")?.unwrap_or(DType::F32),
    };
    let n = cx.input(0)?;
    let y = cx.op(op, &[n])?;
    cx.set(0, y);
    Ok(())
}

fn mel_weights(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let operands = cx.all()?;
    let to = cx.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    let y = cx.op(MelWeights { to }, &operands)?;
    cx.set(0, y);
    Ok(())
}

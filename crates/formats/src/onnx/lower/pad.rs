//! Padding, and matrices cut or made by their diagonals.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::{BinaryKind, EyeLike, Gather, Pad, PadMode, ShapeOf, Trilu};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("Pad", pad), ("CenterCropPad", center_crop_pad), ("Trilu", trilu), ("EyeLike", eye_like)];

fn pad(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let word = cx.string("mode")?.unwrap_or_else(|| "constant".into());
    let Some(mode) = PadMode::from_word(&word) else { return cx.bad("mode", "names no mode of padding") };
    // Attributes before opset 11, named `paddings` in the first.
    let name = if cx.opset() < 2 { "paddings" } else { "pads" };
    let (pads, value) = match cx.ints(name)? {
        Some(p) => {
            let value = cx.float("value", 0.0)?;
            (cx.ints_constant(&p)?, Some(cx.scalar_like(x, f64::from(value))?))
        }
        None => (cx.input(1)?, cx.opt(2)),
    };
    let pads = cx.cast(pads, DType::I64)?;
    let axes = cx.opt(3).map(|a| cx.cast(a, DType::I64)).transpose()?;
    let y = cx.node(Pad { mode }, &[Some(x), Some(pads), value, axes])?[0];
    cx.set(0, y);
    Ok(())
}

/// Padding by half the difference in front and the rest behind: a crop where the difference is negative.
fn center_crop_pad(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, target) = (cx.input(0)?, cx.input(1)?);
    let target = cx.cast(target, DType::I64)?;
    let mut sizes = cx.op(ShapeOf::default(), &[x])?;
    let mut axes = None;
    if let Some(given) = cx.ints("axes")? {
        let places = cx.ints_constant(&given)?;
        sizes = cx.op(Gather { axis: 0 }, &[sizes, places])?;
        axes = Some(places);
    }
    let difference = cx.binary(BinaryKind::Sub, target, sizes)?;
    // Integer division cuts towards zero, so that crops begin at the lower place too.
    let before = cx.binary_scalar(BinaryKind::Div, difference, 2.0)?;
    let after = cx.binary(BinaryKind::Sub, difference, before)?;
    let pads = cx.op(tensormill_ir::ops::Concat { axis: 0 }, &[before, after])?;
    let y = cx.node(Pad::default(), &[Some(x), Some(pads), None, axes])?[0];
    cx.set(0, y);
    Ok(())
}

fn trilu(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [Some(cx.input(0)?), cx.opt(1)];
    let y = cx.node(Trilu { upper: cx.flag("upper", true)? }, &inputs)?[0];
    cx.set(0, y);
    Ok(())
}

fn eye_like(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.op(EyeLike { dtype: cx.dtype_attribute("dtype")?, k: cx.int("k", 0)? }, &[x])?;
    cx.set(0, y);
    Ok(())
}

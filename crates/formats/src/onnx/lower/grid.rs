//! Sampling at given places, and folding windows back.

use super::{LowerError, NodeCx, Table, conv::sizes};
use tensormill_ir::ops::{AffineGrid, Col2Im, GridPadding, GridSample, ResizeMode};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("GridSample", grid_sample), ("AffineGrid", affine_grid), ("Col2Im", col2im)];

fn grid_sample(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, grid) = (cx.input(0)?, cx.input(1)?);
    let mode = match cx.string("mode")?.as_deref() {
        None | Some("linear" | "bilinear") => ResizeMode::Linear,
        Some("cubic" | "bicubic") => ResizeMode::Cubic,
        Some("nearest") => ResizeMode::Nearest,
        Some(_) => return cx.bad("mode", "is unknown"),
    };
    let padding = match cx.string("padding_mode")?.as_deref() {
        None | Some("zeros") => GridPadding::Zeros,
        Some("border") => GridPadding::Border,
        Some("reflection") => GridPadding::Reflection,
        Some(_) => return cx.bad("padding_mode", "is unknown"),
    };
    let op = GridSample { mode, padding, align_corners: cx.flag("align_corners", false)? };
    let y = cx.op(op, &[x, grid])?;
    cx.set(0, y);
    Ok(())
}

fn affine_grid(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (theta, size) = (cx.input(0)?, cx.input(1)?);
    let op = AffineGrid { align_corners: cx.flag("align_corners", false)? };
    let y = cx.op(op, &[theta, size])?;
    cx.set(0, y);
    Ok(())
}

fn col2im(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let (image, block) = (cx.input(1)?, cx.input(2)?);
    let (image, block) = (cx.cast(image, DType::I64)?, cx.cast(block, DType::I64)?);
    let op = Col2Im {
        strides: sizes(cx, "strides")?.unwrap_or_default(),
        dilations: sizes(cx, "dilations")?.unwrap_or_default(),
        pads: sizes(cx, "pads")?.unwrap_or_default(),
    };
    let y = cx.op(op, &[x, image, block])?;
    cx.set(0, y);
    Ok(())
}

//! Resizing, sampling at given places, and folding windows back.

use super::{
    error::{Result, refuse},
    node::NodeCx,
};
use tensormill_ir::ops::{
    AffineGrid, AspectPolicy, Col2Im, CoordinateMode, GridPadding, GridSample, NearestMode, Resize,
    ResizeMode,
};

/// The mode of rounding that ONNX knows by a name.
fn nearest_mode(cx: &NodeCx<'_, '_, '_>, op: &Resize) -> Result<&'static str> {
    if op.nearest != NearestMode::Simple {
        return Ok(op.nearest.word());
    }
    // Down when growing and up when shrinking has no name, but each of them has.
    let scales = cx.constant(2).and_then(|t| t.to_f64_vec().ok());
    match scales {
        Some(s) if s.iter().all(|s| *s >= 1.0) => Ok("floor"),
        Some(s) if s.iter().all(|s| *s <= 1.0) => Ok("ceil"),
        _ => {
            refuse("rounds down where it grows and up where it shrinks, and its scales are both or not known")
        }
    }
}

pub(super) fn resize(cx: &mut NodeCx<'_, '_, '_>, op: &Resize) -> Result<()> {
    let nearest = if op.mode == ResizeMode::Nearest { Some(nearest_mode(cx, op)?) } else { None };
    let mut made = cx.plain("Resize").string("mode", op.mode.word());
    made = made.string("coordinate_transformation_mode", op.coordinates.word());
    if let Some(mode) = nearest {
        made = made.string("nearest_mode", mode);
    }
    if op.mode == ResizeMode::Cubic {
        made = made.float("cubic_coeff_a", op.cubic_coeff_a.0);
    }
    if op.coordinates == CoordinateMode::TfCropAndResize {
        made = made.float("extrapolation_value", op.extrapolation_value.0);
    }
    if !op.axes.is_empty() {
        made = made.ints("axes", &op.axes);
    }
    if op.policy != AspectPolicy::Stretch {
        made = made.string("keep_aspect_ratio_policy", op.policy.word());
    }
    made.flag("exclude_outside", op.exclude_outside).flag("antialias", op.antialias);
    Ok(())
}

pub(super) fn grid_sample(cx: &mut NodeCx<'_, '_, '_>, op: &GridSample) -> Result<()> {
    let padding = match op.padding {
        GridPadding::Zeros => "zeros",
        GridPadding::Border => "border",
        GridPadding::Reflection => "reflection",
    };
    let made = cx.plain("GridSample").string("mode", op.mode.word());
    made.string("padding_mode", padding).flag("align_corners", op.align_corners);
    Ok(())
}

pub(super) fn affine_grid(cx: &mut NodeCx<'_, '_, '_>, op: &AffineGrid) -> Result<()> {
    cx.plain("AffineGrid").flag("align_corners", op.align_corners);
    Ok(())
}

pub(super) fn col2im(cx: &mut NodeCx<'_, '_, '_>, op: &Col2Im) -> Result<()> {
    let made = cx.plain("Col2Im").sizes("strides", &op.strides);
    made.sizes("dilations", &op.dilations).sizes("pads", &op.pads);
    Ok(())
}

//! Resizing.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Dim, ValueId,
    attr::{AttrValue, F32},
    ops::{AspectPolicy, CoordinateMode, NearestMode, Resize, ResizeMode},
};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("Resize", resize), ("Upsample", upsample)];

/// An enum whose words are those of the operator.
fn word<T: AttrValue>(cx: &NodeCx<'_, '_>, name: &str, default: T) -> Result<T> {
    match cx.string(name)? {
        None => Ok(default),
        Some(w) => T::from_attr(tensormill_ir::attr::Attr::Word(w)).or_else(|e| cx.bad(name, e)),
    }
}

/// An operand that is not left out in the old way, by no elements.
fn given(cx: &NodeCx<'_, '_>, i: usize) -> Result<Option<ValueId>> {
    let Some(v) = cx.opt(i) else { return Ok(None) };
    let empty = cx.tensor(v)?.dims.is_some_and(|d| d.len() == 1 && d[0] == Dim::Known(0));
    Ok((!empty).then_some(v))
}

fn resize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    if cx.opset() < 11 {
        return upsample(cx);
    }
    let x = cx.input(0)?;
    let coordinates = match cx.string("coordinate_transformation_mode")?.as_deref() {
        // A mode of opset 11 only.
        Some("tf_half_pixel_for_nn") => return LowerError::feature("tf_half_pixel_for_nn"),
        _ => word(cx, "coordinate_transformation_mode", CoordinateMode::HalfPixel)?,
    };
    let mut op = Resize {
        mode: word(cx, "mode", ResizeMode::Nearest)?,
        coordinates,
        nearest: word(cx, "nearest_mode", NearestMode::RoundPreferFloor)?,
        cubic_coeff_a: F32(cx.float("cubic_coeff_a", -0.75)?),
        exclude_outside: cx.flag("exclude_outside", false)?,
        antialias: cx.flag("antialias", false)?,
        extrapolation_value: F32(cx.float("extrapolation_value", 0.0)?),
        axes: cx.ints("axes")?.unwrap_or_default(),
        policy: word(cx, "keep_aspect_ratio_policy", AspectPolicy::Stretch)?,
    };
    if op.mode == ResizeMode::Nearest {
        op.antialias = false;
    }
    let (mut scales, sizes) = (given(cx, 2)?, given(cx, 3)?);
    if sizes.is_some() {
        scales = None;
    }
    let region = if op.coordinates == CoordinateMode::TfCropAndResize { given(cx, 1)? } else { None };
    let y = cx.node(op, &[Some(x), region, scales, sizes])?[0];
    cx.set(0, y);
    Ok(())
}

/// Upsample, and Resize as it was in opset 10: indices over scales.
fn upsample(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let mode = match cx.string("mode")?.as_deref() {
        None | Some("nearest") => ResizeMode::Nearest,
        Some("linear" | "bilinear") => ResizeMode::Linear,
        Some(_) => return cx.bad("mode", "must be nearest or linear"),
    };
    let scales = match cx.floats("scales")? {
        Some(s) => {
            cx.constant(Tensor::from_vec([s.len()], s).map_err(|e| LowerError::Operand(e.to_string()))?)?
        }
        None if cx.opset() < 7 => {
            let (h, w) = (cx.float("height_scale", 1.0)?, cx.float("width_scale", 1.0)?);
            cx.constant(
                Tensor::from_vec([4], vec![1.0, 1.0, h, w])
                    .map_err(|e| LowerError::Operand(e.to_string()))?,
            )?
        }
        None => cx.input(1)?,
    };
    let op = Resize {
        mode,
        coordinates: CoordinateMode::Asymmetric,
        nearest: NearestMode::Simple,
        ..Resize::default()
    };
    let y = cx.node(op, &[Some(x), None, Some(scales)])?[0];
    cx.set(0, y);
    Ok(())
}

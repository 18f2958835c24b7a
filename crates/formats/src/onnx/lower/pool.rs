//! Pools.

use super::{
    LowerError, NodeCx, Table,
    conv::{size, sizes, window},
};
use tensormill_ir::{
    attr::F32,
    ops::{
        AveragePool, BinaryKind, LpPool, MaxPool, MaxRoiPool, MaxUnpool, Reduce, ReduceKind, RoiAlign,
        RoiMode, UnaryKind,
    },
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("LpPool", lp_pool),
    ("GlobalLpPool", global_lp_pool),
    ("MaxUnpool", max_unpool),
    ("MaxRoiPool", max_roi_pool),
    ("RoiAlign", roi_align),
];

fn kernel(cx: &NodeCx<'_, '_>, given: Option<Vec<usize>>) -> Result<Vec<usize>> {
    given.map_or_else(|| cx.bad("kernel_shape", "is missing"), Ok)
}

fn max_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let a = window(cx)?;
    let op = MaxPool {
        kernel: kernel(cx, a.kernel)?,
        strides: a.strides,
        dilations: a.dilations,
        pads: a.pads,
        auto_pad: a.auto_pad,
        ceil_mode: cx.flag("ceil_mode", false)? && !a.valid,
        with_indices: cx.wants(1),
        column_major: cx.flag("storage_order", false)? && cx.wants(1),
    };
    let y = cx.node(op, &[Some(x)])?;
    cx.set_all(&y);
    Ok(())
}

fn average_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let a = window(cx)?;
    let op = AveragePool {
        kernel: kernel(cx, a.kernel)?,
        strides: a.strides,
        dilations: a.dilations,
        pads: a.pads,
        auto_pad: a.auto_pad,
        ceil_mode: cx.flag("ceil_mode", false)? && !a.valid,
        count_include_pad: cx.flag("count_include_pad", false)?,
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// The exponent, a float before opset 2.
fn exponent(cx: &NodeCx<'_, '_>) -> Result<i64> {
    if cx.opset() < 2 {
        let p = cx.float("p", 2.0)?;
        if p.fract() != 0.0 || !(1.0..1e6).contains(&p) {
            return LowerError::feature(format!("an exponent of {p}"));
        }
        return Ok(p as i64);
    }
    let p = cx.int("p", 2)?;
    if p < 1 { cx.bad("p", "must be positive") } else { Ok(p) }
}

fn lp_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let a = window(cx)?;
    let op = LpPool {
        kernel: kernel(cx, a.kernel)?,
        strides: a.strides,
        dilations: a.dilations,
        pads: a.pads,
        auto_pad: a.auto_pad,
        ceil_mode: cx.flag("ceil_mode", false)? && !a.valid,
        p: exponent(cx)?,
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// A pool over everything but batch and channels is a reduction.
fn global_lp_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let p = exponent(cx)?;
    let axes: Vec<i64> = (2..cx.rank(x)? as i64).collect();
    let axes = cx.ints_constant(&axes)?;
    let reduce = |kind| Reduce { kind, noop_with_empty_axes: true, ..Default::default() };
    let y = match p {
        1 => cx.op(reduce(ReduceKind::L1), &[x, axes])?,
        2 => cx.op(reduce(ReduceKind::L2), &[x, axes])?,
        p => {
            let x = cx.unary(UnaryKind::Abs, x)?;
            let x = cx.binary_scalar(BinaryKind::Pow, x, p as f64)?;
            let sum = cx.op(reduce(ReduceKind::Sum), &[x, axes])?;
            cx.binary_scalar(BinaryKind::Pow, sum, 1.0 / p as f64)?
        }
    };
    cx.set(0, y);
    Ok(())
}

fn max_unpool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, indices, shape) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let a = window(cx)?;
    let op = MaxUnpool { kernel: kernel(cx, a.kernel)?, strides: a.strides, pads: a.pads };
    let y = cx.node(op, &[Some(x), Some(indices), shape])?[0];
    cx.set(0, y);
    Ok(())
}

fn max_roi_pool(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, rois) = (cx.input(0)?, cx.input(1)?);
    let Some(pooled) = sizes(cx, "pooled_shape")? else { return cx.bad("pooled_shape", "is missing") };
    let op = MaxRoiPool { pooled, spatial_scale: F32(cx.float("spatial_scale", 1.0)?) };
    let y = cx.op(op, &[x, rois])?;
    cx.set(0, y);
    Ok(())
}

fn roi_align(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, rois, batches) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let mode = match cx.string("mode")?.as_deref() {
        None | Some("avg") => RoiMode::Avg,
        Some("max") => RoiMode::Max,
        Some(_) => return cx.bad("mode", "must be avg or max"),
    };
    let transformation = cx.string("coordinate_transformation_mode")?;
    let half_pixel = match transformation.as_deref() {
        // Before opset 16 coordinates always named corners.
        None => cx.opset() >= 16,
        Some("half_pixel") => true,
        Some("output_half_pixel") => false,
        Some(_) => return cx.bad("coordinate_transformation_mode", "is unknown"),
    };
    let op = RoiAlign {
        mode,
        output_height: size(cx, "output_height", 1)?,
        output_width: size(cx, "output_width", 1)?,
        sampling_ratio: size(cx, "sampling_ratio", 0)?,
        spatial_scale: F32(cx.float("spatial_scale", 1.0)?),
        half_pixel,
    };
    let batches = cx.cast(batches, DType::I64)?;
    let y = cx.op(op, &[x, rois, batches])?;
    cx.set(0, y);
    Ok(())
}

//! Pools.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{AveragePool, LpPool, MaxPool, MaxRoiPool, MaxUnpool, RoiAlign, RoiMode, Window};

fn window<'a>(cx: &'a mut NodeCx<'_, '_, '_>, op_type: &str, w: &Window<'_>) -> super::node::Made<'a> {
    cx.plain(op_type)
        .sizes("kernel_shape", w.kernel)
        .sizes("strides", w.strides)
        .sizes("dilations", w.dilations)
        .padding(w.auto_pad, w.pads)
        .flag("ceil_mode", w.ceil_mode)
}

pub(super) fn max_pool(cx: &mut NodeCx<'_, '_, '_>, op: &MaxPool) -> Result<()> {
    window(cx, "MaxPool", &op.window()).flag("storage_order", op.column_major);
    Ok(())
}

pub(super) fn average_pool(cx: &mut NodeCx<'_, '_, '_>, op: &AveragePool) -> Result<()> {
    window(cx, "AveragePool", &op.window()).flag("count_include_pad", op.count_include_pad);
    Ok(())
}

pub(super) fn lp_pool(cx: &mut NodeCx<'_, '_, '_>, op: &LpPool) -> Result<()> {
    window(cx, "LpPool", &op.window()).int("p", op.p);
    Ok(())
}

pub(super) fn max_unpool(cx: &mut NodeCx<'_, '_, '_>, op: &MaxUnpool) -> Result<()> {
    let made = cx.plain("MaxUnpool").sizes("kernel_shape", &op.kernel);
    made.sizes("strides", &op.strides).sizes("pads", &op.pads);
    Ok(())
}

pub(super) fn max_roi_pool(cx: &mut NodeCx<'_, '_, '_>, op: &MaxRoiPool) -> Result<()> {
    cx.plain("MaxRoiPool").sizes("pooled_shape", &op.pooled).float("spatial_scale", op.spatial_scale.0);
    Ok(())
}

pub(super) fn roi_align(cx: &mut NodeCx<'_, '_, '_>, op: &RoiAlign) -> Result<()> {
    let mode = if op.mode == RoiMode::Max { "max" } else { "avg" };
    let coordinates = if op.half_pixel { "half_pixel" } else { "output_half_pixel" };
    cx.plain("RoiAlign")
        .string("mode", mode)
        .size("output_height", op.output_height)
        .size("output_width", op.output_width)
        .size("sampling_ratio", op.sampling_ratio)
        .float("spatial_scale", op.spatial_scale.0)
        .string("coordinate_transformation_mode", coordinates);
    Ok(())
}

//! Resizing of pictures.

use super::{LowerError, NodeCx, Order, Table, cx::Moved};
use tensormill_ir::ops::{CoordinateMode, NearestMode, Resize, ResizeMode};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    // Two options for the size came first, and are no longer used.
    ("RESIZE_BILINEAR", 15, |cx| resize(cx, ResizeMode::Linear, 2)),
    ("RESIZE_NEAREST_NEIGHBOR", 74, |cx| resize(cx, ResizeMode::Nearest, 0)),
];

fn resize(cx: &mut NodeCx<'_, '_>, mode: ResizeMode, first_option: usize) -> Result<()> {
    let corners = cx.flag("align_corners", first_option)?;
    let centres = cx.flag("half_pixel_centers", first_option + 1)?;
    let coordinates = match (corners, centres) {
        (true, true) => return LowerError::option("half_pixel_centers", "contradicts align_corners"),
        (true, false) => CoordinateMode::AlignCorners,
        (false, true) => CoordinateMode::HalfPixel,
        (false, false) => CoordinateMode::Asymmetric,
    };
    // Halves go up; from corner to corner without centres what is passed counts.
    let nearest = if coordinates == CoordinateMode::Asymmetric {
        NearestMode::Floor
    } else {
        NearestMode::RoundPreferCeil
    };
    let sizes = cx.ints(1)?;
    let stored = mode == ResizeMode::Nearest && cx.same_quantization(0, 0);
    let x = if stored { cx.input_in(0, Order::First)? } else { cx.real(0, Order::First)? };
    let op = Resize { mode, coordinates, nearest, axes: vec![2, 3], ..Resize::default() };
    let y = cx.node(op, &[Some(x), None, None, Some(sizes)])?[0];
    cx.set_moved(0, y, Order::First, &Moved { x, stored })
}

//! Convolutions.

use super::{
    elementwise::{before_epilogue, epilogue},
    error::{Result, refuse},
    node::{Made, NodeCx},
    pattern::{Narrow, Source},
};
use tensormill_ir::ops::{AutoPad, Conv, ConvTranspose, DeformConv};

impl Made<'_> {
    /// How a window is padded.
    pub(super) fn padding(self, auto: AutoPad, pads: &[usize]) -> Self {
        match auto {
            AutoPad::Explicit => self.sizes("pads", pads),
            AutoPad::SameUpper => self.string("auto_pad", "SAME_UPPER"),
            AutoPad::SameLower => self.string("auto_pad", "SAME_LOWER"),
        }
    }

    pub(super) fn conv(self, op: &Conv, kernel: &[usize]) -> Self {
        self.sizes("kernel_shape", kernel)
            .sizes("strides", &op.strides)
            .sizes("dilations", &op.dilations)
            .padding(op.auto_pad, &op.pads)
            .int_unless("group", i64::try_from(op.group).unwrap_or(i64::MAX), 1)
    }
}

/// The spatial sizes of the kernel, if all are known.
pub(super) fn kernel(cx: &NodeCx<'_, '_, '_>) -> Vec<usize> {
    let dims = cx.node.input(1).and_then(|w| cx.tensor(w)?.dims.as_ref());
    let known = dims.and_then(|d| d.get(2..)?.iter().map(|d| d.known()).collect());
    known.unwrap_or_default()
}

pub(super) fn conv(cx: &mut NodeCx<'_, '_, '_>, op: &Conv) -> Result<()> {
    if cx.dtype_of(0)?.is_int() {
        return refuse("a convolution of integers that are not 8-bit ones less their zero points");
    }
    let kernel = kernel(cx);
    let inputs = (0..3).map(|i| cx.input(i)).collect();
    let y = before_epilogue(cx, &op.epilogue);
    cx.add("Conv", inputs, vec![y.clone()]).conv(op, &kernel);
    epilogue(cx, &op.epilogue, y)
}

fn source(cx: &mut NodeCx<'_, '_, '_>, s: &Source, what: &str) -> String {
    match s {
        Source::Value(v) => cx.name(*v),
        Source::Constant(t) => cx.new_constant(what, t),
    }
}

/// Factors and their zero points.
pub(super) fn narrow(cx: &mut NodeCx<'_, '_, '_>, [a, b]: &[Narrow; 2]) -> Vec<String> {
    let mut inputs = vec![source(cx, &a.value, "left"), source(cx, &b.value, "right")];
    for (s, what) in [(&a.zero, "left_zero"), (&b.zero, "right_zero")] {
        inputs.push(s.as_ref().map_or_else(String::new, |s| source(cx, s, what)));
    }
    inputs
}

pub(super) fn conv_integer(cx: &mut NodeCx<'_, '_, '_>, op: &Conv, factors: &[Narrow; 2]) -> Result<()> {
    let kernel = kernel(cx);
    let (inputs, y) = (narrow(cx, factors), cx.output(0));
    cx.add("ConvInteger", inputs, vec![y]).conv(op, &kernel);
    Ok(())
}

pub(super) fn conv_transpose(cx: &mut NodeCx<'_, '_, '_>, op: &ConvTranspose) -> Result<()> {
    let kernel = kernel(cx);
    cx.plain("ConvTranspose")
        .sizes("kernel_shape", &kernel)
        .sizes("strides", &op.strides)
        .sizes("dilations", &op.dilations)
        .padding(op.auto_pad, &op.pads)
        .sizes("output_padding", &op.output_padding)
        .sizes("output_shape", &op.output_shape)
        .int_unless("group", i64::try_from(op.group).unwrap_or(i64::MAX), 1);
    Ok(())
}

pub(super) fn deform_conv(cx: &mut NodeCx<'_, '_, '_>, op: &DeformConv) -> Result<()> {
    let kernel = kernel(cx);
    cx.plain("DeformConv").conv(&op.plain(), &kernel).int_unless(
        "offset_group",
        i64::try_from(op.offset_group).unwrap_or(i64::MAX),
        1,
    );
    Ok(())
}

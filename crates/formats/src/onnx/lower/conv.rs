//! Convolutions.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    ops::{AutoPad, Conv, ConvInteger, ConvTranspose, DeformConv},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("Conv", conv),
    ("ConvInteger", conv_integer),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", deform_conv),
];

/// Sizes, none of them negative.
pub(super) fn sizes(cx: &NodeCx<'_, '_>, name: &str) -> Result<Option<Vec<usize>>> {
    let Some(v) = cx.ints(name)? else { return Ok(None) };
    match v.iter().map(|&n| usize::try_from(n)).collect() {
        Ok(v) => Ok(Some(v)),
        Err(_) => cx.bad(name, "must not be negative"),
    }
}

/// A size that must not be negative.
pub(super) fn size(cx: &NodeCx<'_, '_>, name: &str, default: i64) -> Result<usize> {
    usize::try_from(cx.int(name, default)?).or_else(|_| cx.bad(name, "must not be negative"))
}

/// The attributes that every sliding window has.
pub(super) struct WindowAttributes {
    pub(super) kernel: Option<Vec<usize>>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) pads: Vec<usize>,
    pub(super) auto_pad: AutoPad,
    /// Whether there is no padding by name.
    pub(super) valid: bool,
}

pub(super) fn window(cx: &NodeCx<'_, '_>) -> Result<WindowAttributes> {
    let given = cx.string("auto_pad")?;
    let auto_pad = match given.as_deref() {
        None | Some("" | "NOTSET" | "VALID") => AutoPad::Explicit,
        Some("SAME_UPPER") => AutoPad::SameUpper,
        Some("SAME_LOWER") => AutoPad::SameLower,
        Some(_) => return cx.bad("auto_pad", "names no kind of padding"),
    };
    let valid = given.as_deref() == Some("VALID");
    let mut pads = sizes(cx, "pads")?.unwrap_or_default();
    // Files give zeros beside a padding by name, which then has no effect.
    if valid || auto_pad != AutoPad::Explicit {
        pads.clear();
    }
    Ok(WindowAttributes {
        kernel: sizes(cx, "kernel_shape")?,
        strides: sizes(cx, "strides")?.unwrap_or_default(),
        dilations: sizes(cx, "dilations")?.unwrap_or_default(),
        pads,
        auto_pad,
        valid,
    })
}

/// The kernel's spatial sizes, where an attribute repeats them.
fn check_kernel(cx: &NodeCx<'_, '_>, w: ValueId, kernel: Option<&[usize]>) -> Result<()> {
    let Some(kernel) = kernel else { return Ok(()) };
    let Some(dims) = cx.tensor(w)?.dims else { return Ok(()) };
    let differs = dims.len() != kernel.len() + 2
        || dims[2..].iter().zip(kernel).any(|(d, k)| d.known().is_some_and(|d| d != *k));
    if differs { cx.bad("kernel_shape", "differs from the kernel") } else { Ok(()) }
}

pub(super) fn attributes(cx: &NodeCx<'_, '_>, w: ValueId) -> Result<Conv> {
    let a = window(cx)?;
    check_kernel(cx, w, a.kernel.as_deref())?;
    Ok(Conv {
        strides: a.strides,
        dilations: a.dilations,
        pads: a.pads,
        group: size(cx, "group", 1)?,
        auto_pad: a.auto_pad,
        ..Conv::default()
    })
}

fn conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, w, b) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let op = attributes(cx, w)?;
    let y = cx.node(op, &[Some(x), Some(w), b])?[0];
    cx.set(0, y);
    Ok(())
}

/// Products of integers less their zero points, in i32.
fn conv_integer(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    cx.at_most(4)?;
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let Conv { strides, dilations, pads, group, auto_pad, .. } = attributes(cx, w)?;
    let op = ConvInteger { strides, dilations, pads, group, auto_pad };
    let y = cx.node(op, &[Some(x), Some(w), cx.opt(2), cx.opt(3)])?[0];
    cx.set(0, y);
    Ok(())
}

fn conv_transpose(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, w, b) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let a = window(cx)?;
    check_kernel(cx, w, a.kernel.as_deref())?;
    let mut output_shape = sizes(cx, "output_shape")?.unwrap_or_default();
    let mut pads = a.pads;
    if !output_shape.is_empty() {
        // Some files give batch and channels too.
        let spatial = cx.rank(x)?.saturating_sub(2);
        if output_shape.len() == spatial + 2 {
            output_shape.drain(..2);
        }
        pads.clear();
    }
    let op = ConvTranspose {
        strides: a.strides,
        dilations: a.dilations,
        pads,
        output_padding: sizes(cx, "output_padding")?.unwrap_or_default(),
        output_shape,
        group: size(cx, "group", 1)?,
        auto_pad: a.auto_pad,
    };
    let y = cx.node(op, &[Some(x), Some(w), b])?[0];
    cx.set(0, y);
    Ok(())
}

fn deform_conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, w, offset) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let a = attributes(cx, w)?;
    let op = DeformConv {
        strides: a.strides,
        dilations: a.dilations,
        pads: a.pads,
        group: a.group,
        offset_group: size(cx, "offset_group", 1)?,
    };
    let y = cx.node(op, &[Some(x), Some(w), Some(offset), cx.opt(3), cx.opt(4)])?[0];
    cx.set(0, y);
    Ok(())
}

//! Convolutions of bytes whose results are the sums themselves.
//!
//! Weights that are the same in every run are packed once, others when a run has them. Over three axes every plane of
//! the result is a sum of convolutions over two, one for each plane of the window.

use super::conv::{Filters, Way};
use super::{EXACT, constant, is_byte, single, zero, zeros};
use crate::conv::{sizes, window};
use crate::native::{Built, Call, Fail, Known, Native, Prep};
use crate::order::Order;
use std::borrow::Cow;
use std::sync::Arc;
use tensormill_ir::ops::ConvInteger;
use tensormill_kernels::channels_last::convert::{from_planes, to_planes};
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::quantized::{self as kernel, Bytes, Output, Scaling};
use tensormill_kernels::threads::Pool;
use tensormill_tensor::{DType, Shape, Tensor};

/// Operands.
const X: usize = 0;
const W: usize = 1;
const X_ZERO: usize = 2;
const W_ZERO: usize = 3;

/// A convolution whose operands kernels take.
struct Sums<'a> {
    x: Known<'a>,
    w: Known<'a>,
    /// Weights and zero points that are the same in every run.
    constant: Option<(&'a Tensor, Vec<i32>)>,
    op: &'a ConvInteger,
    flops: u64,
}

impl<'a> Sums<'a> {
    fn of(p: &Prep<'a>, op: &'a ConvInteger) -> Result<Self, Cow<'static, str>> {
        let (x, w) = (p.get(X)?, p.get(W)?);
        let rank = x.shape.len();
        if !is_byte(x.dtype) || !is_byte(w.dtype) || !(3..=5).contains(&rank) || rank != w.shape.len() {
            return Err("no kernel for these operands".into());
        }
        single(p, X_ZERO)?;
        if p.opt(W_ZERO).is_some_and(|z| z.len() != 1 && z.len() != w.shape[0]) {
            return Err("zero points that differ otherwise than by kernel".into());
        }
        if w.shape[1..].iter().product::<usize>() > EXACT {
            return Err("sums of so many products may not fit 32 bits".into());
        }
        if x.shape.contains(&0) || w.shape.contains(&0) || p.out().contains(&0) {
            return Err("no elements".into());
        }
        let shape = sizes(&op.plain(), x.shape, w.shape)?;
        if shape.output_len() != p.out().numel() || shape.weights_len() != w.len() {
            return Err("sizes that the kernel computes otherwise".into());
        }
        let constant = constant(&w).ok().zip(zeros(p, W_ZERO).ok()).map(|((t, _), zeros)| (t, zeros));
        Ok(Sums { x, w, constant, op, flops: shape.flops() as u64 })
    }

    fn signs(&self) -> Signs {
        Signs { x: self.x.dtype == DType::I8, w: self.w.dtype == DType::I8 }
    }

    /// The kernel for one or two axes.
    fn flat(&self, p: &Prep<'_>, planes: bool) -> Result<Flat, Cow<'static, str>> {
        let (shape, signs) = (sizes(&self.op.plain(), self.x.shape, self.w.shape)?, self.signs());
        let mut flat = Flat {
            shape,
            way: None,
            x: Shape::from(self.x.shape),
            w: Shape::from(self.w.shape),
            group: self.op.group,
            signs,
        };
        if let Some((weights, zeros)) = &self.constant {
            let filters = flat.filters(weights.bytes(), zeros);
            flat.way = Some(Way::of(p, &flat.shape, &filters, weights, &self.op.pads, planes)?);
        }
        Ok(flat)
    }

    /// The kernel, with what the report says of it.
    fn native(
        &self,
        name: &'static str,
        run: impl Fn(&mut Call<'_, '_>) -> Result<(), Fail> + Send + Sync + 'static,
    ) -> Built {
        let mut native = Native::new(name, run)?;
        native.flops = self.flops;
        native.reason = format!("{:?} by {:?}, sums", self.x.shape, self.w.shape);
        if self.constant.is_some() {
            native.packed = Some(W);
        } else {
            native.reason += ", weights packed in each run";
        }
        Ok(native)
    }
}

/// Which bytes have a sign.
#[derive(Clone, Copy)]
struct Signs {
    x: bool,
    w: bool,
}

/// What a run has, with weights where they are not packed yet.
struct Now<'a> {
    x: Bytes<'a>,
    x_zero: i32,
    w: &'a [u8],
    zeros: Vec<i32>,
}

impl<'a> Now<'a> {
    fn of(c: &Call<'_, 'a>, signs: Signs, packed: bool) -> Result<Self, Fail> {
        let (mut w, mut zeros) = (&[][..], vec![]);
        if !packed {
            w = c.view(W)?.bytes;
            let bytes = c.ins.get(W_ZERO).copied().flatten().map_or(&[][..], |v| v.bytes);
            let number = |z: u8| if signs.w { i32::from(z as i8) } else { i32::from(z) };
            zeros = bytes.iter().map(|&z| number(z)).collect();
        }
        let x = Bytes { data: c.view(X)?.bytes, signed: signs.x };
        Ok(Now { x, x_zero: zero(c, X_ZERO, signs.x)?, w, zeros })
    }

    fn scaling(&self) -> Scaling<'static> {
        Scaling { x_scale: 1.0, x_zero: self.x_zero, scales: &[], bias: &[] }
    }
}

/// A convolution over one or two axes.
struct Flat {
    shape: ConvShape,
    /// None where a run packs its weights.
    way: Option<Way>,
    x: Shape,
    w: Shape,
    group: usize,
    signs: Signs,
}

impl Flat {
    fn filters<'a>(&'a self, data: &'a [u8], zeros: &'a [i32]) -> Filters<'a> {
        let (x, w, group) = (&self.x[..], &self.w[..], self.group);
        Filters { data, signed: self.signs.w, zeros, x, w, x_signed: self.signs.x, group }
    }

    fn name(&self) -> &'static str {
        self.way.as_ref().map_or("int8-conv-packing", Way::name)
    }

    /// The sums of what lies in this order, as rows of pixels.
    fn run(
        &self,
        pool: &Pool,
        now: &Now<'_>,
        (x, order): (Bytes<'_>, kernel::Order),
        out: &mut [i32],
    ) -> Result<(), Fail> {
        let output = Output::Sums { out, pitch: self.w[0] };
        let packed;
        let way = match &self.way {
            Some(way) => way,
            None => {
                packed = Way::now(pool, &self.shape, &self.filters(now.w, &now.zeros), true)?;
                &packed
            }
        };
        Ok(way.run(pool, &self.shape, (x, order), &now.scaling(), output)?)
    }
}

/// A convolution whose result has its channels last; so has its operand, unless it is in plain order.
pub(crate) fn conv_integer_channels_last(p: &Prep<'_>, op: &ConvInteger) -> Built {
    let s = Sums::of(p, op)?;
    let planes = s.x.order == Order::Plain;
    if s.x.shape.len() > 4 || op.group != 1 && planes {
        return Err("the kernel wants one or two spatial axes, and channels last".into());
    }
    let flat = s.flat(p, planes)?;
    let order = if planes { kernel::Order::Planes } else { kernel::Order::Pixels(s.x.shape[1]) };
    s.native(flat.name(), move |c| {
        let now = Now::of(c, flat.signs, flat.way.is_some())?;
        let pool = c.pool;
        flat.run(pool, &now, (now.x, order), c.out::<i32>(0)?)
    })
}

/// A convolution in plain order: over three axes, or over operands of which no more was known when layouts were
/// decided.
pub(crate) fn conv_integer(p: &Prep<'_>, op: &ConvInteger) -> Built {
    let s = Sums::of(p, op)?;
    if s.x.shape.len() == 5 {
        return over_three(&s, p);
    }
    let flat = s.flat(p, false)?;
    let (batch, channels, kernels) = (s.x.shape[0], s.x.shape[1], s.w.shape[0]);
    let (pixels, outs) = (s.x.shape[2..].iter().product(), p.out()[2..].iter().product());
    s.native(flat.name(), move |c| {
        let now = Now::of(c, flat.signs, flat.way.is_some())?;
        let (pool, mut x, mut sums) =
            (c.pool, vec![0u8; now.x.data.len()], vec![0i32; batch * outs * kernels]);
        from_planes(pool, now.x.data, batch, channels, pixels, &mut x, channels)?;
        let x = Bytes { data: &x, ..now.x };
        flat.run(pool, &now, (x, kernel::Order::Pixels(channels)), &mut sums)?;
        Ok(to_planes(pool, &sums, kernels, batch, kernels, outs, c.out::<i32>(0)?, outs)?)
    })
}

/// The weights of one plane of the window: `each` weights of every `all`.
fn plane(data: &[u8], at: usize, each: usize, all: usize) -> Vec<u8> {
    data.chunks_exact(all).flat_map(|w| &w[at * each..(at + 1) * each]).copied().collect()
}

fn over_three(s: &Sums<'_>, p: &Prep<'_>) -> Built {
    let axes = s.op.plain().axes(&s.x.shape[2..], &s.w.shape[2..]).map_err(|e| e.0)?;
    let windows: Vec<Window> = axes.iter().map(window).collect();
    let drop = |dims: &[usize]| -> Shape { dims[..2].iter().chain(&dims[3..]).copied().collect() };
    let (group, signs) = (s.op.group, s.signs());
    let (batch, depth, outs) = (s.x.shape[0], s.x.shape[2], p.out()[2]);
    let x: Shape = std::iter::once(1).chain(drop(s.x.shape)[1..].iter().copied()).collect();
    let w = drop(s.w.shape);
    let shape = ConvShape::new(1, x[1], w[0], group, &x[2..], &windows[1..]).map_err(|e| e.to_string())?;
    let flat = Flat { shape, way: None, x, w, group, signs };
    let (taps, each): (usize, usize) = (s.w.shape[2], s.w.shape[3..].iter().product());
    // One way for each plane of the window.
    let ways = move |flat: &Flat, pool: &Pool, data: &[u8], zeros: &[i32], once: bool| {
        let way = |at: usize| {
            let data = plane(data, at, each, taps * each);
            Way::now(pool, &flat.shape, &flat.filters(&data, zeros), once)
        };
        (0..taps).map(way).collect::<Result<Vec<Way>, _>>()
    };
    let packed: Option<Arc<Vec<Way>>> = match &s.constant {
        None => None,
        Some((weights, zeros)) => Some(p.weights.get(p.node, "bytes by plane", 0, &[weights], || {
            let ways = ways(&flat, p.pool, weights.bytes(), zeros, false).map_err(|e| e.to_string())?;
            let bytes = ways.iter().map(Way::bytes).sum();
            Ok::<_, String>((ways, bytes))
        })?),
    };
    let front = windows[0];
    let (channels, kernels) = (flat.x[1], flat.w[0]);
    let pixels: usize = flat.x[2..].iter().product();
    let positions: usize = p.out()[3..].iter().product();
    s.native("int8-conv-planes", move |c| {
        let now = Now::of(c, signs, packed.is_some())?;
        let own;
        let ways = match &packed {
            Some(packed) => &packed[..],
            None => {
                own = ways(&flat, c.pool, now.w, &now.zeros, true)?;
                &own[..]
            }
        };
        let (pool, mut x) = (c.pool, vec![0u8; now.x.data.len()]);
        from_planes(pool, now.x.data, batch, channels, depth * pixels, &mut x, channels)?;
        let mut all = vec![0i32; batch * outs * positions * kernels];
        let mut part = vec![0i32; positions * kernels];
        for (i, sums) in all.chunks_exact_mut(positions * kernels).enumerate() {
            let (image, z) = (i / outs, i % outs);
            for (tap, way) in ways.iter().enumerate() {
                // Planes outside stand for zeros.
                let at = (z * front.stride + tap * front.dilation).checked_sub(front.pad_begin);
                let Some(at) = at.filter(|&at| at < depth) else { continue };
                let start = (image * depth + at) * pixels * channels;
                let x = Bytes { data: &x[start..start + pixels * channels], ..now.x };
                let output = Output::Sums { out: &mut part, pitch: kernels };
                let order = kernel::Order::Pixels(channels);
                way.run(pool, &flat.shape, (x, order), &now.scaling(), output)?;
                sums.iter_mut().zip(&part).for_each(|(to, x)| *to = to.wrapping_add(*x));
            }
        }
        let out = c.out::<i32>(0)?;
        Ok(to_planes(pool, &all, kernels, batch, kernels, outs * positions, out, outs * positions)?)
    })
}

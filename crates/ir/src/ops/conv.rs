//! Convolutions, channels first.

use super::{
    OpDef, PostOps,
    window::{AutoPad, Window, WindowAxis, list},
};
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use smallvec::SmallVec;

op_attrs! {
    /// Convolution (cross-correlation) over any number of spatial axes. Operands: x `[N,C,..]`, w
    /// `[M,C/group,..]`, bias `[M]` (optional), then those of the epilogue. Integers accumulate in i32 or
    /// wider and wrap.
    Conv {
        /// Steps between windows, per spatial axis; empty: ones.
        strides: Vec<usize> = vec![],
        /// Steps between the elements of a window, per spatial axis; empty: ones.
        dilations: Vec<usize> = vec![],
        /// Padding with zeros: all beginnings, then all ends; empty: none.
        pads: Vec<usize> = vec![],
        /// Channel groups that are convolved apart.
        group: usize = 1,
        /// Who decides the padding.
        auto_pad: AutoPad = AutoPad::Explicit,
        /// Steps applied to the result.
        epilogue: PostOps = PostOps::default(),
    }
}

impl Conv {
    /// Operands of its own, before those of the epilogue.
    pub const OWN: usize = 3;

    /// The window over an input, of a kernel of this size.
    pub fn window<'a>(&'a self, kernel: &'a [usize]) -> Window<'a> {
        Window {
            kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: self.auto_pad,
            ceil_mode: false,
        }
    }

    /// The window along every spatial axis, padding and output size decided, for the spatial sizes of
    /// the input and the kernel.
    ///
    /// # Errors
    /// For attributes that make no sense, and when the kernel is larger than the padded input.
    pub fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<SmallVec<[WindowAxis; 3]>, InferError> {
        self.window(kernel).axes(input)
    }

    /// The dims of the result for those of x and w.
    ///
    /// # Errors
    /// As [`axes`](Self::axes), and when channels and groups do not fit together.
    pub fn output_dims(&self, x: &[Dim], w: &[Dim]) -> Result<Dims, InferError> {
        check_ranks(x, w)?;
        check_channels(&x[1], &w[1], &w[0], self.group)?;
        let mut dims: Dims = [x[0].clone(), w[0].clone()].into_iter().collect();
        match kernel_of(w) {
            Some(kernel) => dims.extend(self.window(&kernel).output_dims(&x[2..])?),
            None if self.auto_pad == AutoPad::Explicit => dims.extend(x[2..].iter().map(|_| Dim::Unknown)),
            // The kernel does not matter to the size.
            None => dims.extend(self.window(&vec![1; x.len() - 2]).output_dims(&x[2..])?),
        }
        Ok(dims)
    }
}

impl OpDef for Conv {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let (x, w) = operands(cx)?;
        let dims = match (&x.dims, &w.dims) {
            (Some(x), Some(w)) => Some(self.output_dims(x, w)?),
            _ => None,
        };
        check_bias(cx, 2, x, dims.as_ref().map(|d| &d[1]))?;
        let result = TensorType { dtype: x.dtype, dims };
        self.epilogue.check(cx, Self::OWN, &result)?;
        cx.output(result);
        Ok(())
    }
}

/// x and w, of one dtype.
fn operands<'a>(cx: &InferCx<'a>) -> Result<(&'a TensorType, &'a TensorType), InferError> {
    if cx.len() < 2 {
        return refuse("takes two operands");
    }
    let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
    if x.dtype != w.dtype || !(x.dtype.is_float() || x.dtype.is_int()) || x.dtype.bits() < 8 {
        return refuse("input and kernel must have the same numeric dtype");
    }
    Ok((x, w))
}

pub(super) fn check_ranks(x: &[Dim], w: &[Dim]) -> Result<(), InferError> {
    if x.len() < 3 || x.len() != w.len() {
        return refuse(format!(
            "ranks {} and {} of input and kernel must be equal and 3 or more",
            x.len(),
            w.len()
        ));
    }
    Ok(())
}

/// Checks `channels` of the input against `per_group` of the kernel and the divisibility of `outer`.
fn check_channels(channels: &Dim, per_group: &Dim, outer: &Dim, group: usize) -> Result<(), InferError> {
    if group == 0 {
        return refuse("there are no groups");
    }
    if let (Some(c), Some(g)) = (channels.known(), per_group.known())
        && g.checked_mul(group) != Some(c)
    {
        return refuse(format!("{c} channels are not {group} groups of {g}"));
    }
    match outer.known() {
        Some(m) if m % group != 0 => refuse(format!("{m} kernels do not divide into {group} groups")),
        _ => Ok(()),
    }
}

pub(super) fn check_bias(
    cx: &InferCx<'_>,
    i: usize,
    x: &TensorType,
    channels: Option<&Dim>,
) -> Result<(), InferError> {
    let Some(b) = cx.opt_tensor(i)? else { return Ok(()) };
    if b.dtype != x.dtype {
        return refuse(format!("the bias must be {}, not {}", x.dtype, b.dtype));
    }
    let Some(d) = &b.dims else { return Ok(()) };
    if d.len() != 1 {
        return refuse("the bias must be a vector");
    }
    match (d[0].known(), channels.and_then(Dim::known)) {
        (Some(n), Some(m)) if n != m => refuse(format!("a bias of {n} elements for {m} channels")),
        _ => Ok(()),
    }
}

/// The spatial sizes of a kernel, if all are numbers.
fn kernel_of(w: &[Dim]) -> Option<SmallVec<[usize; 3]>> {
    w[2..].iter().map(Dim::known).collect()
}

op_attrs! {
    /// The transpose of a convolution as a linear map. Operands: x `[N,C,..]`, w `[C,M/group,..]`, bias
    /// `[M]` (optional).
    ConvTranspose {
        /// Steps between the places where input elements land, per spatial axis; empty: ones.
        strides: Vec<usize> = vec![],
        /// Steps between the elements of the kernel, per spatial axis; empty: ones.
        dilations: Vec<usize> = vec![],
        /// Elements cut from the result: all beginnings, then all ends; empty: none.
        pads: Vec<usize> = vec![],
        /// Elements added at the end of the result, per spatial axis; empty: none.
        output_padding: Vec<usize> = vec![],
        /// The spatial sizes of the result, from which the padding then follows; empty: the other way round.
        output_shape: Vec<usize> = vec![],
        /// Channel groups that are convolved apart.
        group: usize = 1,
        /// Who decides the padding.
        auto_pad: AutoPad = AutoPad::Explicit,
    }
}

impl ConvTranspose {
    /// The window along every spatial axis: that of the convolution from the result back to x, so that
    /// `output` counts elements of x. Beside each, the size of the result.
    ///
    /// # Errors
    /// For attributes that make no sense.
    pub fn axes(
        &self,
        input: &[usize],
        kernel: &[usize],
    ) -> Result<SmallVec<[(WindowAxis, usize); 3]>, InferError> {
        self.check(kernel)?;
        input.iter().enumerate().map(|(i, &n)| self.axis(i, n, kernel)).collect()
    }

    fn axis(&self, i: usize, n: usize, kernel: &[usize]) -> Result<(WindowAxis, usize), InferError> {
        let at = |v: &[usize], i: usize, default| v.get(i).copied().unwrap_or(default);
        let (stride, dilation) = (at(&self.strides, i, 1), at(&self.dilations, i, 1));
        let too_large = || InferError::new("the result is too large");
        let full = n
            .checked_mul(stride)
            .and_then(|f| f.checked_add(at(&self.output_padding, i, 0) + (kernel[i] - 1) * dilation + 1))
            .filter(|f| *f < isize::MAX as usize)
            .ok_or_else(too_large)?;
        // One window for each element, a stride apart; without elements the sum may fall below 0.
        let full = full.checked_sub(stride);
        let (before, after, size) = match (self.output_shape.get(i), self.auto_pad) {
            (None, AutoPad::Explicit) => {
                let (before, after) = (at(&self.pads, i, 0), at(&self.pads, kernel.len() + i, 0));
                match full.and_then(|f| f.checked_sub(before + after)) {
                    Some(size) => (before, after, size),
                    None => return refuse("the padding cuts away more than there is"),
                }
            }
            (given, auto) => {
                let size = match given {
                    Some(&size) => size,
                    None => n.checked_mul(stride).ok_or_else(too_large)?,
                };
                let total = full.unwrap_or(0).saturating_sub(size);
                let half = total / 2;
                if auto == AutoPad::SameUpper {
                    (half, total - half, size)
                } else {
                    (total - half, half, size)
                }
            }
        };
        Ok((WindowAxis { kernel: kernel[i], stride, dilation, before, after, output: n }, size))
    }

    fn check(&self, kernel: &[usize]) -> Result<(), InferError> {
        let rank = kernel.len();
        list("output_padding", &self.output_padding, rank, 0)?;
        list("output_shape", &self.output_shape, rank, 0)?;
        let Self { strides, dilations, pads, auto_pad, .. } = self;
        Window { kernel, strides, dilations, pads, auto_pad: *auto_pad, ceil_mode: false }.check(rank)
    }

    /// The dims of the result for those of x and w.
    ///
    /// # Errors
    /// As [`axes`](Self::axes), and when channels and groups do not fit together.
    pub fn output_dims(&self, x: &[Dim], w: &[Dim]) -> Result<Dims, InferError> {
        check_ranks(x, w)?;
        if self.group == 0 {
            return refuse("there are no groups");
        }
        if let (Some(c), Some(m)) = (x[1].known(), w[0].known())
            && (c != m || c % self.group != 0)
        {
            return refuse(format!("{c} channels, a kernel for {m}, {} groups", self.group));
        }
        let group = i64::try_from(self.group).ok().map(Expr::constant);
        let channels = w[1].expr().zip(group).and_then(|(m, g)| m.mul(&g));
        let mut dims: Dims = [x[0].clone(), channels.into()].into_iter().collect();
        let Some(kernel) = kernel_of(w) else {
            dims.extend(x[2..].iter().map(|_| Dim::Unknown));
            return Ok(dims);
        };
        self.check(&kernel)?;
        for (i, d) in x[2..].iter().enumerate() {
            dims.push(match (d, self.output_shape.get(i)) {
                (_, Some(&size)) => Dim::Known(size),
                (Dim::Known(n), None) => Dim::Known(self.axis(i, *n, &kernel)?.1),
                (d, None) => d.expr().and_then(|n| self.symbolic(i, &n, &kernel)).into(),
            });
        }
        Ok(dims)
    }

    fn symbolic(&self, i: usize, n: &Expr, kernel: &[usize]) -> Option<Expr> {
        let at = |v: &[usize], i: usize, default: i64| match v.get(i) {
            Some(&n) => i64::try_from(n).ok(),
            None => Some(default),
        };
        let stride = Expr::constant(at(&self.strides, i, 1)?);
        if self.auto_pad != AutoPad::Explicit {
            return n.mul(&stride);
        }
        let extent =
            i64::try_from(kernel[i] - 1).ok()?.checked_mul(at(&self.dilations, i, 1)?)?.checked_add(1)?;
        let rest = extent + at(&self.output_padding, i, 0)?
            - at(&self.pads, i, 0)?
            - at(&self.pads, kernel.len() + i, 0)?;
        n.sub(&Expr::constant(1))?.mul(&stride)?.add(&Expr::constant(rest))
    }
}

impl OpDef for ConvTranspose {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let (x, w) = operands(cx)?;
        let dims = match (&x.dims, &w.dims) {
            (Some(x), Some(w)) => Some(self.output_dims(x, w)?),
            _ => None,
        };
        check_bias(cx, 2, x, dims.as_ref().map(|d| &d[1]))?;
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// Convolution in two dimensions whose windows look where offsets say, between elements by linear
    /// interpolation, at zeros outside. Operands: x `[N,C,H,W]`, w `[M,C/group,h,w]`, offset
    /// `[N,offset_group*h*w*2,..]` (rows, columns), bias `[M]` (optional), mask
    /// `[N,offset_group*h*w,..]` (optional) that multiplies what a window sees.
    DeformConv {
        /// Steps between windows, per spatial axis; empty: ones.
        strides: Vec<usize> = vec![],
        /// Steps between the elements of a window, per spatial axis; empty: ones.
        dilations: Vec<usize> = vec![],
        /// Padding with zeros: all beginnings, then all ends; empty: none.
        pads: Vec<usize> = vec![],
        /// Channel groups that are convolved apart.
        group: usize = 1,
        /// Channel groups that have offsets of their own.
        offset_group: usize = 1,
    }
}

impl DeformConv {
    /// The convolution that it is with offsets of zero.
    pub fn plain(&self) -> Conv {
        Conv {
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            group: self.group,
            ..Conv::default()
        }
    }
}

impl OpDef for DeformConv {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=5)?;
        let (x, w) = operands(cx)?;
        if !x.dtype.is_float() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let dims = match (&x.dims, &w.dims) {
            (Some(x), Some(w)) if x.len() == 4 => Some(self.plain().output_dims(x, w)?),
            (Some(x), _) if x.len() != 4 => return refuse("the input must have two spatial axes"),
            _ => None,
        };
        if self.offset_group == 0 {
            return refuse("there are no offset groups");
        }
        for i in [2, 4] {
            let Some(t) = cx.opt_tensor(i)? else { continue };
            if t.dtype != x.dtype || t.rank().is_some_and(|r| r != 4) {
                return refuse(format!("operand {i} must be {} of rank 4", x.dtype));
            }
        }
        cx.fact(2)?;
        check_bias(cx, 3, x, dims.as_ref().map(|d| &d[1]))?;
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

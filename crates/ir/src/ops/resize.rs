//! Resizing by interpolation.

use super::OpDef;
use crate::{
    attr::F32,
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, axes, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use smallvec::SmallVec;
use tensormill_tensor::DType;

word_enum! {
    /// How elements between elements come about.
    ResizeMode {
        /// The nearest element.
        Nearest = "nearest",
        /// Linear along each axis.
        Linear = "linear",
        /// Cubic along each axis.
        Cubic = "cubic",
    }
}

word_enum! {
    /// Where an element of the result lies in the operand, along one axis.
    CoordinateMode {
        /// Centres of elements to centres of elements.
        HalfPixel = "half_pixel",
        /// The same, around the centre of a result of fractional size.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// The same, but before the first element for a result of one element.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// The first elements coincide, and the last.
        AlignCorners = "align_corners",
        /// Index over scale.
        Asymmetric = "asymmetric",
        /// The corners of a region of the operand.
        TfCropAndResize = "tf_crop_and_resize",
    }
}

word_enum! {
    /// Which element is the nearest.
    NearestMode {
        /// Of two equally near the lower.
        RoundPreferFloor = "round_prefer_floor",
        /// Of two equally near the upper.
        RoundPreferCeil = "round_prefer_ceil",
        /// The lower.
        Floor = "floor",
        /// The upper.
        Ceil = "ceil",
        /// The lower when growing, the upper when shrinking.
        Simple = "simple",
    }
}

word_enum! {
    /// What given sizes mean.
    AspectPolicy {
        /// The sizes of the result.
        Stretch = "stretch",
        /// Bounds: the largest of the same proportions that fits.
        NotLarger = "not_larger",
        /// Bounds: the smallest of the same proportions that covers.
        NotSmaller = "not_smaller",
    }
}

op_attrs! {
    /// Resamples a tensor along axes. Operands: x, region (optional; starts then ends per axis, of x's
    /// extent as 1), scales (f32 vector, optional), sizes (i64 vector, optional): one of the last two.
    Resize {
        /// How elements between elements come about.
        mode: ResizeMode = ResizeMode::Nearest,
        /// Where an element of the result lies in the operand.
        coordinates: CoordinateMode = CoordinateMode::HalfPixel,
        /// Which element is the nearest.
        nearest: NearestMode = NearestMode::RoundPreferFloor,
        /// The parameter of the cubic.
        cubic_coeff_a: F32 = F32(-0.75),
        /// Whether what lies outside has no weight, rather than being as the edge.
        exclude_outside: bool = false,
        /// Whether weights widen when shrinking.
        antialias: bool = false,
        /// What a region outside the operand holds.
        extrapolation_value: F32 = F32(0.0),
        /// The axes; empty: all.
        axes: Vec<i64> = vec![],
        /// What given sizes mean.
        policy: AspectPolicy = AspectPolicy::Stretch,
    }
}

/// One axis to resize.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResizeAxis {
    /// Which one.
    pub axis: usize,
    /// Size of the result.
    pub output: usize,
    /// From the operand to the result.
    pub scale: f64,
}

impl Resize {
    /// The axes to resize in the order of the operands' entries.
    ///
    /// # Errors
    /// For axes out of range and axes given twice.
    pub fn axes_of(&self, rank: usize) -> Result<SmallVec<[usize; 4]>, InferError> {
        if self.axes.is_empty() { Ok((0..rank).collect()) } else { axes(&self.axes, rank) }
    }

    /// Size and scale of every axis to resize, for the sizes of x.
    ///
    /// # Errors
    /// For operands of the wrong length, scales that are not positive numbers, and negative sizes.
    pub fn plan(
        &self,
        input: &[usize],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
    ) -> Result<Vec<ResizeAxis>, InferError> {
        let axes = self.axes_of(input.len())?;
        let count = |n: usize| {
            if n == axes.len() {
                Ok(())
            } else {
                refuse(format!("{n} scales or sizes for {} axes", axes.len()))
            }
        };
        if let Some(sizes) = sizes {
            count(sizes.len())?;
            let mut out = vec![];
            for (&axis, &n) in axes.iter().zip(sizes) {
                let Ok(output) = usize::try_from(n) else { return refuse(format!("a size of {n}")) };
                if input[axis] == 0 && output > 0 {
                    return refuse("nothing cannot be resized");
                }
                out.push(ResizeAxis { axis, output, scale: output as f64 / (input[axis] as f64).max(1.0) });
            }
            let scales = out.iter().map(|a| a.scale);
            let common = match self.policy {
                AspectPolicy::Stretch => None,
                AspectPolicy::NotLarger => scales.reduce(f64::min),
                AspectPolicy::NotSmaller => scales.reduce(f64::max),
            };
            if let Some(scale) = common {
                for a in &mut out {
                    (a.scale, a.output) = (scale, (scale * input[a.axis] as f64 + 0.5) as usize);
                }
            }
            return Ok(out);
        }
        let Some(scales) = scales else { return refuse("neither scales nor sizes are given") };
        count(scales.len())?;
        axes.iter()
            .zip(scales)
            .map(|(&axis, &s)| {
                if !(s > 0.0 && s.is_finite()) {
                    return refuse(format!("a scale of {s}"));
                }
                // A product in single precision rounds what should be a whole number to it.
                let output = (input[axis] as f32 * s).floor() as usize;
                Ok(ResizeAxis { axis, output, scale: f64::from(s) })
            })
            .collect()
    }
}

/// `floor(n * scale)`, where the scale is a fraction small enough for the product to be exact.
fn scaled(n: &Dim, scale: f32) -> Dim {
    if scale == 1.0 {
        return n.clone();
    }
    let mut divisor = 1i64;
    let mut factor = f64::from(scale);
    while factor.fract() != 0.0 && divisor < 1 << 10 {
        (factor, divisor) = (factor * 2.0, divisor * 2);
    }
    if factor.fract() != 0.0 || !(1.0..1e6).contains(&factor) {
        return Dim::Unknown;
    }
    let n = n.expr().and_then(|n| n.mul(&Expr::constant(factor as i64)));
    n.and_then(|n| n.floor_div(&Expr::constant(divisor))).into()
}

impl OpDef for Resize {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=4)?;
        let x = cx.tensor(0)?;
        if self.mode != ResizeMode::Nearest && !(x.dtype.is_float() || x.dtype.is_int()) {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        if let Some(roi) = cx.opt_tensor(1)?
            && !roi.dtype.is_float()
        {
            return refuse("the region must be of floats");
        }
        if self.coordinates == CoordinateMode::TfCropAndResize && cx.opt(1).is_none() {
            return refuse("a region is needed");
        }
        let (by_scale, by_size) = (cx.opt(2).is_some(), cx.opt(3).is_some());
        if by_scale == by_size {
            return refuse("either scales or sizes must be given");
        }
        cx.typed(if by_size { 3 } else { 2 }, if by_size { DType::I64 } else { DType::F32 })?;
        let Some(d) = &x.dims else {
            cx.output(x.clone());
            return Ok(());
        };
        let axes = self.axes_of(d.len())?;
        let mut dims = d.clone();
        axes.iter().for_each(|&a| dims[a] = Dim::Unknown);
        let known: Option<Vec<usize>> = d.iter().map(Dim::known).collect();
        let scales = if by_scale { cx.fact(2)?.constant.and_then(|t| t.to_f32_vec().ok()) } else { None };
        let sizes = cx.ints(3);
        match (known, scales, cx.elements(3)) {
            (Some(n), scales, _) if scales.is_some() || sizes.is_some() => {
                for a in self.plan(&n, scales.as_deref(), sizes.as_deref())? {
                    dims[a.axis] = Dim::Known(a.output);
                }
            }
            (_, Some(scales), _) => {
                // Checks the scales, whatever the sizes.
                let some: Vec<usize> = d.iter().map(|d| d.known().unwrap_or(1)).collect();
                for (a, s) in self.plan(&some, Some(&scales), None)?.into_iter().zip(scales) {
                    dims[a.axis] =
                        if d[a.axis].known().is_some() { a.output.into() } else { scaled(&d[a.axis], s) };
                }
            }
            (_, None, Some(sizes)) if sizes.len() == axes.len() && self.policy == AspectPolicy::Stretch => {
                axes.iter().zip(sizes).for_each(|(&a, e)| dims[a] = e.clone().into());
            }
            _ => {}
        }
        cx.output(TensorType { dtype: x.dtype, dims: Some(dims) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GraphBuilder, Type};
    use tensormill_tensor::Tensor;

    fn resized(scales: [f32; 4]) -> Type {
        let mut b = GraphBuilder::new("main");
        let dims = [Dim::symbol("N"), Dim::Known(3), Dim::symbol("H"), Dim::symbol("W")];
        let x = b.input("x", Type::tensor(DType::F32, dims)).expect("is an input");
        let scales =
            b.constant(Tensor::from_vec([4], scales.to_vec()).expect("fits")).expect("is a constant");
        let y = b.node(Resize::default(), &[Some(x), None, Some(scales)]).expect("infers")[0];
        b.ty(y).clone()
    }

    #[test]
    fn constant_scales_keep_symbolic_sizes() {
        assert_eq!(resized([1.0, 1.0, 2.0, 2.0]).to_string(), "f32[N,3,2*H,2*W]");
        let ty = resized([1.0, 2.0, 0.5, 1.5]);
        let bindings = [("N".into(), 2), ("H".into(), 7), ("W".into(), 5)].into_iter().collect();
        assert_eq!(ty.as_tensor().and_then(|t| t.bind(&bindings)), Some([2, 6, 3, 7].into_iter().collect()));
        // A third is no fraction that single precision holds.
        assert!(
            matches!(&resized([1.0, 1.0, 1.0 / 3.0, 1.0]), Type::Tensor(t) if t.dims.as_ref().is_some_and(|d| d[2] == Dim::Unknown))
        );
    }

    #[test]
    fn bounds_keep_proportions() {
        let plan = |policy, sizes: &[i64]| {
            let op = Resize { axes: vec![0, 1], policy, ..Resize::default() };
            op.plan(&[2, 4], None, Some(sizes)).expect("plans").iter().map(|a| a.output).collect::<Vec<_>>()
        };
        assert_eq!(plan(AspectPolicy::Stretch, &[7, 8]), [7, 8]);
        assert_eq!(plan(AspectPolicy::NotLarger, &[7, 8]), [4, 8]);
        assert_eq!(plan(AspectPolicy::NotSmaller, &[7, 8]), [7, 14]);
    }
}

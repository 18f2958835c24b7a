//! Numbers as small integers or floats times a scale.

use super::OpDef;
use crate::{
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

op_attrs! {
    /// `round(x / scale) + zero`, clamped to the range of the type. Operands: x, scale, zero (optional, of
    /// the result's type). Scale and zero have one element, or one per element of an axis, or, in
    /// blocks, the rank of x and one element per block of the axis.
    QuantizeLinear {
        /// The result's dtype: an integer of up to 16 bits or a float of up to 8.
        to: DType = DType::U8,
        /// The axis that scales differ along; may count from the end.
        axis: i64 = 1,
        /// Elements per block; 0: scales are not blocked.
        block_size: usize = 0,
        /// Whether floats out of range become the largest of their type rather than infinite or NaN.
        saturate: bool = true,
        /// The type that the division is done in; none: that of x.
        precision: Option<DType> = None,
    }
}

op_attrs! {
    /// `(x - zero) * scale`. Operands: x, scale, zero (optional, of x's type). Scale and zero have one
    /// element, or one per element of an axis, or, in blocks, the rank of x and one element per block.
    DequantizeLinear {
        /// The result's dtype.
        to: DType = DType::F32,
        /// The axis that scales differ along; may count from the end.
        axis: i64 = 1,
        /// Elements per block; 0: scales are not blocked.
        block_size: usize = 0,
    }
}

op_attrs! {
    /// Quantization of x (f32) to u8 whose range is that of the data, stretched to reach 0. Results: the
    /// quantized x, scale `(high - low) / 255` and zero `clamp(round(-low / scale))`, both one element. The
    /// scale of zeros only is 0; they are divided by 1.
    DynamicQuantize {}
}

/// Checks scale and zero against x; the axis counts only where they have more than one element.
fn check_parameters(cx: &InferCx<'_>, x: &TensorType, along: i64, block: usize) -> Result<(), InferError> {
    let scale = cx.tensor(1)?;
    if !scale.dtype.is_float() {
        return refuse("the scale must be a float");
    }
    for i in [1, 2] {
        let Some(t) = cx.opt_tensor(i)? else { continue };
        let (Some(p), Some(d)) = (&t.dims, &x.dims) else { continue };
        // Sizes not known yet may turn out to be 1.
        if p.iter().all(|n| n.known().is_none_or(|n| n == 1)) && (block == 0 || p.len() != d.len()) {
            continue;
        }
        let along = axis(along, d.len())?;
        if block == 0 {
            if p.len() != 1 || p[0].known().zip(d[along].known()).is_some_and(|(m, n)| m != n) {
                return refuse(format!("operand {i} must have one element, or one for each of the axis"));
            }
            continue;
        }
        if p.len() != d.len() {
            return refuse(format!("operand {i} must have the rank of x"));
        }
        for (j, (m, n)) in p.iter().zip(d).enumerate() {
            let (Some(m), Some(n)) = (m.known(), n.known()) else { continue };
            if m != if j == along { n.div_ceil(block) } else { n } {
                return refuse(format!("operand {i} does not have a block for every {block} elements"));
            }
        }
    }
    Ok(())
}

impl OpDef for QuantizeLinear {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let x = cx.tensor(0)?;
        let small = (self.to.is_int() && self.to.bits() <= 16) || (self.to.is_float() && self.to.bits() <= 8);
        if !small || !(x.dtype.is_float() || x.dtype == DType::I32) {
            return refuse(format!("{} cannot be quantized to {}", x.dtype, self.to));
        }
        if self.precision.is_some_and(|p| !p.is_float()) {
            return refuse("the division must be done in floats");
        }
        if cx.opt(2).is_some() {
            cx.typed(2, self.to)?;
        }
        check_parameters(cx, x, self.axis, self.block_size)?;
        cx.output(TensorType { dtype: self.to, dims: x.dims.clone() });
        Ok(())
    }
}

impl OpDef for DequantizeLinear {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let x = cx.tensor(0)?;
        if !self.to.is_float() || !(x.dtype.is_int() || x.dtype.is_float()) {
            return refuse(format!("{} cannot be dequantized to {}", x.dtype, self.to));
        }
        if cx.opt(2).is_some() {
            cx.typed(2, x.dtype)?;
        }
        check_parameters(cx, x, self.axis, self.block_size)?;
        cx.output(TensorType { dtype: self.to, dims: x.dims.clone() });
        Ok(())
    }
}

impl OpDef for DynamicQuantize {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let dims = cx.typed(0, DType::F32)?.dims.clone();
        cx.output(TensorType { dtype: DType::U8, dims });
        for dtype in [DType::F32, DType::U8] {
            cx.output(TensorType { dtype, dims: Some(Dims::new()) });
        }
        Ok(())
    }
}

use super::OpDef;
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, axes, refuse},
    op_attrs,
    types::{Dims, TensorType},
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// What stands around a padded tensor.
    PadMode {
        /// One value.
        Constant = "constant",
        /// The tensor mirrored at its first and last element, which are not repeated.
        Reflect = "reflect",
        /// The first and last element.
        Edge = "edge",
        /// The tensor again, as on a torus.
        Wrap = "wrap",
    }
}

op_attrs! {
    /// x made longer, or shorter where a number is negative, at both ends of axes. Operands: x, pads (i64
    /// vector: what comes before each axis, then what comes after each), value (one element of x's
    /// dtype, optional: zero), axes (i64 vector, optional: all).
    Pad {
        /// What stands around x.
        mode: PadMode = PadMode::Constant,
    }
}

impl OpDef for Pad {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=4)?;
        let x = cx.tensor(0)?;
        cx.typed(1, DType::I64)?;
        if cx.opt(2).is_some() {
            cx.typed(2, x.dtype)?;
        }
        if cx.opt(3).is_some() {
            cx.typed(3, DType::I64)?;
        }
        let Some(from) = &x.dims else {
            cx.output(x.clone());
            return Ok(());
        };
        let given = match cx.opt(3) {
            None => Some((0..from.len() as i64).collect()),
            Some(_) => cx.ints(3),
        };
        let mut dims: Dims = from.iter().map(|_| Dim::Unknown).collect();
        if let Some(given) = given {
            let along = axes(&given, from.len())?;
            for (i, d) in from.iter().enumerate().filter(|(i, _)| !along.contains(i)) {
                dims[i] = d.clone();
            }
            if let Some(pads) = cx.elements(1) {
                if pads.len() != 2 * along.len() {
                    return refuse(format!("{} pads for {} axes", pads.len(), along.len()));
                }
                for (i, &a) in along.iter().enumerate() {
                    let size = from[a].expr().and_then(|n| n.add(&pads[i])?.add(&pads[along.len() + i]));
                    if let Some(n) = size.as_ref().and_then(|e| e.as_const()).filter(|n| *n < 0) {
                        return refuse(format!("axis {a} would have size {n}"));
                    }
                    dims[a] = size.into();
                }
            }
        }
        cx.output(TensorType { dtype: x.dtype, dims: Some(dims) });
        Ok(())
    }
}

op_attrs! {
    /// The upper or lower triangle of the matrices in the last two axes; zero elsewhere. Operands: x, the
    /// diagonal that the triangle begins at (one i64, optional: 0, the main one).
    Trilu {
        /// Whether it is the upper one.
        upper: bool = true,
    }
}

impl OpDef for Trilu {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        let x = cx.tensor(0)?;
        if x.rank().is_some_and(|r| r < 2) {
            return refuse("needs a matrix");
        }
        if cx.opt(1).is_some() {
            cx.typed(1, DType::I64)?;
        }
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// A matrix of the operand's shape with ones on a diagonal, zeros elsewhere. Operand: x.
    EyeLike {
        /// The result's dtype; x's where it is left out.
        dtype: Option<DType> = None,
        /// The diagonal: 0 is the main one, above it the numbers are positive.
        k: i64 = 0,
    }
}

impl OpDef for EyeLike {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if x.rank().is_some_and(|r| r != 2) {
            return refuse("needs a matrix");
        }
        let dtype = self.dtype.unwrap_or(x.dtype);
        if !(dtype.is_float() || dtype.is_int() || dtype == DType::Bool) {
            return refuse(format!("is not defined for {dtype}"));
        }
        let dims = x.dims.clone().or_else(|| Some([Dim::Unknown, Dim::Unknown].into_iter().collect()));
        cx.output(TensorType { dtype, dims });
        Ok(())
    }
}

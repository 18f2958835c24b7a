use super::{OpDef, gather::indices};
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

fn number(dtype: DType) -> Result<(), InferError> {
    if dtype.is_float() || dtype.is_int() { Ok(()) } else { refuse(format!("is not defined for {dtype}")) }
}

/// The size that a scalar operand spells.
fn size(cx: &InferCx<'_>, i: usize) -> Result<Dim, InferError> {
    let t = cx.typed(i, DType::I64)?;
    if t.rank().is_some_and(|r| r > 1) {
        return refuse(format!("operand {i} must be one number"));
    }
    match cx.elements(i) {
        Some([e]) => match e.as_const() {
            Some(n) if n < 0 => refuse(format!("a size of {n}")),
            _ => Ok(e.clone().into()),
        },
        Some(e) => refuse(format!("operand {i} must be one number, not {}", e.len())),
        None => Ok(Dim::Unknown),
    }
}

op_attrs! {
    /// The largest or smallest elements along an axis, and their places. Operands: x, how many (one i64).
    /// NaN counts as larger than every number; of equal elements the first comes first.
    TopK {
        /// The axis; may count from the end.
        axis: i64 = -1,
        /// Whether the largest are wanted, not the smallest.
        largest: bool = true,
        /// Whether they come in order; without it the order is any.
        sorted: bool = true,
    }
}

impl OpDef for TopK {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        number(x.dtype)?;
        let k = size(cx, 1)?;
        let mut dims = x.dims.clone();
        if let Some(d) = &mut dims {
            let a = axis(self.axis, d.len())?;
            if let (Some(k), Some(n)) = (k.known(), d[a].known())
                && k > n
            {
                return refuse(format!("the best {k} of {n}"));
            }
            d[a] = k;
        }
        cx.output(TensorType { dtype: x.dtype, dims: dims.clone() });
        cx.output(TensorType { dtype: DType::I64, dims });
        Ok(())
    }
}

op_attrs! {
    /// The distinct elements, or slices along an axis. Operand: x. Results: they, the place of each one's
    /// first occurrence, the place among them of each of x's, how often each occurs.
    Unique {
        /// The axis of the slices; of elements, with x read as a vector, where it is left out.
        axis: Option<i64> = None,
        /// Whether they come in order; else in that of their first occurrence.
        sorted: bool = true,
    }
}

impl OpDef for Unique {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if x.dtype.is_complex() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let mut all = Dim::from(x.numel());
        let mut dims: Option<Dims> = Some([Dim::Unknown].into_iter().collect());
        if let Some(a) = self.axis {
            dims = x.dims.clone();
            all = Dim::Unknown;
            if let Some(d) = &mut dims {
                let a = axis(a, d.len())?;
                all = std::mem::replace(&mut d[a], Dim::Unknown);
            }
        }
        cx.output(TensorType { dtype: x.dtype, dims });
        for n in [Dim::Unknown, all, Dim::Unknown] {
            cx.output(TensorType::new(DType::I64, [n]));
        }
        Ok(())
    }
}

op_attrs! {
    /// The places of all elements that are not zero: one row per axis of x, in row-major order. Operand: x.
    NonZero {}
}

impl OpDef for NonZero {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let rank = cx.tensor(0)?.rank().map_or(Dim::Unknown, Dim::Known);
        cx.output(TensorType::new(DType::I64, [rank, Dim::Unknown]));
        Ok(())
    }
}

op_attrs! {
    /// The slices along an axis where a condition holds. Operands: x, condition (bool vector, not longer than
    /// the axis; what it does not reach is left out).
    Compress {
        /// The axis; of elements, with x read as a vector, where it is left out.
        axis: Option<i64> = None,
    }
}

impl OpDef for Compress {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        if cx.typed(1, DType::Bool)?.rank().is_some_and(|r| r != 1) {
            return refuse("the condition must be a vector");
        }
        let dims = match self.axis {
            None => Some([Dim::Unknown].into_iter().collect()),
            Some(a) => {
                let mut dims = x.dims.clone();
                if let Some(d) = &mut dims {
                    let a = axis(a, d.len())?;
                    d[a] = Dim::Unknown;
                }
                dims
            }
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

fn running(cx: &mut InferCx<'_>) -> Result<(), InferError> {
    cx.arity(2..=2)?;
    let x = cx.tensor(0)?;
    number(x.dtype)?;
    if indices(cx, 1)?.rank().is_some_and(|r| r > 1) {
        return refuse("the axis must be one number");
    }
    if let (Some([a]), Some(r)) = (cx.ints(1).as_deref(), x.rank()) {
        axis(*a, r)?;
    }
    cx.output(x.clone());
    Ok(())
}

op_attrs! {
    /// The sums of the elements up to each along an axis; integers wrap. Operands: x, axis (one i32 or i64).
    CumSum {
        /// Whether the element itself is left out.
        exclusive: bool = false,
        /// Whether sums begin at the end.
        reverse: bool = false,
    }
}

impl OpDef for CumSum {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        running(cx)
    }
}

op_attrs! {
    /// The products of the elements up to each along an axis; integers wrap. Operands: x, axis (one i32 or i64).
    CumProd {
        /// Whether the element itself is left out.
        exclusive: bool = false,
        /// Whether products begin at the end.
        reverse: bool = false,
    }
}

impl OpDef for CumProd {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        running(cx)
    }
}

op_attrs! {
    /// Along a new axis one value at the place that an index says, another elsewhere, also where the place is
    /// outside. Operands: indices (i64, count from the end when negative), the axis's size (one i64),
    /// values (vector: the other, the one).
    OneHot {
        /// Where the new axis is in the result; may count from the end.
        axis: i64 = -1,
    }
}

impl OpDef for OneHot {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let (i, values) = (cx.typed(0, DType::I64)?, cx.tensor(2)?);
        if values.numel().and_then(|n| n.as_const()).is_some_and(|n| n != 2) {
            return refuse("there must be two values");
        }
        let depth = size(cx, 1)?;
        let mut dims = i.dims.clone();
        if let Some(d) = &mut dims {
            d.insert(axis(self.axis, d.len() + 1)?, depth);
        }
        cx.output(TensorType { dtype: values.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// The first elements of each sequence in the opposite order. Operands: x, how many of each (i64 vector).
    ReverseSequence {
        /// The axis of the sequences; may count from the end.
        batch_axis: i64 = 1,
        /// The axis of their elements; may count from the end.
        time_axis: i64 = 0,
    }
}

impl OpDef for ReverseSequence {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        cx.typed(1, DType::I64)?;
        if let Some(r) = x.rank()
            && axis(self.batch_axis, r)? == axis(self.time_axis, r)?
        {
            return refuse("the axes of sequences and of their elements are the same");
        }
        cx.output(x.clone());
        Ok(())
    }
}

use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, axes, axis, refuse},
    op_attrs,
    types::{Dims, TensorType},
    word_enum,
};
use smallvec::SmallVec;
use tensormill_tensor::DType;

word_enum! {
    /// What a reduction computes over its axes.
    ReduceKind {
        /// Sum; 0 of nothing.
        Sum = "reduce_sum",
        /// Mean; NaN of nothing for floats.
        Mean = "reduce_mean",
        /// Largest; the type's least of nothing.
        Max = "reduce_max",
        /// Smallest; the type's greatest of nothing.
        Min = "reduce_min",
        /// Product; 1 of nothing.
        Prod = "reduce_prod",
        /// Sum of magnitudes.
        L1 = "reduce_l1",
        /// Root of the sum of squares.
        L2 = "reduce_l2",
        /// Logarithm of the sum.
        LogSum = "reduce_log_sum",
        /// Logarithm of the sum of exponentials, computed from the largest.
        LogSumExp = "reduce_log_sum_exp",
        /// Sum of squares.
        SumSquare = "reduce_sum_square",
    }
}

op_attrs! {
    /// Combines the elements along axes. Operands: x, axes (i64 vector, optional: all).
    Reduce {
        /// What it computes; in the text form this is the op's name.
        kind: ReduceKind = ReduceKind::Sum,
        /// Whether reduced axes stay, with size 1.
        keepdims: bool = true,
        /// Whether an empty list of axes means none rather than all.
        noop_with_empty_axes: bool = false,
    }
}

/// The axes that a reduction covers; `None` while they are unknown.
fn reduced(
    cx: &InferCx<'_>,
    rank: usize,
    noop_if_empty: bool,
) -> Result<Option<SmallVec<[usize; 4]>>, InferError> {
    let given = match cx.opt(1) {
        None => vec![],
        Some(_) => match cx.ints(1) {
            Some(v) => v,
            None => return Ok(None),
        },
    };
    if given.is_empty() && !noop_if_empty {
        return Ok(Some((0..rank).collect()));
    }
    axes(&given, rank).map(Some)
}

fn drop_axes(dims: &Dims, axes: &[usize], keep: bool) -> Dims {
    let at = |(i, d): (usize, &Dim)| match (axes.contains(&i), keep) {
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
        _ => Some(d.clone()),
    };
    dims.iter().enumerate().filter_map(at).collect()
}

impl OpDef for Reduce {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        let x = cx.tensor(0)?;
        if cx.opt(1).is_some() {
            cx.typed(1, DType::I64)?;
        }
        let boolean = x.dtype == DType::Bool && matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        if !(x.dtype.is_float() || x.dtype.is_int() || boolean) {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let dims = match &x.dims {
            None => None,
            Some(d) => match reduced(cx, d.len(), self.noop_with_empty_axes)? {
                Some(axes) => Some(drop_axes(d, &axes, self.keepdims)),
                None if self.keepdims => Some(d.iter().map(|_| Dim::Unknown).collect()),
                None => None,
            },
        };
        let all = dims.as_ref().is_some_and(|d| d.iter().all(|d| *d == Dim::Known(1)));
        let combine: Option<fn(&Expr, &Expr) -> Option<Expr>> = match self.kind {
            ReduceKind::Sum => Some(Expr::add),
            ReduceKind::Prod => Some(Expr::mul),
            ReduceKind::Max => Some(Expr::maximum),
            ReduceKind::Min => Some(Expr::minimum),
            _ => None,
        };
        let elements = match (cx.elements(0), combine) {
            (Some([first, rest @ ..]), Some(f)) if all && x.dtype.is_int() => {
                rest.iter().try_fold(first.clone(), |a, e| f(&a, e)).map(|e| vec![e])
            }
            _ => None,
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims }, elements);
        Ok(())
    }
}

op_attrs! {
    /// Index of the largest (or smallest) element along an axis, as i64. Operand: x.
    ArgReduce {
        /// Whether it looks for the largest.
        max: bool = true,
        /// The axis.
        axis: i64 = 0,
        /// Whether the axis stays, with size 1.
        keepdims: bool = true,
        /// Whether the last of equal elements wins.
        select_last: bool = false,
    }
}

impl OpDef for ArgReduce {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if !(x.dtype.is_float() || x.dtype.is_int()) {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let dims = match &x.dims {
            None => None,
            Some(d) => {
                let axis = axis(self.axis, d.len())?;
                if d[axis] == Dim::Known(0) {
                    return refuse("an empty axis has no largest or smallest element");
                }
                Some(drop_axes(d, &[axis], self.keepdims))
            }
        };
        cx.output(TensorType { dtype: DType::I64, dims });
        Ok(())
    }
}

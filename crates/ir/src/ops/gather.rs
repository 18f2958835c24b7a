use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

/// An operand of indices: i32 or i64.
pub(super) fn indices<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let t = cx.tensor(i)?;
    if matches!(t.dtype, DType::I32 | DType::I64) {
        Ok(t)
    } else {
        refuse(format!("operand {i} must be indices of i32 or i64, not {}", t.dtype))
    }
}

op_attrs! {
    /// The slices of x at given places along an axis. Operands: x, indices of any rank, which count from the
    /// end when negative. The indices' dims replace the axis.
    Gather {
        /// The axis; may count from the end.
        axis: i64 = 0,
    }
}

impl OpDef for Gather {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (x, i) = (cx.tensor(0)?, indices(cx, 1)?);
        let dims = match (&x.dims, &i.dims) {
            (Some(d), Some(i)) => {
                let a = axis(self.axis, d.len())?;
                Some(d[..a].iter().chain(i).chain(&d[a + 1..]).cloned().collect::<Dims>())
            }
            (Some(d), None) => {
                axis(self.axis, d.len())?;
                None
            }
            _ => None,
        };
        let elements = match (cx.elements(0), cx.ints(1)) {
            (Some(e), Some(at)) if x.rank() == Some(1) => at.iter().map(|&i| pick(e, i).cloned()).collect(),
            _ => None,
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims }, elements);
        Ok(())
    }
}

fn pick(e: &[Expr], i: i64) -> Option<&Expr> {
    let i = if i < 0 { i.checked_add(e.len() as i64)? } else { i };
    e.get(usize::try_from(i).ok()?)
}

op_attrs! {
    /// The element of x at each place of the indices, their own value taken as the place along an axis.
    /// Operands: x, indices of x's rank.
    GatherElements {
        /// The axis; may count from the end.
        axis: i64 = 0,
    }
}

impl OpDef for GatherElements {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (x, i) = (cx.tensor(0)?, indices(cx, 1)?);
        if let Some(r) = x.rank() {
            axis(self.axis, r)?;
        }
        let dims = match (&x.dims, &i.dims) {
            (Some(a), Some(b)) if a.len() != b.len() => {
                return refuse(format!("ranks {} and {} differ", a.len(), b.len()));
            }
            // The rank is known from either.
            (Some(a), None) => Some(a.iter().map(|_| Dim::Unknown).collect()),
            (_, b) => b.clone(),
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// Slices of x, each at the place that the last axis of the indices spells. Operands: x, indices.
    GatherND {
        /// Leading axes that x and the indices share.
        batch_dims: usize = 0,
    }
}

impl OpDef for GatherND {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (x, i) = (cx.tensor(0)?, indices(cx, 1)?);
        let dims = slices(x, i, self.batch_dims)?;
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

/// The dims of what indices select: their own but the last, then those of x that no index names.
pub(super) fn slices(x: &TensorType, i: &TensorType, batch: usize) -> Result<Option<Dims>, InferError> {
    let Some(at) = &i.dims else { return Ok(None) };
    let Some((length, lead)) = at.split_last() else { return refuse("indices must have an axis") };
    if lead.len() < batch {
        return refuse(format!("{batch} shared axes of indices of rank {}", at.len()));
    }
    let (Some(d), Some(k)) = (&x.dims, length.known()) else { return Ok(None) };
    match batch.checked_add(k).and_then(|used| d.get(used..)) {
        Some(rest) => Ok(Some(lead.iter().chain(rest).cloned().collect())),
        None => refuse(format!("indices of length {k} after {batch} axes for rank {}", d.len())),
    }
}

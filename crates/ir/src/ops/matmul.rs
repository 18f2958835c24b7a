use super::{OpDef, PostOps};
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, broadcast, refuse},
    op_attrs,
    types::{Dims, TensorType},
};

op_attrs! {
    /// Matrix product as in numpy's `matmul`: the last two axes multiply, those before broadcast, and a
    /// vector operand counts as a row (left) or a column (right) whose axis the result drops.
    /// Operands: a, b, then those of the epilogue. Integers accumulate in i32 or wider and wrap.
    MatMul {
        /// Whether the last two axes of `a` are swapped first; `a` must then have rank 2 or more.
        trans_a: bool = false,
        /// Whether the last two axes of `b` are swapped first; `b` must then have rank 2 or more.
        trans_b: bool = false,
        /// Steps applied to the result.
        epilogue: PostOps = PostOps::default(),
    }
}

impl OpDef for MatMul {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        if cx.len() < 2 {
            return refuse("takes two operands");
        }
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let ok = a.dtype == b.dtype && (a.dtype.is_float() || a.dtype.is_int());
        if !ok || a.dtype.bits() < 8 {
            return refuse("both operands must have the same numeric dtype");
        }
        let dims = match (&a.dims, &b.dims) {
            (Some(x), Some(y)) => Some(self.dims(x, y)?),
            _ => None,
        };
        let result = TensorType { dtype: a.dtype, dims };
        self.epilogue.check(cx, 2, &result)?;
        cx.output(result);
        Ok(())
    }
}

impl MatMul {
    pub(super) fn dims(&self, a: &Dims, b: &Dims) -> Result<Dims, InferError> {
        if a.is_empty() || b.is_empty() {
            return refuse("scalars have no matrix product");
        }
        if (self.trans_a && a.len() < 2) || (self.trans_b && b.len() < 2) {
            return refuse("a vector cannot be transposed");
        }
        let (m, ka) = sides(a, self.trans_a, true);
        let (kb, n) = sides(b, self.trans_b, false);
        if let (Some(Dim::Known(x)), Some(Dim::Known(y))) = (&ka, &kb)
            && x != y
        {
            return refuse(format!("inner sizes {x} and {y} differ"));
        }
        let batch = |d: &Dims| Dims::from(&d[..d.len().saturating_sub(2)]);
        let mut dims = broadcast(Some(&batch(a)), Some(&batch(b)))?.unwrap_or_default();
        dims.extend(m);
        dims.extend(n);
        Ok(dims)
    }
}

/// Outer and inner size of the left operand, inner and outer size of the right one; a vector has no outer size.
fn sides(d: &Dims, trans: bool, left: bool) -> (Option<Dim>, Option<Dim>) {
    let last = Some(d[d.len() - 1].clone());
    match d.len() {
        1 if left => (None, last),
        1 => (last, None),
        n if trans => (last, Some(d[n - 2].clone())),
        n => (Some(d[n - 2].clone()), last),
    }
}

use super::{
    OpDef,
    attention::{per_head, times},
};
use crate::{
    attr::F32,
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
};

op_attrs! {
    /// Attention without softmax, as a recurrence over a state `S` per key head that starts as the past one
    /// (or zeros): for each position `S = exp(decay) * S`, then `S += k outer w` with `w = v`, or with beta
    /// `w = beta * (v - S'k)`; the result is `scale * S'q`.
    ///
    /// Operands: q `[batch,sequence,q_heads*size]`, k `[batch,sequence,kv_heads*size]`, v
    /// `[batch,sequence,kv_heads*v_size]`, past state `[batch,kv_heads,size,v_size]`, decay
    /// `[batch,sequence,kv_heads]` or `[.., kv_heads*size]`, beta `[batch,sequence,kv_heads or 1]`; those
    /// after v are optional. Results: y `[batch,sequence,q_heads*v_size]` and the state, of the past one's
    /// dtype.
    LinearAttention {
        /// Query heads, a multiple of the key heads.
        q_heads: usize = 1,
        /// Key and value heads.
        kv_heads: usize = 1,
        /// Factor of the result; one by the root of the head's size when left out.
        scale: Option<F32> = None,
    }
}

impl OpDef for LinearAttention {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=6)?;
        let (q, v) = (cx.tensor(0)?, cx.tensor(2)?);
        if !q.dtype.is_float() {
            return refuse(format!("is not defined for {}", q.dtype));
        }
        if self.kv_heads == 0 || !self.q_heads.is_multiple_of(self.kv_heads) {
            return refuse(format!(
                "{} query heads do not share {} key heads evenly",
                self.q_heads, self.kv_heads
            ));
        }
        for i in [0, 1, 2, 4, 5] {
            if let Some(t) = cx.opt_tensor(i)?
                && (t.dtype != q.dtype || t.rank().is_some_and(|r| r != 3))
            {
                return refuse(format!("operand {i} must be {} of rank 3", q.dtype));
            }
        }
        let past = cx.opt_tensor(3)?;
        if past.is_some_and(|p| !p.dtype.is_float() || p.rank().is_some_and(|r| r != 4)) {
            return refuse("the past state must be floats of rank 4");
        }
        let at = |t: &TensorType, i: usize| t.dims.as_ref().map_or(Dim::Unknown, |d| d[i].clone());
        let size = per_head(&at(q, 2), self.q_heads)?;
        let v_size = per_head(&at(v, 2), self.kv_heads)?;
        cx.output(TensorType::new(q.dtype, [at(q, 0), at(q, 1), times(&v_size, self.q_heads)]));
        let state = past.map_or(q.dtype, |p| p.dtype);
        cx.output(TensorType::new(state, [at(q, 0), Dim::Known(self.kv_heads), size, v_size]));
        Ok(())
    }
}

op_attrs! {
    /// Convolution of each channel with its own kernel over this and earlier positions only. Operands: x
    /// `[batch,channels,length]`, kernels `[channels,1,k]`, bias `[channels]` (optional), past
    /// `[batch,channels,k-1]` (optional: zeros), what stood before x. Results: y of x's shape, and the last
    /// `k-1` positions.
    CausalConv {
        /// Whether the result `y` becomes `y * sigmoid(y)`.
        silu: bool = false,
    }
}

impl OpDef for CausalConv {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=4)?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        for (i, rank) in [(0, 3), (1, 3), (2, 1), (3, 3)] {
            if let Some(t) = cx.opt_tensor(i)?
                && (t.dtype != x.dtype || t.rank().is_some_and(|r| r != rank))
            {
                return refuse(format!("operand {i} must be {} of rank {rank}", x.dtype));
            }
        }
        let k = cx.tensor(1)?.dims.as_ref().map_or(Dim::Unknown, |d| d[2].clone());
        if k.known() == Some(0) {
            return refuse("kernels must not be empty");
        }
        let carried = k.expr().and_then(|k| k.sub(&Expr::constant(1)));
        let state: Dims = match &x.dims {
            Some(d) => [d[0].clone(), d[1].clone(), carried.into()].into_iter().collect(),
            None => [Dim::Unknown, Dim::Unknown, carried.into()].into_iter().collect(),
        };
        cx.output(x.clone());
        cx.output(TensorType { dtype: x.dtype, dims: Some(state) });
        Ok(())
    }
}

use super::OpDef;
use crate::{
    attr::F32,
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// A stage of attention whose matrix is a result of its own.
    AttentionScores {
        /// None is.
        None = "none",
        /// The scaled products of queries and keys.
        Raw = "raw",
        /// These after the soft cap.
        Capped = "capped",
        /// These plus masks.
        Biased = "biased",
        /// The probabilities.
        Softmax = "softmax",
    }
}

op_attrs! {
    /// `softmax(cap(scale * q * k') + masks) * v` for every head. Operands: q, k, v; mask (bool: what may be
    /// seen; float: added; broadcasts to `[batch,heads,queries,keys]`, keys beyond its end are hidden);
    /// past keys and values (put before the new ones); number of keys that are no padding (i64 `[batch]`).
    /// Those after v are optional.
    ///
    /// q, k, v are `[batch,heads,sequence,size]`, or `[batch,sequence,heads*size]` with the numbers of heads
    /// given. Every key head serves as many query heads as there are more of them. Query `i` stands at
    /// `p = i + offset`, where the offset is the number of past keys, or that of keys that are no padding
    /// less that of queries. A query that may see nothing yields zeros, unless `blind_nan`.
    ///
    /// Results: y, shaped like q; with `present` all keys and all values, `[batch,heads,sequence,size]`;
    /// with `scores` the matrix of that stage.
    Attention {
        /// Query heads of operands of rank 3.
        q_heads: usize = 0,
        /// Key and value heads of operands of rank 3.
        kv_heads: usize = 0,
        /// Factor of the products; one by the root of the head's size when left out.
        scale: Option<F32> = None,
        /// Products become `softcap * tanh(products / softcap)`, unless 0.
        softcap: F32 = F32(0.0),
        /// Whether only keys up to `p` are seen.
        causal: bool = false,
        /// Keys before `p - left_window` are not seen.
        left_window: Option<usize> = None,
        /// Keys after `p + right_window` are not seen.
        right_window: Option<usize> = None,
        /// Whether all keys and values are results.
        present: bool = false,
        /// Which scores are a result.
        scores: AttentionScores = AttentionScores::None,
        /// Whether a query that may see nothing yields NaN, as the softmax of nothing but minus infinity does.
        blind_nan: bool = false,
    }
}

/// The product, where both are known.
pub(super) fn times(d: &Dim, by: usize) -> Dim {
    let by = i64::try_from(by).ok().map(Expr::constant);
    d.expr().zip(by).and_then(|(d, by)| d.mul(&by)).into()
}

/// More heads than any model has.
const MAX_HEADS: usize = 1 << 16;

/// The size of one head out of that of all; refuses what does not divide.
pub(super) fn per_head(d: &Dim, heads: usize) -> Result<Dim, InferError> {
    // Heads of no elements cost time all the same, and an attribute can ask for any number of them.
    if heads > MAX_HEADS {
        return refuse(format!("{heads} heads are more than {MAX_HEADS}"));
    }
    match d.known() {
        Some(n) if heads == 0 || n % heads != 0 => refuse(format!("{n} does not divide into {heads} heads")),
        Some(n) => Ok(Dim::Known(n / heads)),
        None => {
            let by = i64::try_from(heads).ok().filter(|h| *h > 0).map(Expr::constant);
            Ok(d.expr().zip(by).and_then(|(d, by)| d.exact_div(&by)).into())
        }
    }
}

fn same(a: &Dim, b: &Dim, what: &str) -> Result<(), InferError> {
    match (a.known(), b.known()) {
        (Some(x), Some(y)) if x != y => refuse(format!("{what}: {x} and {y} differ")),
        _ => Ok(()),
    }
}

impl Attention {
    /// Dims `[batch, heads, sequence, size]` of an operand.
    fn heads(&self, t: &TensorType, heads: usize) -> Result<Option<[Dim; 4]>, InferError> {
        Ok(match t.dims.as_deref() {
            None => None,
            Some([b, h, s, d]) => Some([b.clone(), h.clone(), s.clone(), d.clone()]),
            Some([b, s, d]) => {
                if heads == 0 {
                    return refuse("operands of rank 3 need the numbers of heads");
                }
                Some([b.clone(), Dim::Known(heads), s.clone(), per_head(d, heads)?])
            }
            Some(d) => return refuse(format!("operands must have rank 3 or 4, not {}", d.len())),
        })
    }
}

impl OpDef for Attention {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=7)?;
        let (q, k, v) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        for t in [q, k, v] {
            if !t.dtype.is_float() {
                return refuse(format!("is not defined for {}", t.dtype));
            }
            if t.rank().zip(q.rank()).is_some_and(|(a, b)| a != b) {
                return refuse("queries, keys and values must have one rank");
            }
        }
        if q.dtype != k.dtype {
            return refuse("queries and keys must have one dtype");
        }
        if let Some(m) = cx.opt_tensor(3)?
            && (!(m.dtype == DType::Bool || m.dtype.is_float()) || m.rank().is_some_and(|r| r > 4))
        {
            return refuse("a mask must be bool or float, of rank 4 or less");
        }
        let (past_k, past_v) = (cx.opt_tensor(4)?, cx.opt_tensor(5)?);
        if past_k.is_some() != past_v.is_some() {
            return refuse("past keys and values come together");
        }
        if cx.opt(6).is_some() {
            let lengths = cx.typed(6, DType::I64)?;
            if past_k.is_some() || lengths.rank().is_some_and(|r| r != 1) {
                return refuse("lengths must be a vector, and do not go with past keys");
            }
        }
        if past_k.is_some_and(|t| t.dtype != k.dtype) || past_v.is_some_and(|t| t.dtype != v.dtype) {
            return refuse("past and new keys and values must have one dtype");
        }
        let (qd, kd, vd) =
            (self.heads(q, self.q_heads)?, self.heads(k, self.kv_heads)?, self.heads(v, self.kv_heads)?);
        if let (Some(q), Some(k)) = (&qd, &kd) {
            same(&q[0], &k[0], "batches")?;
            same(&q[3], &k[3], "sizes of query and key heads")?;
            if let (Some(a), Some(b)) = (q[1].known(), k[1].known())
                && (b == 0 || a % b != 0)
            {
                return refuse(format!("{a} query heads do not share {b} key heads evenly"));
            }
        }
        if let (Some(k), Some(v)) = (&kd, &vd) {
            same(&k[1], &v[1], "numbers of key and value heads")?;
            same(&k[2], &v[2], "numbers of keys and values")?;
        }
        let y = match (&q.dims, &qd, &vd) {
            (Some(d), Some(qd), Some(vd)) if d.len() == 3 => {
                let size = vd[3].clone();
                Some([qd[0].clone(), qd[2].clone(), times(&size, self.q_heads)].into_iter().collect())
            }
            (Some(_), Some(qd), Some(vd)) => {
                Some([qd[0].clone(), qd[1].clone(), qd[2].clone(), vd[3].clone()].into_iter().collect())
            }
            (d, ..) => d.as_ref().map(|d| d.iter().map(|_| Dim::Unknown).collect::<Dims>()),
        };
        let total = |new: Option<&[Dim; 4]>, past: Option<&TensorType>| -> Dim {
            let Some(new) = new.and_then(|d| d[2].expr()) else { return Dim::Unknown };
            let Some(past) = past else { return Some(new).into() };
            let past = past.dims.as_ref().and_then(|d| d.get(2)?.expr());
            past.and_then(|p| p.add(&new)).into()
        };
        let keys = total(kd.as_ref(), past_k);
        cx.output(TensorType { dtype: q.dtype, dims: y });
        if self.present {
            for (t, d, past) in [(k, &kd, past_k), (v, &vd, past_v)] {
                let dims = match d {
                    Some([b, h, _, size]) => {
                        vec![b.clone(), h.clone(), total(d.as_ref(), past), size.clone()]
                    }
                    None => vec![Dim::Unknown; 4],
                };
                cx.output(TensorType::new(t.dtype, dims));
            }
        }
        if self.scores != AttentionScores::None {
            let dims = match qd {
                Some([b, h, s, _]) => [b, h, s, keys],
                None => [Dim::Unknown, Dim::Unknown, Dim::Unknown, keys],
            };
            cx.output(TensorType::new(q.dtype, dims));
        }
        Ok(())
    }
}

op_attrs! {
    /// Pairs of elements of each head rotated by angles that depend on the position. Operands: x
    /// (`[batch,heads,sequence,size]`, or `[batch,sequence,heads*size]` with `heads` given), cosines and
    /// sines (`[positions,dim/2]` with position ids, else `[batch,sequence,dim/2]`), position ids
    /// (`[batch,sequence]`, optional).
    RotaryEmbedding {
        /// Heads of an operand of rank 3.
        heads: usize = 0,
        /// How many elements of each head are rotated; 0 for all.
        dim: usize = 0,
        /// Whether pairs are neighbours; otherwise the second of each is half the rotated part away.
        interleaved: bool = false,
    }
}

impl OpDef for RotaryEmbedding {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=4)?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let size = match x.dims.as_deref() {
            None => Dim::Unknown,
            Some([_, _, _, d]) => d.clone(),
            Some([_, _, d]) => per_head(d, self.heads)?,
            Some(d) => return refuse(format!("x must have rank 3 or 4, not {}", d.len())),
        };
        if size.known().is_some_and(|n| self.dim > n || (self.dim == 0 && n % 2 != 0))
            || !self.dim.is_multiple_of(2)
        {
            return refuse("the rotated part of a head must be even and no longer than the head");
        }
        let positions = cx.opt_tensor(3)?;
        let rank = if positions.is_some() { 2 } else { 3 };
        for i in 1..3 {
            if cx.typed(i, x.dtype)?.rank().is_some_and(|r| r != rank) {
                return refuse(format!("operand {i} must have rank {rank}"));
            }
        }
        if positions.is_some_and(|p| !p.dtype.is_int() || p.rank().is_some_and(|r| r != 2)) {
            return refuse("position ids must be integers of rank 2");
        }
        cx.output(x.clone());
        Ok(())
    }
}

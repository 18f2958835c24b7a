use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, MAX_ELEMENTS, axes, axis, refuse},
    op_attrs,
    types::TensorType,
};
use tensormill_tensor::DType;

op_attrs! {
    /// The operands one after the other along an axis. Operands: one or more tensors.
    Concat {
        /// The axis; may count from the end.
        axis: i64 = 0,
    }
}

impl OpDef for Concat {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let first = cx.tensor(0)?;
        let mut dims = first.dims.clone();
        let mut elements = cx.elements(0).map(<[Expr]>::to_vec);
        for i in 1..cx.len() {
            let t = cx.tensor(i)?;
            if t.dtype != first.dtype {
                return refuse("all operands must have the same dtype");
            }
            elements = elements
                .zip(cx.elements(i))
                .map(|(a, b)| [&a[..], b].concat())
                .filter(|e| e.len() <= MAX_ELEMENTS);
            dims = match (dims, &t.dims) {
                (Some(a), Some(b)) if a.len() != b.len() => {
                    return refuse(format!("ranks {} and {} differ", a.len(), b.len()));
                }
                (Some(mut a), Some(b)) => {
                    let along = axis(self.axis, a.len())?;
                    for (j, (x, y)) in a.iter_mut().zip(b).enumerate() {
                        if j == along {
                            *x = x.expr().zip(y.expr()).and_then(|(x, y)| x.add(&y)).into();
                        } else if let (Some(m), Some(n)) = (x.known(), y.known()) {
                            if m != n {
                                return refuse(format!("sizes {m} and {n} of axis {j} differ"));
                            }
                        } else if y.known().is_some() {
                            *x = y.clone();
                        }
                    }
                    Some(a)
                }
                _ => None,
            };
        }
        if let Some(d) = &dims {
            axis(self.axis, d.len())?;
        }
        let vector = dims.as_ref().is_some_and(|d| d.len() == 1);
        cx.output_elements(TensorType { dtype: first.dtype, dims }, elements.filter(|_| vector));
        Ok(())
    }
}

op_attrs! {
    /// x cut along an axis into `outputs` parts. Operands: x, sizes (i64 vector, optional: equal parts, the
    /// last smaller when they do not come out even).
    Split {
        /// The axis; may count from the end.
        axis: i64 = 0,
        /// Number of parts.
        outputs: usize = 1,
    }
}

impl OpDef for Split {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        let x = cx.tensor(0)?;
        if self.outputs == 0 || self.outputs > 65_536 {
            return refuse(format!("cannot cut into {} parts", self.outputs));
        }
        let along = x.dims.as_ref().map(|d| axis(self.axis, d.len())).transpose()?;
        let whole = along.zip(x.dims.as_ref()).map(|(a, d)| d[a].clone());
        let parts: Vec<Dim> = match cx.opt(1) {
            None => match whole.as_ref().and_then(Dim::expr) {
                None => vec![Dim::Unknown; self.outputs],
                Some(n) => match n.as_const() {
                    Some(n) => {
                        let part = (n as usize).div_ceil(self.outputs);
                        (0..self.outputs)
                            .map(|i| (n as usize).saturating_sub(i * part).min(part).into())
                            .collect()
                    }
                    // Where the parts may not come out even, which of them is the smaller one depends on the size.
                    None => vec![n.exact_div(&Expr::constant(self.outputs as i64)).into(); self.outputs],
                },
            },
            Some(_) => {
                cx.typed(1, DType::I64)?;
                match cx.elements(1) {
                    None => vec![Dim::Unknown; self.outputs],
                    Some(e) if e.len() != self.outputs => {
                        return refuse(format!("{} sizes for {} parts", e.len(), self.outputs));
                    }
                    Some(e) => {
                        let total =
                            e.iter().try_fold(Expr::constant(0), |a, e| a.add(e)).and_then(|e| e.as_const());
                        let whole = whole.as_ref().and_then(|d| d.known()).map(|n| n as i64);
                        if e.iter().any(|e| e.as_const().is_some_and(|n| n < 0))
                            || total.zip(whole).is_some_and(|(a, b)| a != b)
                        {
                            return refuse("the sizes of the parts do not add up to the axis");
                        }
                        e.iter().map(|e| e.clone().into()).collect()
                    }
                }
            }
        };
        let elements = cx.elements(0).filter(|_| x.rank() == Some(1));
        let mut at = Some(0);
        for part in parts {
            let dims = along.zip(x.dims.clone()).map(|(a, mut d)| {
                d[a] = part.clone();
                d
            });
            let end = at.zip(part.known()).and_then(|(a, n): (usize, usize)| a.checked_add(n));
            let cut = elements.zip(at.zip(end)).and_then(|(e, (a, b))| e.get(a..b)).map(<[Expr]>::to_vec);
            cx.output_elements(TensorType { dtype: x.dtype, dims }, cut);
            at = end;
        }
        Ok(())
    }
}

op_attrs! {
    /// Every `steps`-th element from `starts` to `ends` along axes, as numpy's slices: places count from the
    /// end when negative, and are clamped to the axis. Operands: x, starts, ends, axes (optional: the first
    /// ones), steps (optional: 1); i64 vectors of one length.
    Slice {}
}

impl OpDef for Slice {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=5)?;
        let x = cx.tensor(0)?;
        for i in 1..cx.len() {
            if cx.opt(i).is_some() {
                cx.typed(i, DType::I64)?;
            }
        }
        let Some(from) = &x.dims else {
            cx.output(x.clone());
            return Ok(());
        };
        let count = [1, 2, 3, 4].iter().find_map(|&i| Some(cx.elements(i)?.len()));
        let given = match (cx.opt(3), count) {
            (None, Some(n)) => Some((0..n as i64).collect()),
            _ => cx.ints(3),
        };
        let Some(given) = given else {
            cx.output(TensorType { dtype: x.dtype, dims: Some(from.iter().map(|_| Dim::Unknown).collect()) });
            return Ok(());
        };
        let along = axes(&given, from.len())?;
        let steps = if cx.opt(4).is_some() { cx.ints(4) } else { Some(vec![1; along.len()]) };
        for i in [1, 2] {
            if cx.elements(i).is_some_and(|e| e.len() != along.len()) {
                return refuse("starts, ends, axes and steps must have one length");
            }
        }
        if let Some(s) = &steps
            && (s.len() != along.len() || s.contains(&0))
        {
            return refuse("steps must be as many as axes, and none of them 0");
        }
        let mut dims = from.clone();
        let mut cut = None;
        for (i, &a) in along.iter().enumerate() {
            let bounds = cx.elements(1).zip(cx.elements(2)).zip(steps.as_ref());
            let range = bounds.and_then(|((s, e), steps)| slice_range(&from[a], &s[i], &e[i], steps[i]));
            dims[a] = range.as_ref().map(|r| r.1.clone()).into();
            cut = range.map(|r| r.0).zip(steps.as_ref().map(|s| s[i]));
        }
        let elements = match (cx.elements(0), cut, dims.as_slice(), along.len()) {
            (Some(e), Some((start, step)), [n], 1) => {
                start.as_const().zip(n.known()).and_then(|(start, n)| {
                    (0..n as i64)
                        .map(|i| Some(e.get(usize::try_from(start + i * step).ok()?)?.clone()))
                        .collect()
                })
            }
            (Some(e), _, _, 0) => Some(e.to_vec()),
            _ => None,
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims: Some(dims) }, elements);
        Ok(())
    }
}

/// First place and number of elements of one axis's slice.
fn slice_range(dim: &Dim, start: &Expr, end: &Expr, step: i64) -> Option<(Expr, Expr)> {
    let n = dim.expr()?;
    let zero = Expr::constant(0);
    // Where the sign of a symbolic place is unknown, so is its meaning.
    let place = |e: &Expr| match e.as_const() {
        Some(i) if i >= 0 => Some(e.clone()),
        Some(i64::MIN) => Some(Expr::constant(-1).mul(&n)?.sub(&Expr::constant(1))?),
        Some(_) => n.add(e),
        None if e.is_non_negative() => Some(e.clone()),
        None => None,
    };
    let (s, e) = (place(start)?, place(end)?);
    if step > 0 {
        let s = s.maximum(&zero)?.minimum(&n)?;
        let e = if end.as_const() == Some(i64::MAX) { n } else { e.maximum(&zero)?.minimum(&n)? };
        let length = e.sub(&s)?.maximum(&zero)?;
        Some((s, length.ceil_div(&Expr::constant(step))?))
    } else {
        // Backwards, the places clamp to -1..n.
        let (low, high) = (Expr::constant(-1), n.sub(&Expr::constant(1))?);
        let s = s.maximum(&zero)?.minimum(&high)?;
        let e = e.maximum(&low)?.minimum(&high)?;
        let length = s.sub(&e)?.maximum(&zero)?;
        Some((s, length.ceil_div(&Expr::constant(step.checked_neg()?))?))
    }
}

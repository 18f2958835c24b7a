use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, MAX_ELEMENTS, axes, broadcast, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

fn one() -> Expr {
    Expr::constant(1)
}

/// Product of dims; `None` when one is unknown.
fn product(dims: &[Dim]) -> Option<Expr> {
    dims.iter().try_fold(one(), |n, d| n.mul(&d.expr()?))
}

/// The dims that a shape operand spells; `None` while its length is unknown.
fn dims_of(cx: &InferCx<'_>, i: usize) -> Result<Option<Dims>, InferError> {
    let t = cx.typed(i, DType::I64)?;
    let length = match t.dims.as_deref() {
        None => return Ok(None),
        Some([n]) => n.known(),
        Some(_) => return refuse(format!("operand {i} must be a vector")),
    };
    if let Some(e) = cx.elements(i) {
        if e.iter().any(|e| e.as_const().is_some_and(|n| n < 0)) {
            return refuse(format!("operand {i} has a negative size"));
        }
        return Ok(Some(e.iter().map(|e| Dim::from(e.clone())).collect()));
    }
    // A rank beyond any real tensor's would only serve to exhaust memory.
    match length {
        Some(n) if n <= 64 => Ok(Some((0..n).map(|_| Dim::Unknown).collect())),
        Some(n) => refuse(format!("a rank of {n} is beyond 64")),
        None => Ok(None),
    }
}

op_attrs! {
    /// The sizes of x's axes from `start` to `end`, as an i64 vector. Operand: x.
    ShapeOf {
        /// First axis; may count from the end.
        start: i64 = 0,
        /// One past the last axis; may count from the end.
        end: i64 = i64::MAX,
    }
}

impl OpDef for ShapeOf {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let Some(dims) = &cx.tensor(0)?.dims else {
            cx.output(TensorType::new(DType::I64, [Dim::Unknown]));
            return Ok(());
        };
        let part = &dims[self.range(dims.len())];
        let elements = part.iter().map(Dim::expr).collect();
        cx.output_elements(TensorType::new(DType::I64, [part.len().into()]), elements);
        Ok(())
    }
}

impl ShapeOf {
    /// The axes it reports for a tensor of this rank.
    pub fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let r = rank as i64;
        let at = |i: i64| if i < 0 { i.saturating_add(r) } else { i }.clamp(0, r) as usize;
        let (start, end) = (at(self.start), at(self.end));
        start..end.max(start)
    }
}

op_attrs! {
    /// The number of x's elements, as an i64 scalar. Operand: x.
    SizeOf {}
}

impl OpDef for SizeOf {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let n = cx.tensor(0)?.numel();
        cx.output_elements(TensorType::new(DType::I64, []), n.map(|n| vec![n]));
        Ok(())
    }
}

op_attrs! {
    /// The same elements under another shape. Operands: x, shape (i64 vector; one -1 is what is left, and
    /// 0 copies x's size at that place unless `allow_zero`).
    Reshape {
        /// Whether 0 means an empty axis.
        allow_zero: bool = false,
    }
}

impl OpDef for Reshape {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        let elements = cx.elements(0).map(<[Expr]>::to_vec);
        if cx.typed(1, DType::I64)?.rank().is_some_and(|r| r != 1) {
            return refuse("the shape must be a vector");
        }
        let Some(want) = cx.elements(1) else {
            let rank = cx
                .typed(1, DType::I64)?
                .dims
                .as_deref()
                .and_then(|d| d.first()?.known())
                .filter(|r| *r <= 64);
            let dims = rank.map(|r| (0..r).map(|_| Dim::Unknown).collect());
            cx.output(TensorType { dtype: x.dtype, dims });
            return Ok(());
        };
        cx.typed(1, DType::I64)?;
        let mut dims = Dims::new();
        let mut rest = None;
        for (i, e) in want.iter().enumerate() {
            dims.push(match e.as_const() {
                Some(-1) if rest.is_some() => return refuse("two sizes are -1"),
                Some(-1) => {
                    rest = Some(i);
                    Dim::Known(1)
                }
                Some(0) if !self.allow_zero => match &x.dims {
                    None => Dim::Unknown,
                    Some(d) => d
                        .get(i)
                        .cloned()
                        .ok_or_else(|| InferError::new(format!("size 0 at {i} has no axis to copy")))?,
                },
                Some(n) if n < 0 => return refuse(format!("a size of {n}")),
                _ => e.clone().into(),
            });
        }
        if self.allow_zero && rest.is_some() && dims.contains(&Dim::Known(0)) {
            return refuse("-1 beside an empty axis has no size");
        }
        if let Some(at) = rest {
            dims[at] = remainder(x.dims.as_ref(), &dims, at)?;
        } else if let (Some(a), Some(b)) =
            (x.numel().and_then(|e| e.as_const()), product(&dims).and_then(|e| e.as_const()))
            && a != b
        {
            return refuse(format!("{a} elements cannot become {b}"));
        }
        cx.output_elements(TensorType { dtype: x.dtype, dims: Some(dims) }, elements);
        Ok(())
    }
}

/// What -1 stands for: x's elements divided by the other sizes.
fn remainder(from: Option<&Dims>, to: &Dims, at: usize) -> Result<Dim, InferError> {
    let Some(from) = from else { return Ok(Dim::Unknown) };
    // Axes that both have cancel, even those that no expression describes or that may be 0.
    let mut left: Vec<&Dim> = from.iter().collect();
    let mut others: Vec<&Dim> = vec![];
    for (_, d) in to.iter().enumerate().filter(|(i, _)| *i != at) {
        match left.iter().position(|l| l.same(d) && **l != Dim::Known(0)) {
            Some(i) => drop(left.remove(i)),
            None => others.push(d),
        }
    }
    if let ([one], []) = (&left[..], &others[..]) {
        return Ok((*one).clone());
    }
    let total = |d: &[&Dim]| d.iter().try_fold(one(), |n, d| n.mul(&d.expr()?));
    let (Some(total), Some(known)) = (total(&left), total(&others)) else { return Ok(Dim::Unknown) };
    match (total.as_const(), known.as_const()) {
        (Some(_), Some(0)) => refuse("-1 beside an empty axis has no size"),
        (Some(t), Some(k)) if t % k != 0 => refuse(format!("{t} elements do not divide by {k}")),
        _ => Ok(total.floor_div(&known).into()),
    }
}

op_attrs! {
    /// The axes before `axis` as one, those from it on as another. Operand: x.
    Flatten {
        /// Where the second axis begins; may count from the end.
        axis: i64 = 1,
    }
}

impl OpDef for Flatten {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        let dims = match &x.dims {
            None => [Dim::Unknown, Dim::Unknown],
            Some(d) => {
                let r = d.len() as i64;
                if !(-r..=r).contains(&self.axis) {
                    return refuse(format!("axis {} is out of range for rank {r}", self.axis));
                }
                let (a, b) = d.split_at(if self.axis < 0 { self.axis + r } else { self.axis } as usize);
                let join = |d: &[Dim]| if let [one] = d { one.clone() } else { product(d).into() };
                [join(a), join(b)]
            }
        };
        cx.output(TensorType::new(x.dtype, dims));
        Ok(())
    }
}

op_attrs! {
    /// Without the given axes, all of size 1. Operands: x, axes (i64 vector, optional: every axis of size 1).
    Squeeze {}
}

impl OpDef for Squeeze {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        let x = cx.tensor(0)?;
        let elements = cx.elements(0).map(<[Expr]>::to_vec);
        let dims = match (&x.dims, cx.opt(1)) {
            (None, _) => None,
            (Some(d), None) => d
                .iter()
                .all(|d| d.known().is_some())
                .then(|| d.iter().filter(|d| **d != Dim::Known(1)).cloned().collect()),
            (Some(d), Some(_)) => match cx.ints(1) {
                None => None,
                Some(given) => {
                    let gone = axes(&given, d.len())?;
                    if let Some(a) = gone.iter().find(|a| d[**a].known().is_some_and(|n| n != 1)) {
                        return refuse(format!("axis {a} has size {}, not 1", d[*a]));
                    }
                    Some(
                        d.iter()
                            .enumerate()
                            .filter(|(i, _)| !gone.contains(i))
                            .map(|(_, d)| d.clone())
                            .collect(),
                    )
                }
            },
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims }, elements);
        Ok(())
    }
}

op_attrs! {
    /// With axes of size 1 at these places of the result. Operands: x, axes (i64 vector).
    Unsqueeze {}
}

impl OpDef for Unsqueeze {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        cx.typed(1, DType::I64)?;
        let elements = cx.elements(0).map(<[Expr]>::to_vec);
        let dims = match (&x.dims, cx.ints(1)) {
            (Some(d), Some(given)) => {
                let new = axes(&given, d.len() + given.len())?;
                let mut old = d.iter();
                let at = |i| {
                    if new.contains(&i) {
                        Dim::Known(1)
                    } else {
                        old.next().cloned().unwrap_or(Dim::Known(1))
                    }
                };
                Some((0..d.len() + new.len()).map(at).collect())
            }
            _ => None,
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims }, elements);
        Ok(())
    }
}

op_attrs! {
    /// Axis `i` of the result is axis `perm[i]` of x. Operand: x.
    Transpose {
        /// A permutation of x's axes; empty reverses them.
        perm: Vec<usize> = vec![],
    }
}

impl OpDef for Transpose {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        let dims = match &x.dims {
            None => None,
            Some(d) if self.perm.is_empty() => Some(d.iter().rev().cloned().collect()),
            Some(d) => {
                let signed: Vec<i64> =
                    self.perm.iter().map(|&p| i64::try_from(p).unwrap_or(i64::MAX)).collect();
                if axes(&signed, d.len())?.len() != d.len() {
                    return refuse(format!("perm {:?} does not fit rank {}", self.perm, d.len()));
                }
                Some(self.perm.iter().map(|&p| d[p].clone()).collect())
            }
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// x repeated along axes of size 1 until it has the shape that x's and the given one broadcast to.
    /// Operands: x, shape (i64 vector).
    Expand {}
}

impl OpDef for Expand {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        let want = dims_of(cx, 1)?;
        let dims = broadcast(x.dims.as_ref(), want.as_ref())?;
        let elements = match (cx.elements(0), dims.as_deref()) {
            (Some([e]), Some([Dim::Known(n)])) if *n <= MAX_ELEMENTS => Some(vec![e.clone(); *n]),
            (Some(e), Some(d)) if d.len() <= 1 && x.dims == dims => Some(e.to_vec()),
            _ => None,
        };
        cx.output_elements(TensorType { dtype: x.dtype, dims }, elements);
        Ok(())
    }
}

op_attrs! {
    /// x repeated along each axis. Operands: x, repeats (i64 vector, one per axis).
    Tile {}
}

impl OpDef for Tile {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = cx.tensor(0)?;
        let dims = match (&x.dims, dims_of(cx, 1)?) {
            (Some(d), Some(r)) if d.len() != r.len() => {
                return refuse(format!("{} repeats for rank {}", r.len(), d.len()));
            }
            (Some(d), Some(r)) => Some(
                d.iter()
                    .zip(&r)
                    .map(|(d, r)| d.expr().zip(r.expr()).and_then(|(d, r)| d.mul(&r)).into())
                    .collect(),
            ),
            (Some(d), None) => Some(d.iter().map(|_| Dim::Unknown).collect()),
            _ => None,
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// `start`, `start + step`, .. before `limit`. Operands: start, limit, step; scalars of one numeric dtype.
    Range {}
}

impl OpDef for Range {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let dtype = cx.tensor(0)?.dtype;
        for i in 0..3 {
            let t = cx.typed(i, dtype)?;
            if t.rank().is_some_and(|r| r > 1) {
                return refuse(format!("operand {i} must be a scalar"));
            }
        }
        if !(dtype.is_float() || dtype.is_int()) {
            return refuse(format!("is not defined for {dtype}"));
        }
        let scalar = |i: usize| match cx.elements(i) {
            Some([e]) => Some(e.clone()),
            _ => None,
        };
        let (mut length, mut elements) = (None, None);
        if let (Some(start), Some(limit), Some(step)) = (scalar(0), scalar(1), scalar(2)) {
            if step.as_const() == Some(0) {
                return refuse("a step of 0");
            }
            let negative = step.as_const().is_some_and(|s| s < 0);
            let span = if negative { start.sub(&limit) } else { limit.sub(&start) };
            let stride = if negative { step.mul(&Expr::constant(-1)) } else { Some(step.clone()) };
            length = span.and_then(|s| s.maximum(&Expr::constant(0))?.ceil_div(&stride?));
            elements =
                length.as_ref().and_then(Expr::as_const).filter(|n| *n <= MAX_ELEMENTS as i64).and_then(
                    |n| (0..n).map(|i| start.add(&step.mul(&Expr::constant(i))?)).collect::<Option<Vec<_>>>(),
                );
        } else if let (Some(a), Some(b), Some(s)) = (float(cx, 0), float(cx, 1), float(cx, 2)) {
            if s == 0.0 || s.is_nan() {
                return refuse("a step of 0");
            }
            length = Some(Expr::constant(((b - a) / s).ceil().max(0.0) as i64));
        }
        cx.output_elements(TensorType::new(dtype, [length.into()]), elements);
        Ok(())
    }
}

fn float(cx: &InferCx<'_>, i: usize) -> Option<f64> {
    let t = cx.opt(i)?.constant?;
    t.dtype().is_float().then(|| t.to_f64_vec().ok()).flatten()?.first().copied()
}

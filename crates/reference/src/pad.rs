use crate::{
    EvalError,
    data::{axis, i64s, product, take},
    error::refuse,
    eval::Operands,
    slice::join,
};
use tensormill_ir::ops::{EyeLike, Pad, PadMode, Trilu};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// The elements of `t` at these indices; the one of `fill` where there is no index.
fn take_or(t: &Tensor, fill: &Tensor, shape: Shape, indices: Vec<Option<usize>>) -> Result<Tensor> {
    let n = t.len();
    let all = join(&[&t.reshape([n])?, &fill.reshape([1])?], 0)?;
    take(&all, shape, &indices.into_iter().map(|i| i.unwrap_or(n)).collect::<Vec<_>>())
}

/// The place among `n` along an axis whose element padding puts at `p`, counted from the first of them;
/// `None` for the constant. There must be a place unless it is that.
pub fn pad_source(mode: PadMode, p: i64, n: i64) -> Option<i64> {
    if (0..n).contains(&p) {
        return Some(p);
    }
    match mode {
        PadMode::Constant => None,
        PadMode::Edge => Some(p.clamp(0, n - 1)),
        PadMode::Wrap => Some(p.rem_euclid(n)),
        PadMode::Reflect if n == 1 => Some(0),
        PadMode::Reflect => {
            let period = 2 * (n - 1);
            let p = p.rem_euclid(period);
            Some(if p < n { p } else { period - p })
        }
    }
}

pub(crate) fn pad(op: &Pad, x: &Operands<'_>) -> Result<Tensor> {
    let (t, pads) = (x.tensor(0)?, i64s(x.tensor(1)?)?);
    let s = t.shape();
    let axes: Vec<usize> = match x.opt_tensor(3)? {
        None => (0..s.rank()).collect(),
        Some(a) => i64s(a)?.into_iter().map(|a| axis(a, s.rank())).collect::<Result<_>>()?,
    };
    if pads.len() != 2 * axes.len() {
        return refuse(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut before = vec![0i64; s.rank()];
    let mut dims = s.to_vec();
    for (i, &a) in axes.iter().enumerate() {
        let size = i64::try_from(s[a])
            .ok()
            .and_then(|n| n.checked_add(pads[i])?.checked_add(pads[axes.len() + i]))
            .and_then(|n| usize::try_from(n).ok());
        let Some(size) = size else {
            return refuse(format!("pads {} and {} for size {}", pads[i], pads[axes.len() + i], s[a]));
        };
        dims[a] = size;
        before[a] = pads[i];
    }
    let shape = Shape::from(dims);
    x.limits.check(&shape)?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(t.dtype(), shape)?);
    }
    if t.is_empty() && op.mode != PadMode::Constant {
        return refuse("an empty tensor has no elements to continue with");
    }
    let strides = s.strides();
    let mut indices = vec![Some(0usize)];
    for a in 0..s.rank() {
        let n = s[a] as i64;
        let along: Vec<Option<usize>> = (0..shape[a] as i64)
            .map(|i| {
                i.checked_sub(before[a])
                    .and_then(|p| pad_source(op.mode, p, n))
                    .map(|p| p as usize * strides[a])
            })
            .collect();
        indices =
            indices.iter().flat_map(|i| along.iter().map(move |j| i.zip(*j).map(|(i, j)| i + j))).collect();
    }
    let fill = match x.opt_tensor(2)? {
        Some(v) if v.len() != 1 || v.dtype() != t.dtype() => {
            return refuse(format!("{v:?} is no value to pad with"));
        }
        Some(v) => v.clone(),
        None => Tensor::zeros(t.dtype(), [1])?,
    };
    take_or(t, &fill, shape, indices)
}

pub(crate) fn trilu(op: &Trilu, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let [.., rows, columns] = **t.shape() else { return refuse("needs a matrix") };
    let k = match x.opt_tensor(1)?.map(i64s).transpose()?.as_deref() {
        None => 0,
        Some([k]) => i128::from(*k),
        Some(k) => return refuse(format!("a diagonal of {} elements", k.len())),
    };
    if t.is_empty() {
        return Ok(t.clone());
    }
    let size = product(&[rows, columns])?;
    let keep = |i: usize| {
        let (r, c) = ((i % size / columns) as i128, (i % columns) as i128);
        if op.upper { c - r >= k } else { c - r <= k }
    };
    let indices = (0..t.len()).map(|i| keep(i).then_some(i)).collect();
    take_or(t, &Tensor::zeros(t.dtype(), [1])?, t.shape().clone(), indices)
}

pub(crate) fn eye_like(op: &EyeLike, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let [rows, columns] = **t.shape() else { return refuse("needs a matrix") };
    let shape = t.shape().clone();
    x.limits.check(&shape)?;
    let one = |i: usize| (i % columns) as i128 - (i / columns) as i128 == i128::from(op.k);
    let ones = (0..rows.saturating_mul(columns)).map(|i| f64::from(u8::from(one(i))));
    Ok(Tensor::from_f64s(op.dtype.unwrap_or(t.dtype()), shape, ones)?)
}

use crate::{
    EvalError,
    data::{Wide, axis, i64s, product, take},
    error::refuse,
    eval::Operands,
    gather::{element_places, slice_places},
    slice::join,
};
use tensormill_ir::ops::{ScatterElements, ScatterND, ScatterReduction, TensorScatter};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, EvalError>;

/// x after the updates, one per place and in this order.
fn update(x: &Tensor, updates: &Tensor, places: &[usize], how: ScatterReduction) -> Result<Tensor> {
    use ScatterReduction as R;
    if places.len() != updates.len() || x.dtype() != updates.dtype() {
        return refuse(format!("{updates:?} for {} places of {x:?}", places.len()));
    }
    if how == R::None {
        let n = x.len();
        let all = join(&[&x.reshape([n])?, &updates.reshape([places.len()])?], 0)?;
        let mut from: Vec<usize> = (0..n).collect();
        for (i, &p) in places.iter().enumerate() {
            from[p] = n + i;
        }
        return take(&all, x.shape(), &from);
    }
    match (Wide::of(x)?, Wide::of(updates)?) {
        (Wide::Float(mut v), Wide::Float(u)) => {
            for (&p, u) in places.iter().zip(u) {
                v[p] = match how {
                    R::Add => v[p] + u,
                    R::Mul => v[p] * u,
                    _ if v[p].is_nan() || u.is_nan() => f64::NAN,
                    R::Min => v[p].min(u),
                    R::Max => v[p].max(u),
                    R::None => u,
                };
            }
            Wide::Float(v).tensor(x.dtype(), x.shape())
        }
        (Wide::Int(mut v), Wide::Int(u)) => {
            for (&p, u) in places.iter().zip(u) {
                v[p] = match how {
                    R::Add => v[p].wrapping_add(u),
                    R::Mul => v[p].wrapping_mul(u),
                    R::Min => v[p].min(u),
                    R::Max => v[p].max(u),
                    R::None => u,
                };
            }
            Wide::Int(v).tensor(x.dtype(), x.shape())
        }
        _ => refuse("x and updates differ in dtype"),
    }
}

pub(crate) fn elements(op: &ScatterElements, x: &Operands<'_>) -> Result<Tensor> {
    let (t, at, updates) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
    let axis = axis(op.axis, t.shape().rank())?;
    if at.shape() != updates.shape() {
        return refuse(format!("indices {} and updates {} differ in shape", at.shape(), updates.shape()));
    }
    update(t, updates, &element_places(t.shape(), axis, at)?, op.reduction)
}

pub(crate) fn nd(op: &ScatterND, x: &Operands<'_>) -> Result<Tensor> {
    let (t, at, updates) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
    let (starts, inner) = slice_places(t.shape(), 0, at)?;
    let lead = &at.shape()[..at.shape().rank() - 1];
    let want = [lead, &t.shape()[at.shape()[lead.len()]..]].concat();
    if **updates.shape() != want[..] {
        return refuse(format!("updates of shape {}, not {want:?}", updates.shape()));
    }
    let places: Vec<usize> = starts.into_iter().flat_map(|s| s..s + inner).collect();
    update(t, updates, &places, op.reduction)
}

pub(crate) fn cache(op: &TensorScatter, x: &Operands<'_>) -> Result<Tensor> {
    let (t, new) = (x.tensor(0)?, x.tensor(1)?);
    let (s, n) = (t.shape(), new.shape());
    let axis = axis(op.axis, s.rank())?;
    let fits =
        n.rank() == s.rank() && (0..s.rank()).all(|i| if i == axis { n[i] <= s[i] } else { n[i] == s[i] });
    if axis == 0 || !fits {
        return refuse(format!("an update of shape {n} for a cache of shape {s} along axis {axis}"));
    }
    let starts = x.opt_tensor(2)?.map_or_else(|| Ok(vec![0; s[0]]), i64s)?;
    if starts.len() != s[0] {
        return refuse(format!("{} places for a batch of {}", starts.len(), s[0]));
    }
    if new.is_empty() {
        return Ok(t.clone());
    }
    let (rows, inner) = (product(&s[1..axis])?, product(&s[axis + 1..])?);
    let mut places = Vec::with_capacity(new.len());
    for (b, &start) in starts.iter().enumerate() {
        for row in 0..rows {
            for i in 0..n[axis] {
                let at = i128::from(start) + i as i128;
                let at = if op.circular { at.rem_euclid(s[axis] as i128) } else { at };
                if !(0..s[axis] as i128).contains(&at) {
                    return refuse(format!("place {at} is out of range for size {}", s[axis]));
                }
                let from = ((b * rows + row) * s[axis] + at as usize) * inner;
                places.extend(from..from + inner);
            }
        }
    }
    update(t, new, &places, ScatterReduction::None)
}

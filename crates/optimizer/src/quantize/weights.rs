//! Weights as integers: rows of one output channel each, in groups that share a scale.

use super::{
    compensate::{Moments, compensate},
    range::{limits, sane_scale},
};
use tensormill_tensor::{DType, Tensor, TensorError};

/// How far below the largest weight a search for the best scale goes, in 64ths of it.
const SHRINK: usize = 32;

/// The weights of one output channel after the other, whatever axis they lie along in the tensor.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// Output channels.
    pub(super) count: usize,
    /// Weights of one channel.
    pub(super) len: usize,
    pub(super) data: Vec<f32>,
    /// The axis of the output channels: 0, or 1 of two.
    pub(super) axis: usize,
    shape: Vec<usize>,
}

impl Rows {
    /// The rows of a tensor whose output channels lie along `axis`; `None` for layouts that no op has.
    pub(super) fn of(w: &Tensor, axis: usize) -> Option<Rows> {
        let shape = w.shape().dims().to_vec();
        let data = w.to_f32_vec().ok()?;
        let count = *shape.get(axis)?;
        let len = data.len().checked_div(count)?;
        let data = match (axis, shape.len()) {
            (0, _) => data,
            (1, 2) => transposed(&data, len, count),
            _ => return None,
        };
        (!data.is_empty()).then_some(Rows { count, len, data, axis, shape })
    }

    /// The same rows for a tensor of two axes whose output channels lie along the second.
    pub(super) fn upright(self) -> Rows {
        if self.axis == 1 || self.shape.len() != 2 {
            return self;
        }
        Rows { axis: 1, shape: vec![self.len, self.count], ..self }
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.len..(i + 1) * self.len]
    }

    /// Elements by row in the order of the tensor.
    fn restore<T: Copy>(&self, rows: &[T], len: usize) -> Vec<T> {
        if self.axis == 0 { rows.to_vec() } else { transposed(rows, self.count, len) }
    }
}

/// The columns of a matrix of `rows` by `columns`, one after the other.
fn transposed<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

/// How weights are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// `i8`, `i4` or, with zero points, `u8` or `u4`.
    pub(super) dtype: DType,
    /// Whether i8 keeps to seven bits.
    pub(super) seven_bits: bool,
    /// Weights that share a scale; none: all of a row.
    pub(super) group: Option<usize>,
    /// Whether all rows share one scale.
    pub(super) per_tensor: bool,
    /// Whether the scale is searched rather than that of the largest weight.
    pub(super) search: bool,
}

/// One scale and zero point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

impl Step {
    pub(super) fn round(self, w: f32, least: i32, most: i32) -> i32 {
        (nearest(w / self.scale) as i32 + self.zero).clamp(least, most)
    }

    pub(super) fn back(self, q: i32) -> f32 {
        (q - self.zero) as f32 * self.scale
    }
}

/// Rounding to even without a call; exact for what the integers of weights can be, and large numbers stay large.
fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-1e6, 1e6);
    (x + MAGIC) - MAGIC
}

/// Integers in place of weights.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// In the tensor's order.
    pub(super) ints: Tensor,
    pub(super) scale: Tensor,
    pub(super) zero: Option<Tensor>,
    /// Of the dequantization.
    pub(super) axis: usize,
    /// Of the dequantization; 0: one scale a channel.
    pub(super) block: usize,
    /// The weights that the integers stand for, by rows.
    pub(super) back: Vec<f32>,
    /// One scale a row, where rows have one.
    pub(super) scales: Vec<f32>,
}

/// Stores weights. `importance` says how much an error of each weight of a row matters, `moments` of the
/// inputs lets roundings compensate each other, and no row's scale is below its entry of `least`.
pub(super) fn store(
    w: &Rows,
    f: Format,
    importance: Option<&[f32]>,
    moments: Option<&Moments>,
    least: Option<&[f64]>,
) -> Result<Stored, TensorError> {
    let group = f.group.unwrap_or(w.len).min(w.len.max(1));
    let groups = w.len.div_ceil(group);
    let mut steps = Vec::with_capacity(w.count * groups);
    if f.per_tensor {
        let mut one = best_step(&w.data, None, f);
        one.scale = least.into_iter().flatten().fold(one.scale, |s, l| s.max(*l as f32));
        steps.resize(w.count * groups, one);
    } else {
        for i in 0..w.count {
            for (j, part) in w.row(i).chunks(group).enumerate() {
                let weigh = importance.map(|m| &m[j * group..j * group + part.len()]);
                let mut step = best_step(part, weigh, f);
                if let Some(l) = least {
                    step.scale = step.scale.max(l[i] as f32);
                }
                steps.push(step);
            }
        }
    }
    let (low, high) = codes(f);
    let ints: Vec<i32> = match moments {
        Some(m) if m.size() == w.len => {
            compensate(w, &mut steps, group, f, m, least.is_some() || f.per_tensor)
        }
        _ => (0..w.data.len())
            .map(|i| steps[i / w.len * groups + i % w.len / group].round(w.data[i], low, high))
            .collect(),
    };
    let step = |i: usize| steps[i / w.len * groups + i % w.len / group];
    let back = ints.iter().enumerate().map(|(i, q)| step(i).back(*q)).collect();
    let by_row: Vec<f32> = steps.iter().map(|s| s.scale).collect();
    let ints = w.restore(&ints, w.len);
    let ints = Tensor::from_i64s(f.dtype, &w.shape[..], ints.into_iter().map(i64::from))?;
    let blocked = f.group.is_some();
    let shape = match (f.per_tensor, blocked, w.axis) {
        (true, ..) => vec![],
        (_, false, _) => vec![w.count],
        (_, _, 0) => vec![w.count, groups],
        _ => vec![groups, w.count],
    };
    let kept = if f.per_tensor { &steps[..1] } else { &steps[..] };
    let kept = if blocked && !f.per_tensor { w.restore(kept, groups) } else { kept.to_vec() };
    let scale = Tensor::from_vec(&shape[..], kept.iter().map(|s| s.scale).collect())?;
    let zero = match f.dtype.is_unsigned_int() {
        true => Some(Tensor::from_i64s(f.dtype, &shape[..], kept.iter().map(|s| i64::from(s.zero)))?),
        false => None,
    };
    let axis = if blocked { 1 - w.axis } else { w.axis };
    let block = if blocked { group } else { 0 };
    Ok(Stored { ints, scale, zero, axis, block, back, scales: by_row })
}

/// The integers that weights become: of so few as four bits, the lowest too.
pub(super) fn codes(f: Format) -> (i32, i32) {
    if f.seven_bits && f.dtype == DType::I8 {
        return (-64, 64);
    }
    let (low, high) = limits(f.dtype, f.dtype != DType::I4);
    (low as i32, high as i32)
}

/// The scale for weights that share one.
pub(super) fn best_step(w: &[f32], importance: Option<&[f32]>, f: Format) -> Step {
    let (low, high) = codes(f);
    let (min, max) = w.iter().fold((0f32, 0f32), |(a, b), v| (a.min(*v), b.max(*v)));
    let signed = f.dtype.is_signed_int();
    let at = |part: f64| {
        let (min, max) = (f64::from(min) * part, f64::from(max) * part);
        if signed {
            return Step { scale: sane_scale(max.max(-min) / f64::from(high)), zero: 0 };
        }
        let scale = sane_scale((max - min) / f64::from(high - low));
        Step { scale, zero: ((-min / f64::from(scale)).round() as i32).clamp(low, high) }
    };
    let whole = at(1.0);
    if !f.search || min == max {
        return whole;
    }
    let mut best = (error(w, importance, whole, low, high, f64::INFINITY), whole);
    let mut look = |step: Step| {
        let e = error(w, importance, step, low, high, best.0);
        if e < best.0 {
            best = (e, step);
        }
        best.1
    };
    // Weights on a grid of their own: the largest is a smaller integer than the type's.
    for t in (high - (high - low) / 32..high).rev() {
        look(at(f64::from(high) / f64::from(t)));
    }
    for i in 1..=SHRINK {
        look(at(1.0 - i as f64 / 64.0));
    }
    // Of given integers the best scale is a quotient of sums.
    let found = best.1;
    let (mut wq, mut qq) = (0.0, 0.0);
    for (i, v) in w.iter().enumerate() {
        let q = f64::from(found.round(*v, low, high) - found.zero);
        let m = importance.map_or(1.0, |m| f64::from(m[i]));
        wq += m * q * f64::from(*v);
        qq += m * q * q;
    }
    let refined = (wq / qq) as f32;
    if refined.is_finite() && refined > 0.5 * found.scale && refined < 2.0 * found.scale {
        let step = Step { scale: refined, ..found };
        if error(w, importance, step, low, high, best.0) < best.0 {
            return step;
        }
    }
    found
}

/// The squared error of rounding, or any number above `enough` once it is that large.
fn error(w: &[f32], importance: Option<&[f32]>, step: Step, low: i32, high: i32, enough: f64) -> f64 {
    const PART: usize = 256;
    let (inverse, zero) = (1.0 / step.scale, step.zero as f32);
    let (low, high) = (low as f32 - zero, high as f32 - zero);
    let away = |v: f32| {
        let d = v - nearest(v * inverse).clamp(low, high) * step.scale;
        d * d
    };
    let mut sum = 0.0;
    for (i, part) in w.chunks(PART).enumerate() {
        sum += f64::from(match importance {
            None => part.iter().map(|v| away(*v)).sum::<f32>(),
            Some(m) => part.iter().zip(&m[i * PART..]).map(|(v, m)| m * away(*v)).sum(),
        });
        if sum > enough {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn squared(w: &Rows, back: &[f32]) -> f64 {
        w.data.iter().zip(back).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn stored_weights_come_back(
            data in prop::collection::vec(prop_oneof![-1f32..1.0, Just(0.0f32), -9f32..9.0], 6..120),
            count in 1usize..6, axis in 0usize..2, search: bool, kind in 0usize..4, grouped: bool, per_tensor: bool,
            seven: bool,
        ) {
            let len = data.len() / count;
            let shape = if axis == 0 { [count, len] } else { [len, count] };
            let t = Tensor::from_vec(shape, data[..count * len].to_vec()).unwrap();
            let w = Rows::of(&t, axis).unwrap();
            let dtype = [DType::I8, DType::U8, DType::I4, DType::U4][kind];
            let group = grouped.then_some(4);
            let f = Format { dtype, seven_bits: seven && dtype == DType::I8, group, per_tensor: per_tensor && !grouped, search };
            let s = store(&w, f, None, None, None).unwrap();
            // What the tensors say is what `back` says.
            let (q, scale) = (s.ints.to_i64_vec().unwrap(), s.scale.to_f32_vec().unwrap());
            let zero = s.zero.map(|z| z.to_i64_vec().unwrap());
            let groups = len.div_ceil(group.unwrap_or(len));
            for i in 0..count {
                for k in 0..len {
                    let at = if axis == 0 { i * len + k } else { k * count + i };
                    let g = k / group.unwrap_or(len).min(len);
                    let p = if f.per_tensor { 0 } else if axis == 0 { i * groups + g } else { g * count + i };
                    let back = (q[at] - zero.as_ref().map_or(0, |z| z[p])) as f32 * scale[p];
                    prop_assert_eq!(back, s.back[i * len + k]);
                    if !search {
                        let w = w.row(i)[k];
                        prop_assert!((back - w).abs() <= 1.001 * scale[p], "{} {}", back, w);
                    }
                }
            }
            if search {
                let plain = store(&w, Format { search: false, ..f }, None, None, None).unwrap();
                prop_assert!(squared(&w, &s.back) <= 1.001 * squared(&w, &plain.back) + 1e-9);
            }
        }
    }

    #[test]
    fn weights_on_a_grid_are_exact() {
        let t = Tensor::from_vec([1, 16], (0..16).map(|i| i as f32).collect()).unwrap();
        let w = Rows::of(&t, 0).unwrap();
        let f = Format { dtype: DType::I8, seven_bits: false, group: None, per_tensor: false, search: true };
        assert_eq!(store(&w, f, None, None, None).unwrap().back, w.data);
    }
}

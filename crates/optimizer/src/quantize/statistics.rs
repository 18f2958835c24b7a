use super::{compensate::Moments, histogram::Histogram};
use std::collections::BTreeMap;
use tensormill_ir::ValueId;

/// What a quantization wants to know of a graph's values in runs on samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Values whose range is needed.
    pub ranges: Vec<ValueId>,
    /// Values whose means along an axis are needed.
    pub channels: Vec<(ValueId, usize)>,
    /// Values whose elements along an axis, this many, are multiplied by each other: what makes roundings
    /// compensate each other.
    pub moments: Vec<(ValueId, usize, usize)>,
}

/// Sums over the elements at each place of an axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Channels {
    sums: Vec<f64>,
    squares: Vec<f64>,
    peaks: Vec<f32>,
    count: u64,
}

impl Channels {
    /// Counts a tensor of this shape; those of another size along the axis, or with infinities or NaNs in a sum, are
    /// left out.
    pub fn add(&mut self, x: &[f32], shape: &[usize], axis: usize) {
        let Some(&n) = shape.get(axis) else { return };
        let inner: usize = shape[axis + 1..].iter().product();
        if n == 0 || x.is_empty() || (!self.sums.is_empty() && self.sums.len() != n) {
            return;
        }
        let (mut sums, mut squares) = (vec![0.0; n], vec![0.0; n]);
        if inner == 1 {
            for row in x.chunks(n) {
                for (i, &v) in row.iter().enumerate() {
                    sums[i] += f64::from(v);
                    squares[i] += f64::from(v) * f64::from(v);
                }
            }
        } else {
            for (i, part) in x.chunks(inner).enumerate() {
                sums[i % n] += part.iter().map(|v| f64::from(*v)).sum::<f64>();
                squares[i % n] += part.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            }
        }
        if squares.iter().any(|v| !v.is_finite()) {
            return;
        }
        self.peaks.resize(n, 0.0);
        for (i, part) in x.chunks(inner).enumerate() {
            let peak = &mut self.peaks[i % n];
            *peak = part.iter().fold(*peak, |m, v| m.max(v.abs()));
        }
        self.sums.resize(n, 0.0);
        self.squares.resize(n, 0.0);
        self.sums.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
        self.squares.iter_mut().zip(squares).for_each(|(a, b)| *a += b);
        self.count += (x.len() / n) as u64;
    }

    /// The mean at each place.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / self.count.max(1) as f64).collect()
    }

    /// The largest magnitude at each place.
    pub fn peaks(&self) -> &[f32] {
        &self.peaks
    }

    /// The mean of squares at each place.
    pub fn squares(&self) -> Vec<f64> {
        self.squares.iter().map(|s| s / self.count.max(1) as f64).collect()
    }
}

/// What was observed, by value of the float graph.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// How often numbers occurred.
    pub ranges: BTreeMap<ValueId, Histogram>,
    /// Means along an axis.
    pub channels: BTreeMap<ValueId, Channels>,
    /// Products of elements along an axis.
    pub moments: BTreeMap<ValueId, Moments>,
}

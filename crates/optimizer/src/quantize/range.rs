//! From what was observed to the range that integers span.

use super::{histogram::Histogram, options::Method};
use tensormill_tensor::DType;

/// Thresholds that a search tries on each side.
const STEPS: usize = 96;
/// The smallest part of the range seen that a search may leave.
const LEAST: f64 = 0.2;

/// `real = (stored - zero) * scale`, for integers from `low` to `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// The type of the integers.
    pub dtype: DType,
    /// The distance of neighbouring numbers.
    pub scale: f32,
    /// The integer that stands for zero.
    pub zero: i64,
}

/// The smallest and largest integer used of a type; symmetric signed ones leave the lowest unused.
pub(super) fn limits(dtype: DType, symmetric: bool) -> (i64, i64) {
    let bits = dtype.bits() as u32;
    match dtype.is_signed_int() {
        true if symmetric => (-(1 << (bits - 1)) + 1, (1 << (bits - 1)) - 1),
        true => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => (0, (1 << bits) - 1),
    }
}

/// A scale that divides and multiplies without infinities.
pub(super) fn sane_scale(scale: f64) -> f32 {
    let s = scale as f32;
    if s.is_finite() && s >= 1e-30 { s } else { 1.0 }
}

impl Affine {
    /// The parameters whose integers span a range, which is stretched to hold zero.
    pub fn of_range(low: f64, high: f64, dtype: DType, symmetric: bool) -> Affine {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let (least, most) = limits(dtype, symmetric);
        if symmetric {
            let reach = high.max(-low);
            let zero = if dtype.is_signed_int() { 0 } else { (least + most + 1) / 2 };
            return Affine { dtype, scale: sane_scale(reach / (most - zero) as f64), zero };
        }
        let scale = sane_scale((high - low) / (most - least) as f64);
        let zero = (least as f64 - low / f64::from(scale)).round_ties_even();
        Affine { dtype, scale, zero: (zero as i64).clamp(least, most) }
    }

    /// The integer nearest to a number.
    pub fn quantize(&self, x: f32) -> i64 {
        let (least, most) = limits(self.dtype, false);
        ((x / self.scale).round_ties_even() as i64).saturating_add(self.zero).clamp(least, most)
    }

    /// The number that an integer stands for.
    pub fn dequantize(&self, q: i64) -> f32 {
        (q - self.zero) as f32 * self.scale
    }
}

/// The range for integers of `levels` steps by a method; `None` when nothing finite was seen.
pub fn choose(h: &Histogram, method: Method, dtype: DType, symmetric: bool) -> Option<(f64, f64)> {
    let (min, max) = h.range()?;
    let (mut low, mut high) = (f64::from(min).min(0.0), f64::from(max).max(0.0));
    if symmetric {
        high = high.max(-low);
        low = -high;
    }
    let (least, most) = limits(dtype, symmetric);
    let steps = (most - least) as f64;
    Some(match method {
        Method::MinMax => (low, high),
        Method::Percentile(p) => percentile(h, p, low, high, symmetric),
        Method::Mse => search(low, high, symmetric, &Moments::of(h), |m, l, h| m.error(l, h, steps)),
        Method::Entropy => {
            let bins: Vec<_> = h.bins().filter(|b| b.2 > 0).collect();
            search(low, high, true, &bins, |b, l, h| divergence(b, l, h, steps as usize + 1))
        }
    })
}

/// The least of a cost over ranges within `low` to `high`, both ends moving by the same part or each alone.
fn search<T>(
    low: f64,
    high: f64,
    together: bool,
    data: &T,
    cost: impl Fn(&T, f64, f64) -> f64,
) -> (f64, f64) {
    let part = |i: usize| 1.0 - (1.0 - LEAST) * i as f64 / STEPS as f64;
    let mut best = (cost(data, low, high), low, high);
    let mut look = |l: f64, h: f64| {
        let c = cost(data, l, h);
        if c < best.0 {
            best = (c, l, h);
        }
    };
    for i in 0..=STEPS {
        if together || low == 0.0 || high == 0.0 {
            look(low * part(i), high * part(i));
            continue;
        }
        for j in 0..=STEPS {
            look(low * part(i), high * part(j));
        }
    }
    (best.1, best.2)
}

fn percentile(h: &Histogram, p: f64, low: f64, high: f64, symmetric: bool) -> (f64, f64) {
    let total = h.count() as f64;
    let outside = total * (100.0 - p) / 100.0;
    if symmetric {
        // By absolute value: both tails together.
        let mut ends: Vec<(f64, u64)> = h.bins().map(|(l, h, n)| (l.abs().max(h.abs()), n)).collect();
        ends.sort_by(|a, b| b.0.total_cmp(&a.0));
        let reach = cut(ends.into_iter(), outside).unwrap_or(0.0);
        return (-reach, reach);
    }
    // One tail only where all numbers are on one side of zero.
    let each = if low < 0.0 && high > 0.0 { outside / 2.0 } else { outside };
    let bins: Vec<_> = h.bins().collect();
    let top = if high > 0.0 { cut(bins.iter().rev().map(|b| (b.1, b.2)), each) } else { None };
    let bottom = if low < 0.0 { cut(bins.iter().map(|b| (b.0, b.2)), each) } else { None };
    (bottom.unwrap_or(0.0).min(0.0), top.unwrap_or(0.0).max(0.0))
}

/// The first edge before which no more than `outside` elements lie.
fn cut(edges: impl Iterator<Item = (f64, u64)>, outside: f64) -> Option<f64> {
    let mut seen = 0.0;
    for (edge, n) in edges {
        seen += n as f64;
        if seen > outside {
            return Some(edge);
        }
    }
    None
}

/// Counts, sums and sums of squares below every edge, so that the error of a range costs two look-ups.
struct Moments {
    edges: Vec<f64>,
    below: Vec<[f64; 3]>,
}

impl Moments {
    fn of(h: &Histogram) -> Moments {
        let (mut edges, mut below) = (vec![], vec![[0.0; 3]]);
        for (low, high, n) in h.bins() {
            let (n, middle) = (n as f64, (low + high) / 2.0);
            let [a, b, c] = below[below.len() - 1];
            edges.push(middle);
            below.push([a + n, b + n * middle, c + n * middle * middle]);
        }
        Moments { edges, below }
    }

    /// The squared error of integers over a range: rounding inside, the distance to its ends outside.
    fn error(&self, low: f64, high: f64, steps: f64) -> f64 {
        let (i, j) = (self.edges.partition_point(|e| *e < low), self.edges.partition_point(|e| *e <= high));
        let all = self.below[self.below.len() - 1];
        let away = |m: [f64; 3], end: f64| (m[2] - 2.0 * end * m[1] + end * end * m[0]).max(0.0);
        let above = [0, 1, 2].map(|k| all[k] - self.below[j.max(i)][k]);
        let inside = (self.below[j.max(i)][0] - self.below[i][0]).max(0.0);
        let step = (high - low) / steps;
        away(self.below[i], low) + away(above, high) + inside * step * step / 12.0
    }
}

/// How much the histogram within a range, what is outside of it added to its ends, says that its coarse form
/// of `levels` does not.
fn divergence(bins: &[(f64, f64, u64)], low: f64, high: f64, levels: usize) -> f64 {
    if high <= low {
        return f64::INFINITY;
    }
    let level = |b: &(f64, f64, u64)| {
        let at = ((b.0 + b.1) / 2.0 - low) / (high - low) * levels as f64;
        (at as usize).min(levels - 1)
    };
    let inside = |b: &&(f64, f64, u64)| (low..=high).contains(&((b.0 + b.1) / 2.0));
    let total: f64 = bins.iter().map(|b| b.2 as f64).sum();
    let (mut sum, mut filled) = (vec![0.0; levels], vec![0.0; levels]);
    let (mut kept, mut ends) = (0.0, (0.0, 0.0));
    for b in bins {
        let n = b.2 as f64;
        match inside(&b) {
            true => {
                sum[level(b)] += n;
                filled[level(b)] += 1.0;
                kept += n;
            }
            false if b.0 < low => ends.0 += n,
            false => ends.1 += n,
        }
    }
    if kept == 0.0 {
        return f64::INFINITY;
    }
    let last = bins.iter().filter(inside).count().saturating_sub(1);
    let mut out = 0.0;
    for (i, b) in bins.iter().filter(inside).enumerate() {
        let mut p = b.2 as f64;
        if i == 0 {
            p += ends.0;
        }
        if i == last {
            p += ends.1;
        }
        let (p, q) = (p / total, sum[level(b)] / filled[level(b)] / kept);
        out += p * (p / q).ln();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const METHODS: [Method; 4] = [Method::MinMax, Method::Entropy, Method::Percentile(99.9), Method::Mse];

    fn squared(x: &[f32], a: Affine) -> f64 {
        x.iter().map(|&v| f64::from(v - a.dequantize(a.quantize(v))).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn numbers_within_the_range_are_half_a_step_away_at_most(
            x in prop::collection::vec(-50f32..50.0, 1..100), signed: bool, symmetric: bool,
        ) {
            let mut h = Histogram::new();
            h.add(&x);
            let dtype = if signed { DType::I8 } else { DType::U8 };
            let (low, high) = choose(&h, Method::MinMax, dtype, symmetric).unwrap();
            let a = Affine::of_range(low, high, dtype, symmetric);
            prop_assert_eq!(a.dequantize(a.quantize(0.0)), 0.0);
            for v in x {
                let back = a.dequantize(a.quantize(v));
                // The zero point is rounded, too, which may move an end by half a step.
                prop_assert!((back - v).abs() <= 1.001 * a.scale, "{} became {}, scale {}", v, back, a.scale);
            }
        }

        #[test]
        fn every_method_stays_within_what_was_seen(
            x in prop::collection::vec(prop_oneof![-3f32..3.0, Just(0.0f32), -40f32..90.0], 0..400),
            symmetric: bool,
        ) {
            let mut h = Histogram::new();
            h.add(&x);
            for m in METHODS {
                let Some((low, high)) = choose(&h, m, DType::U8, symmetric) else {
                    prop_assert!(x.is_empty());
                    continue;
                };
                let (l, u) = choose(&h, Method::MinMax, DType::U8, symmetric).unwrap();
                prop_assert!(l <= low && low <= 0.0 && 0.0 <= high && high <= u, "{:?}: {} {}", m, low, high);
                if symmetric {
                    prop_assert_eq!(low, -high);
                }
            }
        }
    }

    /// A bell with a few far outliers.
    fn bell() -> Vec<f32> {
        let mut s = 1u32;
        let mut next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 24) as f32
        };
        let mut x: Vec<f32> = (0..20_000).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect();
        x.extend([60.0, -35.0, 48.0]);
        x
    }

    #[test]
    fn searching_beats_the_whole_range() {
        let x = bell();
        let mut h = Histogram::new();
        h.add(&x);
        for symmetric in [false, true] {
            let of = |m| {
                let (l, u) = choose(&h, m, DType::I8, symmetric).unwrap();
                (squared(&x, Affine::of_range(l, u, DType::I8, symmetric)), u)
            };
            let (whole, least) = (of(Method::MinMax), of(Method::Mse));
            assert!(least.0 < whole.0, "{least:?} {whole:?}");
            assert!(of(Method::Entropy).1 < 30.0);
            assert!(of(Method::Percentile(99.9)).1 < 6.0);
        }
    }

    #[test]
    fn the_error_of_a_range_is_what_rounding_costs() {
        let x = bell();
        let mut h = Histogram::new();
        h.add(&x);
        let m = Moments::of(&h);
        for reach in [2.0, 4.0, 20.0] {
            let told = m.error(-reach, reach, 254.0);
            let real = squared(&x, Affine::of_range(-reach, reach, DType::I8, true));
            assert!((told / real - 1.0).abs() < 0.1, "{reach}: {told} {real}");
        }
    }

    #[test]
    fn nothing_but_zeros_has_a_scale() {
        let mut h = Histogram::new();
        h.add(&[0.0, -0.0, f32::NAN, f32::INFINITY]);
        for m in METHODS {
            let (l, u) = choose(&h, m, DType::U8, false).unwrap();
            assert_eq!(
                Affine::of_range(l, u, DType::U8, false),
                Affine { dtype: DType::U8, scale: 1.0, zero: 0 }
            );
        }
        assert!(choose(&Histogram::new(), Method::Mse, DType::U8, false).is_none());
    }
}

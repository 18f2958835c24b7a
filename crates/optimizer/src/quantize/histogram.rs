/// Bins that a histogram has at most.
const MAX_BINS: usize = 4096;
/// Multiples of the width that edges are at most, so that they are exact.
const MAX_PLACE: f64 = (1u64 << 50) as f64;
/// The narrowest bins, for numbers of the smallest exponents.
const MIN_EXPONENT: i32 = -160;

/// How often numbers were seen, in bins whose width is a power of two and whose edges are multiples of it.
///
/// Bins are as narrow as the range seen allows and double when it grows. So a histogram depends on what
/// was seen alone, and not on the order, or on which parts were merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    exponent: i32,
    first: i64,
    bins: Vec<u64>,
    zeros: u64,
    min: f32,
    max: f32,
    odd: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

impl Histogram {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Histogram {
            exponent: MIN_EXPONENT,
            first: 0,
            bins: vec![],
            zeros: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            odd: 0,
        }
    }

    /// Counts numbers; those that are not finite only as such.
    pub fn add(&mut self, x: &[f32]) {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for &v in x.iter().filter(|v| v.is_finite()) {
            low = low.min(v);
            high = high.max(v);
        }
        if low <= high {
            self.cover(low, high);
        }
        let scale = (-f64::from(self.exponent)).exp2();
        for &v in x {
            if v == 0.0 {
                self.zeros += 1;
            } else if v.is_finite() {
                let at = (f64::from(v) * scale).floor() as i64 - self.first;
                self.bins[at as usize] += 1;
            } else {
                self.odd += 1;
            }
        }
    }

    /// Counts what another histogram has counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.zeros += other.zeros;
        self.odd += other.odd;
        if other.min > other.max {
            return;
        }
        self.cover(other.min, other.max);
        let shift = (self.exponent - other.exponent).min(63);
        for (i, n) in other.bins.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.bins[(((other.first + i as i64) >> shift) - self.first) as usize] += n;
        }
    }

    /// Makes room for numbers from `low` to `high`.
    fn cover(&mut self, low: f32, high: f32) {
        self.min = self.min.min(low);
        self.max = self.max.max(high);
        let place = |v: f32, e: i32| (f64::from(v) * (-f64::from(e)).exp2()).floor();
        let mut e = self.exponent;
        let fits = |e: i32| {
            let (first, last) = (place(self.min, e), place(self.max, e));
            last - first < MAX_BINS as f64 && first.abs().max(last.abs()) < MAX_PLACE
        };
        while !fits(e) {
            e += 1;
        }
        let (first, last) = (place(self.min, e) as i64, place(self.max, e) as i64);
        if e == self.exponent && first == self.first && self.bins.len() as i64 == last - first + 1 {
            return;
        }
        let mut bins = vec![0; (last - first + 1) as usize];
        for (i, n) in self.bins.iter().enumerate().filter(|(_, n)| **n > 0) {
            // Shifting floors, for negative places too; shifts of 63 and more are all alike.
            let at = (self.first + i as i64) >> (e - self.exponent).min(63);
            bins[(at - first) as usize] += n;
        }
        (self.exponent, self.first, self.bins) = (e, first, bins);
    }

    /// The smallest and largest finite number seen.
    pub fn range(&self) -> Option<(f32, f32)> {
        (self.min <= self.max).then_some((self.min, self.max))
    }

    /// Finite numbers seen.
    pub fn count(&self) -> u64 {
        self.zeros + self.bins.iter().sum::<u64>()
    }

    /// Infinities and NaNs seen.
    pub fn not_finite(&self) -> u64 {
        self.odd
    }

    /// Zeros of either sign seen; no bin counts them.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Every bin with its lower and upper edge, cut to the range seen.
    pub fn bins(&self) -> impl Iterator<Item = (f64, f64, u64)> + '_ {
        let width = f64::from(self.exponent).exp2();
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        self.bins.iter().enumerate().map(move |(i, &n)| {
            let low = (self.first + i as i64) as f64 * width;
            (low.max(min), (low + width).min(max), n)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => -4f32..4.0,
            1 => Just(0.0f32),
            1 => -1e6f32..1e6,
            1 => proptest::num::f32::ANY,
        ]
    }

    proptest! {
        #[test]
        fn parts_in_any_order_count_alike(
            x in prop::collection::vec(number(), 0..300), cut in 0usize..300, by in 1usize..50,
        ) {
            let cut = cut.min(x.len());
            let mut whole = Histogram::new();
            whole.add(&x);
            let mut chunks = Histogram::new();
            x.chunks(by).rev().for_each(|c| chunks.add(c));
            let (mut a, mut b) = (Histogram::new(), Histogram::new());
            a.add(&x[..cut]);
            b.add(&x[cut..]);
            b.merge(&a);
            prop_assert_eq!(&whole, &chunks);
            prop_assert_eq!(&whole, &b);
            let finite = x.iter().filter(|v| v.is_finite()).count() as u64;
            prop_assert_eq!(whole.count(), finite);
            prop_assert_eq!(whole.not_finite(), x.len() as u64 - finite);
        }

        #[test]
        fn every_number_lies_in_its_bin(x in prop::collection::vec(-1e3f32..1e3, 1..200)) {
            let mut h = Histogram::new();
            h.add(&x);
            let nonzero = x.iter().filter(|v| **v != 0.0).count() as u64;
            prop_assert_eq!(h.bins().map(|b| b.2).sum::<u64>(), nonzero);
            for (low, high, n) in h.bins() {
                let inside = x.iter().filter(|v| **v != 0.0 && low <= f64::from(**v) && f64::from(**v) <= high);
                prop_assert!(inside.count() as u64 >= n);
            }
        }
    }
}

//! Roundings that compensate each other, after "GPTQ: Accurate Post-Training Quantization for Generative
//! Pre-trained Transformers" (Frantar and others, 2022): weights are rounded one input after the other, and
//! those not yet rounded move so that the product's result on the observed inputs stays.

use super::weights::{Format, Rows, Step, best_step, codes};

/// What is added to the diagonal, as a part of its mean, so that it can be inverted.
const DAMPING: f64 = 0.01;
/// Inputs whose errors are spread at once.
const BLOCK: usize = 64;
/// Rows of a matrix that are worked on together.
const PANEL: usize = 16;
/// Inputs beyond which the matrix would take too long to invert.
pub(super) const MAX_INPUTS: usize = 4096;

/// Sums over the observed inputs of a product: of each pair of its elements, multiplied.
#[derive(Debug, Clone)]
pub struct Moments {
    size: usize,
    sums: Vec<f32>,
    inputs: f64,
}

impl Moments {
    /// Nothing observed, for inputs of this many elements.
    pub fn new(size: usize) -> Moments {
        Moments { size, sums: vec![0.0; size * size], inputs: 0.0 }
    }

    /// Elements of an input.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds sums over so many further inputs: `size` rows of as many.
    pub fn add(&mut self, sums: &[f32], inputs: f64) {
        if sums.len() == self.sums.len() && sums.iter().all(|v| v.is_finite()) {
            self.sums.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
            self.inputs += inputs;
        }
    }

    /// The sum of each element's squares.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.size).map(|i| self.sums[i * self.size + i]).collect()
    }

    /// The part of the sums that is taken for more than chance: of few inputs, elements go together that do not in
    /// others, and what is left is taken from the diagonal.
    fn own(&self) -> f64 {
        self.inputs / (self.inputs + self.size as f64)
    }

    /// How the error of each weight is spread over those after it: of `H = (U + 1) D (U + 1)'`, with D diagonal, the
    /// strictly upper U; `None` where H has no such form. Rounding with it is the method of the paper without an
    /// inverse ("QuIP", Chee and others, 2023, section 3).
    fn spread(&self) -> Option<Vec<f32>> {
        let n = self.size;
        let mean = (0..n).map(|i| f64::from(self.sums[i * n + i])).sum::<f64>() / n as f64;
        if !(mean.is_finite() && mean > 0.0) {
            return None;
        }
        let own = self.own();
        let mut h: Vec<f64> = self.sums.iter().map(|v| own * f64::from(*v)).collect();
        for i in 0..n {
            h[i * n + i] += (1.0 - own + DAMPING) * mean;
        }
        // With rows and columns in reverse, the lower factor becomes an upper one.
        h.reverse();
        cholesky(&mut h, n)?;
        h.reverse();
        let last: Vec<f64> = (0..n).map(|k| 1.0 / h[k * n + k]).collect();
        Some(h.iter().enumerate().map(|(i, v)| (v * last[i % n]) as f32).collect())
    }
}

/// The lower factor of a symmetric matrix in its place, zeros above; `None` unless it is positive definite.
fn cholesky(a: &mut [f64], n: usize) -> Option<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // A block of columns at a time: the rows that all others multiply with stay in a cache.
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        let (panel, below) = a[start * n..].split_at_mut((end - start) * n);
        for r in start..end {
            let (above, row) = panel.split_at_mut((r - start) * n);
            let row = &mut row[..n];
            solve(row, above, n, start);
            let d = row[r] - dot(&row[..r], &row[..r]);
            if !(d.is_finite() && d > 0.0) {
                return None;
            }
            row[r] = d.sqrt();
            row[r + 1..].fill(0.0);
        }
        // Rows below do not see each other.
        let rows = (n - end).div_ceil(threads).max(1);
        let panel = &*panel;
        std::thread::scope(|s| {
            let mut parts = below.chunks_mut(rows * n);
            let own = parts.next();
            for part in parts {
                s.spawn(move || part.chunks_mut(n).for_each(|row| solve(row, panel, n, start)));
            }
            own.into_iter().flat_map(|p| p.chunks_mut(n)).for_each(|row| solve(row, panel, n, start));
        });
    }
    Some(())
}

/// The elements of a row that belong to the columns of a panel's finished rows.
fn solve(row: &mut [f64], panel: &[f64], n: usize, start: usize) {
    for (j, other) in (start..).zip(panel.chunks(n)) {
        row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
    }
}

/// A sum in four parts, which a compiler may keep in one register.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut part = [0.0; 4];
    let (x, y) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in x.zip(y) {
        for i in 0..4 {
            part[i] += a[i] * b[i];
        }
    }
    part.iter().sum::<f64>() + rest
}

/// The integers of all rows; the scales of groups are chosen again, unless `fixed`, when their turn comes.
pub(super) fn compensate(
    w: &Rows,
    steps: &mut [Step],
    group: usize,
    f: Format,
    moments: &Moments,
    fixed: bool,
) -> Vec<i32> {
    let (low, high) = codes(f);
    let groups = w.len.div_ceil(group);
    let Some(u) = moments.spread() else {
        return (0..w.data.len())
            .map(|i| steps[i / w.len * groups + i % w.len / group].round(w.data[i], low, high))
            .collect();
    };
    let diagonal = moments.diagonal();
    let mut out = vec![0; w.data.len()];
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(w.count);
    let rows = w.count.div_ceil(threads);
    // Rows do not see each other: however they are shared out, the result is the same.
    std::thread::scope(|s| {
        let parts = out.chunks_mut(rows * w.len).zip(steps.chunks_mut(rows * groups)).enumerate();
        for (p, (out, steps)) in parts {
            let (u, diagonal) = (&u, &diagonal);
            s.spawn(move || {
                for (i, (out, steps)) in out.chunks_mut(w.len).zip(steps.chunks_mut(groups)).enumerate() {
                    let mut row = w.row(p * rows + i).to_vec();
                    let again = |row: &[f32], g: usize| {
                        let at = g * group..((g + 1) * group).min(w.len);
                        best_step(&row[at.clone()], Some(&diagonal[at]), f)
                    };
                    one_row(w.row(p * rows + i), &mut row, out, steps, group, u, (low, high), |row, g| {
                        (!fixed && groups > 1).then(|| again(row, g))
                    });
                }
            });
        }
    });
    out
}

fn one_row(
    w: &[f32],
    row: &mut [f32],
    out: &mut [i32],
    steps: &mut [Step],
    group: usize,
    u: &[f32],
    (low, high): (i32, i32),
    again: impl Fn(&[f32], usize) -> Option<Step>,
) {
    let n = row.len();
    let mut errors = [0f32; BLOCK];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        for k in start..end {
            let g = k / group;
            if k % group == 0
                && let Some(step) = again(row, g)
            {
                steps[g] = step;
            }
            let q = steps[g].round(row[k], low, high);
            out[k] = q;
            // What is still to be made up for counts from the weight itself, not from where it was moved to.
            let e = w[k] - steps[g].back(q);
            errors[k - start] = e;
            let spread = &u[k * n + k + 1..k * n + end];
            row[k + 1..end].iter_mut().zip(spread).for_each(|(w, u)| *w += e * u);
        }
        for k in start..end {
            let e = errors[k - start];
            let spread = &u[k * n + end..(k + 1) * n];
            row[end..].iter_mut().zip(spread).for_each(|(w, u)| *w += e * u);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::weights::store;
    use tensormill_tensor::{DType, Tensor};

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        let mut next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() + next() + next()).collect()
    }

    /// The squared error of products with these inputs.
    fn error(x: &[f32], n: usize, w: &Rows, back: &[f32]) -> f64 {
        let mut sum = 0.0;
        for x in x.chunks(n) {
            for (w, b) in w.data.chunks(n).zip(back.chunks(n)) {
                let d: f32 = x.iter().zip(w.iter().zip(b)).map(|(x, (w, b))| x * (w - b)).sum();
                sum += f64::from(d * d);
            }
        }
        sum
    }

    #[test]
    fn the_spread_multiplies_back_to_the_sums() {
        // More than a panel.
        let n = PANEL + 5;
        let x = numbers(n * 90, 3);
        let mut m = Moments::new(n);
        let sums: Vec<f32> = (0..n * n).map(|i| x.chunks(n).map(|x| x[i / n] * x[i % n]).sum()).collect();
        m.add(&sums, 90.0);
        let u = m.spread().unwrap();
        let mean = (0..n).map(|i| f64::from(sums[i * n + i])).sum::<f64>() / n as f64;
        let own = 90.0 / (90.0 + n as f64);
        let h = |i: usize, j: usize| {
            own * f64::from(sums[i * n + j]) + if i == j { (1.0 - own + DAMPING) * mean } else { 0.0 }
        };
        let u = |i: usize, j: usize| f64::from(u[i * n + j]);
        // From the last on, what is left of the diagonal is D.
        let mut d = vec![0.0; n];
        for i in (0..n).rev() {
            d[i] = h(i, i) - (i + 1..n).map(|k| u(i, k) * u(i, k) * d[k]).sum::<f64>();
            assert!(d[i] > 0.0 && (u(i, i) - 1.0).abs() < 1e-6);
        }
        for i in 0..n {
            for j in 0..i {
                assert_eq!(u(i, j), 0.0);
                let back: f64 = (i..n).map(|k| u(i, k) * u(j, k) * d[k]).sum();
                assert!((back - h(i, j)).abs() < 1e-4 * mean, "{i} {j}: {back} {}", h(i, j));
            }
        }
    }

    #[test]
    fn compensated_roundings_are_nearer() {
        let (n, count) = (48, 10);
        // Inputs that go together, as activations do.
        let x: Vec<f32> = numbers(200, 5)
            .iter()
            .enumerate()
            .flat_map(|(i, common)| {
                numbers(n, 100 + i as u32).into_iter().map(move |v| 0.5 * v + common + 0.3)
            })
            .collect();
        let sums: Vec<f32> = (0..n * n).map(|i| x.chunks(n).map(|x| x[i / n] * x[i % n]).sum()).collect();
        let mut m = Moments::new(n);
        m.add(&sums, 200.0);
        let t = Tensor::from_vec([count, n], numbers(n * count, 9)).unwrap();
        let w = Rows::of(&t, 0).unwrap();
        for (dtype, group) in
            [(DType::I8, None), (DType::I4, Some(16)), (DType::U4, Some(16)), (DType::I4, None)]
        {
            let f = Format { dtype, seven_bits: false, group, per_tensor: false, search: true };
            let plain = store(&w, f, None, None, None).unwrap();
            let better = store(&w, f, Some(&m.diagonal()), Some(&m), None).unwrap();
            let (a, b) = (error(&x, n, &w, &plain.back), error(&x, n, &w, &better.back));
            assert!(b < 0.6 * a, "{dtype} {group:?}: {a} {b}");
        }
    }

    #[test]
    fn inputs_never_seen_leave_plain_rounding() {
        let t = Tensor::from_vec([2, 8], numbers(16, 1)).unwrap();
        let w = Rows::of(&t, 0).unwrap();
        let f = Format { dtype: DType::I8, seven_bits: false, group: None, per_tensor: false, search: true };
        let none = store(&w, f, None, Some(&Moments::new(8)), None).unwrap();
        assert_eq!(none.back, store(&w, f, None, None, None).unwrap().back);
    }
}

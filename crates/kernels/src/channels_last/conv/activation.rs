//! Activations of a finished tile, in vectors.

use super::rows::{Rows, Work, each, load, run, store};
use crate::simd::Level;
use crate::simd::vector::{ROUND, Vector, polynomial, power};

/// An activation that tiles end with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Activation {
    /// `x / (1 + e^(-alpha x))`, within 6 ULP (and `alpha x` more without fused multiply-add) or 1e-35. Here
    /// is `e^(-alpha x)`, which is not to be made ready again for each tile.
    Silu(Power),
    /// `x/2 (1 + erf(x / sqrt 2))`, within `8 + x^2` ULP (twice the square
    /// without fused multiply-add) or 1e-35.
    Gelu,
    /// GELU's tanh form, within `8 + 6 |u|` ULP or 1e-30, where `u` is what the tanh is taken of
    /// (and `2 |u|` more without fused multiply-add).
    GeluTanh,
}

impl Activation {
    /// `x / (1 + e^(-alpha x))`
    pub(crate) fn silu(alpha: f32) -> Activation {
        Activation::Silu(Power::of(-(alpha as f64)))
    }

    /// Applies it to all elements.
    ///
    /// # Safety
    /// The rows are there, and nobody else touches them.
    pub(crate) unsafe fn apply(self, level: Level, rows: Rows) {
        // SAFETY: forwarded.
        unsafe {
            match self {
                Activation::Silu(power) => run(level, Silu(rows, power)),
                Activation::Gelu => run(level, Gelu(rows)),
                Activation::GeluTanh => run(level, GeluTanh(rows)),
            }
        }
    }
}

/// `e^(factor x)` as a power of two; limited to what a float holds with room to spare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Power {
    /// The factor of the exponent in two parts, so that large arguments keep their last bits.
    high: f32,
    low: f32,
    /// 2^r = e^(r ln 2), by Taylor: within half a step of zero the rest is below the last bit.
    terms: [f32; 8],
}

impl Power {
    const fn of(factor: f64) -> Power {
        let exponent = factor * std::f64::consts::LOG2_E;
        let high = exponent as f32;
        let (mut terms, mut term, mut k) = ([1.0; 8], 1.0, 1);
        while k < 8 {
            term = term * std::f64::consts::LN_2 / k as f64;
            terms[k] = term as f32;
            k += 1;
        }
        Power { high, low: (exponent - high as f64) as f32, terms }
    }

    /// # Safety
    /// `V`'s instructions are available.
    #[inline(always)]
    unsafe fn at<V: Vector>(self, x: V) -> V {
        // SAFETY: forwarded.
        unsafe {
            let t = V::mul(x, V::splat(self.high));
            let limited = V::min(V::splat(126.0), V::max(V::splat(-126.0), t));
            let whole = V::sub(V::add(limited, V::splat(ROUND)), V::splat(ROUND));
            let rest = V::mul_add(x, V::splat(self.high), V::sub(V::splat(0.0), whole));
            let rest = V::mul_add(x, V::splat(self.low), rest);
            // Only a limited argument leaves more than half a step.
            let rest = V::min(V::splat(1.0), V::max(V::splat(-1.0), rest));
            let mut power = V::splat(self.terms[7]);
            for k in (0..7).rev() {
                power = V::mul_add(power, rest, V::splat(self.terms[k]));
            }
            V::scale(power, whole)
        }
    }
}

struct Silu(Rows, Power);

impl Work for Silu {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let power = self.1;
        // SAFETY: every vector is inside its row.
        each::<V>(self.0, |p, _, n| unsafe {
            let x: V = load(p, n);
            // Beyond the limits the quotient is the argument, or next to nothing.
            store(V::div(x, V::add(power.at(x), V::splat(1.0))), p, n);
        });
    }
}

struct GeluTanh(Rows);

impl Work for GeluTanh {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // x/2 (1 + tanh u) = x / (1 + e^(-2 u)), which keeps its accuracy for negative x.
        const SCALE: f32 = 0.797_884_6;
        const POWER: Power = Power::of(-2.0);
        // SAFETY: every vector is inside its row.
        each::<V>(self.0, |p, _, n| unsafe {
            let x: V = load(p, n);
            let cubic = V::mul_add(V::mul(x, V::splat(0.044_715)), x, V::splat(1.0));
            let u = V::mul(V::mul(x, V::splat(SCALE)), cubic);
            // Below, the result is next to nothing, but infinity would not be.
            let top = V::max(V::splat(-1.0e4), x);
            store(V::div(top, V::add(POWER.at(u), V::splat(1.0))), p, n);
        });
    }
}

struct Gelu(Rows);

/// Past this the tail is next to nothing, and the power of two a normal number still.
const FARTHEST: f32 = 12.9;
/// `e^(x^2 / 2) (1 - erf(x / sqrt 2)) / 2` for `x` from 0 to [`FARTHEST`], to 3e-7 of itself: a polynomial in
/// `1 / (1 + CURVE x)`, whose largest error is as small as it can be for its degree.
const TAIL: [f32; 8] = [
    -3.634_405_6e-5,
    0.139_440_06,
    0.131_097_33,
    0.160_324_11,
    -0.027_991_321,
    0.254_598_6,
    -0.206_444_55,
    0.049_012_255,
];
const CURVE: f32 = 0.3475;

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn gelu<V: Vector>(x: V) -> V {
    /// `e^(-x^2 / 2)` is 2 to this times the square.
    const EXPONENT: f32 = -0.5 * std::f32::consts::LOG2_E;
    // SAFETY: forwarded.
    unsafe {
        let far = V::min(V::splat(FARTHEST), V::abs(x));
        let t = V::div(V::splat(1.0), V::mul_add(far, V::splat(CURVE), V::splat(1.0)));
        let density = power(V::mul(far, far), EXPONENT);
        let tail = V::mul(V::mul(far, density), polynomial(t, &TAIL));
        V::sub(V::max(V::splat(0.0), x), tail)
    }
}

impl Work for Gelu {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let rows = self.0;
        for i in 0..rows.size[0] * rows.size[1] {
            let (y, x) = (i / rows.size[1], i % rows.size[1]);
            let row = rows.start.wrapping_add(y * rows.pitches[0] + x * rows.pitches[1]);
            let mut c = 0;
            // Two at a time: each waits long for its own numbers.
            while c + 2 * V::LANES <= rows.columns {
                // SAFETY: both vectors are inside the row.
                unsafe {
                    let (p, q) = (row.add(c), row.add(c + V::LANES));
                    let (a, b) = (gelu(V::load(p)), gelu(V::load(q)));
                    a.store(p);
                    b.store(q);
                }
                c += 2 * V::LANES;
            }
            while c < rows.columns {
                let n = (rows.columns - c).min(V::LANES);
                // SAFETY: these floats are inside the row.
                unsafe { store(gelu::<V>(load(row.add(c), n)), row.add(c), n) };
                c += n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silu_is_within_a_few_ulp() {
        for level in Level::available() {
            for alpha in [1.0f32, 1.702, -0.5] {
                let x: Vec<f32> = (0..200_003).map(|i| (i as f32 - 100_000.0) * 8e-4).collect();
                let mut out = x.clone();
                let rows = Rows::line(out.as_mut_ptr(), 1, 0, x.len());
                // SAFETY: the row is the buffer.
                unsafe { Activation::silu(alpha).apply(level, rows) };
                for (&x, &got) in x.iter().zip(&out) {
                    let want = x as f64 / (1.0 + (-(alpha as f64) * x as f64).exp());
                    // Without fused multiplication the exponent is rounded as well.
                    let rounded = if level == Level::BASELINE { (alpha * x).abs() } else { 0.0 };
                    let ulps = 6.0 + rounded as f64;
                    let bound = ulps * f32::EPSILON as f64 * want.abs() + 1e-35;
                    assert!(
                        (got as f64 - want).abs() <= bound,
                        "{level:?} {alpha}: {x} gives {got}, not {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn silu_of_odd_values() {
        for level in Level::available() {
            let mut x = [f32::NAN, f32::INFINITY, 0.0, -0.0, 1e38, -1e38, f32::MIN_POSITIVE];
            let rows = Rows::line(x.as_mut_ptr(), 1, 0, x.len());
            // SAFETY: the row is the buffer.
            unsafe { Activation::silu(1.0).apply(level, rows) };
            assert!(x[0].is_nan());
            assert_eq!(x[1], f32::INFINITY);
            assert_eq!((x[2].to_bits(), x[3].to_bits()), (0, (-0.0f32).to_bits()));
            assert_eq!(x[4], 1e38);
            assert!((-2.0..=0.0).contains(&x[5]), "{}", x[5]);
            assert_eq!(x[6], f32::MIN_POSITIVE / 2.0);
        }
    }

    /// The error function by its series, and its complement by a continued fraction.
    fn erfc(z: f64) -> f64 {
        if z < 2.5 {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut f = 0.0;
        for k in (1..80).rev() {
            f = (k as f64 / 2.0) / (z + f);
        }
        (-z * z).exp() / ((z + f) * std::f64::consts::PI.sqrt())
    }

    #[test]
    fn gelus_hold_their_bounds() {
        let x: Vec<f32> = (0..100_003).map(|i| (i as f32 - 50_000.0) * 4e-4).collect();
        for level in Level::available() {
            // Without fused multiplication exponents are rounded once more.
            let more = if level == Level::BASELINE { 2.0 } else { 1.0 };
            let at = |activation: Activation| {
                let mut out = x.clone();
                let rows = Rows::line(out.as_mut_ptr(), 1, 0, x.len());
                // SAFETY: the row is the buffer.
                unsafe { activation.apply(level, rows) };
                out
            };
            for (&x, &got) in x.iter().zip(&at(Activation::Gelu)) {
                let v = x as f64;
                let tail = v.abs() / 2.0 * erfc(v.abs() / std::f64::consts::SQRT_2);
                let want = v.max(0.0) - tail;
                let bound = (8.0 + more * v * v) * f32::EPSILON as f64 * want.abs() + 1e-35;
                assert!((got as f64 - want).abs() <= bound, "{level:?}: {x} gives {got}, not {want}");
            }
            for (&x, &got) in x.iter().zip(&at(Activation::GeluTanh)) {
                let v = x as f64;
                let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
                let want = v / (1.0 + (-2.0 * u).exp());
                let bound = (8.0 + (4.0 + 2.0 * more) * u.abs()) * f32::EPSILON as f64 * want.abs() + 1e-30;
                assert!((got as f64 - want).abs() <= bound, "{level:?}: {x} gives {got}, not {want}");
            }
        }
    }

    #[test]
    fn gelus_of_odd_values() {
        for level in Level::available() {
            for activation in [Activation::Gelu, Activation::GeluTanh] {
                let mut x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, -0.0];
                let rows = Rows::line(x.as_mut_ptr(), 1, 0, x.len());
                // SAFETY: the row is the buffer.
                unsafe { activation.apply(level, rows) };
                assert!(x[0].is_nan());
                assert_eq!((x[1], x[3]), (f32::INFINITY, 1e30));
                assert!((-1e-30..=0.0).contains(&x[2]) && (-1e-30..=0.0).contains(&x[4]), "{x:?}");
                assert_eq!(x[5], 0.0);
            }
        }
    }
}

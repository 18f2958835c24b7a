//! Activations of a finished tile, in vectors.

use super::rows::{Rows, Work, run};
use crate::simd::Level;
use crate::simd::vector::{POWER, ROUND, Vector, polynomial, power};

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
                Activation::Silu(power) => run(level, Each(rows, Silu(power))),
                Activation::Gelu => run(level, Each(rows, Gelu)),
                Activation::GeluTanh => run(level, Each(rows, GeluTanh)),
            }
        }
    }
}

/// `e^(factor x)` as a power of two, for arguments limited to what a float holds with room to spare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Power {
    /// The factor of the exponent in two parts, so that large arguments keep their last bits.
    high: f32,
    low: f32,
    /// The largest argument, either way.
    limit: f32,
}

impl Power {
    const fn of(factor: f64) -> Power {
        let exponent = factor * std::f64::consts::LOG2_E;
        let high = exponent as f32;
        Power { high, low: (exponent - high as f64) as f32, limit: 125.9 / high.abs() }
    }

    /// # Safety
    /// `V`'s instructions are available.
    #[inline(always)]
    unsafe fn at<V: Vector>(self, x: V) -> V {
        // SAFETY: forwarded. There are no more operations here than need be: a vector waits for each of them, and
        // the processor has room for those of two or three vectors only.
        unsafe {
            let x = V::min(V::splat(self.limit), V::max(V::splat(-self.limit), x));
            let whole = V::mul_add(x, V::splat(self.high), V::splat(ROUND));
            let rest = V::mul_add(x, V::splat(self.high), V::sub(V::splat(ROUND), whole));
            let rest = V::mul_add(x, V::splat(self.low), rest);
            V::scale_by_rounded(polynomial(rest, &POWER), whole)
        }
    }
}

/// What an activation makes of a vector.
trait OfVector: Copy {
    /// # Safety
    /// `V`'s instructions are available.
    unsafe fn at<V: Vector>(self, x: V) -> V;
}

/// An activation of all vectors of rows.
struct Each<A>(Rows, A);

impl<A: OfVector> Work for Each<A> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Each(rows, activation) = self;
        for y in 0..rows.size[0] {
            for x in 0..rows.size[1] {
                let row = rows.start.wrapping_add(y * rows.pitches[0] + x * rows.pitches[1]);
                let mut c = 0;
                // Whole vectors have a loop of their own: with the others in it, it takes half as long again.
                // SAFETY: every vector is inside its row.
                unsafe {
                    while c + V::LANES <= rows.columns {
                        activation.at(V::load(row.add(c))).store(row.add(c));
                        c += V::LANES;
                    }
                    if c < rows.columns {
                        let n = rows.columns - c;
                        activation.at(V::load_first(row.add(c), n)).store_first(row.add(c), n);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Silu(Power);

impl OfVector for Silu {
    #[inline(always)]
    unsafe fn at<V: Vector>(self, x: V) -> V {
        // SAFETY: forwarded. Beyond the limits the quotient is the argument, or next to nothing.
        unsafe { V::div(x, V::add(self.0.at(x), V::splat(1.0))) }
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl OfVector for GeluTanh {
    #[inline(always)]
    unsafe fn at<V: Vector>(self, x: V) -> V {
        // x/2 (1 + tanh u) = x / (1 + e^(-2 u)), which keeps its accuracy for negative x.
        const SCALE: f32 = 0.797_884_6;
        const POWER: Power = Power::of(-2.0);
        // SAFETY: forwarded.
        unsafe {
            let cubic = V::mul_add(V::mul(x, V::splat(0.044_715)), x, V::splat(1.0));
            let u = V::mul(V::mul(x, V::splat(SCALE)), cubic);
            // Below, the result is next to nothing, but infinity would not be.
            let top = V::max(V::splat(-1.0e4), x);
            V::div(top, V::add(POWER.at(u), V::splat(1.0)))
        }
    }
}

#[derive(Clone, Copy)]
struct Gelu;

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

impl OfVector for Gelu {
    #[inline(always)]
    unsafe fn at<V: Vector>(self, x: V) -> V {
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

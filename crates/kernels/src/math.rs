//! Elementary functions in plain arithmetic, written so that a loop over them vectorizes.
//!
//! No branch, no library call, no table: every choice is a select. Largest errors, measured by the tests
//! over dense sweeps against `f64` (ULP of the exact result, with or without fused multiply-add):
//!
//! | function | bound |
//! |---|---|
//! | [`exp`] | 2 ULP, results below the normal range 1 ULP of the smallest normal |
//! | [`expm1`] | 3 ULP |
//! | [`log`] | 3 ULP |
//! | [`log1p_unit`] | 4 ULP |
//! | [`tanh`] | 4 ULP |
//! | [`sigmoid`] | 5 ULP |
//! | [`erf`] | 4 ULP |
//! | [`gelu`] | 2e-7 of max(1, |x|), and 1e-5 relative where the result exceeds 1e-30 |

use crate::simd::Isa;
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// Adding and subtracting this rounds to an integer, which then sits in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// The head of ln 2: a product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// The larger; NaN if either is, and of two zeros the positive one, so that operand order never shows.
#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    if a > b || a.is_nan() {
        a
    } else if a == b {
        equal
    } else {
        b
    }
}

/// The smaller, as [`maximum`].
#[inline(always)]
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    if a < b || a.is_nan() {
        a
    } else if a == b {
        equal
    } else {
        b
    }
}

/// `x` moved into `[lo, hi]`; NaN stays NaN.
#[inline(always)]
pub(crate) fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    minimum(maximum(x, lo), hi)
}

/// [`clamp`] for limits that are not zero, one instruction each.
#[inline(always)]
fn limit(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

#[inline(always)]
fn poly<I: Isa>(x: f32, coefficients: &[f32]) -> f32 {
    let mut acc = coefficients[coefficients.len() - 1];
    for &c in coefficients[..coefficients.len() - 1].iter().rev() {
        acc = I::mul_add(acc, x, c);
    }
    acc
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Splits `x` into `n ln 2 + r` and returns `(n, e^r - 1)`.
#[inline(always)]
fn exp_parts<I: Isa>(x: f32) -> (i32, f32) {
    let t = I::mul_add(x, LOG2_E, ROUND);
    let n = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let nf = t - ROUND;
    let r = I::mul_add(nf, -LN2_LO, I::mul_add(nf, -LN2_HI, x));
    const TAYLOR: [f32; 6] = [0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    (n, I::mul_add(poly::<I>(r, &TAYLOR) * r, r, r))
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp<I: Isa>(x: f32) -> f32 {
    let (n, q) = exp_parts::<I>(limit(x, -104.0, 89.0));
    // Two factors, because `n` reaches 128 and -150.
    let half = n >> 1;
    (q + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `e^x - 1` without cancellation near zero.
#[inline(always)]
pub(crate) fn expm1<I: Isa>(x: f32) -> f32 {
    let (n, q) = exp_parts::<I>(limit(x, -40.0, 89.0));
    let half = n >> 1;
    let (a, b) = (power_of_two(half), power_of_two(n.wrapping_sub(half)));
    let big = (q + 1.0) * a * b;
    let small = I::mul_add(a * b, q, a * b - 1.0);
    // Past 2^30 the 1 no longer counts, and `a * b` alone could overflow before its time.
    let y = if n > 30 { big } else { small };
    if x == 0.0 { x } else { y }
}

/// Natural logarithm; NaN below zero, minus infinity at zero.
#[inline(always)]
pub(crate) fn log<I: Isa>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
    let e = bits.wrapping_sub(FRAC_1_SQRT_2.to_bits() as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32);
    let ef = if tiny { e as f32 - 23.0 } else { e as f32 };
    let f = m - 1.0;
    let s = f / (f + 2.0);
    let z = s * s;
    // ln m = 2 atanh(s) = f - s (f - 2 z (1/3 + z/5 + ..)).
    let w = z * poly::<I>(z, &[2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0]);
    let ln_m = f - s * (f - w);
    let y = I::mul_add(ef, LN2_HI, I::mul_add(ef, LN2_LO, ln_m));
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `ln(1 + y)` for `y` in `[0, 1]`.
#[inline(always)]
pub(crate) fn log1p_unit<I: Isa>(y: f32) -> f32 {
    let u = 1.0 + y;
    let d = u - 1.0;
    let l = log::<I>(u) * (y / d);
    if d == 0.0 { y } else { l }
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<I: Isa>(x: f32) -> f32 {
    let e = expm1::<I>(2.0 * clamp(x, -10.0, 10.0));
    let y = e / (e + 2.0);
    if x == 0.0 { x } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(crate) fn softplus<I: Isa>(x: f32) -> f32 {
    let above = if x > 0.0 { x } else { 0.0 };
    let y = above + log1p_unit::<I>(exp::<I>(-x.abs()));
    if x.is_nan() { x } else { y }
}

/// `erf(z) / z` for `z^2 = u <= 1`.
#[inline(always)]
fn erf_small<I: Isa>(u: f32) -> f32 {
    const P: [f32; 7] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_26,
        0.112_835_85,
        -0.026_853_812,
        0.005_188_327_7,
        -0.000_801_019_35,
        7.853_861e-5,
    ];
    poly::<I>(u, &P)
}

/// `1 - erf(z)` for `z >= 1`.
#[inline(always)]
fn erfc_large<I: Isa>(z: f32) -> f32 {
    const P: [f32; 8] = [
        -1.446_41e-4,
        0.284_769_5,
        0.260_599_22,
        0.344_599_17,
        -0.096_908_23,
        0.554_918_9,
        -0.465_468_23,
        0.117_676_27,
    ];
    let t = 1.0 / I::mul_add(z, 0.5, 1.0);
    exp::<I>(-z * z) * poly::<I>(t, &P)
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<I: Isa>(x: f32) -> f32 {
    let a = x.abs();
    let small = x * erf_small::<I>(a * a);
    let large = (1.0 - erfc_large::<I>(clamp(a, 1.0, 4.2))).copysign(x);
    if a < 1.0 || x.is_nan() { small } else { large }
}

/// `(1 - erf(z)) e^(z^2)` for `z >= 0`, to 4e-7 of itself: a polynomial in `1 / (1 + 0.4 z)`, fitted at
/// Chebyshev nodes up to where the tail underflows.
pub(crate) const ERFCX: [f32; 9] = [
    7.936_506e-5,
    0.223_971_28,
    0.241_334_13,
    0.127_106_55,
    0.425_617_93,
    -0.383_218_53,
    0.681_473_43,
    -0.388_670_3,
    0.072_306_05,
];

#[inline(always)]
fn erfcx<I: Isa>(z: f32) -> f32 {
    poly::<I>(1.0 / I::mul_add(z, 0.4, 1.0), &ERFCX)
}

/// `x/2 (1 + erf(x / sqrt 2))`.
#[inline(always)]
pub(crate) fn gelu<I: Isa>(x: f32) -> f32 {
    // Past 12 the tail underflows; the limits only keep infinity out of it.
    let z = limit((x * FRAC_1_SQRT_2).abs(), 0.0, 12.0);
    let tail = limit(0.5 * x, -20.0, 20.0) * (exp::<I>(-z * z) * erfcx::<I>(z));
    if x > 0.0 { x - tail } else { tail }
}

/// GELU's tanh form.
#[inline(always)]
pub(crate) fn gelu_tanh<I: Isa>(x: f32) -> f32 {
    const SCALE: f32 = 0.797_884_6;
    // x/2 (1 + tanh u) = x sigmoid(2 u), which keeps its accuracy for negative x.
    let u = SCALE * x * I::mul_add(0.044_715 * x, x, 1.0);
    let y = x * sigmoid::<I>(2.0 * u);
    if x < -1.0e4 { -0.0 } else { y }
}

/// `x tanh(ln(1 + e^x))`.
#[inline(always)]
pub(crate) fn mish<I: Isa>(x: f32) -> f32 {
    // tanh(ln(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2).
    let e = exp::<I>(clamp(x, -104.0, 20.0));
    let n = e * (e + 2.0);
    let y = x * (n / (n + 2.0));
    if x < -103.0 { -0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, Level};

    /// Applies one function to a slice at a level, through the same path kernels take.
    struct Sweep<'a, F>(&'a mut [f32], F);
    trait Function {
        fn at<I: Isa>(&self, x: f32) -> f32;
    }
    impl<F: Function> Kernel for Sweep<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<I: Isa>(self) {
            for x in self.0.iter_mut() {
                *x = self.1.at::<I>(*x);
            }
        }
    }
    macro_rules! function {
        ($name:ident, $f:ident) => {
            #[derive(Clone, Copy)]
            struct $name;
            impl Function for $name {
                #[inline(always)]
                fn at<I: Isa>(&self, x: f32) -> f32 {
                    $f::<I>(x)
                }
            }
        };
    }
    function!(Exp, exp);
    function!(Expm1, expm1);
    function!(Log, log);
    function!(Log1p, log1p_unit);
    function!(Tanh, tanh);
    function!(Sigmoid, sigmoid);
    function!(Erf, erf);
    function!(Gelu, gelu);
    function!(GeluTanh, gelu_tanh);
    function!(Softplus, softplus);
    function!(Mish, mish);

    fn sweep(lo: f64, hi: f64) -> Vec<f32> {
        (0..=200_000).map(|i| (lo + (hi - lo) * i as f64 / 200_000.0) as f32).collect()
    }

    fn apply(level: Level, f: impl Function, xs: &[f32]) -> Vec<f32> {
        let mut ys = xs.to_vec();
        level.run(Sweep(&mut ys, f));
        ys
    }

    fn ulp(exact: f64) -> f64 {
        let a = (exact.abs() as f32).max(f32::MIN_POSITIVE);
        (f32::from_bits(a.to_bits() + 1) - a) as f64
    }

    fn within(f: impl Function + Copy, exact: impl Fn(f64) -> f64, xs: &[f32], ulps: f64) {
        for level in Level::available() {
            for (&x, &y) in xs.iter().zip(&apply(level, f, xs)) {
                let e = exact(x as f64);
                if (e as f32).is_infinite() {
                    assert_eq!(y, e as f32, "at {x}");
                    continue;
                }
                let err = (y as f64 - e).abs() / ulp(e);
                assert!(err <= ulps, "{level:?} at {x:e}: {y:e} for {e:e}, {err:.2} ULP");
            }
        }
    }

    /// erf in f64 from its series (small) and continued fraction (large).
    fn erfc64(z: f64) -> f64 {
        if z < 2.5 {
            return 1.0 - erf64(z);
        }
        let mut f = 0.0;
        for k in (1..80).rev() {
            f = (k as f64 / 2.0) / (z + f);
        }
        (-z * z).exp() / ((z + f) * std::f64::consts::PI.sqrt())
    }

    fn erf64(z: f64) -> f64 {
        if z.abs() >= 2.5 {
            return (1.0 - erfc64(z.abs())) * z.signum();
        }
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= -z * z / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exponentials_and_logarithms_hold_their_bounds() {
        within(Exp, f64::exp, &sweep(-87.3, 88.8), 2.0);
        within(Exp, f64::exp, &sweep(-110.0, -87.0), 1.0);
        within(Exp, f64::exp, &sweep(-0.01, 0.01), 2.0);
        within(Expm1, f64::exp_m1, &sweep(-50.0, 88.8), 3.0);
        within(Expm1, f64::exp_m1, &sweep(-1.0, 1.0), 3.0);
        within(Expm1, f64::exp_m1, &sweep(-1e-6, 1e-6), 3.0);
        within(Log, f64::ln, &sweep(0.4, 2.5), 3.0);
        within(Log, f64::ln, &sweep(1e-3, 1e4), 3.0);
        let all: Vec<f32> = (1..0x7f80_0000u32).step_by(9973).map(f32::from_bits).collect();
        within(Log, f64::ln, &all, 3.0);
        within(Log1p, f64::ln_1p, &sweep(0.0, 1.0), 4.0);
        within(Log1p, f64::ln_1p, &sweep(0.0, 1e-6), 4.0);
    }

    #[test]
    fn sigmoidal_functions_hold_their_bounds() {
        for range in [(-12.0, 12.0), (-0.5, 0.5), (-1e-5, 1e-5)] {
            let xs = sweep(range.0, range.1);
            within(Tanh, f64::tanh, &xs, 4.0);
            within(Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &xs, 5.0);
            within(Erf, erf64, &xs, 4.0);
            within(Softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), &xs, 6.0);
        }
        within(Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &sweep(-88.0, 88.0), 5.0);
    }

    #[test]
    fn gelu_and_mish_hold_their_bounds() {
        for level in Level::available() {
            let xs = sweep(-14.0, 14.0);
            for (&x, &y) in xs.iter().zip(&apply(level, Gelu, &xs)) {
                let x = x as f64;
                let z = x * std::f64::consts::FRAC_1_SQRT_2;
                let e = if x < 0.0 { 0.5 * x * erfc64(-z) } else { 0.5 * x * (1.0 + erf64(z)) };
                let err = (y as f64 - e).abs();
                assert!(err <= 2e-7 * x.abs().max(1.0), "{level:?} gelu({x}) = {y}, {e}");
            }
            for (&x, &y) in xs.iter().zip(&apply(level, GeluTanh, &xs)) {
                let x = x as f64;
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                let e = x / (1.0 + (-2.0 * u).exp());
                assert!(
                    (y as f64 - e).abs() <= 4e-7 * x.abs().max(1.0),
                    "{level:?} gelu_tanh({x}) = {y}, {e}"
                );
            }
            let xs = sweep(-30.0, 30.0);
            for (&x, &y) in xs.iter().zip(&apply(level, Mish, &xs)) {
                let x = x as f64;
                let e = x * x.exp().ln_1p().tanh();
                assert!((y as f64 - e).abs() <= 4e-7 * x.abs().max(1.0), "{level:?} mish({x}) = {y}, {e}");
            }
        }
    }

    #[test]
    fn specials() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for level in Level::available() {
            let at = |f: &dyn Fn(&[f32]) -> Vec<f32>, xs: &[f32], want: &[f32]| {
                for ((&x, y), &w) in xs.iter().zip(f(xs)).zip(want) {
                    assert!(y == w || (y.is_nan() && w.is_nan()), "{level:?} f({x}) = {y}, not {w}");
                }
            };
            let xs = [inf, -inf, nan, 0.0, -0.0, 1e30, -1e30];
            at(&|x| apply(level, Exp, x), &xs, &[inf, 0.0, nan, 1.0, 1.0, inf, 0.0]);
            at(&|x| apply(level, Expm1, x), &xs, &[inf, -1.0, nan, 0.0, -0.0, inf, -1.0]);
            at(&|x| apply(level, Tanh, x), &xs, &[1.0, -1.0, nan, 0.0, -0.0, 1.0, -1.0]);
            at(&|x| apply(level, Sigmoid, x), &xs, &[1.0, 0.0, nan, 0.5, 0.5, 1.0, 0.0]);
            at(&|x| apply(level, Erf, x), &xs, &[1.0, -1.0, nan, 0.0, -0.0, 1.0, -1.0]);
            at(&|x| apply(level, Softplus, x), &[inf, -inf, nan, 1e30, -1e30], &[inf, 0.0, nan, 1e30, 0.0]);
            at(&|x| apply(level, Gelu, x), &xs, &[inf, 0.0, nan, 0.0, -0.0, 1e30, 0.0]);
            at(
                &|x| apply(level, GeluTanh, x),
                &[inf, nan, 0.0, 1e30, -1e30, -inf],
                &[inf, nan, 0.0, 1e30, 0.0, 0.0],
            );
            at(
                &|x| apply(level, Mish, x),
                &[inf, nan, 0.0, 1e30, -1e30, -inf],
                &[inf, nan, 0.0, 1e30, 0.0, 0.0],
            );
            at(
                &|x| apply(level, Log, x),
                &[inf, -inf, nan, 0.0, -0.0, 1.0, -1.0],
                &[inf, nan, nan, -inf, -inf, 0.0, nan],
            );
        }
    }
}

//! Functions of one `f32` operand.

use super::{BLOCK, GRAIN};
use crate::error::{KernelError, exact};
use crate::math;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};

/// A function applied to every element.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum UnaryOp {
    /// `|x|`
    Abs,
    /// `-x`
    Neg,
    /// `sqrt(x)`
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    /// `1 / x`
    Reciprocal,
    /// `x * x`
    Square,
    /// `e^x`
    Exp,
    /// `e^x - 1`
    Expm1,
    /// Natural logarithm
    Log,
    /// `ln(1 + x)`
    Log1p,
    /// Sine
    Sin,
    /// Cosine
    Cos,
    /// Tangent
    Tan,
    /// Arc sine
    Asin,
    /// Arc cosine
    Acos,
    /// Arc tangent
    Atan,
    /// Hyperbolic sine
    Sinh,
    /// Hyperbolic cosine
    Cosh,
    /// Inverse hyperbolic sine
    Asinh,
    /// Inverse hyperbolic cosine
    Acosh,
    /// Inverse hyperbolic tangent
    Atanh,
    /// Hyperbolic tangent
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The error function
    Erf,
    /// GELU by the error function
    Gelu,
    /// GELU by the hyperbolic tangent
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x` above zero, `alpha x` below
    LeakyRelu(f32),
    /// `x` above `alpha`, else zero
    ThresholdedRelu(f32),
    /// `min(max(x, lo), hi)`
    Clip(f32, f32),
    /// `x sigmoid(alpha x)`
    Silu(f32),
    /// `x max(0, min(1, x/6 + 1/2))`
    HardSwish,
    /// `max(0, min(1, alpha x + beta))`
    HardSigmoid(f32, f32),
    /// `x` above zero, `alpha (e^x - 1)` below
    Elu(f32),
    /// `gamma x` above zero, `gamma alpha (e^x - 1)` below: `Selu(alpha, gamma)`
    Selu(f32, f32),
    /// `x` above zero, `alpha (e^(x / alpha) - 1)` below
    Celu(f32),
    /// `ln(1 + e^x)`
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x tanh(ln(1 + e^x))`
    Mish,
    /// Largest integer not above
    Floor,
    /// Smallest integer not below
    Ceil,
    /// Nearest integer, halves to even
    Round,
    /// Towards zero
    Trunc,
    /// -1, 0 or 1; NaN stays
    Sign,
    /// `scale x + shift`
    Affine(f32, f32),
}

/// One function with its parameters, as a type.
trait Function: Copy {
    fn at<I: Isa>(self, x: f32) -> f32;
}

struct Map<'a, F>(&'a mut [f32], F);

impl<F: Function> Kernel for Map<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for x in self.0 {
            *x = self.1.at::<I>(*x);
        }
    }
}

/// Declares the functions: name, parameters, the value at `x` (with `I` the instruction set), and the
/// dispatch from [`UnaryOp`].
macro_rules! functions {
    ($($name:ident($($p:ident),*), $x:ident, $isa:ident => $body:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name { $($p: f32),* }
            impl Function for $name {
                #[inline(always)]
                fn at<$isa: Isa>(self, $x: f32) -> f32 {
                    $(let $p = self.$p;)*
                    $body
                }
            }
        )*

        impl UnaryOp {
            /// Applies the function to every element on the calling thread.
            pub fn apply(self, level: Level, data: &mut [f32]) {
                match self {
                    $(functions!(@pattern $name $($p)*) => level.run(Map(data, $name { $($p),* })),)*
                }
            }
        }
    };
    (@pattern $name:ident) => { UnaryOp::$name };
    (@pattern $name:ident $($p:ident)+) => { UnaryOp::$name($($p),+) };
}

functions! {
    Abs(), x, I => x.abs();
    Neg(), x, I => -x;
    Sqrt(), x, I => x.sqrt();
    Rsqrt(), x, I => 1.0 / x.sqrt();
    Reciprocal(), x, I => 1.0 / x;
    Square(), x, I => x * x;
    Exp(), x, I => math::exp::<I>(x);
    Expm1(), x, I => math::expm1::<I>(x);
    Log(), x, I => math::log::<I>(x);
    Log1p(), x, I => x.ln_1p();
    Sin(), x, I => x.sin();
    Cos(), x, I => x.cos();
    Tan(), x, I => x.tan();
    Asin(), x, I => x.asin();
    Acos(), x, I => x.acos();
    Atan(), x, I => x.atan();
    Sinh(), x, I => x.sinh();
    Cosh(), x, I => x.cosh();
    Asinh(), x, I => x.asinh();
    Acosh(), x, I => x.acosh();
    Atanh(), x, I => x.atanh();
    Tanh(), x, I => math::tanh::<I>(x);
    Sigmoid(), x, I => math::sigmoid::<I>(x);
    Erf(), x, I => math::erf::<I>(x);
    Gelu(), x, I => math::gelu::<I>(x);
    GeluTanh(), x, I => math::gelu_tanh::<I>(x);
    Relu(), x, I => if x <= 0.0 { 0.0 } else { x };
    LeakyRelu(alpha), x, I => if x < 0.0 { alpha * x } else { x };
    ThresholdedRelu(alpha), x, I => if x > alpha || x.is_nan() { x } else { 0.0 };
    Clip(lo, hi), x, I => math::clamp(x, lo, hi);
    Silu(alpha), x, I => x * math::sigmoid::<I>(alpha * x);
    HardSwish(), x, I => x * math::clamp(I::mul_add(x, 1.0 / 6.0, 0.5), 0.0, 1.0);
    HardSigmoid(alpha, beta), x, I => math::clamp(I::mul_add(x, alpha, beta), 0.0, 1.0);
    Elu(alpha), x, I => if x < 0.0 { alpha * math::expm1::<I>(x) } else { x };
    Selu(alpha, gamma), x, I => gamma * if x < 0.0 { alpha * math::expm1::<I>(x) } else { x };
    Celu(alpha), x, I => {
        let below = alpha * math::expm1::<I>(x / alpha);
        (if x < 0.0 { 0.0 } else { x }) + if below > 0.0 { 0.0 } else { below }
    };
    Softplus(), x, I => math::softplus::<I>(x);
    Softsign(), x, I => x / (1.0 + x.abs());
    Mish(), x, I => math::mish::<I>(x);
    Floor(), x, I => x.floor();
    Ceil(), x, I => x.ceil();
    Round(), x, I => x.round_ties_even();
    Trunc(), x, I => x.trunc();
    Sign(), x, I => if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x.abs() };
    Affine(scale, shift), x, I => I::mul_add(x, scale, shift);
}

/// `out[i] = op(x[i])`.
pub fn unary_f32(pool: &Pool, op: UnaryOp, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    exact("output", out, x.len())?;
    let shards = Shards::new(out);
    pool.split(x.len(), GRAIN, |r| {
        // SAFETY: the ranges of a split are disjoint.
        let out = unsafe { shards.part(r.start, r.len()) };
        for (out, x) in out.chunks_mut(BLOCK).zip(x[r].chunks(BLOCK)) {
            out.copy_from_slice(x);
            op.apply(pool.level(), out);
        }
    });
    Ok(())
}

/// `data[i] = op(data[i])`.
pub fn unary_f32_inplace(pool: &Pool, op: UnaryOp, data: &mut [f32]) {
    let len = data.len();
    let shards = Shards::new(data);
    pool.split(len, GRAIN, |r| {
        // SAFETY: the ranges of a split are disjoint.
        op.apply(pool.level(), unsafe { shards.part(r.start, r.len()) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use UnaryOp::*;

    fn gelu64(x: f64) -> f64 {
        // Simpson's rule for the normal density from far below to x.
        let (lo, n) = (-12.0f64, 4000);
        let h = (x - lo) / n as f64;
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let weight = |i: usize| {
            if i == 0 || i == n {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            }
        };
        x * (0..=n).map(|i| weight(i) * density(lo + h * i as f64)).sum::<f64>() * h / 3.0
    }

    /// The definition of each function in `f64`.
    fn twin(op: UnaryOp, x: f64) -> f64 {
        let p = |v: f32| v as f64;
        match op {
            Abs => x.abs(),
            Neg => -x,
            Sqrt => x.sqrt(),
            Rsqrt => 1.0 / x.sqrt(),
            Reciprocal => 1.0 / x,
            Square => x * x,
            Exp => x.exp(),
            Expm1 => x.exp() - 1.0,
            Log => x.ln(),
            Log1p => (1.0 + x).ln(),
            Sin => x.sin(),
            Cos => x.cos(),
            Tan => x.sin() / x.cos(),
            Asin => x.asin(),
            Acos => x.acos(),
            Atan => x.atan(),
            Sinh => (x.exp() - (-x).exp()) / 2.0,
            Cosh => (x.exp() + (-x).exp()) / 2.0,
            Asinh => x.asinh(),
            Acosh => x.acosh(),
            Atanh => x.atanh(),
            Tanh => x.tanh(),
            Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Erf => 2.0 * gelu64(x * std::f64::consts::SQRT_2) / (x * std::f64::consts::SQRT_2) - 1.0,
            Gelu => gelu64(x),
            GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Relu => x.max(0.0),
            LeakyRelu(a) => {
                if x < 0.0 {
                    p(a) * x
                } else {
                    x
                }
            }
            ThresholdedRelu(a) => {
                if x > p(a) {
                    x
                } else {
                    0.0
                }
            }
            Clip(lo, hi) => x.max(p(lo)).min(p(hi)),
            Silu(a) => x / (1.0 + (-p(a) * x).exp()),
            HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            HardSigmoid(a, b) => (p(a) * x + p(b)).clamp(0.0, 1.0),
            Elu(a) => {
                if x < 0.0 {
                    p(a) * (x.exp() - 1.0)
                } else {
                    x
                }
            }
            Selu(a, g) => p(g) * if x < 0.0 { p(a) * (x.exp() - 1.0) } else { x },
            Celu(a) => x.max(0.0) + (p(a) * ((x / p(a)).exp() - 1.0)).min(0.0),
            Softplus => (1.0 + x.exp()).ln(),
            Softsign => x / (1.0 + x.abs()),
            Mish => x * (1.0 + x.exp()).ln().tanh(),
            Floor => x.floor(),
            Ceil => x.ceil(),
            Round => x.round_ties_even(),
            Trunc => x.trunc(),
            Sign => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Affine(a, b) => p(a) * x + p(b),
        }
    }

    const ALL: &[UnaryOp] = &[
        Abs,
        Neg,
        Sqrt,
        Rsqrt,
        Reciprocal,
        Square,
        Exp,
        Expm1,
        Log,
        Log1p,
        Sin,
        Cos,
        Tan,
        Asin,
        Acos,
        Atan,
        Sinh,
        Cosh,
        Asinh,
        Acosh,
        Atanh,
        Tanh,
        Sigmoid,
        Erf,
        Gelu,
        GeluTanh,
        Relu,
        LeakyRelu(0.1),
        ThresholdedRelu(0.7),
        Clip(-0.5, 1.5),
        Silu(1.0),
        Silu(1.7),
        HardSwish,
        HardSigmoid(0.2, 0.5),
        Elu(0.8),
        Selu(1.6732632, 1.050701),
        Celu(1.3),
        Softplus,
        Softsign,
        Mish,
        Floor,
        Ceil,
        Round,
        Trunc,
        Sign,
        Affine(2.5, -0.25),
    ];

    #[test]
    fn every_function_matches_its_definition_at_every_level() {
        let xs: Vec<f32> =
            (0..401).map(|i| (i as f32 - 200.5) * 0.0437).chain([0.5, 1.5, -2.5, 1.0, 2.0]).collect();
        for level in Level::available() {
            for &op in ALL {
                let mut ys = xs.clone();
                op.apply(level, &mut ys);
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = twin(op, x as f64);
                    if want.is_nan() {
                        assert!(y.is_nan(), "{op:?}({x}) = {y} at {level:?}");
                        continue;
                    }
                    if want.is_infinite() {
                        assert_eq!(y as f64, want, "{op:?}({x}) at {level:?}");
                        continue;
                    }
                    let err = (y as f64 - want).abs();
                    assert!(err <= 2e-6 * want.abs().max(1.0), "{op:?}({x}) = {y}, not {want}, at {level:?}");
                }
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        for level in Level::available() {
            for &op in ALL {
                let mut ys = vec![f32::NAN; 37];
                op.apply(level, &mut ys);
                assert!(ys.iter().all(|y| y.is_nan()), "{op:?} at {level:?}");
            }
        }
    }

    #[test]
    fn threads_and_places_agree() {
        let xs: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let mut serial = vec![0.0; xs.len()];
        unary_f32(&Pool::serial(), Gelu, &xs, &mut serial).unwrap();
        let mut parallel = vec![0.0; xs.len()];
        let pool = Pool::new(3).unwrap();
        unary_f32(&pool, Gelu, &xs, &mut parallel).unwrap();
        assert_eq!(serial, parallel);
        let mut place = xs.clone();
        unary_f32_inplace(&pool, Gelu, &mut place);
        assert_eq!(serial, place);
        assert!(unary_f32(&pool, Gelu, &xs, &mut place[1..]).is_err());
        unary_f32(&pool, Gelu, &[], &mut []).unwrap();
    }
}

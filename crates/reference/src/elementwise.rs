use crate::{
    EvalError, EvalLimits,
    data::{Wide, broadcast, broadcast_indices, from_ints, take},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{BinaryKind, Cast, RoundMode, UnaryKind};
use tensormill_tensor::{CastOptions, Complex, DType, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) fn unary(kind: UnaryKind, x: &Tensor) -> Result<Tensor> {
    let Some(dtype) = kind.result_dtype(x.dtype()) else { return wrong_dtype(x) };
    let shape = x.shape();
    match Wide::of(x)? {
        Wide::Float(v) if dtype == DType::Bool => {
            Ok(Tensor::from_bools(shape, v.into_iter().map(|v| predicate(kind, v)).collect())?)
        }
        Wide::Float(v) => Wide::Float(v.into_iter().map(|v| float(kind, v)).collect()).tensor(dtype, shape),
        Wide::Int(v) => {
            let v = v.into_iter().map(|v| int(kind, v, dtype)).collect::<Option<_>>();
            from_ints(dtype, shape, v.map_or_else(|| wrong_dtype(x), Ok)?)
        }
    }
}

fn predicate(kind: UnaryKind, x: f64) -> bool {
    match kind {
        UnaryKind::IsInf { negative, positive } => {
            x.is_infinite() && if x < 0.0 { negative.0 != 0.0 } else { positive.0 != 0.0 }
        }
        _ => x.is_nan(),
    }
}

/// The function on one float.
pub(crate) fn float(kind: UnaryKind, x: f64) -> f64 {
    use UnaryKind::*;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // ln(1+e^x) without overflow.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let clamp = |x: f64, lo: f64, hi: f64| if x.is_nan() { x } else { smaller(larger(x, lo), hi) };
    let nan_or = |v: f64| if x.is_nan() { x } else { v };
    match kind {
        Abs => x.abs(),
        Acos => x.acos(),
        Acosh => x.acosh(),
        Asin => x.asin(),
        Asinh => x.asinh(),
        Atan => x.atan(),
        Atanh => x.atanh(),
        Ceil => x.ceil(),
        Celu { alpha } => {
            let a = f64::from(alpha.0);
            nan_or(x.max(0.0) + (a * (x / a).exp_m1()).min(0.0))
        }
        Clamp { min, max } => clamp(x, f64::from(min.0), f64::from(max.0)),
        Cos => x.cos(),
        Cosh => x.cosh(),
        Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha.0) * x.exp_m1()
            } else {
                x
            }
        }
        Erf => erf(x),
        Exp => x.exp(),
        Floor => x.floor(),
        Gelu => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        HardSigmoid { alpha, beta } => clamp(f64::from(alpha.0) * x + f64::from(beta.0), 0.0, 1.0),
        HardSwish => x * clamp(x / 6.0 + 0.5, 0.0, 1.0),
        LeakyRelu { alpha } => {
            if x < 0.0 {
                f64::from(alpha.0) * x
            } else {
                x
            }
        }
        Log => x.ln(),
        Mish => x * softplus(x).tanh(),
        Neg => -x,
        Reciprocal => 1.0 / x,
        Relu => larger(x, 0.0),
        Round => x.round_ties_even(),
        Selu { alpha, gamma } => {
            let (a, g) = (f64::from(alpha.0), f64::from(gamma.0));
            if x > 0.0 { g * x } else { g * a * x.exp_m1() }
        }
        Shrink { lambd, bias } => {
            let (l, b) = (f64::from(lambd.0), f64::from(bias.0));
            if x < -l {
                x + b
            } else if x > l {
                x - b
            } else {
                nan_or(0.0)
            }
        }
        Sigmoid => sigmoid(x),
        Sign => nan_or(if x > 0.0 {
            1.0
        } else if x < 0.0 {
            -1.0
        } else {
            0.0
        }),
        Sin => x.sin(),
        Sinh => x.sinh(),
        Softplus => nan_or(softplus(x)),
        Softsign => x / (1.0 + x.abs()),
        Sqrt => x.sqrt(),
        Swish { alpha } => x * sigmoid(f64::from(alpha.0) * x),
        Tan => x.tan(),
        Tanh => x.tanh(),
        ThresholdedRelu { alpha } => {
            if x > f64::from(alpha.0) {
                x
            } else {
                nan_or(0.0)
            }
        }
        IsInf { .. } | IsNan | Not | BitwiseNot => f64::NAN,
    }
}

fn int(kind: UnaryKind, x: i128, dtype: DType) -> Option<i128> {
    use UnaryKind::*;
    Some(match kind {
        Abs => x.abs(),
        Neg => -x,
        Sign => x.signum(),
        Relu => x.max(0),
        Not => i128::from(x == 0),
        BitwiseNot => !x,
        // The parameters are floats; integers of any size compare exactly with them in f64 only up to
        // 2^53, so they are clamped as integers.
        Clamp { min, max } => x.max(min.0 as i128).min(max.0 as i128),
        Shrink { lambd, bias } => {
            let v = float(Shrink { lambd, bias }, x as f64);
            if dtype.is_unsigned_int() { v.max(0.0) as i128 } else { v as i128 }
        }
        _ => return None,
    })
}

/// The error function: series near 0, continued fraction far from it (Abramowitz and Stegun 7.1.5, 7.1.14).
pub(crate) fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 2.5 {
        return x.signum() * (1.0 - erfc_tail(x.abs()));
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 && n < 200.0 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// `1 - erf(x)` without cancellation for large x.
pub(crate) fn erfc(x: f64) -> f64 {
    if x > 2.5 { erfc_tail(x) } else { 1.0 - erf(x) }
}

fn erfc_tail(x: f64) -> f64 {
    if x > 30.0 {
        return 0.0;
    }
    let mut f = 0.0;
    for k in (1..=80).rev() {
        f = f64::from(k) / 2.0 / (x + f);
    }
    (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + f)
}

pub(crate) fn binary(kind: BinaryKind, a: &Tensor, b: &Tensor, limits: &EvalLimits<'_>) -> Result<Tensor> {
    let Some(dtype) = kind.result_dtype(a.dtype(), b.dtype()) else {
        return refuse(format!("is not defined for {} and {}", a.dtype(), b.dtype()));
    };
    let shape = broadcast(a.shape(), b.shape())?;
    limits.check(&shape)?;
    let (ia, ib) = (broadcast_indices(a.shape(), &shape), broadcast_indices(b.shape(), &shape));
    let pairs = || ia.iter().copied().zip(ib.iter().copied());
    if a.dtype() == DType::Str {
        let (x, y) = (a.strings()?, b.strings()?);
        return Ok(Tensor::from_bools(shape, pairs().map(|(i, j)| x[i] == y[j]).collect())?);
    }
    if a.dtype().is_complex() {
        return complex(kind, &take(a, shape.clone(), &ia)?, &take(b, shape, &ib)?);
    }
    match (Wide::of(a)?, Wide::of(b)?) {
        (Wide::Float(x), Wide::Float(y)) if kind.is_comparison() => Ok(Tensor::from_bools(
            shape,
            pairs().map(|(i, j)| compare(kind, x[i].partial_cmp(&y[j]))).collect(),
        )?),
        (Wide::Float(x), Wide::Float(y)) => {
            Wide::Float(pairs().map(|(i, j)| floats(kind, x[i], y[j])).collect()).tensor(dtype, shape)
        }
        (Wide::Int(x), Wide::Int(y)) if kind.is_comparison() => Ok(Tensor::from_bools(
            shape,
            pairs().map(|(i, j)| compare(kind, Some(x[i].cmp(&y[j])))).collect(),
        )?),
        (Wide::Int(x), Wide::Int(y)) => {
            let v = pairs().map(|(i, j)| integers(kind, x[i], y[j], dtype)).collect::<Result<_>>()?;
            from_ints(dtype, shape, v)
        }
        // Only powers mix classes; the result has the base's type.
        (Wide::Float(x), Wide::Int(y)) => {
            Wide::Float(pairs().map(|(i, j)| x[i].powf(y[j] as f64)).collect()).tensor(dtype, shape)
        }
        (Wide::Int(x), Wide::Float(y)) => {
            from_ints(dtype, shape, pairs().map(|(i, j)| (x[i] as f64).powf(y[j]) as i128).collect())
        }
    }
}

fn compare(kind: BinaryKind, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::*;
    let Some(o) = order else { return false };
    match kind {
        BinaryKind::Equal => o == Equal,
        BinaryKind::Less => o == Less,
        BinaryKind::LessOrEqual => o != Greater,
        BinaryKind::Greater => o == Greater,
        _ => o != Less,
    }
}

/// The larger of two numbers: NaN if either is, and of two zeros the positive one, so that the order of the
/// operands never shows (IEEE 754-2019 `maximum`).
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// The smaller of two numbers, as [`larger`].
pub(crate) fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// The function on two floats.
pub(crate) fn floats(kind: BinaryKind, a: f64, b: f64) -> f64 {
    use BinaryKind::*;
    match kind {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        Pow => a.powf(b),
        Fmod => a % b,
        Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }
        Min => smaller(a, b),

        Max => larger(a, b),

        Prelu => {
            if a < 0.0 {
                a * b
            } else {
                a
            }
        }
        _ => f64::NAN,
    }
}

fn integers(kind: BinaryKind, a: i128, b: i128, dtype: DType) -> Result<i128> {
    use BinaryKind::*;
    let bits = dtype.bits() as i128;
    Ok(match kind {
        Add => a + b,
        Sub => a - b,
        // Both fit in 64 bits, so the product fits in 128 but for u64 squares, whose low bits are right.
        Mul => a.wrapping_mul(b),
        Div | Mod | Fmod if b == 0 => return refuse("an integer is divided by zero"),
        Div => a / b,
        Fmod => a % b,
        Mod => {
            let r = a % b;
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        Pow if b < 0 => match a {
            1 => 1,
            -1 => {
                if b % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            0 => return refuse("zero to a negative power"),
            _ => 0,
        },
        Pow => power(a, b),
        Min => a.min(b),
        Max => a.max(b),
        Prelu => {
            if a < 0 {
                a.wrapping_mul(b)
            } else {
                a
            }
        }
        And => i128::from(a != 0 && b != 0),
        Or => i128::from(a != 0 || b != 0),
        Xor => i128::from((a != 0) != (b != 0)),
        BitAnd => a & b,
        BitOr => a | b,
        BitXor => a ^ b,
        ShiftLeft => {
            if (0..bits).contains(&b) {
                a << b
            } else {
                0
            }
        }
        ShiftRight => {
            // Every bit has left but the sign's copies.
            a >> if (0..bits).contains(&b) { b } else { 127 }
        }
        _ => return refuse(format!("`{}` is not defined for {dtype}", kind.word())),
    })
}

/// Power by squaring, of which only the low bits count.
fn power(mut base: i128, mut exponent: i128) -> i128 {
    let mut result = 1i128;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

fn complex(kind: BinaryKind, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (x, y) = (a.cast(DType::C128, CastOptions::default())?, b.cast(DType::C128, CastOptions::default())?);
    let (x, y) = (x.to_slice::<Complex<f64>>()?, y.to_slice::<Complex<f64>>()?);
    let pairs = x.iter().zip(y.iter());
    if kind == BinaryKind::Equal {
        return Ok(Tensor::from_bools(a.shape(), pairs.map(|(a, b)| a == b).collect())?);
    }
    let out = pairs.map(|(a, b)| match kind {
        BinaryKind::Add => Complex { re: a.re + b.re, im: a.im + b.im },
        BinaryKind::Sub => Complex { re: a.re - b.re, im: a.im - b.im },
        BinaryKind::Mul => Complex { re: a.re * b.re - a.im * b.im, im: a.re * b.im + a.im * b.re },
        _ => {
            let d = b.re * b.re + b.im * b.im;
            Complex { re: (a.re * b.re + a.im * b.im) / d, im: (a.im * b.re - a.re * b.im) / d }
        }
    });
    let out = Tensor::from_vec(a.shape(), out.collect::<Vec<Complex<f64>>>())?;
    Ok(out.cast(a.dtype(), CastOptions::default())?)
}

pub(crate) fn choose(x: &Operands<'_>) -> Result<Tensor> {
    let (c, a, b) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
    let shape = broadcast(&broadcast(c.shape(), a.shape())?, b.shape())?;
    x.limits.check(&shape)?;
    let condition = c.to_bool_vec()?;
    let (ic, ia, ib) = (
        broadcast_indices(c.shape(), &shape),
        broadcast_indices(a.shape(), &shape),
        broadcast_indices(b.shape(), &shape),
    );
    // Both choices behind one another make the pick a plain gather of any dtype.
    let both = crate::slice::join(&[&a.reshape([a.len()])?, &b.reshape([b.len()])?], 0)?;
    let pick: Vec<usize> =
        (0..ic.len()).map(|i| if condition[ic[i]] { ia[i] } else { a.len() + ib[i] }).collect();
    take(&both, shape, &pick)
}

pub(crate) fn clip(x: &Operands<'_>) -> Result<Tensor> {
    let mut y = x.tensor(0)?.clone();
    let shape = y.shape().clone();
    for (i, kind) in [(1, BinaryKind::Max), (2, BinaryKind::Min)] {
        if let Some(bound) = x.opt_tensor(i)? {
            if bound.len() != 1 {
                return refuse("a bound must be a scalar");
            }
            y = binary(kind, &y, &bound.reshape([])?, x.limits)?;
        }
    }
    Ok(y.reshape(shape)?)
}

pub(crate) fn cast(op: &Cast, x: &Tensor) -> Result<Tensor> {
    let round_mode = match op.round_mode {
        RoundMode::Up => tensormill_tensor::RoundMode::Up,
        RoundMode::Down => tensormill_tensor::RoundMode::Down,
        RoundMode::Nearest => tensormill_tensor::RoundMode::Nearest,
    };
    Ok(x.cast(op.to, CastOptions { saturate: op.saturate, round_mode })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.5204998778),
            (1.0, 0.8427007929),
            (2.0, 0.9953222650),
            (2.6, 0.9997639656),
            (4.0, 0.9999999846),
        ] {
            assert!((erf(x) - y).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + y).abs() < 1e-10);
            assert!((erfc(x) - (1.0 - y)).abs() < 1e-10);
        }
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn integer_edges_are_errors_or_wrap() {
        let t = |v: i64| Tensor::from_vec([1], vec![v]).unwrap();
        let run = |k, a, b| binary(k, &t(a), &t(b), &EvalLimits::default());
        assert!(run(BinaryKind::Div, 1, 0).is_err());
        assert!(run(BinaryKind::Mod, 1, 0).is_err());
        assert_eq!(&*run(BinaryKind::Div, i64::MIN, -1).unwrap().to_slice::<i64>().unwrap(), [i64::MIN]);
        assert_eq!(&*run(BinaryKind::Mod, -7, 3).unwrap().to_slice::<i64>().unwrap(), [2]);
        assert_eq!(&*run(BinaryKind::Fmod, -7, 3).unwrap().to_slice::<i64>().unwrap(), [-1]);
        assert_eq!(
            &*run(BinaryKind::Pow, 3, 41).unwrap().to_slice::<i64>().unwrap(),
            [3i64.wrapping_pow(41)]
        );
    }
}

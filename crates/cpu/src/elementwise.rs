//! Functions of one and two elements, choices, bounds and conversions.

use crate::native::{Built, Call, Fail, Native, Prep, by_size};
use std::borrow::Cow;
use tensormill_ir::ops::{BinaryKind, UnaryKind};
use tensormill_kernels::elementwise::{
    BinaryOp, UnaryOp, binary_f32, broadcast_map, select, unary_f32, unary_f32_inplace,
};
use tensormill_tensor::{DType, Element, Shape, arena, bf16, f16};

/// The kernels' name for a function of one f32.
pub(crate) fn unary_op(kind: UnaryKind) -> Option<UnaryOp> {
    use UnaryKind as K;
    Some(match kind {
        K::Abs => UnaryOp::Abs,
        K::Acos => UnaryOp::Acos,
        K::Acosh => UnaryOp::Acosh,
        K::Asin => UnaryOp::Asin,
        K::Asinh => UnaryOp::Asinh,
        K::Atan => UnaryOp::Atan,
        K::Atanh => UnaryOp::Atanh,
        K::Ceil => UnaryOp::Ceil,
        K::Celu { alpha } => UnaryOp::Celu(alpha.0),
        K::Clamp { min, max } => UnaryOp::Clip(min.0, max.0),
        K::Cos => UnaryOp::Cos,
        K::Cosh => UnaryOp::Cosh,
        K::Elu { alpha } => UnaryOp::Elu(alpha.0),
        K::Erf => UnaryOp::Erf,
        K::Exp => UnaryOp::Exp,
        K::Floor => UnaryOp::Floor,
        K::Gelu => UnaryOp::Gelu,
        K::GeluTanh => UnaryOp::GeluTanh,
        K::HardSigmoid { alpha, beta } => UnaryOp::HardSigmoid(alpha.0, beta.0),
        K::HardSwish => UnaryOp::HardSwish,
        K::LeakyRelu { alpha } => UnaryOp::LeakyRelu(alpha.0),
        K::Log => UnaryOp::Log,
        K::Mish => UnaryOp::Mish,
        K::Neg => UnaryOp::Neg,
        K::Reciprocal => UnaryOp::Reciprocal,
        K::Relu => UnaryOp::Relu,
        K::Round => UnaryOp::Round,
        K::Selu { alpha, gamma } => UnaryOp::Selu(alpha.0, gamma.0),
        K::Sigmoid => UnaryOp::Sigmoid,
        K::Sign => UnaryOp::Sign,
        K::Sin => UnaryOp::Sin,
        K::Sinh => UnaryOp::Sinh,
        K::Softplus => UnaryOp::Softplus,
        K::Softsign => UnaryOp::Softsign,
        K::Sqrt => UnaryOp::Sqrt,
        K::Swish { alpha } => UnaryOp::Silu(alpha.0),
        K::Tan => UnaryOp::Tan,
        K::Tanh => UnaryOp::Tanh,
        K::ThresholdedRelu { alpha } => UnaryOp::ThresholdedRelu(alpha.0),
        _ => return None,
    })
}

/// The kernels' name for a function of two f32.
pub(crate) fn binary_op(kind: BinaryKind) -> Option<BinaryOp> {
    use BinaryKind as K;
    Some(match kind {
        K::Add => BinaryOp::Add,
        K::Sub => BinaryOp::Sub,
        K::Mul => BinaryOp::Mul,
        K::Div => BinaryOp::Div,
        K::Mod => BinaryOp::Mod,
        K::Fmod => BinaryOp::Fmod,
        K::Pow => BinaryOp::Pow,
        K::Min => BinaryOp::Min,
        K::Max => BinaryOp::Max,
        K::Prelu => BinaryOp::PRelu,
        _ => return None,
    })
}

/// Elements mapped by a task at least.
const GRAIN: usize = 32 * 1024;

/// `out = f(x)` element by element; the compiler makes it a vector loop.
fn map<A: Element, B: Element>(
    name: &'static str,
    f: impl Fn(A) -> B + Send + Sync + Copy + 'static,
) -> Built {
    Native::new(name, move |c| {
        let x = c.get::<A>(0)?;
        let out =
            arena::elements_mut::<B>(c.outs[0]).ok_or_else(|| Fail("a result is not aligned".into()))?;
        if out.len() < GRAIN || c.pool.threads() == 1 {
            out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(x));
            return Ok(());
        }
        broadcast_map(c.pool, move |x: A, _: u8| f(x), (x, &[x.len()]), (&[0], &[1]), (out, &[x.len()]))?;
        Ok(())
    })
}

pub(crate) fn unary(p: &Prep<'_>, kind: UnaryKind) -> Built {
    use UnaryKind as K;
    let x = p.get(0)?;
    let mut native = match (x.dtype, kind) {
        (DType::F32, K::IsNan) => return map("is_nan", |x: f32| u8::from(x.is_nan())),
        (DType::F32, K::IsInf { negative, positive }) => {
            let (n, p) = (negative.0 != 0.0, positive.0 != 0.0);
            return map("is_inf", move |x: f32| u8::from(x.is_infinite() && if x < 0.0 { n } else { p }));
        }
        (DType::F32, kind) => {
            let op = unary_op(kind).ok_or("no kernel for this function")?;
            Native::new("map", move |c| {
                if c.in_place {
                    let pool = c.pool;
                    unary_f32_inplace(pool, op, c.out::<f32>(0)?);
                } else {
                    let (pool, x) = (c.pool, c.get::<f32>(0)?);
                    unary_f32(pool, op, x, c.out::<f32>(0)?)?;
                }
                Ok(())
            })?
        }
        (DType::Bool, K::Not) => return map("not", |x: u8| u8::from(x == 0)),
        (DType::I64, K::Neg) => return map("neg", i64::wrapping_neg),
        (DType::I32, K::Neg) => return map("neg", i32::wrapping_neg),
        (DType::I64, K::Abs) => return map("abs", i64::wrapping_abs),
        (DType::I32, K::Abs) => return map("abs", i32::wrapping_abs),
        (DType::I64, K::Sign) => return map("sign", i64::signum),
        (d, _) => return Err(format!("no kernel for {d}").into()),
    };
    native.in_place = true;
    native.flops = x.len() as u64;
    Ok(native)
}

type Dims = (Shape, Shape, Shape);

/// `f` over broadcast operands of any types.
fn pairs<A: Element, B: Element, T: Element>(
    dims: Dims,
    f: impl Fn(A, B) -> T + Send + Sync + Copy + 'static,
) -> Built {
    Native::new("broadcast", move |c| {
        let (pool, a, b) = (c.pool, c.get::<A>(0)?, c.get::<B>(1)?);
        broadcast_map(pool, f, (a, &dims.0), (b, &dims.1), (c.out::<T>(0)?, &dims.2))?;
        Ok(())
    })
}

fn integers<T: Integer>(kind: BinaryKind, dims: Dims) -> Built {
    use BinaryKind as K;
    match kind {
        K::Add => pairs(dims, T::add),
        K::Sub => pairs(dims, T::sub),
        K::Mul => pairs(dims, T::mul),
        K::Min => pairs(dims, |a: T, b: T| a.min(b)),
        K::Max => pairs(dims, |a: T, b: T| a.max(b)),
        K::BitAnd => pairs(dims, T::and),
        K::BitOr => pairs(dims, T::or),
        K::Div | K::Mod | K::Fmod => {
            let f = match kind {
                K::Div => T::div,
                K::Mod => T::modulo,
                _ => T::rem,
            };
            Native::new("broadcast", move |c| {
                let (pool, a, b) = (c.pool, c.get::<T>(0)?, c.get::<T>(1)?);
                if b.contains(&T::default()) && !c.outs[0].is_empty() {
                    return Err(Fail("an integer is divided by zero".into()));
                }
                broadcast_map(pool, f, (a, &dims.0), (b, &dims.1), (c.out::<T>(0)?, &dims.2))?;
                Ok(())
            })
        }
        _ => comparisons::<T>(kind, dims),
    }
}

fn comparisons<T: Element + PartialOrd>(kind: BinaryKind, dims: Dims) -> Built {
    use BinaryKind as K;
    match kind {
        K::Equal => pairs(dims, |a: T, b: T| u8::from(a == b)),
        K::Less => pairs(dims, |a: T, b: T| u8::from(a < b)),
        K::LessOrEqual => pairs(dims, |a: T, b: T| u8::from(a <= b)),
        K::Greater => pairs(dims, |a: T, b: T| u8::from(a > b)),
        K::GreaterOrEqual => pairs(dims, |a: T, b: T| u8::from(a >= b)),
        _ => Err("no kernel for this function".into()),
    }
}

/// Integer arithmetic that wraps.
trait Integer: Element + Ord {
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn rem(self, b: Self) -> Self;
    fn modulo(self, b: Self) -> Self;
    fn and(self, b: Self) -> Self;
    fn or(self, b: Self) -> Self;
}

macro_rules! integer {
    ($($t:ty),*) => { $(impl Integer for $t {
        fn add(self, b: Self) -> Self { self.wrapping_add(b) }
        fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
        fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
        // Callers refuse divisors of 0.
        fn div(self, b: Self) -> Self { self.wrapping_div(b) }
        fn rem(self, b: Self) -> Self { self.wrapping_rem(b) }
        fn modulo(self, b: Self) -> Self {
            let r = self.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        fn and(self, b: Self) -> Self { self & b }
        fn or(self, b: Self) -> Self { self | b }
    })* };
}
integer!(i32, i64);

pub(crate) fn binary(p: &Prep<'_>, kind: BinaryKind) -> Built {
    use BinaryKind as K;
    let (a, b) = (p.get(0)?, p.get(1)?);
    let dims = (Shape::from(a.shape), Shape::from(b.shape), p.out().clone());
    let mut native = match (a.dtype, b.dtype) {
        (DType::F32, DType::F32) => {
            if kind.is_comparison() {
                return comparisons::<f32>(kind, dims);
            }
            // Powers that models spell for want of a square: exact, and far cheaper.
            let op = match (kind, b.scalar_f32()) {
                (K::Pow, Some(2.0)) if a.shape == &**p.out() => {
                    return unary_f32_kernel("square", UnaryOp::Square);
                }
                (K::Pow, Some(0.5)) if a.shape == &**p.out() => {
                    return unary_f32_kernel("map", UnaryOp::Sqrt);
                }
                _ => binary_op(kind).ok_or("no kernel for this function")?,
            };
            Native::new("broadcast", move |c| {
                let (pool, a, b) = (c.pool, c.get::<f32>(0)?, c.get::<f32>(1)?);
                binary_f32(pool, op, (a, &dims.0), (b, &dims.1), (c.out::<f32>(0)?, &dims.2))?;
                Ok(())
            })?
        }
        (DType::I64, DType::I64) => return integers::<i64>(kind, dims),
        (DType::I32, DType::I32) => return integers::<i32>(kind, dims),
        (DType::Bool, DType::Bool) => match kind {
            K::And => return pairs(dims, |a: u8, b: u8| a & b),
            K::Or => return pairs(dims, |a: u8, b: u8| a | b),
            K::Xor => return pairs(dims, |a: u8, b: u8| a ^ b),
            K::Equal => return pairs(dims, |a: u8, b: u8| u8::from(a == b)),
            _ => return Err("no kernel for this function".into()),
        },
        (a, b) => return Err(format!("no kernel for {a} and {b}").into()),
    };
    native.flops = p.out().numel() as u64;
    Ok(native)
}

fn unary_f32_kernel(name: &'static str, op: UnaryOp) -> Built {
    Native::new(name, move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(unary_f32(pool, op, x, c.out::<f32>(0)?)?)
    })
}

pub(crate) fn choose(p: &Prep<'_>) -> Built {
    let dims: [Shape; 4] =
        [p.get(0)?.shape.into(), p.get(1)?.shape.into(), p.get(2)?.shape.into(), p.out().clone()];
    by_size!(p.out_dtype().size().unwrap_or(0), T => Native::new("select", move |c| {
        let bad = || Fail("a condition is neither true nor false".into());
        let condition = arena::bools(c.view(0)?.bytes).ok_or_else(bad)?;
        let (pool, a, b) = (c.pool, c.get::<T>(1)?, c.get::<T>(2)?);
        let [dc, da, db, d] = &dims;
        Ok(select(pool, (condition, dc), (a, da), (b, db), (c.out::<T>(0)?, d))?)
    }))
}

pub(crate) fn clip(p: &Prep<'_>) -> Built {
    p.need(0, DType::F32)?;
    let bound = |i: usize, none: f32| match p.opt(i) {
        None => Ok(none),
        Some(k) => k.scalar_f32().ok_or(Cow::Borrowed("bounds that are computed")),
    };
    let (lo, hi) = (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?);
    if lo.is_nan() || hi.is_nan() {
        return Err("a bound that is NaN".into());
    }
    let op = UnaryOp::Clip(lo, hi);
    let mut native = Native::new("map", move |c: &mut Call<'_, '_>| {
        let pool = c.pool;
        if c.in_place {
            unary_f32_inplace(pool, op, c.out::<f32>(0)?);
            return Ok(());
        }
        let x = c.get::<f32>(0)?;
        Ok(unary_f32(pool, op, x, c.out::<f32>(0)?)?)
    })?;
    native.in_place = true;
    Ok(native)
}

pub(crate) fn cast(p: &Prep<'_>) -> Built {
    use DType::{BF16, Bool, F16, F32, F64, I8, I32, I64, U8};
    let (from, to) = (p.get(0)?.dtype, p.out_dtype());
    // Each pair as the tensor crate converts it.
    match (from, to) {
        (F32, I64) => map("cast", |x: f32| x as i64),
        (F32, I32) => map("cast", |x: f32| x as i32),
        (F32, F64) => map("cast", |x: f32| f64::from(x)),
        (F32, Bool) => map("cast", |x: f32| u8::from(x != 0.0)),
        (F32, F16) => map("cast", f16::from_f32),
        (F32, BF16) => map("cast", bf16::from_f32),
        (F16, F32) => map("cast", f16::to_f32),
        (BF16, F32) => map("cast", bf16::to_f32),
        (F64, F32) => map("cast", |x: f64| x as f32),
        (I64, F32) => map("cast", |x: i64| x as f32),
        (I64, I32) => map("cast", |x: i64| x as i32),
        (I64, Bool) => map("cast", |x: i64| u8::from(x != 0)),
        (I32, F32) => map("cast", |x: i32| x as f32),
        (I32, I64) => map("cast", |x: i32| i64::from(x)),
        (I32, Bool) => map("cast", |x: i32| u8::from(x != 0)),
        (Bool, F32) => map("cast", |x: u8| f32::from(u8::from(x != 0))),
        (Bool, I32) => map("cast", |x: u8| i32::from(x != 0)),
        (Bool, I64) => map("cast", |x: u8| i64::from(x != 0)),
        (U8, F32) => map("cast", |x: u8| f32::from(x)),
        (U8, I32) => map("cast", |x: u8| i32::from(x)),
        (U8, I64) => map("cast", |x: u8| i64::from(x)),
        (I8, F32) => map("cast", |x: i8| f32::from(x)),
        (I8, I32) => map("cast", |x: i8| i32::from(x)),
        (from, to) => Err(format!("no kernel from {from} to {to}").into()),
    }
}

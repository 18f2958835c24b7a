//! Functions of two operands, with broadcasting.

use super::{BLOCK, GRAIN};
use crate::error::{KernelError, at_least, exact, extent, product};
use crate::math;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};
use smallvec::SmallVec;

/// A function of two `f32` operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BinaryOp {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The larger; NaN if either is
    Max,
    /// The smaller; NaN if either is
    Min,
    /// `a` to the power `b`
    Pow,
    /// Remainder with the sign of `a`
    Fmod,
    /// Remainder with the sign of `b`
    Mod,
    /// `a` above zero, `a * b` below
    PRelu,
}

trait Function: Copy {
    fn at(self, a: f32, b: f32) -> f32;
}

struct WithVector<'a, F> {
    data: &'a mut [f32],
    other: &'a [f32],
    f: F,
    reversed: bool,
}

impl<F: Function> Kernel for WithVector<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let pairs = self.data.iter_mut().zip(self.other);
        if self.reversed {
            pairs.for_each(|(x, &o)| *x = self.f.at(o, *x));
        } else {
            pairs.for_each(|(x, &o)| *x = self.f.at(*x, o));
        }
    }
}

struct WithScalar<'a, F> {
    data: &'a mut [f32],
    other: f32,
    f: F,
    reversed: bool,
}

impl<F: Function> Kernel for WithScalar<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let o = self.other;
        if self.reversed {
            self.data.iter_mut().for_each(|x| *x = self.f.at(o, *x));
        } else {
            self.data.iter_mut().for_each(|x| *x = self.f.at(*x, o));
        }
    }
}

macro_rules! functions {
    ($($name:ident, $a:ident, $b:ident => $body:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Function for $name {
                #[inline(always)]
                fn at(self, $a: f32, $b: f32) -> f32 {
                    $body
                }
            }
        )*

        impl BinaryOp {
            /// `data[i] = op(data[i], other[i])`, or with the operands exchanged if `reversed`. Stops at
            /// the shorter of the two.
            pub fn apply(self, level: Level, data: &mut [f32], other: &[f32], reversed: bool) {
                match self {
                    $(BinaryOp::$name => level.run(WithVector { data, other, f: $name, reversed }),)*
                }
            }

            /// `data[i] = op(data[i], other)`, or with the operands exchanged if `reversed`.
            pub fn apply_scalar(self, level: Level, data: &mut [f32], other: f32, reversed: bool) {
                match self {
                    $(BinaryOp::$name => level.run(WithScalar { data, other, f: $name, reversed }),)*
                }
            }

            /// The function of two numbers.
            pub fn eval(self, a: f32, b: f32) -> f32 {
                match self {
                    $(BinaryOp::$name => $name.at(a, b),)*
                }
            }
        }
    };
}

functions! {
    Add, a, b => a + b;
    Sub, a, b => a - b;
    Mul, a, b => a * b;
    Div, a, b => a / b;
    Max, a, b => math::maximum(a, b);
    Min, a, b => math::minimum(a, b);
    Pow, a, b => if b == 2.0 { a * a } else { a.powf(b) };
    Fmod, a, b => a % b;
    Mod, a, b => {
        let r = a % b;
        if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
    };
    PRelu, a, b => if a < 0.0 { a * b } else { a };
}

/// One axis of a broadcast walk: its length and each operand's stride (0 where it repeats).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    pub len: usize,
    pub a: usize,
    pub b: usize,
}

/// Merges neighbouring axes that both operands walk evenly and drops axes of length 1. The innermost
/// axis comes last; there is always at least one.
pub(crate) fn collapse(dims: &[usize], a: &[usize], b: &[usize]) -> SmallVec<[Axis; 6]> {
    let mut axes: SmallVec<[Axis; 6]> = SmallVec::new();
    for i in 0..dims.len() {
        let axis = Axis { len: dims[i], a: a[i], b: b[i] };
        if axis.len == 1 {
            continue;
        }
        match axes.last_mut() {
            Some(outer)
                if axis.a.checked_mul(axis.len) == Some(outer.a)
                    && axis.b.checked_mul(axis.len) == Some(outer.b) =>
            {
                *outer = Axis { len: outer.len * axis.len, ..axis };
            }
            _ => axes.push(axis),
        }
    }
    if axes.is_empty() {
        axes.push(Axis { len: 1, a: 1, b: 1 });
    }
    axes
}

/// Element strides of a row-major operand of shape `dims` broadcast to `out`: missing leading axes and
/// axes of length 1 repeat.
pub fn broadcast_strides(dims: &[usize], out: &[usize]) -> Result<SmallVec<[usize; 6]>, KernelError> {
    let Some(lead) = out.len().checked_sub(dims.len()) else {
        return Err(KernelError::Shape("an operand has more axes than the output"));
    };
    let mut strides: SmallVec<[usize; 6]> = SmallVec::from_elem(0, out.len());
    let mut step = 1usize;
    for (i, &d) in dims.iter().enumerate().rev() {
        if d == out[lead + i] {
            strides[lead + i] = if d == 1 { 0 } else { step };
        } else if d != 1 {
            return Err(KernelError::Shape("an operand does not broadcast to the output"));
        }
        step = step.checked_mul(d.max(1)).ok_or(KernelError::Overflow("operand"))?;
    }
    Ok(strides)
}

/// Calls `row(offset in out, offset in a, offset in b)` for every innermost row in `rows`.
pub(crate) fn walk(axes: &[Axis], rows: std::ops::Range<usize>, mut row: impl FnMut(usize, usize, usize)) {
    let (inner, outer) = axes.split_last().expect("collapse leaves an axis");
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
    let (mut a, mut b) = (0, 0);
    let mut rest = rows.start;
    for (i, axis) in outer.iter().enumerate().rev() {
        index[i] = rest % axis.len;
        rest /= axis.len;
        a += index[i] * axis.a;
        b += index[i] * axis.b;
    }
    for r in rows {
        row(r * inner.len, a, b);
        for (i, axis) in outer.iter().enumerate().rev() {
            index[i] += 1;
            a += axis.a;
            b += axis.b;
            if index[i] < axis.len {
                break;
            }
            index[i] = 0;
            a -= axis.len * axis.a;
            b -= axis.len * axis.b;
        }
    }
}

/// Checks a broadcast and splits its rows over the pool.
fn rows<A: Sync, B: Sync, T: Send>(
    pool: &Pool,
    (a, a_dims): (&[A], &[usize]),
    (b, b_dims): (&[B], &[usize]),
    (out, out_dims): (&mut [T], &[usize]),
    row: impl Fn(&mut [T], &[A], usize, &[B], usize) + Sync,
) -> Result<(), KernelError> {
    let total = product("output", out_dims)?;
    exact("output", out, total)?;
    exact("first operand", a, product("first operand", a_dims)?)?;
    exact("second operand", b, product("second operand", b_dims)?)?;
    let a_strides = broadcast_strides(a_dims, out_dims)?;
    let b_strides = broadcast_strides(b_dims, out_dims)?;
    if total == 0 {
        return Ok(());
    }
    at_least("first operand", a, extent("first operand", out_dims, &a_strides)?)?;
    at_least("second operand", b, extent("second operand", out_dims, &b_strides)?)?;
    let axes = collapse(out_dims, &a_strides, &b_strides);
    let inner = axes[axes.len() - 1];
    let shards = Shards::new(out);
    if axes.len() == 1 {
        pool.split(inner.len, GRAIN, |r| {
            // SAFETY: the ranges of a split are disjoint.
            let out = unsafe { shards.part(r.start, r.len()) };
            row(out, &a[r.start * inner.a..], inner.a, &b[r.start * inner.b..], inner.b);
        });
    } else {
        pool.split(total / inner.len, GRAIN.div_ceil(inner.len), |r| {
            walk(&axes, r, |o, ao, bo| {
                // SAFETY: every row is walked once, and rows are disjoint.
                let out = unsafe { shards.part(o, inner.len) };
                row(out, &a[ao..], inner.a, &b[bo..], inner.b);
            });
        });
    }
    Ok(())
}

/// `out = op(a, b)` with both operands broadcast to `out_dims` (all row-major).
pub fn binary_f32(
    pool: &Pool,
    op: BinaryOp,
    (a, a_dims): (&[f32], &[usize]),
    (b, b_dims): (&[f32], &[usize]),
    (out, out_dims): (&mut [f32], &[usize]),
) -> Result<(), KernelError> {
    let level = pool.level();
    rows(pool, (a, a_dims), (b, b_dims), (out, out_dims), |out, a, a_step, b, b_step| {
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            let at = i * BLOCK;
            match (a_step, b_step) {
                (1, 1) => {
                    out.copy_from_slice(&a[at..at + out.len()]);
                    op.apply(level, out, &b[at..at + out.len()], false);
                }
                (1, 0) => {
                    out.copy_from_slice(&a[at..at + out.len()]);
                    op.apply_scalar(level, out, b[0], false);
                }
                (0, 1) => {
                    out.copy_from_slice(&b[at..at + out.len()]);
                    op.apply_scalar(level, out, a[0], true);
                }
                _ => {
                    for (j, o) in out.iter_mut().enumerate() {
                        *o = op.eval(a[(at + j) * a_step], b[(at + j) * b_step]);
                    }
                }
            }
        }
    })
}

/// `out = f(a, b)` for any element types, with both operands broadcast to `out_dims` (all row-major).
pub fn broadcast_map<A: Copy + Sync, B: Copy + Sync, T: Send>(
    pool: &Pool,
    f: impl Fn(A, B) -> T + Sync,
    (a, a_dims): (&[A], &[usize]),
    (b, b_dims): (&[B], &[usize]),
    (out, out_dims): (&mut [T], &[usize]),
) -> Result<(), KernelError> {
    rows(pool, (a, a_dims), (b, b_dims), (out, out_dims), |out, a, a_step, b, b_step| {
        match (a_step, b_step) {
            (1, 1) => out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (&a, &b))| *o = f(a, b)),
            (1, 0) => out.iter_mut().zip(a).for_each(|(o, &a)| *o = f(a, b[0])),
            (0, 1) => out.iter_mut().zip(b).for_each(|(o, &b)| *o = f(a[0], b)),
            _ => out.iter_mut().enumerate().for_each(|(j, o)| *o = f(a[j * a_step], b[j * b_step])),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [BinaryOp; 10] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Max,
        BinaryOp::Min,
        BinaryOp::Pow,
        BinaryOp::Fmod,
        BinaryOp::Mod,
        BinaryOp::PRelu,
    ];

    fn same(a: f32, b: f32) -> bool {
        a == b || (a.is_nan() && b.is_nan())
    }

    fn twin(op: BinaryOp, a: f32, b: f32) -> f32 {
        match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Max if a.is_nan() || b.is_nan() => f32::NAN,
            BinaryOp::Max => a.max(b),
            BinaryOp::Min if a.is_nan() || b.is_nan() => f32::NAN,
            BinaryOp::Min => a.min(b),
            BinaryOp::Pow => a.powf(b),
            BinaryOp::Fmod => a % b,
            BinaryOp::Mod => {
                let r = a % b;
                if r < 0.0 && b > 0.0 || r > 0.0 && b < 0.0 { r + b } else { r }
            }
            BinaryOp::PRelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![8 => -3.0f32..3.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(2.0f32), 1 => Just(0.0f32)]
    }

    proptest! {
        #[test]
        fn broadcasts_like_index_arithmetic(
            dims in prop::collection::vec(0usize..5, 0..5),
            mask_a in 0u32..32, mask_b in 0u32..32, cut_a in 0usize..3, cut_b in 0usize..3,
            values in prop::collection::vec(value(), 64), op in 0usize..10, threads in 1usize..3,
        ) {
            let shrink = |mask: u32, cut: usize| -> Vec<usize> {
                let d: Vec<usize> = dims.iter().enumerate().map(|(i, &d)| if mask >> i & 1 == 1 { 1 } else { d }).collect();
                let lead = d.len().min(cut);
                d[lead..].to_vec()
            };
            let (ad, bd) = (shrink(mask_a, cut_a), shrink(mask_b, cut_b));
            let fill = |d: &[usize], k: usize| -> Vec<f32> {
                (0..d.iter().product()).map(|i| values[(i * 7 + k) % values.len()]).collect()
            };
            let (a, b) = (fill(&ad, 0), fill(&bd, 3));
            let n: usize = dims.iter().product();
            let at = |flat: usize, d: &[usize]| -> usize {
                let (mut rest, mut offset, mut step) = (flat, 0, 1);
                for i in (0..dims.len()).rev() {
                    let index = rest % dims[i];
                    rest /= dims[i];
                    if i + d.len() >= dims.len() {
                        let k = i + d.len() - dims.len();
                        if d[k] != 1 { offset += index * step; }
                        step *= d[k];
                    }
                }
                offset
            };
            let op = ALL[op];
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![0.0; n];
                binary_f32(&pool, op, (&a, &ad), (&b, &bd), (&mut out, &dims)).unwrap();
                let mut mapped = vec![0.0; n];
                broadcast_map(&pool, |x: f32, y: f32| op.eval(x, y), (&a, &ad), (&b, &bd), (&mut mapped, &dims)).unwrap();
                for i in 0..n {
                    let want = twin(op, a[at(i, &ad)], b[at(i, &bd)]);
                    prop_assert!(same(out[i], want), "{op:?} {i}: {} for {want}", out[i]);
                    prop_assert!(same(mapped[i], want));
                }
            }
        }
    }

    #[test]
    fn large_maps_agree_over_threads() {
        let a: Vec<f32> = (0..300 * 400).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..400).map(|i| i as f32 * 0.5).collect();
        let mut one = vec![0.0; a.len()];
        let mut two = one.clone();
        binary_f32(&Pool::serial(), BinaryOp::Sub, (&b, &[400]), (&a, &[300, 400]), (&mut one, &[300, 400]))
            .unwrap();
        binary_f32(
            &Pool::new(2).unwrap(),
            BinaryOp::Sub,
            (&b, &[400]),
            (&a, &[300, 400]),
            (&mut two, &[300, 400]),
        )
        .unwrap();
        assert_eq!(one, two);
        assert!((0..a.len()).all(|i| one[i] == b[i % 400] - a[i]));
    }

    #[test]
    fn misfits_are_errors() {
        let pool = Pool::serial();
        let mut out = [0.0; 6];
        let add = |a: (&[f32], &[usize]), b: (&[f32], &[usize]), out: (&mut [f32], &[usize])| {
            binary_f32(&pool, BinaryOp::Add, a, b, out)
        };
        assert!(add((&[1.0; 4], &[4]), (&[1.0; 3], &[3]), (&mut out, &[2, 3])).is_err());
        assert!(add((&[1.0; 2], &[3]), (&[1.0; 3], &[3]), (&mut out, &[2, 3])).is_err());
        assert!(add((&[1.0; 3], &[3]), (&[1.0; 6], &[1, 2, 3]), (&mut out, &[2, 3])).is_err());
        assert!(add((&[1.0; 3], &[3]), (&[1.0; 3], &[3]), (&mut out, &[usize::MAX, 3])).is_err());
    }
}

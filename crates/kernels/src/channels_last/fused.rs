//! The part of an epilogue that is applied in registers, and the rest.

use super::lanes::Lanes;
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Epilogue, Operand, Step};
use crate::simd::Level;

/// Floats of a repeated column operand: enough to be worth a call.
const RUN: usize = 1024;

/// A clamp as three numbers: the first is added before the others bound the sum.
///
/// Of two equal zeros the operation wants the positive one as the larger, the comparison keeps its operand's:
/// a positive zero added beforehand has made that positive, and a negative zero changes nothing at all.
#[derive(Clone, Copy)]
struct Clamp([f32; 3]);

impl Clamp {
    fn of(step: &Step<'_>) -> Option<Clamp> {
        let (lo, hi) = match *step {
            Step::Unary(UnaryOp::Relu) => (0.0, f32::INFINITY),
            Step::Unary(UnaryOp::Clip(lo, hi)) => (lo, hi),
            _ => return None,
        };
        let plain = |x: f32| !x.is_nan() && x.to_bits() != (-0.0f32).to_bits();
        (plain(lo) && plain(hi)).then(|| Clamp([if lo == 0.0 { 0.0 } else { -0.0 }, lo, hi]))
    }
}

/// What an epilogue begins with, done before the output is stored: a number per column, an array of the
/// output's shape, a clamp; each may be missing.
#[derive(Clone, Copy)]
pub(crate) struct Fused<'a> {
    bias: Option<&'a [f32]>,
    full: Option<&'a [f32]>,
    clamp: Option<Clamp>,
}

impl<'a> Fused<'a> {
    /// Takes what it can off the front; the rest is for [`finish`].
    pub(crate) fn split(epilogue: Epilogue<'a>) -> (Fused<'a>, &'a [Step<'a>]) {
        let mut fused = Fused { bias: None, full: None, clamp: None };
        let mut rest = epilogue.steps;
        let added = |step: &Step<'a>| match *step {
            Step::Binary { op: BinaryOp::Add, operand, .. } => Some(operand),
            _ => None,
        };
        if let Some(Operand::PerColumn(bias)) = rest.first().and_then(added) {
            fused.bias = Some(bias);
            rest = &rest[1..];
        }
        if let Some(Operand::Full(full)) = rest.first().and_then(added) {
            fused.full = Some(full);
            rest = &rest[1..];
        }
        fused.clamp = rest.first().and_then(Clamp::of);
        if fused.clamp.is_some() {
            rest = &rest[1..];
        }
        (fused, rest)
    }

    /// Applies the steps to vectors of the same channels, `step` apart in the output from `at` on.
    ///
    /// # Safety
    /// `V`'s instructions are available; `channel` and `V::LANES` lie inside the columns, and all the
    /// vectors inside the output that the epilogue was checked for.
    #[inline(always)]
    pub(crate) unsafe fn apply<V: Lanes, const P: usize>(
        &self,
        acc: &mut [V; P],
        channel: usize,
        at: usize,
        step: usize,
    ) {
        // SAFETY: the operands have the sizes that the epilogue was checked for.
        unsafe {
            if let Some(bias) = self.bias {
                let bias = V::load(bias.as_ptr().add(channel));
                for p in 0..P {
                    acc[p] = V::add(acc[p], bias);
                }
            }
            if let Some(full) = self.full {
                let full = full.as_ptr().add(at);
                for p in 0..P {
                    acc[p] = V::add(acc[p], V::load(full.add(p * step)));
                }
            }
            if let Some(Clamp(numbers)) = self.clamp {
                let numbers = numbers.map(|x| V::splat(x));
                for p in 0..P {
                    acc[p] = acc[p].clamp(numbers);
                }
            }
        }
    }
}

/// Floats that [`finish`] needs for a repeated column operand.
pub(crate) fn finish_room(steps: &[Step<'_>], channels: usize) -> usize {
    if steps.is_empty() { 0 } else { (RUN / channels).max(1) * channels }
}

/// Applies `steps` to whole pixels of `channels` floats; `first` is the first pixel's number in the output.
/// `room` has the size of [`finish_room`].
pub(crate) fn finish(
    level: Level,
    steps: &[Step<'_>],
    pixels: &mut [f32],
    channels: usize,
    first: usize,
    room: &mut [f32],
) {
    let len = pixels.len();
    for step in steps {
        match *step {
            Step::Unary(op) => op.apply(level, pixels),
            Step::Binary { op, operand, reversed } => match operand {
                Operand::Scalar(s) => op.apply_scalar(level, pixels, s, reversed),
                Operand::Full(v) => op.apply(level, pixels, &v[first * channels..][..len], reversed),
                Operand::Pitched { data, pitch } => {
                    for (i, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
                        let other = &data[(first + i) * pitch..][..channels];
                        op.apply(level, pixel, other, reversed);
                    }
                }
                Operand::PerRow(v) => {
                    for (pixel, &v) in pixels.chunks_exact_mut(channels).zip(&v[first..]) {
                        op.apply_scalar(level, pixel, v, reversed);
                    }
                }
                Operand::PerColumn(v) => {
                    let repeats = (room.len() / channels).min(len / channels);
                    let repeated = &mut room[..repeats * channels];
                    repeated.chunks_exact_mut(channels).for_each(|r| r.copy_from_slice(v));
                    for piece in pixels.chunks_mut(repeated.len()) {
                        op.apply(level, piece, repeated, reversed);
                    }
                }
            },
        }
    }
}

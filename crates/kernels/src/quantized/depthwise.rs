//! Convolution of every channel by itself, in bytes.
//!
//! The common windows are summed up in words. For the others rows become floats once, for a band of
//! outputs, in which sums of so few products of bytes are exact, and the kernel for floats does the rest.

mod direct;
mod pairs;
#[cfg(test)]
mod tests;

pub use pairs::ByteDepthwise;

use super::after::{limits, to_bytes};
use super::conv::{Bytes, Output, Scaling};
use super::elementwise::{Real, dequantize_here};
use super::form::{self, Form, Job};
use super::tile::Steps;
use crate::channels_last::depthwise::{Band, Lines, rows};
use crate::channels_last::fused::Fused;
use crate::conv::ConvShape;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, at_least, exact};
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::integer::Sums;
use crate::simd::vector::Vector;
use crate::threads::{Pool, Shards};

/// Floats of a band's rows: about a quarter of the second-level cache.
const REGION: usize = 32 * 1024;
/// Most taps whose sums are exact in floats.
pub const MOST_TAPS: usize = 256;

/// Sums of a band as real numbers or bytes.
struct Finish<'a> {
    /// Dense rows of `scales.len()` sums.
    sums: &'a mut [f32],
    scales: &'a [f32],
    bias: &'a [f32],
    /// Limits and bytes; none for real numbers, which take the place of the sums.
    bytes: Option<(Steps, *mut u8)>,
}

impl Job for Finish<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        let columns = self.scales.len();
        for (i, row) in self.sums.chunks_exact_mut(columns).enumerate() {
            let mut at = 0;
            while at < columns {
                let n = (columns - at).min(S::LANES);
                // SAFETY: loads and stores stay inside the row, the vectors of scales, and the bytes of the row.
                unsafe {
                    let p = row.as_mut_ptr().add(at);
                    let x = S::Floats::mul(load::<S>(p, n), load::<S>(self.scales.as_ptr().add(at), n));
                    let x = S::Floats::add(x, load::<S>(self.bias.as_ptr().add(at), n));
                    match self.bytes {
                        None if n == S::LANES => x.store(p),
                        None => x.store_first(p, n),
                        Some((steps, to)) => {
                            let to = to.add(i * columns + at);
                            let x = S::Floats::max(x, S::Floats::splat(steps.low));
                            let x = S::nearest(S::Floats::min(x, S::Floats::splat(steps.high)));
                            let x = S::xor(S::add(x, S::splat(steps.zero)), S::splat(steps.flip));
                            if n == S::LANES { x.store_bytes(to) } else { x.store_first_bytes(to, n) }
                        }
                    }
                }
                at += n;
            }
        }
    }
}

/// # Safety
/// `S`'s instructions are available, and there are `n <= LANES` floats.
#[inline(always)]
unsafe fn load<S: Sums>(p: *const f32, n: usize) -> S::Floats {
    // SAFETY: forwarded.
    unsafe { if n == S::LANES { S::Floats::load(p) } else { S::Floats::load_first(p, n) } }
}

struct Later<'a> {
    x: &'a [f32],
    scale: f32,
    steps: Steps,
    to: *mut u8,
}

impl Job for Later<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        // SAFETY: forwarded from where it is made.
        unsafe { to_bytes::<S>(self.x, self.scale, self.steps, self.to) }
    }
}

/// Whole numbers as such.
struct Whole<'a> {
    x: &'a [f32],
    to: *mut i32,
}

impl Job for Whole<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        let (whole, rest) = self.x.split_at(self.x.len() / S::LANES * S::LANES);
        for (i, x) in whole.chunks_exact(S::LANES).enumerate() {
            // SAFETY: there is room for as many numbers.
            unsafe { S::nearest(S::Floats::load(x.as_ptr())).store(self.to.add(i * S::LANES)) }
        }
        for (i, &x) in rest.iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.to.add(whole.len() + i).write(x as i32) }
        }
    }
}

/// Convolves every channel of `x` (`[batch, height, width, channels]`) by itself. The weights are whole numbers
/// less their zero points; the scales are those of the channels. The result is dense.
pub fn depthwise(
    pool: &Pool,
    shape: &ConvShape,
    x: Bytes<'_>,
    weights: &ByteDepthwise,
    scaling: &Scaling<'_>,
    output: Output<'_>,
) -> Result<(), KernelError> {
    let s = shape;
    let pairs = weights.pairs.as_ref();
    let weights = &weights.floats;
    let level = weights.level_for(s)?;
    let columns = s.in_channels;
    at_least("activation", x.data, s.input_len())?;
    if s.taps() > MOST_TAPS {
        return Err(KernelError::Shape("depthwise in bytes: too many taps"));
    }
    let unscaled = matches!(output, Output::Sums { .. });
    if !unscaled && scaling.scales.len() != 1 && scaling.scales.len() != columns {
        return Err(KernelError::Shape("depthwise in bytes: one scale, or one for each channel"));
    }
    if !(scaling.bias.is_empty() || scaling.bias.len() == columns) {
        return Err(KernelError::Shape("depthwise in bytes: a bias for each channel"));
    }
    enum Target<'a> {
        Sums(Shards<'a, i32>),
        Floats(Shards<'a, f32>, Epilogue<'a>),
        Bytes(Shards<'a, u8>, Steps),
        Later(Shards<'a, u8>, Epilogue<'a>, Steps, f32),
    }
    let pixels = s.batch * s.positions();
    let dense = |len: usize, pitch: usize| {
        if pitch == columns && len == s.output_len() {
            Ok(())
        } else {
            Err(KernelError::Shape("depthwise in bytes: the result is dense"))
        }
    };
    let mut per_step = 1.0;
    let target = match output {
        Output::Sums { out, pitch } => {
            dense(out.len(), pitch)?;
            Target::Sums(Shards::new(out))
        }
        Output::Floats { out, pitch, epilogue } => {
            dense(out.len(), pitch)?;
            epilogue.check(pixels, columns, out.len())?;
            Target::Floats(Shards::new(out), epilogue)
        }
        Output::Bytes { out, pitch, epilogue, to } => {
            dense(out.len(), pitch)?;
            epilogue.check(pixels, columns, out.len())?;
            let steps = to.steps()?;
            match limits(epilogue.steps) {
                Some((low, high)) => {
                    per_step = to.scale;
                    let within = |x: f32| (x / to.scale).clamp(steps.low, steps.high);
                    Target::Bytes(
                        Shards::new(out),
                        Steps::new(within(low), within(high), steps.zero, steps.flip),
                    )
                }
                None => Target::Later(Shards::new(out), epilogue, steps, to.scale),
            }
        }
    };
    if s.output_len() == 0 {
        return Ok(());
    }
    exact("activation", x.data, s.input_len())?;
    let to = match &target {
        Target::Sums(out) => Some(direct::To::Sums(out)),
        Target::Bytes(out, steps) => Some(direct::To::Bytes(out, *steps)),
        Target::Floats(out, epilogue) => {
            limits(epilogue.steps).map(|(low, high)| direct::To::Floats(out, [low, high]))
        }
        Target::Later(..) => None,
    };
    if let (Some(to), Some(pairs), true) = (to, pairs, direct::serves(s, x, scaling, per_step)) {
        return direct::depthwise(pool, level, s, x, pairs, scaling, per_step, to);
    }
    let ([_, oh, ow], [_, h, w]) = (s.output, s.input);
    let (fused, _) = Fused::split(Epilogue::NONE);
    let vectors = columns.div_ceil(crate::channels_last::lanes::width(level, columns));
    let line = w * columns;
    let each = (s.strides[1] * line + ow * columns).max(1);
    let halo = (s.kernel[1] - 1) * s.dilations[1];
    let mut band = (REGION / each).saturating_sub(halo * line / each).clamp(1, oh);
    if s.batch * oh.div_ceil(band) < 2 * pool.threads() {
        band = oh.div_ceil(2 * pool.threads()).max(1);
    }
    let bands = oh.div_ceil(band);
    let error = FirstError::default();
    let threads_help = s.output_len().saturating_mul(s.taps()) > 100_000;
    let done = scratch::with(2 * columns, |reals| {
        let (scales, bias) = reals.split_at_mut(columns);
        for (j, to) in scales.iter_mut().enumerate() {
            let scale = scaling.scales.get(if scaling.scales.len() == 1 { 0 } else { j });
            *to = scaling.x_scale * scale.copied().unwrap_or(1.0) / per_step;
        }
        bias.fill(0.0);
        bias.iter_mut().zip(scaling.bias).for_each(|(to, b)| *to = b / per_step);
        let (scales, bias) = (&*scales, &*bias);
        let task = |task: usize| {
            let (image, first) = (task / bands, task % bands * band);
            let count = band.min(oh - first);
            // Rows of the input that these outputs have taps in.
            let (mut from, mut to) = (h, 0);
            for oy in first..first + count {
                let (taps, y) = rows(s, oy);
                if !taps.is_empty() {
                    (from, to) = (from.min(y), to.max(y + (taps.len() - 1) * s.dilations[1] + 1));
                }
            }
            let from = from.min(to);
            error.note(scratch::with((to - from) * line + count * ow * columns, |room| {
                let (copy, sums) = room.split_at_mut((to - from) * line);
                let start = (image * h + from) * line;
                let data = &x.data[start..start + copy.len()];
                let part = Real { x: Bytes { data, ..x }, scale: 1.0, zero: scaling.x_zero };
                dequantize_here(level, part, copy);
                let mut lines = Lines::borrowed();
                lines.fill(s, first..first + count, ow * columns, |y| y.saturating_sub(from) * line);
                let job = Band {
                    s,
                    fused: &fused,
                    vectors: 0..vectors,
                    lines: &lines.each,
                    starts: &lines.starts,
                    pitch: columns,
                    x: copy.as_ptr(),
                    weights,
                    out: sums.as_mut_ptr(),
                    first: 0,
                };
                // SAFETY: the copy has the rows under these outputs, and the sums have room for them.
                unsafe { job.run() };
                let pixel = (image * oh + first) * ow;
                let at = pixel * columns;
                if let Target::Sums(out) = &target {
                    // SAFETY: bands are disjoint, and inside the result, whose length was checked.
                    let to = unsafe { out.as_ptr().add(at) };
                    return form::run(Form::Words, level, Whole { x: sums, to });
                }
                let bytes = match &target {
                    // SAFETY: bands are disjoint, and inside the result, whose length was checked.
                    Target::Bytes(out, steps) => Some((*steps, unsafe { out.as_ptr().add(at) })),
                    _ => None,
                };
                form::run(Form::Words, level, Finish { sums: &mut *sums, scales, bias, bytes });
                let (Target::Floats(_, epilogue) | Target::Later(_, epilogue, _, _)) = &target else {
                    return;
                };
                for (i, row) in sums.chunks_exact_mut(columns).enumerate() {
                    epilogue.apply(level, row, pixel + i, 0, at + i * columns);
                }
                match &target {
                    // SAFETY: as above.
                    Target::Floats(out, _) => unsafe { out.part(at, sums.len()) }.copy_from_slice(sums),
                    Target::Later(out, _, steps, scale) => {
                        // SAFETY: as above.
                        let to = unsafe { out.as_ptr().add(at) };
                        form::run(Form::Words, level, Later { x: sums, scale: *scale, steps: *steps, to });
                    }
                    Target::Sums(_) | Target::Bytes(..) => {}
                }
            }));
        };
        if threads_help {
            pool.run(s.batch * bands, task);
        } else {
            (0..s.batch * bands).for_each(task);
        }
    });
    error.note(done);
    error.into_result()
}

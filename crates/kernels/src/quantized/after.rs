//! What becomes of exact sums: what is made ready once for all tasks, where a tile's results go, and the steps
//! of an epilogue that are left after its registers.

use super::conv::{Output, Scaling};
use super::tile::{Finish, MAX_ROWS, Steps, To, WORD};
use super::weights::Panel;
use crate::channels_last::conv::finish::{Parts, Side};
use crate::channels_last::conv::rows::Rows;
use crate::elementwise::UnaryOp;
use crate::epilogue::Step;
use crate::error::{KernelError, extent};
use crate::scratch;
use crate::simd::Level;
use crate::simd::integer::Sums;
use crate::simd::vector::Vector;
use crate::threads::Shards;

/// Where results go, for all tasks.
pub(super) enum Target<'a> {
    Sums(Shards<'a, i32>, usize),
    Floats(Shards<'a, f32>, usize, Parts<'a>),
    /// Everything happens in registers.
    Bytes(Shards<'a, u8>, usize, Steps),
    /// Other steps come before the quantization.
    Later(Shards<'a, u8>, usize, Parts<'a>, Steps, f32),
}

/// The limits that steps without operands stand for, in real numbers.
pub(super) fn limits(steps: &[Step<'_>]) -> Option<(f32, f32)> {
    let mut limits = (f32::NEG_INFINITY, f32::INFINITY);
    for step in steps {
        let (low, high) = match *step {
            Step::Unary(UnaryOp::Relu) => (0.0, f32::INFINITY),
            Step::Unary(UnaryOp::Clip(low, high)) if low <= high => (low, high),
            _ => return None,
        };
        limits = (limits.0.clamp(low, high), limits.1.clamp(low, high));
    }
    Some(limits)
}

/// Checks the sizes of `rows` by `columns` results, and calls `run` with what becomes of their sums. These begin
/// with what `start` fills in for each column; `zeros` stand for zero in the weights.
pub(super) fn with(
    [rows, columns]: [usize; 2],
    s: &Scaling<'_>,
    output: Output<'_>,
    zeros: &[i32],
    start: impl FnOnce(&mut [i32]),
    run: impl FnOnce(&Finish<'_>, &Target<'_>) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let one_or_each = |n: usize| n == 1 || n == columns;
    if !matches!(output, Output::Sums { .. }) && !one_or_each(s.scales.len()) {
        return Err(KernelError::Shape("integer product: one scale, or one for each column"));
    }
    if !(s.bias.is_empty() || s.bias.len() == columns) {
        return Err(KernelError::Shape("integer product: a bias for each column"));
    }
    let (target, per_step) = Target::of(output, rows, columns)?;
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let bias = if s.bias.is_empty() { 0 } else { columns };
    scratch::with_plain::<i32, _>(columns, |starts| {
        scratch::with(columns + bias, |reals| {
            start(starts);
            let (scales, biases) = reals.split_at_mut(columns);
            for (j, to) in scales.iter_mut().enumerate() {
                let scale =
                    if s.scales.len() == 1 { s.scales[0] } else { s.scales.get(j).copied().unwrap_or(1.0) };
                *to = s.x_scale * scale / per_step;
            }
            biases.iter_mut().zip(s.bias).for_each(|(to, b)| *to = b / per_step);
            run(&Finish { starts, scales, bias: biases, zeros }, &target)
        })?
    })?
}

impl<'a> Target<'a> {
    /// Where the output's results go, and the step that they are counted in when they leave the registers.
    fn of(output: Output<'a>, rows: usize, columns: usize) -> Result<(Target<'a>, f32), KernelError> {
        let room = |len: usize, pitch: usize| -> Result<(), KernelError> {
            if pitch < columns || len < extent("result", &[rows, columns], &[pitch, 1])? {
                return Err(KernelError::Shape("integer product: the result does not fit its room"));
            }
            Ok(())
        };
        Ok(match output {
            Output::Sums { out, pitch } => {
                room(out.len(), pitch)?;
                (Target::Sums(Shards::new(out), pitch), 1.0)
            }
            Output::Floats { out, pitch, epilogue } => {
                room(out.len(), pitch)?;
                epilogue.check(rows, columns, rows * columns)?;
                (Target::Floats(Shards::new(out), pitch, Parts::of(epilogue, columns)), 1.0)
            }
            Output::Bytes { out, pitch, epilogue, to } => {
                room(out.len(), pitch)?;
                epilogue.check(rows, columns, rows * columns)?;
                let steps = to.steps()?;
                match limits(epilogue.steps) {
                    Some((low, high)) => {
                        let within = |x: f32| (x / to.scale).clamp(steps.low, steps.high);
                        let steps = Steps::new(within(low), within(high), steps.zero, steps.flip);
                        (Target::Bytes(Shards::new(out), pitch, steps), to.scale)
                    }
                    None => {
                        let parts = Parts::of(epilogue, columns);
                        (Target::Later(Shards::new(out), pitch, parts, steps, to.scale), 1.0)
                    }
                }
            }
        })
    }

    /// A buffer for what happens beside the result, if anything does: steps that are left after the tile, and
    /// what comes after those.
    pub(super) fn side(&self) -> Option<Side> {
        let aside = match self {
            Target::Floats(_, _, parts) => !parts.complete(),
            Target::Later(..) => true,
            _ => false,
        };
        aside.then(Side::new)
    }

    /// Rows of a panel's results that may wait for [`Target::rest`], at least one tile's.
    pub(super) fn waiting(&self, p: &Panel) -> usize {
        match self {
            Target::Floats(_, _, parts) if parts.complete() => MAX_ROWS * parts.together(),
            Target::Floats(..) | Target::Later(..) => Side::rows(p.columns),
            Target::Sums(..) | Target::Bytes(..) => MAX_ROWS,
        }
    }

    /// Where a tile of the panel's columns puts its results, its first row being this one, while so many others wait.
    #[inline(always)]
    pub(super) fn to(&self, row: usize, p: &Panel, side: &mut Option<Side>, waiting: usize) -> To {
        let at = |pitch: usize| row * pitch + p.column;
        match self {
            Target::Sums(out, pitch) => To::Sums { to: out.as_ptr().wrapping_add(at(*pitch)), pitch: *pitch },
            Target::Bytes(out, pitch, steps) => {
                To::Bytes { to: out.as_ptr().wrapping_add(at(*pitch)), pitch: *pitch, steps: *steps }
            }
            Target::Floats(out, pitch, parts) if parts.complete() => {
                let to = out.as_ptr().wrapping_add(at(*pitch));
                To::Floats { to, pitch: *pitch, then: parts.finish(row, p.column) }
            }
            Target::Floats(_, _, parts) | Target::Later(_, _, parts, _, _) => {
                let free = side.as_mut().map(|s| &mut s.tile[waiting * p.columns..]);
                let to = free.map_or(std::ptr::null_mut(), |free| free.as_mut_ptr());
                To::Floats { to, pitch: p.columns, then: parts.finish(row, p.column) }
            }
        }
    }

    /// What is left to do for rows that tiles put where [`Target::to`] said, after each other.
    ///
    /// # Safety
    /// `S`'s instructions are available; the rows are there, no more than [`Target::waiting`], and nobody else
    /// touches these columns of theirs.
    #[inline(always)]
    pub(super) unsafe fn rest<S: Sums>(
        &self,
        level: Level,
        side: &mut Option<Side>,
        waiting: Waiting,
        p: &Panel,
    ) {
        let (Target::Floats(_, _, parts) | Target::Later(_, _, parts, _, _)) = self else { return };
        let count = waiting.size[0] * waiting.size[1];
        let Some(side) = side else {
            if let Target::Floats(out, pitch, _) = self {
                let rows = Rows {
                    start: out.as_ptr().wrapping_add(waiting.row * pitch + p.column),
                    size: waiting.size,
                    pitches: [waiting.line * pitch, *pitch],
                    columns: p.columns,
                };
                // SAFETY: these are the rows that the tiles wrote.
                unsafe { parts.activate(level, rows) };
            }
            return;
        };
        assert!(count <= Side::rows(p.columns));
        // SAFETY: the side buffer has the rows.
        unsafe { parts.activate(level, Rows::line(side.tile.as_mut_ptr(), count, p.columns, p.columns)) };
        if !parts.complete() {
            parts.apply_rest(level, side, count, p.columns, |i| waiting.of(i), p.column);
        }
        for (i, from) in side.tile.chunks_exact(p.columns).take(count).enumerate() {
            // SAFETY: as for the tiles.
            unsafe {
                match self {
                    Target::Floats(out, pitch, parts) if !parts.complete() => {
                        let to = out.as_ptr().add(waiting.of(i) * pitch + p.column);
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to, p.columns);
                    }
                    Target::Later(out, pitch, _, steps, scale) => {
                        let to = out.as_ptr().add(waiting.of(i) * pitch + p.column);
                        to_bytes::<S>(from, *scale, *steps, to);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Rows that wait for what is left to do.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub row: usize,
    /// Lines, and rows of each.
    pub size: [usize; 2],
    /// Rows from one line to the next.
    pub line: usize,
}

impl Waiting {
    /// The one with this number.
    #[inline(always)]
    fn of(&self, i: usize) -> usize {
        self.row + i / self.size[1] * self.line + i % self.size[1]
    }
}

/// Quantizes real numbers.
///
/// # Safety
/// `S`'s instructions are available, and there is room for as many bytes.
#[inline(always)]
pub(crate) unsafe fn to_bytes<S: Sums>(from: &[f32], scale: f32, steps: Steps, to: *mut u8) {
    // SAFETY: loads and stores stay inside both.
    unsafe {
        let scale = S::Floats::splat(scale);
        let limits = (S::Floats::splat(steps.low), S::Floats::splat(steps.high));
        let (zero, flip) = (S::splat(steps.zero), S::splat(steps.flip));
        let mut at = 0;
        let most = S::Floats::splat(WORD);
        while at + 2 * S::LANES <= from.len() {
            let p = from.as_ptr().add(at);
            let x = S::Floats::max(S::Floats::div(S::Floats::load(p), scale), limits.0);
            let y = S::Floats::max(S::Floats::div(S::Floats::load(p.add(S::LANES)), scale), limits.0);
            let (x, y) = (S::nearest(S::Floats::min(x, most)), S::nearest(S::Floats::min(y, most)));
            S::store_bytes_of_both(x, y, steps.narrow, to.add(at));
            at += 2 * S::LANES;
        }
        while at < from.len() {
            let n = (from.len() - at).min(S::LANES);
            let p = from.as_ptr().add(at);
            let x = if n == S::LANES { S::Floats::load(p) } else { S::Floats::load_first(p, n) };
            let x = S::Floats::div(x, scale);
            let x = S::Floats::min(S::Floats::max(x, limits.0), limits.1);
            let x = S::xor(S::add(S::nearest(x), zero), flip);
            if n == S::LANES {
                x.store_bytes(to.add(at));
            } else {
                x.store_first_bytes(to.add(at), n);
            }
            at += n;
        }
    }
}

//! A depthwise convolution with the products before and after it as one step: MobileNet's inverted residual.
//!
//! A band of output rows is taken through all of it at a time, so that neither the expanded image nor the
//! convolved one ever leaves the second-level cache. The band after it needs some of the same expanded rows;
//! they stay in a ring of rows, so that nothing is expanded twice. Inside a band the depthwise convolution
//! follows each few panels of the expansion, whose channels are then still in the first-level cache. Small
//! images are one band; threads then share its channels, as its rows would be few.
//!
//! Every sum is made in the order in which the three kernels alone make it, so that results are the same bit
//! by bit.

mod plan;

use super::conv::ConvWeights;
use super::conv::direct::{self, Source, Target};
use super::conv::finish::Parts;
use super::conv::panels::{Panel, Panels};
use super::depthwise::{self, DepthwiseWeights, Lines};
use super::fused::{Fused, finish, finish_room};
use super::lanes;
use crate::conv::ConvShape;
use crate::epilogue::{Epilogue, Operand, Step};
use crate::error::{KernelError, exact};
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use plan::Plan;
pub use plan::pays;
use std::ops::Range;

/// A convolution by one pixel, with its epilogue.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// The weights.
    pub weights: &'a ConvWeights,
    /// What happens to its result.
    pub epilogue: Epilogue<'a>,
}

/// The parts of an inverted residual.
#[derive(Debug, Clone, Copy)]
pub struct InvertedResidual<'a> {
    /// The product before; without it the depthwise convolution reads the input.
    pub expand: Option<Product<'a>>,
    /// The depthwise convolution's sizes.
    pub shape: &'a ConvShape,
    /// Its weights.
    pub weights: &'a DepthwiseWeights,
    /// What happens to its result; as for the expansion's, operands have at most a number per column.
    pub epilogue: Epilogue<'a>,
    /// The product after; its epilogue's rows are the output pixels of the whole batch.
    pub project: Product<'a>,
}

/// A product ready to run.
struct Stage<'a> {
    w: &'a Panels,
    zeros: &'a [f32],
    parts: Parts<'a>,
}

impl<'a> Stage<'a> {
    fn of(p: &Product<'a>) -> Result<Stage<'a>, KernelError> {
        let (w, zeros) = p
            .weights
            .product()
            .ok_or(KernelError::Shape("inverted residual: a product is a convolution by one pixel"))?;
        Ok(Stage { w, zeros, parts: Parts::of(p.epilogue, w.columns) })
    }

    /// Pixels that lie one after the other.
    fn source<'s>(&'s self, x: &'s [f32]) -> Source<'s> {
        let run = self.w.depth;
        let pixels = x.len() / run;
        Source {
            x,
            pitches: [0, 0, run],
            input: [1, pixels],
            output: [1, pixels],
            taps: [1; 2],
            strides: [1; 2],
            dilations: [1; 2],
            pads: [0; 2],
            run,
            zeros: self.zeros,
        }
    }
}

/// Everything that tasks share.
struct Work<'a> {
    s: &'a ConvShape,
    expand: Option<Stage<'a>>,
    project: Stage<'a>,
    weights: &'a DepthwiseWeights,
    level: Level,
    fused: Fused<'a>,
    rest: &'a [Step<'a>],
    x: &'a [f32],
    out: Shards<'a, f32>,
    plan: Plan,
}

/// Computes an inverted residual from dense pixels `[batch, height, width, channels]` to dense pixels.
pub fn inverted_residual(
    pool: &Pool,
    block: &InvertedResidual<'_>,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let s = block.shape;
    let level = block.weights.level_for(s)?;
    let expand = block.expand.as_ref().map(Stage::of).transpose()?;
    let project = Stage::of(&block.project)?;
    let misfit = KernelError::Shape("inverted residual: the parts have other channels or levels");
    let expands = |e: &Stage<'_>| e.w.columns == s.in_channels && e.w.level == level;
    if !expand.as_ref().is_none_or(expands) || project.w.depth != s.in_channels || project.w.level != level {
        return Err(misfit);
    }
    let channels = expand.as_ref().map_or(s.in_channels, |e| e.w.depth);
    let pixels = s.batch * s.positions();
    exact("input", x, crate::error::product("input", &[s.batch, s.plane(), channels])?)?;
    exact("output", out, crate::error::product("output", &[pixels, project.w.columns])?)?;
    for epilogue in block.expand.iter().map(|e| &e.epilogue).chain([&block.epilogue]) {
        by_column(epilogue)?;
        epilogue.check(0, s.in_channels, 0)?;
    }
    block.project.epilogue.check(pixels, project.w.columns, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let (fused, rest) = Fused::split(block.epilogue);
    let panels = expand.as_ref().map_or(&[][..], |e| &e.w.panels);
    let even = rest.is_empty() && s.in_channels.is_multiple_of(lanes::width(level, s.in_channels));
    let plan = Plan::new(pool.threads(), s, panels, even);
    let out = Shards::new(out);
    let work = Work { s, expand, project, weights: block.weights, level, fused, rest, x, out, plan };
    let error = FirstError::default();
    let plan = &work.plan;
    if plan.groups > 1 {
        for image in 0..s.batch {
            work.by_channels(pool, image)?;
        }
        return Ok(());
    }
    pool.run(s.batch * plan.cuts, |task| {
        let (image, cut) = (task / plan.cuts, task % plan.cuts);
        let rows = cut * s.output[1] / plan.cuts..(cut + 1) * s.output[1] / plan.cuts;
        if !rows.is_empty() {
            error.note(work.by_rows(image, rows));
        }
    });
    error.into_result()
}

/// Fails unless all operands have at most a number per column.
fn by_column(epilogue: &Epilogue<'_>) -> Result<(), KernelError> {
    let fits = |step: &Step<'_>| match step {
        Step::Unary(_) => true,
        Step::Binary { operand, .. } => matches!(operand, Operand::Scalar(_) | Operand::PerColumn(_)),
    };
    if epilogue.steps.iter().all(fits) {
        Ok(())
    } else {
        Err(KernelError::Shape("inverted residual: an operand inside has more than a number per column"))
    }
}

/// The expanded rows of a band and where they lie.
struct Ring {
    start: *mut f32,
    /// Rows that there is room for.
    slots: usize,
    /// What is added to a row's number to find its slot.
    shift: usize,
    /// Floats from one pixel to the next.
    pitch: usize,
}

impl Ring {
    fn slot(&self, y: usize) -> usize {
        (y + self.shift) % self.slots
    }
}

impl Work<'_> {
    /// The input rows under some output rows.
    fn needed(&self, rows: Range<usize>) -> Range<usize> {
        let (s, mut first, mut end) = (self.s, usize::MAX, 0);
        for oy in rows {
            let (taps, y) = depthwise::rows(s, oy);
            if !taps.is_empty() {
                first = first.min(y);
                end = end.max(y + (taps.len() - 1) * s.dilations[1] + 1);
            }
        }
        first.min(end)..end
    }

    /// An image's input, by rows.
    fn rows(&self, image: usize, rows: Range<usize>) -> &[f32] {
        let channels = self.expand.as_ref().map_or(self.s.in_channels, |e| e.w.depth);
        let [_, height, width] = self.s.input;
        let row = width * channels;
        &self.x[(image * height + rows.start) * row..(image * height + rows.end) * row]
    }

    /// The vectors of some panels' channels.
    fn vectors(&self, panels: &[Panel]) -> Range<usize> {
        let width = lanes::width(self.level, self.s.in_channels);
        match panels {
            [first, .., last] => first.column / width..(last.column + last.columns).div_ceil(width),
            [one] => one.column / width..(one.column + one.columns).div_ceil(width),
            [] => 0..0,
        }
    }

    /// The depthwise convolution of some vectors, from `x` to `mid`.
    ///
    /// # Safety
    /// As for [`depthwise::Band::run`]; nobody else touches these vectors of `mid`.
    unsafe fn depthwise(
        &self,
        lines: &Lines,
        vectors: Range<usize>,
        x: *const f32,
        pitch: usize,
        mid: *mut f32,
    ) {
        let band = depthwise::Band {
            s: self.s,
            fused: &self.fused,
            vectors,
            lines: &lines.each,
            starts: &lines.starts,
            pitch,
            x,
            weights: self.weights,
            out: mid,
            first: 0,
        };
        // SAFETY: forwarded.
        unsafe { band.run() }
    }

    /// Some output rows of an image, from the input to the output.
    fn by_rows(&self, image: usize, rows: Range<usize>) -> Result<(), KernelError> {
        let (s, plan, channels) = (self.s, &self.plan, self.s.in_channels);
        let [_, height, width] = s.input;
        let (ow, oh) = (s.output[2], s.output[1]);
        let slots = plan.slots.min(height);
        let pitch = if plan.whole { plan.columns } else { channels };
        let room = if self.expand.is_some() { slots * width * pitch } else { 0 };
        scratch::with(room, |ring| {
            scratch::with(plan.rows * ow * channels, |mid| {
                scratch::with(finish_room(self.rest, channels), |repeated| {
                    let mut lines = Lines::borrowed();
                    let first = self.needed(rows.start..(rows.start + plan.rows).min(rows.end));
                    let shift = slots - first.end % slots.max(1);
                    let ring = &Ring { start: ring.as_mut_ptr(), slots, shift, pitch };
                    let mut done = first.start;
                    for start in rows.clone().step_by(plan.rows) {
                        let band = start..(start + plan.rows).min(rows.end);
                        let count = band.len() * ow;
                        let needed = self.needed(band.clone());
                        let new = needed.start.max(done)..needed.end;
                        done = done.max(needed.end);
                        match &self.expand {
                            None => {
                                let x = self.rows(image, 0..height);
                                lines.fill(s, band.clone(), ow * channels, |y| y * width * channels);
                                let vectors = 0..channels.div_ceil(lanes::width(self.level, channels));
                                // SAFETY: the lines are the image's rows, and the buffer is ours.
                                unsafe {
                                    self.depthwise(&lines, vectors, x.as_ptr(), channels, mid.as_mut_ptr());
                                };
                            }
                            Some(e) => {
                                lines.fill(s, band.clone(), ow * channels, |y| ring.slot(y) * width * pitch);
                                // SAFETY: the buffers are ours, with room for the ring and the band.
                                unsafe {
                                    self.expand(
                                        e,
                                        image,
                                        new,
                                        &lines,
                                        ring,
                                        0..e.w.panels.len(),
                                        mid.as_mut_ptr(),
                                    )?;
                                };
                            }
                        }
                        let mid = &mut mid[..count * channels];
                        finish(self.level, self.rest, mid, channels, 0, repeated);
                        let target = Target {
                            out: self.out,
                            pitch: self.project.w.columns,
                            pixels: count,
                            first: (image * oh + band.start) * ow,
                            skip: 0,
                        };
                        let (p, source) = (&self.project, self.project.source(mid));
                        direct::block(&source, p.w, 0..count, &p.w.panels, target, &p.parts, |_| {})?;
                    }
                    Ok(())
                })?
            })?
        })?
    }

    /// Expands the rows `new` of an image into the ring, the channels of some panels, and convolves them to
    /// `mid` as they come.
    ///
    /// # Safety
    /// The lines are those of a band whose other rows are in the ring; ring and `mid` have room for the band,
    /// and nobody else touches the ring or these channels of `mid`.
    unsafe fn expand(
        &self,
        e: &Stage<'_>,
        image: usize,
        new: Range<usize>,
        lines: &Lines,
        ring: &Ring,
        panels: Range<usize>,
        mid: *mut f32,
    ) -> Result<(), KernelError> {
        let width = self.s.input[2];
        let chunk = self.plan.chunk;
        // SAFETY: the ring has room for its slots.
        let room = unsafe { std::slice::from_raw_parts_mut(ring.start, ring.slots * width * ring.pitch) };
        let out = Shards::new(room);
        let target = |y: usize, rows: usize, skip: usize| Target {
            out,
            pitch: ring.pitch,
            pixels: rows * width,
            first: ring.slot(y) * width,
            skip,
        };
        let x = |skip: usize| out.as_ptr().cast_const().wrapping_sub(skip);
        if self.plan.whole {
            for chunk in e.w.panels[panels].chunks(chunk) {
                let skip = chunk[0].column;
                if !new.is_empty() {
                    let source = e.source(self.rows(image, new.clone()));
                    let to = target(new.start, new.len(), skip);
                    direct::block(&source, e.w, 0..to.pixels, chunk, to, &e.parts, |_| {})?;
                }
                // SAFETY: forwarded.
                unsafe { self.depthwise(lines, self.vectors(chunk), x(skip), ring.pitch, mid) };
            }
            return Ok(());
        }
        let panels = &e.w.panels[panels];
        // From one end of the ring to the other is no step: what lies on both sides of it is done in parts.
        let mut y = new.start;
        while y < new.end {
            let rows = (new.end - y).min(ring.slots - ring.slot(y));
            let last = y + rows == new.end;
            let source = e.source(self.rows(image, y..y + rows));
            let to = target(y, rows, 0);
            let mut waiting = 0..0;
            direct::block(&source, e.w, 0..to.pixels, panels, to, &e.parts, |_| {
                waiting.end += 1;
                if last && (waiting.len() == chunk || waiting.end == panels.len()) {
                    // SAFETY: forwarded.
                    unsafe {
                        self.depthwise(lines, self.vectors(&panels[waiting.clone()]), x(0), ring.pitch, mid);
                    };
                    waiting.start = waiting.end;
                }
            })?;
            y += rows;
        }
        if new.is_empty() {
            // SAFETY: forwarded.
            unsafe { self.depthwise(lines, self.vectors(panels), x(0), ring.pitch, mid) };
        }
        Ok(())
    }

    /// A whole image, its threads sharing the channels in between.
    fn by_channels(&self, pool: &Pool, image: usize) -> Result<(), KernelError> {
        let (s, plan, channels) = (self.s, &self.plan, self.s.in_channels);
        let Some(e) = &self.expand else { return Ok(()) };
        let (width, count) = (s.input[2], s.positions());
        let new = self.needed(0..s.output[1]);
        let slots = new.len().max(1);
        let pitch = plan.columns;
        scratch::with(count * channels, |mid| {
            let shards = Shards::new(mid);
            let mut lines = Lines::borrowed();
            let shift = slots - new.start % slots;
            let place = Ring { start: std::ptr::null_mut(), slots, shift, pitch };
            lines.fill(s, 0..s.output[1], s.output[2] * channels, |y| place.slot(y) * width * pitch);
            let error = FirstError::default();
            let all = e.w.panels.len();
            pool.run(plan.groups, |group| {
                let panels = group * all / plan.groups..(group + 1) * all / plan.groups;
                let made = scratch::with(slots * width * pitch, |ring| {
                    let ring = Ring { start: ring.as_mut_ptr(), ..place };
                    // SAFETY: the ring is ours, and the groups' channels are apart.
                    unsafe { self.expand(e, image, new.clone(), &lines, &ring, panels, shards.as_ptr()) }
                });
                error.note(made.and_then(|made| made));
            });
            error.into_result()?;
            let target = Target {
                out: self.out,
                pitch: self.project.w.columns,
                pixels: count,
                first: image * count,
                skip: 0,
            };
            direct::run(pool, &self.project.source(mid), self.project.w, target, &self.project.parts)
        })?
    }
}

#[cfg(test)]
mod tests;

//! The common windows straight from bytes to bytes, sums or real numbers.
//!
//! A block is a few neighbouring outputs of a row by two vectors of channels. Taps go in pairs, whose bytes become
//! words side by side that one instruction multiplies and adds up: those of two rows, and in a row that is left over
//! those of two columns. The zero point is taken off
//! what the sums begin with, so bytes outside of the image are as that point, and an output at its left or right end
//! begins with the sum of the taps that it has.

use super::super::tile::Steps;
use super::pairs::{Pairs, spread};
use super::{Bytes, Scaling};
use crate::channels_last::depthwise::{inside, rows};
use crate::conv::ConvShape;
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::Level;
use crate::simd::integer::paired::{self, Job, Paired};
use crate::simd::vector::Vector;
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Most outputs of a block.
const ACROSS: usize = 6;
/// Least outputs of a block.
const FEW: usize = ACROSS / 2;
/// Most lanes of a vector.
const MAX_LANES: usize = 16;
/// Most rows of taps.
const MOST_ROWS: usize = 16;
/// Most outputs of a row with taps outside of the image.
const MOST_EDGES: usize = 8;
/// Bytes of weights that stay in the first-level cache.
const NEAR: usize = 12 * 1024;
/// Multiply-adds worth a task of its own.
const GRAIN: usize = 1 << 18;

/// The outputs of a row with all their taps inside the input.
fn interior(s: &ConvShape) -> Range<usize> {
    let reach = (s.kernel[2] - 1) * s.dilations[2] + 1;
    let first = s.pads[2].div_ceil(s.strides[2]).min(s.output[2]);
    let end = match (s.input[2] + s.pads[2]).checked_sub(reach) {
        Some(last) => (last / s.strides[2] + 1).min(s.output[2]),
        None => 0,
    };
    first..end.max(first)
}

/// The taps inside the input for one output of a row.
fn columns(s: &ConvShape, ox: usize) -> Range<usize> {
    inside(ox * s.strides[2], s.pads[2], s.input[2], s.kernel[2], s.dilations[2])
}

/// The zero point as a byte of the activation's type.
fn zero_byte(x: Bytes<'_>, zero: i32) -> Option<u8> {
    if x.signed { i8::try_from(zero).ok().map(|z| z as u8) } else { u8::try_from(zero).ok() }
}

/// Where results go.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// The sums themselves.
    Sums(&'a Shards<'a, i32>),
    /// Real numbers between two limits.
    Floats(&'a Shards<'a, f32>, [f32; 2]),
    /// Steps of quantization.
    Bytes(&'a Shards<'a, u8>, Steps),
}

impl To<'_> {
    /// The first result, and the bytes of one.
    fn first(&self) -> (*mut u8, usize) {
        match self {
            To::Sums(out) => (out.as_ptr().cast(), 4),
            To::Floats(out, _) => (out.as_ptr().cast(), 4),
            To::Bytes(out, _) => (out.as_ptr(), 1),
        }
    }
}

/// Whether [`depthwise`] has a way for these sizes and scales: all results, counted in steps, are to fit 32 bits.
pub(super) fn serves(s: &ConvShape, x: Bytes<'_>, scaling: &Scaling<'_>, per_step: f32) -> bool {
    let window = (s.kernel[2] == 3 || s.kernel[2] == 5) && s.strides[2] <= 2 && s.dilations[2] == 1;
    let edges = s.output[2] - interior(s).len();
    let most = (s.taps() * 255 * 255) as f32 * (scaling.x_scale / per_step);
    window
        && s.kernel[1] <= MOST_ROWS
        && edges <= MOST_EDGES
        && zero_byte(x, scaling.x_zero).is_some()
        && scaling.scales.iter().all(|s| (s * most).abs() < 1e9)
        && scaling.bias.iter().all(|b| (b / per_step).abs() < 1e9)
}

/// Convolves every channel by itself, where that is served. There is room for the results; those that are bytes are
/// steps of `per_step` each, and it is 1 for the others.
#[allow(clippy::too_many_arguments)]
pub(super) fn depthwise(
    pool: &Pool,
    level: Level,
    s: &ConvShape,
    x: Bytes<'_>,
    pairs: &Pairs,
    scaling: &Scaling<'_>,
    per_step: f32,
    to: To<'_>,
) -> Result<(), KernelError> {
    let Some(zero) = zero_byte(x, scaling.x_zero) else {
        return Err(KernelError::Shape("a zero point outside the type's range"));
    };
    let (channels, interior) = (s.in_channels, interior(s));
    let ([_, oh, ow], [_, _, w]) = (s.output, s.input);
    let (all, edges) = (pairs.groups * pairs.group, ow - interior.len());
    let chunk = (NEAR / (2 * pairs.each)).clamp(1, pairs.groups);
    let chunks = pairs.groups.div_ceil(chunk);
    let lines = s.batch * oh;
    let error = FirstError::default();
    let done = scratch::with(2 * (all + channels), |reals| {
        let (lanes, plain) = reals.split_at_mut(2 * all);
        let (scales, bias) = plain.split_at_mut(channels);
        match scaling.scales {
            [] => scales.fill(1.0),
            [one] => scales.fill(*one),
            each => scales.copy_from_slice(each),
        }
        scales.iter_mut().for_each(|s| *s = scaling.x_scale * *s / per_step);
        bias.fill(0.0);
        bias.iter_mut().zip(scaling.bias).for_each(|(to, b)| *to = b / per_step);
        spread(scales, pairs.group, &mut lanes[..all]);
        spread(bias, pairs.group, &mut lanes[all..]);
        let (scales, bias) = lanes.split_at(all);
        scratch::with_plain::<i32, _>((1 + edges) * all, |starts| {
            let outer = (0..interior.start).chain(interior.end..ow).map(|ox| columns(s, ox));
            let each = std::iter::once(0..s.kernel[2]).chain(outer);
            for (to, columns) in starts.chunks_exact_mut(all).zip(each) {
                pairs.starts(level, columns, scaling.x_zero, to);
            }
            let starts = &*starts;
            let work = (ow * channels).saturating_mul(s.taps()) / chunks;
            pool.split(lines * chunks, (GRAIN / work.max(1)).max(1), |tasks| {
                error.note(scratch::with_plain::<u8, _>(w * channels, |outside| {
                    outside.fill(zero);
                    let interior = interior.clone();
                    let finish = (starts, scales, bias);
                    let job = Lines { s, x, pairs, interior, outside, finish, to, tasks, chunk };
                    job.run(level);
                }));
            });
        })
    });
    error.note(done.flatten());
    error.into_result()
}

/// Some lines of outputs by some groups of channels: first all lines of the first groups.
struct Lines<'a> {
    s: &'a ConvShape,
    x: Bytes<'a>,
    pairs: &'a Pairs,
    interior: Range<usize>,
    /// A row of the input of nothing.
    outside: &'a [u8],
    /// What sums begin with, in the interior and at the ends of a row, and what becomes of them; all for each lane.
    finish: (&'a [i32], &'a [f32], &'a [f32]),
    to: To<'a>,
    tasks: Range<usize>,
    /// Groups of a task.
    chunk: usize,
}

/// Lines whose window and sign are constants: a function for each, none of them large.
struct Known<'a, const SIGNED: bool, const KW: usize, const ST: usize>(Lines<'a>);

impl<const SIGNED: bool, const KW: usize, const ST: usize> Job for Known<'_, SIGNED, KW, ST> {
    #[inline(always)]
    unsafe fn run<S: Paired>(self) {
        let work = &self.0;
        let lines = work.s.batch * work.s.output[1];
        for task in work.tasks.clone() {
            let first = task / lines * work.chunk;
            let groups = first..(first + work.chunk).min(work.pairs.groups);
            // SAFETY: the instructions are on; groups were packed for two vectors of this level.
            unsafe { work.line::<S, SIGNED, KW, ST>(task % lines, groups) };
        }
    }
}

/// Where a block is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// For each row of taps, the first channel of its first column.
    rows: &'a [*const u8],
    /// The first channel of the first output.
    out: *mut u8,
    /// What the sums of all lanes begin with.
    starts: *const i32,
    /// The first column of taps.
    tap: usize,
}

impl Lines<'_> {
    fn run(self, level: Level) {
        let s = self.s;
        match (self.x.signed, s.kernel[2], s.strides[2]) {
            (false, 3, 1) => paired::run(level, Known::<false, 3, 1>(self)),
            (false, 3, _) => paired::run(level, Known::<false, 3, 2>(self)),
            (false, _, 1) => paired::run(level, Known::<false, 5, 1>(self)),
            (false, ..) => paired::run(level, Known::<false, 5, 2>(self)),
            (true, 3, 1) => paired::run(level, Known::<true, 3, 1>(self)),
            (true, 3, _) => paired::run(level, Known::<true, 3, 2>(self)),
            (true, _, 1) => paired::run(level, Known::<true, 5, 1>(self)),
            (true, ..) => paired::run(level, Known::<true, 5, 2>(self)),
        }
    }

    /// A line of the outputs of all images.
    ///
    /// # Safety
    /// `S`'s instructions are available, with half a group for a vector, and the window has that width and stride.
    #[inline(always)]
    unsafe fn line<S: Paired, const SIGNED: bool, const KW: usize, const ST: usize>(
        &self,
        line: usize,
        groups: Range<usize>,
    ) {
        let s = self.s;
        let ([_, oh, ow], [_, h, w], channels) = (s.output, s.input, s.in_channels);
        let (image, oy) = (line / oh, line % oh);
        let (taps, y) = rows(s, oy);
        let count = s.kernel[1];
        let mut starts = [self.outside.as_ptr(); MOST_ROWS];
        for (i, ky) in taps.enumerate() {
            starts[ky] = self.x.data[(image * h + y + i * s.dilations[1]) * w * channels..].as_ptr();
        }
        let (out, size) = self.to.first();
        let out = |ox: usize| out.wrapping_add((line * ow + ox) * channels * size);
        let all = self.pairs.groups * self.pairs.group;
        let mut at = [std::ptr::null(); MOST_ROWS];
        // Too few for a block are one by one, too.
        let blocked = if self.interior.len() < FEW { 0..0 } else { self.interior.clone() };
        let ends = (0..self.interior.start).chain(self.interior.end..ow).zip(1..);
        let few = if blocked.is_empty() { self.interior.clone() } else { 0..0 };
        for (ox, edge) in ends.chain(few.map(|ox| (ox, 0))) {
            let taps = columns(s, ox);
            let column = (ox * ST + taps.start).wrapping_sub(s.pads[2]);
            for i in 0..count {
                at[i] = starts[i].wrapping_add(column.wrapping_mul(channels));
            }
            let place = Place {
                rows: &at[..count],
                out: out(ox),
                starts: self.finish.0[edge * all..].as_ptr(),
                tap: taps.start,
            };
            // SAFETY: these taps of this output are inside the input, and starts were counted for them.
            unsafe { self.single::<S, SIGNED>(place, taps.len(), groups.clone()) };
        }
        let blocks = blocked.len().div_ceil(ACROSS);
        for b in 0..blocks {
            let ox = blocked.start + b * blocked.len() / blocks;
            let end = blocked.start + (b + 1) * blocked.len() / blocks;
            for i in 0..count {
                at[i] = starts[i].wrapping_add((ox * ST - s.pads[2]) * channels);
            }
            let place = Place { rows: &at[..count], out: out(ox), starts: self.finish.0.as_ptr(), tap: 0 };
            // SAFETY: these outputs have all their taps inside the input.
            unsafe {
                match end - ox {
                    3 => self.block::<S, SIGNED, KW, ST, 3>(place, groups.clone()),
                    4 => self.block::<S, SIGNED, KW, ST, 4>(place, groups.clone()),
                    5 => self.block::<S, SIGNED, KW, ST, 5>(place, groups.clone()),
                    6 => self.block::<S, SIGNED, KW, ST, 6>(place, groups.clone()),
                    _ => unreachable!("blocks are as even as they can be"),
                }
            }
        }
    }

    /// Where a group's channels and lanes begin.
    #[inline(always)]
    fn group(&self, group: usize) -> (usize, usize) {
        let each = self.pairs.group;
        ((group * each).min(self.s.in_channels - each), group * each)
    }

    /// `P` outputs with all their taps.
    ///
    /// # Safety
    /// As [`Lines::line`]; the taps are inside the input, and nobody else writes these channels of these outputs.
    #[inline(always)]
    unsafe fn block<S: Paired, const SIGNED: bool, const KW: usize, const ST: usize, const P: usize>(
        &self,
        place: Place<'_>,
        groups: Range<usize>,
    ) {
        let pitch = self.s.in_channels;
        for g in groups {
            let (channel, lane) = self.group(g);
            // SAFETY: the group's channels are inside a pixel; pixels and weights are those of the window.
            unsafe {
                let start = [S::load(place.starts.add(lane)), S::load(place.starts.add(lane + S::LANES))];
                let mut acc = [start; P];
                let mut w = self.pairs.words().add(g * self.pairs.each);
                let mut rows = place.rows.chunks_exact(2);
                // Each pair of pixels is made once, whichever outputs it goes to. Weights are read where they are used,
                // as there are too many for registers: the compiler must not see that they are the same again.
                let mut at = 0;
                macro_rules! taps {
                    ($x:ident $i:literal, $step:literal: $($k:literal)+) => {$(
                        if const {
                            let k = $step * $k;
                            k < KW && $i >= k && ($i - k) % ST == 0 && ($i - k) / ST < P
                        } {
                            let p = const { if $i >= $step * $k { ($i - $step * $k) / ST } else { 0 } };
                            for v in 0..2 {
                                let w = w.byte_offset(at).add(($k * 2 + v) * 2 * S::LANES);
                                acc[p][v] = S::dot_pair(acc[p][v], $x[v], w);
                            }
                        }
                    )+};
                }
                for rows in &mut rows {
                    let (mut a, mut b) = (rows[0].add(channel), rows[1].add(channel));
                    macro_rules! pixels {
                        ($($i:literal)+) => {$(
                            if const { $i < (P - 1) * ST + KW } {
                                let x = S::pair(S::words::<SIGNED>(a), S::words::<SIGNED>(b));
                                (a, b) = (a.wrapping_add(pitch), b.wrapping_add(pitch));
                                at = S::Floats::opaque(at);
                                taps!(x $i, 1: 0 1 2 3 4);
                            }
                        )+};
                    }
                    pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                    let _ = (a, b);
                    w = w.add(KW * 4 * S::LANES);
                }
                if let [row] = rows.remainder() {
                    let mut a = row.add(channel);
                    let mut next = S::words::<SIGNED>(a);
                    // Every pair has the weights of two columns.
                    macro_rules! pixels {
                        ($($i:literal)+) => {$(
                            if const { $i < (P - 1) * ST + KW } {
                                let this = next;
                                if const { $i + 1 < (P - 1) * ST + KW } {
                                    a = a.wrapping_add(pitch);
                                    next = S::words::<SIGNED>(a);
                                }
                                let x = S::pair(this, next);
                                at = S::Floats::opaque(at);
                                taps!(x $i, 2: 0 1 2);
                            }
                        )+};
                    }
                    pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                    let _ = a;
                }
                self.finish(&acc, lane, channel, place.out);
            }
        }
    }

    /// One output with some columns of taps.
    ///
    /// # Safety
    /// As [`Lines::block`], and there are that many columns.
    #[inline(always)]
    unsafe fn single<S: Paired, const SIGNED: bool>(
        &self,
        place: Place<'_>,
        columns: usize,
        groups: Range<usize>,
    ) {
        let (pitch, width) = (self.s.in_channels, self.s.kernel[2]);
        for g in groups {
            let (channel, lane) = self.group(g);
            // SAFETY: as in `block`.
            unsafe {
                let mut acc = [S::load(place.starts.add(lane)), S::load(place.starts.add(lane + S::LANES))];
                let each = 4 * S::LANES;
                let mut w = self.pairs.words().add(g * self.pairs.each + place.tap * each);
                let mut rows = place.rows.chunks_exact(2);
                for rows in &mut rows {
                    let (a, b) = (rows[0].wrapping_add(channel), rows[1].wrapping_add(channel));
                    acc = two_rows::<S, SIGNED>(acc, a, b, w, pitch, columns);
                    w = w.add(width * each);
                }
                if let [row] = rows.remainder() {
                    let (a, w) = (row.wrapping_add(channel), w.add(width.div_ceil(2) * each));
                    acc = two_rows::<S, SIGNED>(acc, a, a, w, pitch, columns);
                }
                self.finish(&[acc], lane, channel, place.out);
            }
        }
    }

    /// Turns the sums of outputs, the first of which begins at `out`, into results.
    ///
    /// # Safety
    /// As [`Lines::block`], `lane` and `channel` being those of the group.
    #[inline(always)]
    unsafe fn finish<S: Paired, const P: usize>(
        &self,
        acc: &[[S; 2]; P],
        lane: usize,
        channel: usize,
        out: *mut u8,
    ) {
        let (_, scales, bias) = self.finish;
        let pitch = self.s.in_channels;
        // SAFETY: there are scales and biases for all lanes; results are those of the caller.
        unsafe {
            let steps = match self.to {
                To::Bytes(_, steps) => steps,
                To::Sums(_) => {
                    let mut room = [[0i32; MAX_LANES]; 2];
                    for (p, acc) in acc.iter().enumerate() {
                        acc[0].store(room[0].as_mut_ptr());
                        acc[1].store(room[1].as_mut_ptr());
                        in_order::<S, _>(&room, out.cast::<i32>().add(p * pitch + channel));
                    }
                    return;
                }
                To::Floats(_, [low, high]) => {
                    let mut room = [[0f32; MAX_LANES]; 2];
                    let limits = [S::Floats::splat(low), S::Floats::splat(high)];
                    for (p, acc) in acc.iter().enumerate() {
                        for (v, room) in room.iter_mut().enumerate() {
                            let at = lane + v * S::LANES;
                            let x = S::Floats::mul(acc[v].to_floats(), load::<S>(scales, at));
                            let x = S::Floats::add(x, load::<S>(bias, at));
                            S::Floats::min(S::Floats::max(x, limits[0]), limits[1]).store(room.as_mut_ptr());
                        }
                        in_order::<S, _>(&room, out.cast::<f32>().add(p * pitch + channel));
                    }
                    return;
                }
            };
            let out = out.add(channel);
            let lanes = [lane, lane + S::LANES];
            let scales = [load::<S>(scales, lanes[0]), load::<S>(scales, lanes[1])];
            let bias = [load::<S>(bias, lanes[0]), load::<S>(bias, lanes[1])];
            let mut p = 0;
            while p < P {
                let to = out.add(p * self.s.in_channels);
                let x = whole::<S>(acc[p], scales, bias);
                if p + 1 < P {
                    let y = whole::<S>(acc[p + 1], scales, bias);
                    S::store_bytes_of_paired_twice([x, y], steps.narrow, to, to.add(self.s.in_channels));
                } else {
                    S::store_bytes_of_paired(x, steps.narrow, to);
                }
                p += 2;
            }
        }
    }
}

/// Adds up some columns of two rows of taps.
///
/// # Safety
/// `S`'s instructions are available; the pixels and their weights are there.
#[inline(always)]
unsafe fn two_rows<S: Paired, const SIGNED: bool>(
    mut acc: [S; 2],
    a: *const u8,
    b: *const u8,
    w: *const i16,
    pitch: usize,
    columns: usize,
) -> [S; 2] {
    for k in 0..columns {
        // SAFETY: forwarded.
        unsafe {
            let x = S::pair(S::words::<SIGNED>(a.add(k * pitch)), S::words::<SIGNED>(b.add(k * pitch)));
            for v in 0..2 {
                acc[v] = S::dot_pair(acc[v], x[v], w.add((k * 2 + v) * 2 * S::LANES));
            }
        }
    }
    acc
}

/// Writes the lanes of two vectors as [`paired::place`] has their channels.
///
/// # Safety
/// There is room for them.
#[inline(always)]
unsafe fn in_order<S: Paired, T: Copy>(lanes: &[[T; MAX_LANES]; 2], to: *mut T) {
    for (v, from) in lanes.iter().enumerate() {
        for four in 0..S::LANES / 4 {
            // SAFETY: forwarded; four lanes in a row are four channels in a row.
            unsafe {
                let to = to.add(paired::place(v, 4 * four));
                std::ptr::copy_nonoverlapping(from.as_ptr().add(4 * four), to, 4);
            }
        }
    }
}

/// The results of sums as the nearest whole numbers, which fit 32 bits.
///
/// # Safety
/// `S`'s instructions are available.
#[inline(always)]
unsafe fn whole<S: Paired>(sums: [S; 2], scales: [S::Floats; 2], bias: [S::Floats; 2]) -> [S; 2] {
    // SAFETY: forwarded.
    unsafe {
        let x = S::Floats::add(S::Floats::mul(sums[0].to_floats(), scales[0]), bias[0]);
        let y = S::Floats::add(S::Floats::mul(sums[1].to_floats(), scales[1]), bias[1]);
        [S::nearest(x), S::nearest(y)]
    }
}

/// # Safety
/// `S`'s instructions are available, and the slice has a vector at `at`.
#[inline(always)]
unsafe fn load<S: Paired>(from: &[f32], at: usize) -> S::Floats {
    // SAFETY: forwarded.
    unsafe { S::Floats::load(from.as_ptr().add(at)) }
}

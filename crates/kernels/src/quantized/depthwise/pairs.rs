//! Weights of depthwise convolutions in bytes, and what sums of theirs begin with.

use crate::channels_last::depthwise::DepthwiseWeights;
use crate::conv::ConvShape;
use crate::error::KernelError;
use crate::packed::{Packed, Weight};
use crate::simd::integer::paired;
use crate::simd::{Isa, Kernel, Level};
use std::ops::Range;

/// Largest weight whose products with bytes add up in 32 bits, however many taps there are.
const MOST: f32 = 255.0;

/// Weights of a depthwise convolution in bytes, rearranged once: whole numbers less their zero points.
#[derive(Debug, Clone)]
pub struct ByteDepthwise {
    pub(super) floats: DepthwiseWeights,
    /// None where there are too few channels for vectors of words, or no such vectors.
    pub(super) pairs: Option<Pairs>,
}

impl ByteDepthwise {
    /// Packs `[channels, 1, taps..]` whole numbers.
    pub fn pack<T: Weight>(
        level: Level,
        shape: &ConvShape,
        weights: &[T],
    ) -> Result<ByteDepthwise, KernelError> {
        let floats = DepthwiseWeights::pack(level, shape, weights)?;
        Ok(ByteDepthwise { pairs: Pairs::pack(level, shape, weights)?, floats })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.floats.bytes() + self.pairs.as_ref().map_or(0, |p| p.words.bytes().len() + 4 * p.sums.len())
    }

    /// The same without words, which leaves the way by floats.
    #[cfg(test)]
    pub(super) fn by_floats(mut self) -> ByteDepthwise {
        self.pairs = None;
        self
    }
}

/// Weights as words, for groups of two vectors of channels. The last group ends with the last channel, so it may
/// share some with the one before it.
///
/// A group has, one after the other: for every pair of rows of taps each column of both rows; then, if a row is left,
/// its columns by twos, and once more its columns one by one. What has no partner is beside a zero.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    /// Channels of a group.
    pub group: usize,
    pub groups: usize,
    /// Words of a group.
    pub each: usize,
    words: Packed,
    /// The sums of the columns of taps, for every column one for each lane of all groups.
    sums: Vec<i32>,
}

/// The taps of the pairs of a group, in order.
fn taps(height: usize, width: usize) -> Vec<[Option<(usize, usize)>; 2]> {
    let whole =
        (0..height / 2).flat_map(|r| (0..width).map(move |x| [Some((2 * r, x)), Some((2 * r + 1, x))]));
    let last = height.saturating_sub(1);
    let twos = (0..width).step_by(2).map(|x| [Some((last, x)), (x + 1 < width).then_some((last, x + 1))]);
    let ones = (0..width).map(|x| [Some((last, x)), None]);
    whole.chain(twos.chain(ones).take(if height % 2 == 1 { usize::MAX } else { 0 })).collect()
}

/// The channels of the lanes of all groups.
fn lanes(channels: usize, group: usize) -> impl Iterator<Item = usize> {
    (0..channels.div_ceil(group)).flat_map(move |g| {
        let first = (g * group).min(channels - group);
        (0..group).map(move |i| first + paired::place(i / (group / 2), i % (group / 2)))
    })
}

/// Numbers of all channels as those of the lanes of all groups.
pub(super) fn spread<T: Copy>(from: &[T], group: usize, to: &mut [T]) {
    for (g, to) in to.chunks_exact_mut(group).enumerate() {
        let first = (g * group).min(from.len() - group);
        let (a, b) = to.split_at_mut(group / 2);
        let (a, b) = (a.as_chunks_mut::<4>().0, b.as_chunks_mut::<4>().0);
        // As `place` says, without asking it for each.
        for ((a, b), from) in a.iter_mut().zip(b).zip(from[first..][..group].as_chunks::<8>().0) {
            a.copy_from_slice(&from[..4]);
            b.copy_from_slice(&from[4..]);
        }
    }
}

/// Takes a number times others off.
struct Less<'a> {
    from: &'a mut [i32],
    times: i32,
    other: &'a [i32],
}

impl Kernel for Less<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (x, y) in self.from.iter_mut().zip(self.other) {
            *x -= self.times * y;
        }
    }
}

impl Pairs {
    fn pack<T: Weight>(level: Level, s: &ConvShape, weights: &[T]) -> Result<Option<Pairs>, KernelError> {
        let (channels, [_, height, width]) = (s.in_channels, s.kernel);
        let Some(group) = paired::group(level) else { return Ok(None) };
        let fits = |w: &T| w.float().fract() == 0.0 && w.float().abs() <= MOST;
        if channels < group || !weights.iter().all(fits) {
            return Ok(None);
        }
        let groups = channels.div_ceil(group);
        let weight = |c: usize, ky: usize, kx: usize| weights[(c * height + ky) * width + kx].float() as i32;
        let taps = taps(height, width);
        let each = taps.len() * group * 2;
        let words = Packed::build_bytes(2 * groups * each, |room| {
            let mut to = room.chunks_exact_mut(2);
            let lanes: Vec<usize> = lanes(channels, group).collect();
            for (lanes, both) in lanes.chunks_exact(group).flat_map(|l| taps.iter().map(move |t| (l, t))) {
                for (&c, tap) in lanes.iter().flat_map(|c| both.iter().map(move |t| (c, t))) {
                    let w = tap.map_or(0, |(ky, kx)| weight(c, ky, kx)) as i16;
                    to.by_ref().take(1).for_each(|to| to.copy_from_slice(&w.to_ne_bytes()));
                }
            }
        })?;
        let mut sums = Vec::with_capacity(width * groups * group);
        for kx in 0..width {
            sums.extend(lanes(channels, group).map(|c| (0..height).map(|ky| weight(c, ky, kx)).sum::<i32>()));
        }
        Ok(Some(Pairs { group, groups, each, words, sums }))
    }

    pub(super) fn words(&self) -> *const i16 {
        self.words.bytes().as_ptr().cast()
    }

    /// What the sums over these columns of taps begin with, for all lanes, so that `zero` stands for nothing.
    pub(super) fn starts(&self, level: Level, columns: Range<usize>, zero: i32, to: &mut [i32]) {
        to.fill(0);
        if zero == 0 {
            return;
        }
        for column in self.sums.chunks_exact(to.len()).take(columns.end).skip(columns.start) {
            level.run(Less { from: to, times: zero, other: column });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreading_follows_the_lanes() {
        for (channels, group) in [(16, 16), (32, 16), (37, 16), (70, 32), (9, 8)] {
            let from: Vec<usize> = (0..channels).collect();
            let mut to = vec![0; channels.div_ceil(group) * group];
            spread(&from, group, &mut to);
            assert_eq!(to, lanes(channels, group).collect::<Vec<_>>());
        }
    }
}

//! Pooling of bytes whose channels lie innermost.

use super::conv::Bytes;
use crate::channels_last::pool::PoolShape;
use crate::elementwise::GRAIN;
use crate::error::{KernelError, exact};
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Channels that stay in registers over all taps.
const WIDE: usize = 64;
/// The same where there are fewer.
const NARROW: usize = 16;

/// The taps of a window that lie inside the image, and where the first of them is.
fn taps(s: &PoolShape, axis: usize, o: usize) -> (Range<usize>, usize) {
    let w = &s.windows[axis];
    let first = o * w.stride;
    let start = w.pad_begin.saturating_sub(first).div_ceil(w.dilation).min(w.kernel);
    let end = (s.input[axis] + w.pad_begin).saturating_sub(first).div_ceil(w.dilation).min(w.kernel);
    (start..end.max(start), (first + start * w.dilation).saturating_sub(w.pad_begin))
}

/// A row of outputs.
struct Row<'a> {
    s: &'a PoolShape,
    /// The image that it is of.
    image: &'a [u8],
    signed: bool,
    oy: usize,
    to: &'a mut [u8],
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        if self.signed { self.of::<0x80>() } else { self.of::<0>() }
    }
}

impl Row<'_> {
    /// `FLIP` makes bytes that have a sign compare as those without.
    #[inline(always)]
    fn of<const FLIP: u8>(self) {
        let (s, c) = (self.s, self.s.channels);
        let (rows, y) = taps(s, 0, self.oy);
        for (ox, to) in self.to.chunks_exact_mut(c).enumerate() {
            let (columns, x) = taps(s, 1, ox);
            let window = Window {
                from: self.image,
                first: (y * s.input[1] + x) * c,
                counts: [rows.len(), columns.len()],
                steps: [s.windows[0].dilation * s.input[1] * c, s.windows[1].dilation * c],
            };
            let mut at = 0;
            while at + WIDE <= c {
                window.largest::<FLIP, WIDE>(at, &mut to[at..]);
                at += WIDE;
            }
            while at < c && c >= NARROW {
                // The last few are those before as well.
                at = at.min(c - NARROW);
                window.largest::<FLIP, NARROW>(at, &mut to[at..]);
                at += NARROW;
            }
            while at < c {
                window.largest::<FLIP, 1>(at, &mut to[at..]);
                at += 1;
            }
        }
    }
}

/// The taps of an output: rows and columns, and bytes from one to the next.
struct Window<'a> {
    from: &'a [u8],
    first: usize,
    counts: [usize; 2],
    steps: [usize; 2],
}

impl Window<'_> {
    /// The largest bytes of `N` channels.
    #[inline(always)]
    fn largest<const FLIP: u8, const N: usize>(&self, channel: usize, to: &mut [u8]) {
        let mut best = [0u8; N];
        for y in 0..self.counts[0] {
            for x in 0..self.counts[1] {
                let at = self.first + channel + y * self.steps[0] + x * self.steps[1];
                let Some(from) = self.from[at..].first_chunk::<N>() else { return };
                for i in 0..N {
                    best[i] = best[i].max(from[i] ^ FLIP);
                }
            }
        }
        if let Some(to) = to.first_chunk_mut::<N>() {
            for i in 0..N {
                to[i] = best[i] ^ FLIP;
            }
        }
    }
}

/// The largest bytes of windows over pixels whose channels lie innermost; what lies outside counts for nothing.
pub fn max_pool(pool: &Pool, shape: &PoolShape, x: Bytes<'_>, out: &mut [u8]) -> Result<(), KernelError> {
    let s = shape;
    let [(h, w), (oh, ow)] = [(s.input[0], s.input[1]), (s.output[0], s.output[1])];
    exact("images", x.data, s.batch * h * w * s.channels)?;
    exact("result", out, s.batch * oh * ow * s.channels)?;
    let (c, shards) = (s.channels, Shards::new(out));
    if c == 0 {
        return Ok(());
    }
    let level: Level = pool.level();
    let grain = (16 * GRAIN / (ow * c * s.windows[0].kernel * s.windows[1].kernel).max(1)).max(1);
    pool.split(s.batch * oh, grain, |rows| {
        for row in rows {
            let image = &x.data[row / oh * h * w * c..][..h * w * c];
            // SAFETY: rows are disjoint.
            let to = unsafe { shards.part(row * ow * c, ow * c) };
            level.run(Row { s, image, signed: x.signed, oy: row % oh, to });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Window as Axis;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Any number of channels, against one byte at a time.
        #[test]
        fn any_number_of_channels_matches_plain_loops(
            channels in prop_oneof![1usize..20, 60usize..150],
            input in (1usize..9, 1usize..9),
            window in (1usize..4, 1usize..4, 1usize..3, 0usize..3),
            signed: bool,
            seed: u64,
        ) {
            let (kernel, stride, dilation, pad) = window;
            let axis = Axis { kernel, stride, dilation, pad_begin: pad, pad_end: pad };
            let reach = (kernel - 1) * dilation + 1;
            let input = [input.0, input.1];
            prop_assume!(input.iter().all(|n| n + 2 * pad >= reach));
            let output = input.map(|n| (n + 2 * pad - reach) / stride + 1);
            let s = PoolShape { batch: 2, channels, input, output, windows: [axis; 2] };
            let mut state = seed | 1;
            let x: Vec<u8> = (0..2 * input[0] * input[1] * channels).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            }).collect();
            let number = |x: u8| if signed { i32::from(x as i8) } else { i32::from(x) };
            for level in Level::available() {
                let pool = Pool::serial().with_level(level);
                let mut out = vec![7u8; 2 * output[0] * output[1] * channels];
                max_pool(&pool, &s, Bytes { data: &x, signed }, &mut out).unwrap();
                for (i, &got) in out.iter().enumerate() {
                    let (c, i) = (i % channels, i / channels);
                    let (ox, i) = (i % output[1], i / output[1]);
                    let (oy, n) = (i % output[0], i / output[0]);
                    let mut best = if signed { -128 } else { 0 };
                    for t in 0..kernel * kernel {
                        let y = (oy * stride + t / kernel * dilation).wrapping_sub(pad);
                        let xx = (ox * stride + t % kernel * dilation).wrapping_sub(pad);
                        if y < input[0] && xx < input[1] {
                            best = best.max(number(x[((n * input[0] + y) * input[1] + xx) * channels + c]));
                        }
                    }
                    prop_assert_eq!(number(got), best, "{:?}", level);
                }
            }
        }
    }
}

//! The activation as the tiles read it: windows made whole by padding, channels by whole groups.

use super::conv::Bytes;
use crate::conv::ConvShape;
use crate::simd::integer::Element;
use std::ops::Range;

/// An activation's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Channels innermost, pixels this many elements apart.
    Pixels(usize),
    /// One plane for each channel.
    Planes,
}

/// One spatial axis, and how far its positions lie apart in the copy.
#[derive(Debug, Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    taps: usize,
    dilation: usize,
    pad: usize,
    /// From one position of the copy to the next, in the input.
    step: usize,
    /// From one output to the next, in the copy.
    stride: usize,
}

impl Axis {
    fn of(s: &ConvShape, axis: usize) -> Axis {
        // What a single tap would step over is left out.
        let alone = s.kernel[axis] == 1;
        let (step, stride) = if alone { (s.strides[axis], 1) } else { (1, s.strides[axis]) };
        Axis {
            input: s.input[axis],
            output: s.output[axis],
            taps: s.kernel[axis],
            dilation: s.dilations[axis],
            pad: s.pads[axis],
            step,
            stride,
        }
    }

    /// Positions of the copy for some outputs.
    fn len(&self, outputs: usize) -> usize {
        (outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1
    }
}

/// How windows lie in the copy.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    batch: usize,
    axes: [Axis; 2],
    channels: usize,
    /// Channels by whole groups.
    padded: usize,
    /// Positions of a line of the copy.
    width: usize,
    /// Whether every pixel is a line, and the windows are the pixels in their order.
    whole: bool,
}

impl Geometry {
    /// For a convolution without groups, over at most two axes.
    pub(crate) fn new(s: &ConvShape, order: Order, group: usize) -> Geometry {
        let axes = [Axis::of(s, 1), Axis::of(s, 2)];
        let width = axes[1].len(s.output[2].max(1));
        let padded = s.in_channels.next_multiple_of(group);
        let mut g = Geometry { batch: s.batch, axes, channels: s.in_channels, padded, width, whole: false };
        let whole = |a: &Axis| a.taps == 1 && a.step == 1 && a.pad == 0 && a.input == a.output;
        if whole(&g.axes[0]) && whole(&g.axes[1]) && (order != Order::Planes || s.batch == 1) {
            // Pixels do not care whose line they are on; planes only go on from line to line.
            let pixels = g.batch * g.axes[0].input * g.axes[1].input;
            (g.batch, g.width, g.whole) = (1, 1, true);
            (g.axes[0].input, g.axes[0].output) = (pixels, pixels);
            (g.axes[1].input, g.axes[1].output) = (1, 1);
        }
        g
    }

    /// Images, and lines of outputs of each.
    pub(crate) fn lines(&self) -> [usize; 2] {
        [self.batch, self.axes[0].output]
    }

    /// Outputs of a line.
    pub(crate) fn line(&self) -> usize {
        self.axes[1].output
    }

    /// Elements of the copy for some lines of outputs.
    pub(crate) fn len(&self, lines: usize) -> usize {
        self.axes[0].len(lines) * self.width * self.padded
    }

    /// Where runs begin, and the elements of each.
    pub(crate) fn runs(&self) -> (Vec<usize>, usize) {
        let [down, across] = &self.axes;
        let line = down.dilation * self.width * self.padded;
        let together = across.dilation == 1 || across.taps == 1;
        let (count, depth) =
            if together { (1, across.taps * self.padded) } else { (across.taps, self.padded) };
        let runs = (0..down.taps)
            .flat_map(|y| (0..count).map(move |x| (y, x)))
            .map(|(y, x)| y * line + x * across.dilation * self.padded);
        (runs.collect(), depth)
    }

    /// Where the window of an output begins; lines count from the first of the copy.
    #[inline(always)]
    pub(crate) fn window(&self, line: usize, at: usize) -> usize {
        (line * self.axes[0].stride * self.width + at * self.axes[1].stride) * self.padded
    }

    /// The bytes that [`Geometry::fill`] copies for some lines, where they lie in one piece as they are.
    pub(crate) fn in_place<'a>(&self, x: Bytes<'a>, order: Order, lines: Range<usize>) -> Option<&'a [u8]> {
        let dense = order == Order::Pixels(self.channels) && self.padded == self.channels;
        (self.whole && dense).then(|| &x.data[lines.start * self.channels..lines.end * self.channels])
    }

    /// Pixels outside the image. What fills up a group counts nowhere, so that sums of a window are exact.
    #[inline(always)]
    fn outside<X: Element>(&self, to: &mut [X], zero: X, filler: X) {
        to.fill(zero);
        if self.padded != self.channels {
            to.chunks_exact_mut(self.padded).for_each(|p| p[self.channels..].fill(filler));
        }
    }

    /// Copies what some lines of an image's outputs read; `zero` stands outside, `filler` in channels that there are
    /// not.
    #[inline(always)]
    pub(crate) fn fill<X: Element>(
        &self,
        x: Bytes<'_>,
        order: Order,
        [zero, filler]: [u8; 2],
        image: usize,
        lines: Range<usize>,
        to: &mut [X],
    ) {
        let [down, across] = &self.axes;
        let flip = x.flip();
        let [zero, filler] = [zero, filler].map(X::from_u8);
        if let Some(from) = self.in_place(x, order, lines.clone()) {
            return copy(from, flip, to);
        }
        let line = self.width * self.padded;
        // Positions of the copy inside the input.
        let inside = |a: &Axis, len: usize| {
            let begin = a.pad.div_ceil(a.step).min(len);
            let end = (a.input + a.pad).div_ceil(a.step).clamp(begin, len);
            begin..end
        };
        let xs = inside(across, self.width);
        for (j, to) in to.chunks_exact_mut(line.max(1)).take(down.len(lines.len())).enumerate() {
            let y = (lines.start * down.stride + j) * down.step;
            let Some(y) = y.checked_sub(down.pad).filter(|&y| y < down.input) else {
                self.outside(to, zero, filler);
                continue;
            };
            self.outside(&mut to[..xs.start * self.padded], zero, filler);
            self.outside(&mut to[xs.end * self.padded..], zero, filler);
            if xs.is_empty() {
                continue;
            }
            let to = &mut to[xs.start * self.padded..xs.end * self.padded];
            let first = xs.start * across.step - across.pad;
            match order {
                Order::Pixels(pitch) => {
                    let start = ((image * down.input + y) * across.input + first) * pitch;
                    let step = across.step * pitch;
                    let from = &x.data[start..];
                    if self.padded == self.channels && step == self.channels {
                        copy(&from[..to.len()], flip, to);
                        continue;
                    }
                    for (i, to) in to.chunks_exact_mut(self.padded).enumerate() {
                        let (to, rest) = to.split_at_mut(self.channels);
                        copy(&from[i * step..][..self.channels], flip, to);
                        rest.fill(filler);
                    }
                }
                Order::Planes => {
                    let plane = down.input * across.input;
                    for c in 0..self.padded {
                        let to = to[c..].iter_mut().step_by(self.padded);
                        if c >= self.channels {
                            to.for_each(|t| *t = filler);
                            continue;
                        }
                        let start = (image * self.channels + c) * plane + y * across.input + first;
                        let from = x.data[start..].iter().step_by(across.step);
                        to.zip(from).for_each(|(t, x)| *t = X::from_u8(x ^ flip));
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn copy<X: Element>(from: &[u8], flip: u8, to: &mut [X]) {
    for (t, &x) in to.iter_mut().zip(from) {
        *t = X::from_u8(x ^ flip);
    }
}

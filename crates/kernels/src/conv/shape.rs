//! Sizes of a convolution, checked once.

use crate::error::{KernelError, product};

/// The sizes of a convolution over one, two or three spatial axes, channels first.
///
/// Fields are private so that a value proves its sizes fit together and no product of them overflows.
/// Axes are kept right-aligned in arrays of three; missing leading ones have size 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) groups: usize,
    pub(crate) input: [usize; 3],
    pub(crate) kernel: [usize; 3],
    pub(crate) strides: [usize; 3],
    pub(crate) dilations: [usize; 3],
    pub(crate) pads: [usize; 3],
    pub(crate) output: [usize; 3],
    rank: usize,
}

/// Settings of the window's walk along one spatial axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Step between taps.
    pub dilation: usize,
    /// Zeros before the first element.
    pub pad_begin: usize,
    /// Zeros after the last element.
    pub pad_end: usize,
}

impl Window {
    /// A window without stride, dilation or padding.
    pub fn new(kernel: usize) -> Window {
        Window { kernel, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0 }
    }

    /// Elements between the first and last tap, both included.
    pub(crate) fn reach(&self) -> Result<usize, KernelError> {
        let err = KernelError::Overflow("window");
        if self.kernel == 0 || self.stride == 0 || self.dilation == 0 {
            return Err(KernelError::Shape("a window's kernel, stride and dilation must not be zero"));
        }
        // The bounds keep every later sum and product far from overflow.
        if [self.kernel, self.stride, self.dilation, self.pad_begin, self.pad_end]
            .iter()
            .any(|&v| v > 1 << 31)
        {
            return Err(err);
        }
        (self.kernel - 1).checked_mul(self.dilation).and_then(|v| v.checked_add(1)).ok_or(err)
    }

    /// How many positions the window takes along an axis of `len`; zero if it does not fit.
    pub fn positions(&self, len: usize) -> Result<usize, KernelError> {
        let reach = self.reach()?;
        let padded = len.checked_add(self.pad_begin + self.pad_end).ok_or(KernelError::Overflow("window"))?;
        Ok(padded.checked_sub(reach).map_or(0, |rest| rest / self.stride + 1))
    }
}

impl ConvShape {
    /// Checks the sizes and computes the output's. `input` and `windows` have one entry per spatial axis.
    pub fn new(
        batch: usize,
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        input: &[usize],
        windows: &[Window],
    ) -> Result<ConvShape, KernelError> {
        let rank = input.len();
        if rank == 0 || rank > 3 || windows.len() != rank {
            return Err(KernelError::Shape("convolution: one to three spatial axes, each with its window"));
        }
        let divides = groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups);
        if !divides {
            return Err(KernelError::Shape("convolution: groups must divide the channels"));
        }
        if in_channels == 0 {
            return Err(KernelError::Shape("convolution: no input channels"));
        }
        let mut shape = ConvShape {
            batch,
            in_channels,
            out_channels,
            groups,
            input: [1; 3],
            kernel: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads: [0; 3],
            output: [1; 3],
            rank,
        };
        let mut padded = [1usize; 3];
        for (i, (&len, w)) in input.iter().zip(windows).enumerate() {
            let axis = 3 - rank + i;
            if len > 1 << 40 {
                return Err(KernelError::Overflow("convolution"));
            }
            shape.input[axis] = len;
            shape.kernel[axis] = w.kernel;
            shape.strides[axis] = w.stride;
            shape.dilations[axis] = w.dilation;
            shape.pads[axis] = w.pad_begin;
            shape.output[axis] = w.positions(len)?;
            padded[axis] = len + w.pad_begin + w.pad_end + w.stride;
        }
        let all = |n: usize, c: usize, s: [usize; 3]| product("convolution", &[n, c, s[0], s[1], s[2]]);
        all(batch, in_channels, shape.input)?;
        all(batch, out_channels, shape.output)?;
        all(out_channels, in_channels / groups, shape.kernel)?;
        // The kernels walk padded rows; these must be countable as well.
        all(1, 1, padded)?;
        product("convolution", &[in_channels / groups, shape.taps(), shape.positions()])?;
        Ok(shape)
    }

    /// Output sizes along the spatial axes.
    pub fn output(&self) -> &[usize] {
        &self.output[3 - self.rank..]
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.input.iter().product::<usize>()
    }

    /// Elements of the weights.
    pub fn weights_len(&self) -> usize {
        self.out_channels * self.depth()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.positions()
    }

    /// Multiplications and additions of one run.
    pub fn flops(&self) -> f64 {
        2.0 * self.output_len() as f64 * self.depth() as f64
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Input elements behind one output element.
    pub(crate) fn depth(&self) -> usize {
        self.in_channels / self.groups * self.taps()
    }

    pub(crate) fn positions(&self) -> usize {
        self.output.iter().product()
    }

    pub(crate) fn plane(&self) -> usize {
        self.input.iter().product()
    }

    /// Whether every output element sees exactly the input element at its own place.
    pub(crate) fn pointwise(&self) -> bool {
        self.taps() == 1 && self.strides == [1; 3] && self.pads == [0; 3] && self.output == self.input
    }

    /// Whether each input channel is convolved by itself (over at most two spatial axes).
    pub(crate) fn depthwise(&self) -> bool {
        // That kernel stores padded planes: not with padding far above the input itself.
        let moderate = |axis: usize| {
            let padded = self.output[axis] * self.strides[axis] + self.kernel[axis] * self.dilations[axis];
            padded <= 4 * self.input[axis] + 1024
        };
        self.groups == self.in_channels && self.in_channels > 1 && self.flat() && moderate(1) && moderate(2)
    }

    /// Whether there are at most two spatial axes.
    pub(crate) fn flat(&self) -> bool {
        self.input[0] == 1 && self.output[0] == 1 && self.kernel[0] == 1 && self.pads[0] == 0
    }
}

//! Sliding windows: what convolutions and pools share.

use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::refuse,
    word_enum,
};
use smallvec::SmallVec;

/// Greatest kernel size, stride, dilation or padding; with it no index overflows 64 bits.
const LARGEST: usize = i32::MAX as usize;

word_enum! {
    /// Who decides how much a window's input is padded.
    AutoPad {
        /// The attribute `pads`.
        Explicit = "explicit",
        /// As much as makes the output `ceil(input / stride)`, the odd element at the end.
        SameUpper = "same_upper",
        /// The same, the odd element at the beginning.
        SameLower = "same_lower",
    }
}

/// A window along one axis, its padding decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowAxis {
    /// Elements that the window looks at.
    pub kernel: usize,
    /// Steps between windows.
    pub stride: usize,
    /// Steps between the elements of a window.
    pub dilation: usize,
    /// Padding before the first element.
    pub before: usize,
    /// Padding after the last element.
    pub after: usize,
    /// Number of windows.
    pub output: usize,
}

impl WindowAxis {
    /// Steps from the first element of a window to behind its last.
    pub fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Which elements of the window at `output` lie inside an input of `input` elements: the range of
    /// places in the window.
    pub fn inside(&self, output: usize, input: usize) -> std::ops::Range<usize> {
        let start = output * self.stride;
        let first = self.before.saturating_sub(start).div_ceil(self.dilation);
        // Places k with start + k * dilation < before + input.
        let end = (self.before + input).saturating_sub(start).div_ceil(self.dilation);
        first.min(self.kernel)..end.min(self.kernel).max(first.min(self.kernel))
    }

    /// The input element at place `k` of the window at `output`, which must lie [inside](Self::inside).
    pub fn input(&self, output: usize, k: usize) -> usize {
        output * self.stride + k * self.dilation - self.before
    }
}

/// The attributes of a sliding window; empty lists stand for ones (strides, dilations) and zeros (pads).
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Size per axis.
    pub kernel: &'a [usize],
    /// Steps between windows, per axis.
    pub strides: &'a [usize],
    /// Steps between elements of a window, per axis.
    pub dilations: &'a [usize],
    /// Padding: all beginnings, then all ends.
    pub pads: &'a [usize],
    /// Who decides the padding.
    pub auto_pad: AutoPad,
    /// Whether a last window may reach past the padded input.
    pub ceil_mode: bool,
}

impl Window<'_> {
    /// Checks the attributes for a number of spatial axes.
    ///
    /// # Errors
    /// For lists of the wrong length and values out of range.
    pub fn check(&self, rank: usize) -> Result<(), InferError> {
        list("strides", self.strides, rank, 1)?;
        list("dilations", self.dilations, rank, 1)?;
        list("pads", self.pads, 2 * rank, 0)?;
        if self.kernel.len() != rank {
            return refuse(format!("a window of {} axes over {rank} spatial axes", self.kernel.len()));
        }
        list("kernel", self.kernel, rank, 1)?;
        for i in 0..rank {
            if (self.kernel[i] - 1).saturating_mul(self.dilation(i)) > LARGEST {
                return refuse("the window reaches too far");
            }
        }
        Ok(())
    }

    fn stride(&self, i: usize) -> usize {
        self.strides.get(i).copied().unwrap_or(1)
    }

    fn dilation(&self, i: usize) -> usize {
        self.dilations.get(i).copied().unwrap_or(1)
    }

    fn pad(&self, i: usize) -> (usize, usize) {
        let rank = self.kernel.len();
        (self.pads.get(i).copied().unwrap_or(0), self.pads.get(rank + i).copied().unwrap_or(0))
    }

    fn extent(&self, i: usize) -> usize {
        (self.kernel[i] - 1) * self.dilation(i) + 1
    }

    /// The window along every axis of an input with these spatial sizes.
    ///
    /// # Errors
    /// For attributes that make no sense, and when the window is larger than the padded input.
    pub fn axes(&self, input: &[usize]) -> Result<SmallVec<[WindowAxis; 3]>, InferError> {
        self.check(input.len())?;
        input.iter().enumerate().map(|(i, &n)| self.axis(i, n)).collect()
    }

    fn axis(&self, i: usize, input: usize) -> Result<WindowAxis, InferError> {
        let (kernel, stride, dilation, extent) =
            (self.kernel[i], self.stride(i), self.dilation(i), self.extent(i));
        if input > isize::MAX as usize / 4 {
            return refuse("the input is too large");
        }
        if self.auto_pad != AutoPad::Explicit {
            let output = input.div_ceil(stride);
            let total = (output.saturating_sub(1).saturating_mul(stride))
                .saturating_add(extent)
                .saturating_sub(input);
            let half = total / 2;
            let (before, after) =
                if self.auto_pad == AutoPad::SameUpper { (half, total - half) } else { (total - half, half) };
            return Ok(WindowAxis { kernel, stride, dilation, before, after, output });
        }
        let (before, after) = self.pad(i);
        let Some(room) = (input + before + after).checked_sub(extent) else {
            return refuse(format!(
                "a window of {extent} elements does not fit into {input} with {before} and {after} of padding"
            ));
        };
        let output = if self.ceil_mode {
            // A window must begin inside the input or the padding before it.
            (room.div_ceil(stride) + 1).min((input + before).div_ceil(stride)).max(1)
        } else {
            room / stride + 1
        };
        Ok(WindowAxis { kernel, stride, dilation, before, after, output })
    }

    /// The number of windows along every axis of an input with these spatial dims.
    ///
    /// # Errors
    /// As [`axes`](Self::axes).
    pub fn output_dims(&self, input: &[Dim]) -> Result<Vec<Dim>, InferError> {
        self.check(input.len())?;
        let dim = |(i, d): (usize, &Dim)| match d {
            Dim::Known(n) => Ok(Dim::Known(self.axis(i, *n)?.output)),
            d => Ok(d.expr().and_then(|n| self.symbolic(i, &n)).into()),
        };
        input.iter().enumerate().map(dim).collect()
    }

    fn symbolic(&self, i: usize, input: &Expr) -> Option<Expr> {
        let number = |n: usize| i64::try_from(n).ok().map(Expr::constant);
        let (one, stride) = (Expr::constant(1), number(self.stride(i))?);
        if self.auto_pad != AutoPad::Explicit {
            return input.ceil_div(&stride);
        }
        let (before, after) = self.pad(i);
        let begun = input.add(&number(before)?)?;
        let room = begun.add(&number(after)?)?.sub(&number(self.extent(i))?)?;
        if self.ceil_mode {
            if self.stride(i) == 1 && after < self.extent(i) {
                return room.add(&one);
            }
            return room.ceil_div(&stride)?.add(&one)?.minimum(&begun.ceil_div(&stride)?);
        }
        room.floor_div(&stride)?.add(&one)
    }
}

/// Checks a list of sizes that may be left empty.
pub(super) fn list(name: &str, v: &[usize], len: usize, least: usize) -> Result<(), InferError> {
    if !v.is_empty() && v.len() != len {
        return refuse(format!("`{name}` has {} entries, not {len}", v.len()));
    }
    match v.iter().find(|n| !(least..=LARGEST).contains(n)) {
        Some(n) => refuse(format!("`{name}` has an entry of {n}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Bindings;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_symbolic_size_binds_to_what_its_number_gives(
            size in 1usize..40, kernel in 1usize..5, stride in 1usize..5, dilation in 1usize..4,
            before in 0usize..4, after in 0usize..4, auto in 0usize..3, ceil_mode: bool,
        ) {
            let auto_pad = AutoPad::ALL[auto];
            let (k, s, d, p) = ([kernel], [stride], [dilation], [before, after]);
            let w = Window { kernel: &k, strides: &s, dilations: &d, pads: &p, auto_pad, ceil_mode };
            let Ok(known) = w.axes(&[size]) else { return Ok(()) };
            let dims = w.output_dims(&[Dim::symbol("N")]).expect("the attributes are fine");
            let bindings: Bindings = [("N".into(), size as i64)].into_iter().collect();
            prop_assert_eq!(dims[0].bind(&bindings), Some(known[0].output));
        }

        #[test]
        fn the_places_inside_are_those_whose_element_exists(
            size in 1usize..20, kernel in 1usize..6, stride in 1usize..5, dilation in 1usize..4,
            before in 0usize..9, after in 0usize..9,
        ) {
            let (k, s, d, p) = ([kernel], [stride], [dilation], [before, after]);
            let w = Window { kernel: &k, strides: &s, dilations: &d, pads: &p, auto_pad: AutoPad::Explicit, ceil_mode: false };
            let Ok(axes) = w.axes(&[size]) else { return Ok(()) };
            let a = axes[0];
            for o in 0..a.output {
                for place in 0..kernel {
                    let at = (o * stride + place * dilation) as i64 - before as i64;
                    let exists = (0..size as i64).contains(&at);
                    prop_assert_eq!(a.inside(o, size).contains(&place), exists);
                    if exists {
                        prop_assert_eq!(a.input(o, place), at as usize);
                    }
                }
            }
        }
    }
}

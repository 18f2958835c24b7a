//! Sampling at given places, and folding windows back.

use super::{
    OpDef,
    window::{AutoPad, Window, WindowAxis},
};
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    ops::ResizeMode,
    types::{Dims, TensorType},
    word_enum,
};
use smallvec::SmallVec;
use tensormill_tensor::DType;

word_enum! {
    /// What lies outside of a sampled tensor.
    GridPadding {
        /// Zeros.
        Zeros = "zeros",
        /// The nearest element of the border.
        Border = "border",
        /// The tensor mirrored at its borders, again and again.
        Reflection = "reflection",
    }
}

op_attrs! {
    /// Elements of x at given places. Operands: x `[N,C,..]` with one to three spatial axes, grid
    /// `[N,..,spatial]` of places from -1 to 1, the last axis of x first. Result: `[N,C,..]`.
    GridSample {
        /// How elements between elements come about.
        mode: ResizeMode = ResizeMode::Linear,
        /// What lies outside of x.
        padding: GridPadding = GridPadding::Zeros,
        /// Whether -1 and 1 name the centres of the first and the last element rather than their outer edges.
        align_corners: bool = false,
    }
}

impl OpDef for GridSample {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (x, grid) = (cx.tensor(0)?, cx.tensor(1)?);
        if !(x.dtype.is_float() || x.dtype.is_int()) || !grid.dtype.is_float() {
            return refuse("x must be numeric, the grid of floats");
        }
        let dims = match (&x.dims, &grid.dims) {
            (Some(x), _) if !(3..=5).contains(&x.len()) => {
                return refuse("x must have one to three spatial axes");
            }
            (Some(x), Some(g)) => {
                let spatial = x.len() - 2;
                if g.len() != x.len() || g[g.len() - 1].known().is_some_and(|n| n != spatial) {
                    return refuse("the grid must have a coordinate for every spatial axis");
                }
                if x[0].known().zip(g[0].known()).is_some_and(|(a, b)| a != b) {
                    return refuse("x and grid must have the same batch");
                }
                let mut dims: Dims = x[..2].iter().cloned().collect();
                dims.extend(g[1..g.len() - 1].iter().cloned());
                Some(dims)
            }
            _ => None,
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// The grid that [`GridSample`] takes, of an affine map. Operands: theta `[N,2,3]` or `[N,3,4]`, size
    /// (i64 vector: N, C and the spatial sizes).
    AffineGrid {
        /// As in [`GridSample`].
        align_corners: bool = false,
    }
}

impl OpDef for AffineGrid {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let theta = cx.tensor(0)?;
        cx.typed(1, DType::I64)?;
        if !theta.dtype.is_float() {
            return refuse("theta must be a float");
        }
        let spatial = match &theta.dims {
            Some(d) if d.len() == 3 => d[1].known(),
            Some(_) => return refuse("theta must have rank 3"),
            None => None,
        };
        if let (Some(n), Some(Dim::Known(c))) = (spatial, theta.dims.as_ref().map(|d| &d[2]))
            && (!(2..=3).contains(&n) || *c != n + 1)
        {
            return refuse("theta must be 2x3 or 3x4 matrices");
        }
        let dims = match (cx.elements(1), spatial) {
            (Some(size), _) => {
                if !(4..=5).contains(&size.len()) || spatial.is_some_and(|n| n + 2 != size.len()) {
                    return refuse("the size must give batch, channels, and the spatial axes");
                }
                let mut dims: Dims = [size[0].clone().into()].into_iter().collect();
                dims.extend(size[2..].iter().map(|e| Dim::from(e.clone())));
                dims.push(Dim::Known(size.len() - 2));
                Some(dims)
            }
            (None, Some(n)) => {
                let mut dims: Dims = (0..=n).map(|_| Dim::Unknown).collect();
                dims.push(Dim::Known(n));
                Some(dims)
            }
            (None, None) => None,
        };
        cx.output(TensorType { dtype: theta.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// Sums the columns of windows into an image, each element where its window saw it. Operands: x
    /// `[N, C*window, windows]`, spatial sizes of the image (i64 vector), size of a window (i64 vector).
    Col2Im {
        /// Steps between windows, per spatial axis; empty: ones.
        strides: Vec<usize> = vec![],
        /// Steps between the elements of a window, per spatial axis; empty: ones.
        dilations: Vec<usize> = vec![],
        /// Padding of the image: all beginnings, then all ends; empty: none.
        pads: Vec<usize> = vec![],
    }
}

impl Col2Im {
    /// The window along every axis of the image.
    ///
    /// # Errors
    /// For attributes that make no sense, and when the window is larger than the padded image.
    pub fn axes(&self, image: &[usize], block: &[usize]) -> Result<SmallVec<[WindowAxis; 3]>, InferError> {
        let Self { strides, dilations, pads, .. } = self;
        Window { kernel: block, strides, dilations, pads, auto_pad: AutoPad::Explicit, ceil_mode: false }
            .axes(image)
    }
}

impl OpDef for Col2Im {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let x = cx.tensor(0)?;
        cx.typed(1, DType::I64)?;
        cx.typed(2, DType::I64)?;
        if !(x.dtype.is_float() || x.dtype.is_int()) {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let (batch, columns) = match &x.dims {
            Some(d) if d.len() == 3 => (d[0].clone(), d[1].known()),
            Some(_) => return refuse("x must have rank 3"),
            None => (Dim::Unknown, None),
        };
        let block = cx.ints(2).and_then(|v| v.iter().try_fold(1i64, |p, n| p.checked_mul(*n)));
        let channels = match (columns, block) {
            (Some(c), Some(b)) => match usize::try_from(b).ok().filter(|b| *b > 0 && c % b == 0) {
                Some(b) => Dim::Known(c / b),
                None => return refuse(format!("{c} columns are not channels of windows of {b}")),
            },
            _ => Dim::Unknown,
        };
        let dims = cx.elements(1).map(|image| {
            let mut dims: Dims = [batch, channels].into_iter().collect();
            dims.extend(image.iter().map(|e| Dim::from(e.clone())));
            dims
        });
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

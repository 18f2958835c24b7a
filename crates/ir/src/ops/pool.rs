//! Pools over windows and regions, channels first.

use super::{
    OpDef,
    window::{AutoPad, Window, WindowAxis, list},
};
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
    word_enum,
};
use smallvec::SmallVec;
use tensormill_tensor::DType;

macro_rules! pool {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty = $default:expr),* $(,)? }) => {
        op_attrs! {
            $(#[$meta])*
            $name {
                /// Size of a window, per spatial axis.
                kernel: Vec<usize> = vec![],
                /// Steps between windows, per spatial axis; empty: ones.
                strides: Vec<usize> = vec![],
                /// Steps between the elements of a window, per spatial axis; empty: ones.
                dilations: Vec<usize> = vec![],
                /// Padding: all beginnings, then all ends; empty: none.
                pads: Vec<usize> = vec![],
                /// Who decides the padding.
                auto_pad: AutoPad = AutoPad::Explicit,
                /// Whether a last window may reach past the padded input.
                ceil_mode: bool = false,
                $($(#[$fmeta])* $field: $ty = $default,)*
            }
        }

        impl $name {
            /// The window over an input.
            pub fn window(&self) -> Window<'_> {
                Window {
                    kernel: &self.kernel,
                    strides: &self.strides,
                    dilations: &self.dilations,
                    pads: &self.pads,
                    auto_pad: self.auto_pad,
                    ceil_mode: self.ceil_mode,
                }
            }

            /// The window along every spatial axis, padding and output size decided.
            ///
            /// # Errors
            /// For attributes that make no sense, and when the window is larger than the padded input.
            pub fn axes(&self, input: &[usize]) -> Result<SmallVec<[WindowAxis; 3]>, InferError> {
                self.window().axes(input)
            }
        }
    };
}

pool! {
    /// The largest element of every window; padding never wins, NaN does. Operand: x `[N,C,..]`. With
    /// `with_indices` a second result tells where it stands, as an i64 index into the flattened x.
    MaxPool {
        /// Whether there is a second result.
        with_indices: bool = false,
        /// Whether indices count the spatial axes of a channel with the first one fastest.
        column_major: bool = false,
    }
}

pool! {
    /// The mean of every window. Operand: x `[N,C,..]`.
    AveragePool {
        /// Whether padding counts as zeros rather than not at all.
        count_include_pad: bool = false,
    }
}

pool! {
    /// `(sum |x|^p)^(1/p)` of every window. Operand: x `[N,C,..]`.
    LpPool {
        /// The exponent.
        p: i64 = 2,
    }
}

fn pooled(x: &TensorType, window: &Window<'_>) -> Result<Option<Dims>, InferError> {
    let Some(d) = &x.dims else { return Ok(None) };
    if d.len() < 3 {
        return refuse(format!("needs batch, channel and spatial axes, got rank {}", d.len()));
    }
    let mut dims: Dims = d[..2].iter().cloned().collect();
    dims.extend(window.output_dims(&d[2..])?);
    Ok(Some(dims))
}

impl OpDef for MaxPool {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if !(x.dtype.is_float() || x.dtype.is_int()) || x.dtype.bits() < 8 {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let dims = pooled(x, &self.window())?;
        cx.output(TensorType { dtype: x.dtype, dims: dims.clone() });
        if self.with_indices {
            cx.output(TensorType { dtype: DType::I64, dims });
        }
        Ok(())
    }
}

impl OpDef for AveragePool {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = float(cx, 0)?;
        let dims = pooled(x, &self.window())?;
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

impl OpDef for LpPool {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = float(cx, 0)?;
        if self.p < 1 {
            return refuse(format!("the exponent {} is not positive", self.p));
        }
        let dims = pooled(x, &self.window())?;
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

fn float<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let x = cx.tensor(i)?;
    if x.dtype.is_float() { Ok(x) } else { refuse(format!("is not defined for {}", x.dtype)) }
}

op_attrs! {
    /// Puts the elements that a max pool kept back where they stood, zeros elsewhere. Operands: x, indices
    /// (i64, into the flattened result of the default size), shape of the result (i64 vector, optional).
    MaxUnpool {
        /// Size of the pool's window, per spatial axis.
        kernel: Vec<usize> = vec![],
        /// Steps between windows, per spatial axis; empty: ones.
        strides: Vec<usize> = vec![],
        /// The pool's padding: all beginnings, then all ends; empty: none.
        pads: Vec<usize> = vec![],
    }
}

impl MaxUnpool {
    /// Size of a spatial axis of the pool's input, as far as it follows from `n` of the pool's output.
    ///
    /// # Errors
    /// For attributes that make no sense.
    pub fn default_sizes(&self, input: &[usize]) -> Result<Vec<usize>, InferError> {
        let rank = input.len();
        let Self { kernel, strides, pads, .. } = self;
        Window { kernel, strides, dilations: &[], pads, auto_pad: AutoPad::Explicit, ceil_mode: false }
            .check(rank)?;
        let pad = |i: usize| pads.get(i).copied().unwrap_or(0);
        input
            .iter()
            .enumerate()
            .map(|(i, n)| {
                n.saturating_sub(1)
                    .checked_mul(strides.get(i).copied().unwrap_or(1))
                    .and_then(|s| s.checked_add(kernel[i])?.checked_sub(pad(i) + pad(rank + i)))
                    .ok_or_else(|| InferError::new("the sizes make no sense together"))
            })
            .collect()
    }
}

impl OpDef for MaxUnpool {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let x = float(cx, 0)?;
        cx.typed(1, DType::I64)?;
        let given = if cx.opt(2).is_some() {
            cx.typed(2, DType::I64)?;
            Some(cx.elements(2).map(|e| e.iter().map(|e| Dim::from(e.clone())).collect::<Dims>()))
        } else {
            None
        };
        let dims = match (given, &x.dims) {
            (_, Some(d)) if d.len() < 3 => return refuse("needs batch, channel and spatial axes"),
            (Some(Some(given)), Some(d)) if given.len() != d.len() => {
                return refuse("the result must have the rank of the operand");
            }
            (Some(Some(given)), _) => Some(given),
            (Some(None), d) => d.as_ref().map(|d| d.iter().map(|_| Dim::Unknown).collect()),
            (None, None) => None,
            (None, Some(d)) => {
                let mut dims: Dims = d[..2].iter().cloned().collect();
                match d[2..].iter().map(Dim::known).collect::<Option<Vec<_>>>() {
                    Some(n) => dims.extend(self.default_sizes(&n)?.into_iter().map(Dim::Known)),
                    None => dims.extend(d[2..].iter().map(|_| Dim::Unknown)),
                }
                Some(dims)
            }
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// The largest element of every cell of a grid over regions, cells cut to whole elements. Operands: x
    /// `[N,C,H,W]`, regions `[R,5]` (batch, x1, y1, x2, y2).
    MaxRoiPool {
        /// Rows and columns of the grid.
        pooled: Vec<usize> = vec![1, 1],
        /// From the regions' coordinates to those of x.
        spatial_scale: crate::attr::F32 = crate::attr::F32(1.0),
    }
}

impl OpDef for MaxRoiPool {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let x = float(cx, 0)?;
        cx.typed(1, x.dtype)?;
        let dims = regions(cx, x, &self.pooled, 5)?;
        cx.output(TensorType { dtype: x.dtype, dims: Some(dims) });
        Ok(())
    }
}

/// The dims of a grid over each of the regions in operand 1.
fn regions(cx: &InferCx<'_>, x: &TensorType, grid: &[usize], columns: usize) -> Result<Dims, InferError> {
    list("grid", grid, 2, 1)?;
    let [rows, cols] = grid else { return refuse("a grid has rows and columns") };
    let channels = match &x.dims {
        Some(d) if d.len() == 4 => d[1].clone(),
        None => Dim::Unknown,
        Some(d) => return refuse(format!("x must have rank 4, not {}", d.len())),
    };
    let count = match &cx.tensor(1)?.dims {
        Some(d) if d.len() == 2 && d[1].known().is_none_or(|n| n == columns) => d[0].clone(),
        None => Dim::Unknown,
        _ => return refuse(format!("regions must be a matrix of {columns} columns")),
    };
    Ok([count, channels, Dim::Known(*rows), Dim::Known(*cols)].into_iter().collect())
}

word_enum! {
    /// How the samples of a cell are combined.
    RoiMode {
        /// Their mean.
        Avg = "avg",
        /// The largest of their weighted corners.
        Max = "max",
    }
}

op_attrs! {
    /// Samples of every cell of a grid over regions, between elements by linear interpolation. Operands:
    /// x `[N,C,H,W]`, regions `[R,4]` (x1, y1, x2, y2), batch of each region (i64 `[R]`).
    RoiAlign {
        /// How the samples of a cell are combined.
        mode: RoiMode = RoiMode::Avg,
        /// Rows of the grid.
        output_height: usize = 1,
        /// Columns of the grid.
        output_width: usize = 1,
        /// Samples per cell and axis; 0: as many as elements.
        sampling_ratio: usize = 0,
        /// From the regions' coordinates to those of x.
        spatial_scale: crate::attr::F32 = crate::attr::F32(1.0),
        /// Whether coordinates name the centres of elements rather than their corners.
        half_pixel: bool = true,
    }
}

impl OpDef for RoiAlign {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let x = float(cx, 0)?;
        cx.typed(1, x.dtype)?;
        cx.typed(2, DType::I64)?;
        let dims = regions(cx, x, &[self.output_height, self.output_width], 4)?;
        cx.output(TensorType { dtype: x.dtype, dims: Some(dims) });
        Ok(())
    }
}

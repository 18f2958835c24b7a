//! Steps applied to a product's or a convolution's result while it is hot.

use crate::elementwise::{binary_op, unary_op};
use crate::native::{Call, Fail, Prep, View};
use smallvec::SmallVec;
use std::borrow::Cow;
use tensormill_ir::ops::{PostOp, PostOps};
use tensormill_kernels::elementwise::{BinaryOp, UnaryOp, binary_f32};
use tensormill_kernels::epilogue::{Epilogue, Operand, Step};
use tensormill_tensor::{DType, Shape, arena};

/// How an operand lies along the rows and columns of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    Scalar,
    PerRow,
    PerColumn,
    Full,
    /// In some other way: the step runs on its own after the kernel.
    Apart,
}

enum Planned {
    Unary(UnaryOp),
    Binary { op: BinaryOp, operand: usize, reversed: bool, lies: Lies, dims: Shape },
}

/// The steps of one node for results of one shape.
pub(crate) struct Steps {
    steps: Vec<Planned>,
    /// How many of them run inside the kernel.
    hot: usize,
    out: Shape,
    /// Elements of a row, as the kernel sees them.
    row: usize,
    /// The operand that is added first, with a number per row or per column.
    bias: Option<(usize, Lies)>,
}

/// Which axes of a result are its rows and columns, as the kernel sees them; the others are its batch.
pub(crate) struct Layout {
    /// The axis of the rows.
    pub rows: usize,
    /// The axes of the columns.
    pub columns: std::ops::Range<usize>,
    /// Whether axes before the rows count as rows too.
    pub merged: bool,
}

impl Steps {
    /// Prepares the steps of `p`'s node for its first result.
    pub fn plan(p: &Prep<'_>, steps: &PostOps, layout: Option<&Layout>) -> Result<Steps, Cow<'static, str>> {
        let out = p.out().clone();
        let mut planned = Vec::with_capacity(steps.0.len());
        for step in &steps.0 {
            planned.push(match *step {
                PostOp::Unary(kind) => {
                    Planned::Unary(unary_op(kind).ok_or("an epilogue step without a kernel")?)
                }
                PostOp::Binary { kind, operand, swapped } => {
                    p.need(operand, DType::F32)?;
                    let k = p.get(operand)?;
                    let op = binary_op(kind).ok_or("an epilogue step without a kernel")?;
                    let lies = lies(k.shape, &out, layout);
                    Planned::Binary { op, operand, reversed: swapped, lies, dims: k.shape.into() }
                }
            });
        }
        let apart = |s: &Planned| matches!(s, Planned::Binary { lies: Lies::Apart, .. });
        let hot = planned.iter().position(apart).unwrap_or(planned.len());
        let row = layout.map_or(0, |l| out[l.columns.clone()].iter().product());
        Ok(Steps { steps: planned, hot, out, row, bias: None })
    }

    /// Adds a number per row before all else.
    pub fn with_bias(mut self, operand: Option<usize>) -> Steps {
        self.bias = operand.map(|i| (i, Lies::PerRow));
        self
    }

    /// Adds a number per column before all else.
    pub fn with_bias_per_column(mut self, operand: Option<usize>) -> Steps {
        self.bias = operand.map(|i| (i, Lies::PerColumn));
        self
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Operands with a number for each element that are read inside the kernel: their rows may lie apart.
    pub fn by_element(&self) -> impl Iterator<Item = usize> {
        self.steps[..self.hot].iter().filter_map(|s| match s {
            Planned::Binary { operand, lies: Lies::Full, .. } => Some(*operand),
            _ => None,
        })
    }

    /// Whether every step runs inside the kernel.
    pub fn all_hot(&self) -> bool {
        self.hot == self.steps.len()
    }

    /// Whether every step runs inside the kernel, and no operand has more than a number per column.
    pub fn by_column(&self) -> bool {
        let fits = |s: &Planned| match s {
            Planned::Unary(_) => true,
            Planned::Binary { lies, .. } => matches!(lies, Lies::Scalar | Lies::PerColumn),
        };
        self.all_hot() && self.steps.iter().all(fits)
    }

    /// The steps that run inside the kernel.
    pub fn hot<'a>(&self, c: &Call<'_, 'a>) -> Result<SmallVec<[Step<'a>; 16]>, Fail> {
        let mut hot: SmallVec<[Step<'a>; 16]> = SmallVec::new();
        if let Some((bias, lies)) = self.bias {
            let bias = c.get::<f32>(bias)?;
            hot.push(if lies == Lies::PerRow { Step::bias_rows(bias) } else { Step::bias_columns(bias) });
        }
        let row = self.row;
        for step in &self.steps[..self.hot] {
            hot.push(match step {
                Planned::Unary(op) => Step::Unary(*op),
                Planned::Binary { op, operand, reversed, lies, .. } => {
                    let x = c.get::<f32>(*operand)?;
                    let operand = match lies {
                        Lies::PerRow => Operand::PerRow(x),
                        Lies::PerColumn => Operand::PerColumn(x),
                        Lies::Full => match c.pitch::<f32>(*operand, row) {
                            pitch if pitch == row => Operand::Full(x),
                            pitch => Operand::Pitched { data: x, pitch },
                        },
                        _ => Operand::Scalar(*x.first().ok_or_else(|| Fail("an empty operand".into()))?),
                    };
                    Step::Binary { op: *op, operand, reversed: *reversed }
                }
            });
        }
        Ok(hot)
    }

    /// Calls `kernel` with the result and the steps that run inside it, then applies the others.
    pub fn run<'a>(
        &self,
        c: &mut Call<'_, 'a>,
        kernel: impl FnOnce(&mut [f32], Epilogue<'_>, &Call<'_, 'a>) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        let hot = self.hot(c)?;
        let (pool, ins, in_place, out_pitch) = (c.pool, c.ins, c.in_place, c.out_pitch);
        let (first, _) = c.outs.split_at_mut(1);
        let bytes: &mut [u8] = &mut *first[0];
        let out = arena::elements_mut::<f32>(bytes).ok_or_else(|| Fail("a result is not aligned".into()))?;
        let rest = Call { pool, ins, outs: &mut [], in_place, out_pitch };
        kernel(out, Epilogue::new(&hot), &rest)?;
        for step in &self.steps[self.hot..] {
            self.apart(step, out, ins, &rest)?;
        }
        Ok(())
    }

    /// As [`Steps::run`], for a result in bytes: every step runs inside the kernel.
    pub fn run_bytes<'a>(
        &self,
        c: &mut Call<'_, 'a>,
        kernel: impl FnOnce(&mut [u8], Epilogue<'_>, &Call<'_, 'a>) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        debug_assert!(self.all_hot());
        let hot = self.hot(c)?;
        let (pool, ins, in_place, out_pitch) = (c.pool, c.ins, c.in_place, c.out_pitch);
        let (first, _) = c.outs.split_at_mut(1);
        kernel(first[0], Epilogue::new(&hot), &Call { pool, ins, outs: &mut [], in_place, out_pitch })
    }

    fn apart(
        &self,
        step: &Planned,
        out: &mut [f32],
        ins: &[Option<View<'_>>],
        c: &Call<'_, '_>,
    ) -> Result<(), Fail> {
        match step {
            Planned::Unary(op) => tensormill_kernels::elementwise::unary_f32_inplace(c.pool, *op, out),
            Planned::Binary { op, operand, reversed, dims, .. } => {
                let missing = || Fail(format!("operand {operand} is missing"));
                let b = ins.get(*operand).copied().flatten().ok_or_else(missing)?.get::<f32>()?;
                let a = out.to_vec();
                let (own, other) = ((&a[..], &self.out[..]), (b, &dims[..]));
                let (first, second) = if *reversed { (other, own) } else { (own, other) };
                binary_f32(c.pool, *op, first, second, (out, &self.out))?;
            }
        }
        Ok(())
    }
}

fn lies(dims: &[usize], out: &[usize], layout: Option<&Layout>) -> Lies {
    let rank = out.len();
    if dims.iter().all(|&d| d == 1) {
        return Lies::Scalar;
    }
    if dims == out {
        return Lies::Full;
    }
    let Some(layout) = layout else { return Lies::Apart };
    let lead = rank.saturating_sub(dims.len());
    let at = |axis: usize| if axis < lead { 1 } else { dims[axis - lead] };
    let only =
        |axes: &dyn Fn(usize) -> bool| (0..rank).all(|a| if axes(a) { at(a) == out[a] } else { at(a) == 1 });
    if only(&|a| layout.columns.contains(&a)) {
        Lies::PerColumn
    } else if (!layout.merged || out[..layout.rows].iter().all(|&d| d == 1)) && only(&|a| a == layout.rows) {
        Lies::PerRow
    } else if only(&|_| true) {
        Lies::Full
    } else {
        Lies::Apart
    }
}

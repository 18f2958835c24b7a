//! Transposition and repetition, and the ops that change only how elements are seen.

use crate::native::{Built, Known, Native, Prep, Sizes, by_size};
use smallvec::SmallVec;
use tensormill_ir::ops::{Op, Transpose};
use tensormill_kernels::copy::{Source, Target, copy_strided, expand as expand_kernel, row_major};
use tensormill_kernels::transpose::Transposition;
use tensormill_tensor::{DType, Shape};

/// The axes in the order in which a transposition of this rank takes them.
pub(crate) fn permutation(op: &Transpose, rank: usize) -> Sizes {
    if op.perm.is_empty() { (0..rank).rev().collect() } else { op.perm.iter().copied().collect() }
}

/// Whether the elements keep their order.
fn keeps_order(perm: &[usize], shape: &[usize]) -> bool {
    perm.iter().filter(|&&a| shape.get(a) != Some(&1)).is_sorted()
}

/// Where each result lies inside an operand, in elements, when the op moves none.
pub(crate) fn alias(
    op: &Op,
    ins: &[Option<Known<'_>>],
    outs: &[(DType, Shape)],
) -> Option<SmallVec<[(usize, usize); 1]>> {
    let x = ins.first().copied().flatten()?;
    let same_size = |to: &Shape| to.checked_numel() == Some(x.len());
    let whole = || same_size(&outs[0].1).then(|| SmallVec::from_elem((0, 0), 1));
    match op {
        Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::BitCast(_) => whole(),
        Op::Cast(c) if c.to == x.dtype => whole(),
        Op::Expand(_) | Op::Tile(_) => whole(),
        Op::Transpose(t) if keeps_order(&permutation(t, x.shape.len()), x.shape) => whole(),
        Op::Concat(_) if ins.len() == 1 => whole(),
        Op::Slice(_) => {
            let cuts = crate::slice::cuts(ins)?;
            let to = &outs[0].1;
            contiguous(x.shape, to).then_some(())?;
            let strides = Shape::from(x.shape).strides();
            let mut at = 0;
            for (axis, cut) in cuts.iter().enumerate() {
                // A part of one element has no direction.
                if cut.step != 1 && to[axis] > 1 {
                    return None;
                }
                at += if to.contains(&0) { 0 } else { cut.start * strides[axis] };
            }
            Some(SmallVec::from_elem((0, at), 1))
        }
        Op::Split(s) => {
            let axis = tensormill_ir::infer::axis(s.axis, x.shape.len()).ok()?;
            let inner: usize = x.shape[axis + 1..].iter().product();
            let mut at = 0;
            let mut places = SmallVec::new();
            for (_, to) in outs {
                contiguous(x.shape, to).then_some(())?;
                places.push((0, at));
                at += to[axis] * inner;
            }
            Some(places)
        }
        _ => None,
    }
}

/// Whether a part of these sizes of an array is one run of elements.
fn contiguous(from: &[usize], to: &[usize]) -> bool {
    if to.contains(&0) {
        return true;
    }
    match to.iter().zip(from).rposition(|(t, f)| t != f) {
        None => true,
        Some(axis) => to[..axis].iter().all(|&t| t == 1),
    }
}

pub(crate) fn transpose(p: &Prep<'_>, op: &Transpose) -> Built {
    let x = p.get(0)?;
    let made = Transposition::new(x.shape, &permutation(op, x.shape.len())).map_err(|e| e.to_string())?;
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("transpose", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        Ok(made.run(pool, x, c.out::<T>(0)?)?)
    }))
}

pub(crate) fn expand(p: &Prep<'_>) -> Built {
    let x = p.get(0)?;
    let (from, to) = (Shape::from(x.shape), p.out().clone());
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("expand", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        Ok(expand_kernel(pool, (x, &from), (c.out::<T>(0)?, &to))?)
    }))
}

/// An axis of repeats before each axis, the first of stride 0.
pub(crate) fn tile(p: &Prep<'_>) -> Built {
    let x = p.get(0)?;
    let own = row_major(x.shape);
    let (mut dims, mut strides) = (vec![], vec![]);
    for (i, &d) in x.shape.iter().enumerate() {
        dims.extend([p.out()[i].checked_div(d).unwrap_or(0), d]);
        strides.extend([0, own[i] as isize]);
    }
    let to = row_major(&dims);
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("tile", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        let (source, target) = (Source { offset: 0, strides: &strides }, Target { offset: 0, strides: &to });
        Ok(copy_strided(pool, &dims, x, source, c.out::<T>(0)?, target)?)
    }))
}

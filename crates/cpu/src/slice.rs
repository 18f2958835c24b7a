//! Concatenation, splitting and slicing as strided copies.

use crate::native::{Built, Call, Fail, Known, Native, Prep, by_size};
use smallvec::SmallVec;
use tensormill_ir::ops::{Concat, Split};
use tensormill_kernels::copy::{Source, Target, copy_strided, row_major};
use tensormill_kernels::{KernelError, channels_last::convert::copy_channels, threads::Pool};
use tensormill_tensor::{Element, Shape};

/// One axis's part of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub start: usize,
    pub step: isize,
}

/// The cuts of a slice whose places are known, one per axis; `None` while they are not.
pub(crate) fn cuts(ins: &[Option<Known<'_>>]) -> Option<SmallVec<[Cut; 6]>> {
    let x = ins.first().copied().flatten()?;
    let ints = |i: usize| ins.get(i).copied().flatten().map(|k| k.ints());
    let starts = ints(1)??;
    let rank = x.shape.len();
    let axes: Vec<i64> = ints(3).unwrap_or_else(|| Some((0..starts.len() as i64).collect()))?;
    let steps = ints(4).unwrap_or_else(|| Some(vec![1; axes.len()]))?;
    let axes = tensormill_ir::infer::axes(&axes, rank).ok()?;
    if steps.len() != axes.len() || starts.len() != axes.len() {
        return None;
    }
    let mut cuts: SmallVec<[Cut; 6]> = SmallVec::from_elem(Cut { start: 0, step: 1 }, rank);
    for (i, &axis) in axes.iter().enumerate() {
        let n = i64::try_from(x.shape[axis]).ok()?;
        let at = if starts[i] < 0 { starts[i].saturating_add(n) } else { starts[i] };
        let at = if steps[i] > 0 { at.clamp(0, n) } else { at.clamp(-1, n - 1).max(0) };
        cuts[axis] = Cut { start: at as usize, step: isize::try_from(steps[i]).ok()? };
    }
    Some(cuts)
}

pub(crate) fn slice(p: &Prep<'_>) -> Built {
    let x = p.get(0)?;
    let cuts = cuts(p.ins).ok_or("places known only at run time")?;
    let own = row_major(x.shape);
    let dims = p.out().clone();
    if dims.rank() != x.shape.len() {
        return Err("ranks differ".into());
    }
    let (mut offset, mut strides) = (0usize, vec![]);
    for (axis, cut) in cuts.iter().enumerate() {
        offset = offset.saturating_add(cut.start.saturating_mul(own[axis]));
        // The step of an axis of one element is never taken, and may be anything.
        let step = if dims[axis] > 1 { cut.step } else { 1 };
        strides.push((own[axis] as isize).checked_mul(step).ok_or("a step beyond memory")?);
    }
    let to = row_major(&dims);
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("slice", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        let (source, target) = (Source { offset, strides: &strides }, Target { offset: 0, strides: &to });
        Ok(copy_strided(pool, &dims, x, source, c.out::<T>(0)?, target)?)
    }))
}

/// Copies `rows` rows of `run` elements between two pitches.
fn copy_rows<T: Element>(
    pool: &Pool,
    [rows, run]: [usize; 2],
    (x, from, x_pitch): (&[T], usize, usize),
    (out, to, out_pitch): (&mut [T], usize, usize),
) -> Result<(), KernelError> {
    if rows == 0 || run == 0 {
        return Ok(());
    }
    let outside = KernelError::Shape("rows begin outside their array");
    let (Some(x), Some(out)) = (x.get(from..), out.get_mut(to..)) else { return Err(outside) };
    copy_channels(pool, x, x_pitch, rows, run, out, out_pitch)
}

/// Joins rows. Operands that are not there lie in their part of the result already.
pub(crate) fn concat(p: &Prep<'_>, op: &Concat) -> Built {
    let out = p.out();
    let axis = tensormill_ir::infer::axis(op.axis, out.rank()).map_err(|e| e.0)?;
    let outer: usize = out[..axis].iter().product();
    let inner: usize = out[axis + 1..].iter().product();
    let parts: Option<Vec<usize>> =
        p.ins.iter().map(|k| k.map(|k| k.shape.get(axis).map_or(0, |n| n * inner))).collect();
    let parts = parts.ok_or("an operand is missing")?;
    let width = out[axis] * inner;
    let reads_rows = parts.iter().copied().enumerate().collect();
    let mut native: Native = by_size!(p.out_dtype().size().unwrap_or(0), T => {
        Native::new("concat", move |c| join::<T>(c, outer, &parts, width))
    })?;
    native.reads_rows = reads_rows;
    native.writes_rows = Some(width);
    Ok(native)
}

fn join<T: Element>(c: &mut Call<'_, '_>, outer: usize, parts: &[usize], width: usize) -> Result<(), Fail> {
    let mut at = 0;
    for (i, &part) in parts.iter().enumerate() {
        if c.ins.get(i).is_some_and(Option::is_some) {
            let (pool, x) = (c.pool, c.get::<T>(i)?);
            let (pitch, out_pitch) = (c.pitch::<T>(i, part), c.out_pitch::<T>(width));
            if outer == 1 {
                c.out::<T>(0)?[at..at + part].copy_from_slice(x);
            } else {
                copy_rows(pool, [outer, part], (x, 0, pitch), (c.out::<T>(0)?, at, out_pitch))?;
            }
        }
        at += part;
    }
    Ok(())
}

pub(crate) fn split(p: &Prep<'_>, op: &Split) -> Built {
    let x = p.get(0)?;
    let axis = tensormill_ir::infer::axis(op.axis, x.shape.len()).map_err(|e| e.0)?;
    let outer: usize = x.shape[..axis].iter().product();
    let inner: usize = x.shape[axis + 1..].iter().product();
    let mut at = 0;
    let parts = p.outs.iter().map(|(_, s): &(_, Shape)| {
        let run = s[axis] * inner;
        at += run;
        (at - run, run)
    });
    let parts: Vec<(usize, usize)> = parts.collect();
    split_rows(x.dtype.size().unwrap_or(0), outer, x.shape[axis] * inner, parts)
}

/// Copies parts of rows of `width` elements of this size: for each result where it begins in a row, and its
/// elements.
pub(crate) fn split_rows(size: usize, outer: usize, width: usize, parts: Vec<(usize, usize)>) -> Built {
    let mut native: Native = by_size!(size, T => Native::new("split", move |c| {
        for (i, &(at, run)) in parts.iter().enumerate() {
            let (pool, x, pitch) = (c.pool, c.get::<T>(0)?, c.pitch::<T>(0, width));
            copy_rows(pool, [outer, run], (x, at, pitch), (c.out::<T>(i)?, 0, run))?;
        }
        Ok(())
    }))?;
    native.reads_rows.push((0, width));
    Ok(native)
}

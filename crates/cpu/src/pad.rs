//! Padding with one value, or with elements of the operand.

use crate::native::{Built, Native, Prep, by_size};
use tensormill_ir::ops::{Pad, PadMode};
use tensormill_kernels::copy::{Source, Target, copy_strided, row_major};
use tensormill_reference::pad_source;

pub(crate) fn pad(p: &Prep<'_>, op: &Pad) -> Built {
    let x = p.get(0)?;
    let rank = x.shape.len();
    let pads = p.get(1)?.ints().ok_or("sizes known only at run time")?;
    let axes: Vec<i64> = match p.opt(3) {
        None => (0..rank as i64).collect(),
        Some(k) => k.ints().ok_or("axes known only at run time")?,
    };
    let axes = tensormill_ir::infer::axes(&axes, rank).map_err(|e| e.0)?;
    if pads.len() != 2 * axes.len() || pads.iter().any(|&n| n < 0) {
        return Err("padding that cuts".into());
    }
    let out = p.out();
    if op.mode != PadMode::Constant {
        return continued(p, op.mode, &axes, &pads);
    }
    let to = row_major(out);
    let mut offset = 0;
    for (i, &axis) in axes.iter().enumerate() {
        offset += pads[i] as usize * to[axis];
    }
    let dims = x.shape.to_vec();
    let from: Vec<isize> = row_major(&dims).into_iter().map(|s| s as isize).collect();
    let value = p.opt(2).is_some();
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("pad", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        let value = if value { c.get::<T>(2)?.first().copied().unwrap_or_default() } else { T::default() };
        let out = c.out::<T>(0)?;
        out.fill(value);
        let (source, target) = (Source { offset: 0, strides: &from }, Target { offset, strides: &to });
        Ok(copy_strided(pool, &dims, x, source, out, target)?)
    }))
}

/// Padding that goes on with elements of the operand: a table of rows, and one of places in a row.
fn continued(p: &Prep<'_>, mode: PadMode, axes: &[usize], pads: &[i64]) -> Built {
    let (x, out) = (p.get(0)?, p.out());
    if x.len() == 0 || out.contains(&0) || out.rank() == 0 {
        return Err("an empty operand".into());
    }
    let own = row_major(x.shape);
    // For each axis where each place of the result comes from, as elements to skip.
    let along = |axis: usize| -> Option<Vec<usize>> {
        let before = axes.iter().position(|&a| a == axis).map_or(0, |i| pads[i]);
        let place = |i: i64| pad_source(mode, i - before, x.shape[axis] as i64);
        (0..out[axis] as i64).map(|i| Some(place(i)? as usize * own[axis])).collect()
    };
    let last = out.rank() - 1;
    let mut rows = vec![0usize];
    for axis in 0..last {
        let along = along(axis).ok_or("a place outside the operand")?;
        rows = rows.iter().flat_map(|r| along.iter().map(move |a| r + a)).collect();
    }
    let places = along(last).ok_or("a place outside the operand")?;
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("pad-continued", move |c| {
        let x = c.get::<T>(0)?;
        for (row, out) in rows.iter().zip(c.out::<T>(0)?.chunks_exact_mut(places.len())) {
            let x = x.get(*row..).unwrap_or_default();
            for (o, &at) in out.iter_mut().zip(&places) {
                *o = x.get(at).copied().unwrap_or_default();
            }
        }
        Ok(())
    }))
}

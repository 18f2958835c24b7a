//! Padding with one value.

use crate::native::{Built, Native, Prep, by_size};
use tensormill_ir::ops::{Pad, PadMode};
use tensormill_kernels::copy::{Source, Target, copy_strided, row_major};

pub(crate) fn pad(p: &Prep<'_>, op: &Pad) -> Built {
    if op.mode != PadMode::Constant {
        return Err("no kernel for this mode of padding".into());
    }
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

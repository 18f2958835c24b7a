//! Slices at given places.

use crate::native::{Built, Native, Prep, by_size};
use tensormill_ir::ops::Gather;
use tensormill_kernels::gather::gather_rows;
use tensormill_tensor::DType;

pub(crate) fn gather(p: &Prep<'_>, op: &Gather) -> Built {
    let (x, indices) = (p.get(0)?, p.get(1)?);
    let axis = tensormill_ir::infer::axis(op.axis, x.shape.len()).map_err(|e| e.0)?;
    let product = |d: &[usize]| d.iter().product::<usize>();
    let sizes = [product(&x.shape[..axis]), x.shape[axis], product(&x.shape[axis + 1..])];
    let narrow = match indices.dtype {
        DType::I64 => false,
        DType::I32 => true,
        d => return Err(format!("no kernel for indices of {d}").into()),
    };
    by_size!(x.dtype.size().unwrap_or(0), T => Native::new("gather", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        if narrow {
            let wide: Vec<i64> = c.get::<i32>(1)?.iter().map(|&i| i64::from(i)).collect();
            return Ok(gather_rows(pool, x, sizes, &wide, c.out::<T>(0)?)?);
        }
        let indices = c.get::<i64>(1)?;
        Ok(gather_rows(pool, x, sizes, indices, c.out::<T>(0)?)?)
    }))
}

//! Slices at given places.

use crate::native::{Built, Native, Prep, by_size};
use tensormill_ir::ops::Gather;
use tensormill_kernels::gather::gather_rows;
use tensormill_tensor::DType;

/// Rows of at least this many bytes are copied as bytes, so that a large table may stay where its file has
/// it, wherever that is.
const LONG_ROW: usize = 64;

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
    let size = x.dtype.size().unwrap_or(0);
    if sizes[2].saturating_mul(size) >= LONG_ROW {
        let rows = [sizes[0], sizes[1], sizes[2] * size];
        let mut native = Native::new("gather", move |c| {
            let wide: Vec<i64>;
            let indices = if narrow {
                wide = c.get::<i32>(1)?.iter().map(|&i| i64::from(i)).collect();
                &wide
            } else {
                c.get::<i64>(1)?
            };
            let (pool, x) = (c.pool, c.view(0)?.bytes);
            Ok(gather_rows(pool, x, rows, indices, c.out::<u8>(0)?)?)
        })?;
        native.anywhere.push(0);
        return Ok(native);
    }
    by_size!(size, T => Native::new("gather", move |c| {
        let (pool, x) = (c.pool, c.get::<T>(0)?);
        if narrow {
            let wide: Vec<i64> = c.get::<i32>(1)?.iter().map(|&i| i64::from(i)).collect();
            return Ok(gather_rows(pool, x, sizes, &wide, c.out::<T>(0)?)?);
        }
        let indices = c.get::<i64>(1)?;
        Ok(gather_rows(pool, x, sizes, indices, c.out::<T>(0)?)?)
    }))
}

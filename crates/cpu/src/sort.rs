//! Running sums and products.

use crate::native::{Built, Native, Prep};
use tensormill_kernels::running::{Running, running as kernel};
use tensormill_tensor::DType;

pub(crate) fn running(p: &Prep<'_>, sum: bool, exclusive: bool, reverse: bool) -> Built {
    let x = p.get(0)?;
    let given = p.get(1)?.ints().ok_or("an axis known only at run time")?;
    let axis = given.first().copied().filter(|_| given.len() == 1).ok_or("one axis is needed")?;
    let axis = tensormill_ir::infer::axis(axis, x.shape.len()).map_err(|e| e.0)?;
    let product = |d: &[usize]| d.iter().product::<usize>();
    let sizes = [product(&x.shape[..axis]), x.shape[axis], product(&x.shape[axis + 1..])];
    let kind = Running { sum, exclusive, reverse };
    let name = if sum { "running-sum" } else { "running-product" };
    macro_rules! of {
        ($t:ty) => {
            Native::new(name, move |c| {
                let (pool, x) = (c.pool, c.get::<$t>(0)?);
                Ok(kernel(pool, kind, x, sizes, c.out::<$t>(0)?)?)
            })
        };
    }
    let mut native = match x.dtype {
        DType::F32 => of!(f32),
        DType::I64 => of!(i64),
        DType::I32 => of!(i32),
        d => Err(format!("no kernel for {d}").into()),
    }?;
    native.flops = x.len() as u64;
    Ok(native)
}

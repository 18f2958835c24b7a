//! Softmax and its logarithm.

use crate::native::{Built, Native, Prep};
use tensormill_kernels::softmax::{log_softmax, softmax as softmax_kernel};
use tensormill_tensor::DType;

pub(crate) fn softmax(p: &Prep<'_>, axis: i64, log: bool) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let axis = tensormill_ir::infer::axis(axis, x.shape.len()).map_err(|e| e.0)?;
    let product = |d: &[usize]| d.iter().product::<usize>();
    let sizes = [product(&x.shape[..axis]), x.shape[axis], product(&x.shape[axis + 1..])];
    let mut native = Native::new("softmax", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        let out = c.out::<f32>(0)?;
        let kernel = if log { log_softmax } else { softmax_kernel };
        Ok(kernel(pool, x, sizes, out)?)
    })?;
    native.flops = 8 * x.len() as u64;
    Ok(native)
}

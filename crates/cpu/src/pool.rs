//! Maximum and average pooling.

use crate::native::{Built, Native, Prep};
use tensormill_ir::ops::{AveragePool, MaxPool, WindowAxis};
use tensormill_kernels::conv::Window;
use tensormill_kernels::pool::{PoolOp, PoolShape, pool as pool_kernel};
use tensormill_tensor::DType;

pub(crate) fn max_pool(p: &Prep<'_>, op: &MaxPool) -> Built {
    if op.with_indices {
        return Err("no kernel gives indices".into());
    }
    pool(p, PoolOp::Max, |x| op.axes(x).map(|a| a.to_vec()).map_err(|e| e.0))
}

pub(crate) fn average_pool(p: &Prep<'_>, op: &AveragePool) -> Built {
    let kind = if op.count_include_pad { PoolOp::AverageWithPad } else { PoolOp::Average };
    pool(p, kind, |x| op.axes(x).map(|a| a.to_vec()).map_err(|e| e.0))
}

fn pool(p: &Prep<'_>, kind: PoolOp, axes: impl FnOnce(&[usize]) -> Result<Vec<WindowAxis>, String>) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let spatial = x.shape.get(2..).unwrap_or_default();
    let axes = axes(spatial)?;
    let fits = matches!(axes.len(), 1 | 2)
        && axes.iter().zip(spatial).all(|(a, &n)| a.kernel <= n + a.before + a.after && a.output > 0);
    if !fits {
        return Err("no kernel for these windows".into());
    }
    let mut shape = PoolShape {
        planes: x.shape[0] * x.shape[1],
        input: [1; 2],
        output: [1; 2],
        windows: [Window::new(1); 2],
    };
    for (i, a) in axes.iter().enumerate() {
        let at = 2 - axes.len() + i;
        shape.input[at] = spatial[i];
        shape.output[at] = a.output;
        shape.windows[at] = Window {
            kernel: a.kernel,
            stride: a.stride,
            dilation: a.dilation,
            pad_begin: a.before,
            pad_end: a.after,
        };
    }
    let mut native = Native::new("pool", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(pool_kernel(pool, kind, &shape, x, c.out::<f32>(0)?)?)
    })?;
    native.flops = (p.out().numel() * axes.iter().map(|a| a.kernel).product::<usize>()) as u64;
    Ok(native)
}

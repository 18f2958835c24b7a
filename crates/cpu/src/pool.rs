//! Maximum and average pooling.

use crate::native::{Built, Native, Prep};
use tensormill_ir::ops::{AveragePool, MaxPool, WindowAxis};
use tensormill_kernels::channels_last::pool as last;
use tensormill_kernels::conv::Window;
use tensormill_kernels::pool::{PoolOp, PoolShape, pool as pool_kernel};
use tensormill_kernels::quantized::{Bytes, pool::max_pool as max_pool_of_bytes};
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

/// As `max_pool`, for an operand and a result whose channels lie innermost.
pub(crate) fn max_pool_channels_last(p: &Prep<'_>, op: &MaxPool) -> Built {
    if op.with_indices {
        return Err("no kernel gives indices".into());
    }
    pool_channels_last(p, PoolOp::Max, |x| op.axes(x).map(|a| a.to_vec()).map_err(|e| e.0))
}

/// As `average_pool`, for an operand and a result whose channels lie innermost.
pub(crate) fn average_pool_channels_last(p: &Prep<'_>, op: &AveragePool) -> Built {
    let kind = if op.count_include_pad { PoolOp::AverageWithPad } else { PoolOp::Average };
    pool_channels_last(p, kind, |x| op.axes(x).map(|a| a.to_vec()).map_err(|e| e.0))
}

/// Sizes along the two axes that kernels have.
struct Plane {
    input: [usize; 2],
    output: [usize; 2],
    windows: [Window; 2],
    taps: usize,
}

fn plane(spatial: &[usize], axes: &[WindowAxis]) -> Result<Plane, &'static str> {
    let fits = matches!(axes.len(), 1 | 2)
        && axes.iter().zip(spatial).all(|(a, &n)| a.kernel <= n + a.before + a.after && a.output > 0);
    if !fits {
        return Err("no kernel for these windows");
    }
    let taps = axes.iter().map(|a| a.kernel).product();
    let mut shape = Plane { input: [1; 2], output: [1; 2], windows: [Window::new(1); 2], taps };
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
    Ok(shape)
}

fn pool(p: &Prep<'_>, kind: PoolOp, axes: impl FnOnce(&[usize]) -> Result<Vec<WindowAxis>, String>) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let spatial = x.shape.get(2..).unwrap_or_default();
    let Plane { input, output, windows, taps } = plane(spatial, &axes(spatial)?)?;
    let shape = PoolShape { planes: x.shape[0] * x.shape[1], input, output, windows };
    let mut native = Native::new("pool", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(pool_kernel(pool, kind, &shape, x, c.out::<f32>(0)?)?)
    })?;
    native.flops = (p.out().numel() * taps) as u64;
    Ok(native)
}

fn pool_channels_last(
    p: &Prep<'_>,
    kind: PoolOp,
    axes: impl FnOnce(&[usize]) -> Result<Vec<WindowAxis>, String>,
) -> Built {
    let x = p.get(0)?;
    let spatial = x.shape.get(2..).unwrap_or_default();
    let Plane { input, output, windows, taps } = plane(spatial, &axes(spatial)?)?;
    let (batch, channels) = (x.shape[0], x.shape[1]);
    let shape = last::PoolShape { batch, channels, input, output, windows };
    if kind == PoolOp::Max && matches!(x.dtype, DType::U8 | DType::I8) {
        let signed = x.dtype == DType::I8;
        return Native::new("int8-max-pool", move |c| {
            let (pool, x) = (c.pool, Bytes { data: c.view(0)?.bytes, signed });
            Ok(max_pool_of_bytes(pool, &shape, x, c.out::<u8>(0)?)?)
        });
    }
    p.need(0, DType::F32)?;
    let mut native = Native::new("nhwc-pool", move |c| {
        let (pool, x, pitch) = (c.pool, c.get::<f32>(0)?, c.pitch::<f32>(0, channels));
        let out_pitch = c.out_pitch::<f32>(channels);
        Ok(last::pool(pool, kind, &shape, x, pitch, c.out::<f32>(0)?, out_pitch)?)
    })?;
    native.flops = (p.out().numel() * taps) as u64;
    native.reads_rows.push((0, channels));
    native.writes_rows = Some(channels);
    Ok(native)
}

//! Reductions over neighbouring axes.

use crate::native::{Built, Native, Prep, Sizes};
use tensormill_ir::ops::{ArgReduce, Reduce, ReduceKind};
use tensormill_kernels::channels_last::pool::global_average;
use tensormill_kernels::reduce::{ReduceOp, reduce as reduce_kernel};
use tensormill_tensor::DType;

pub(crate) fn reduce(p: &Prep<'_>, op: &Reduce) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let given = match p.opt(1) {
        None => vec![],
        Some(k) => k.ints().ok_or("axes known only at run time")?,
    };
    let rank = x.shape.len();
    let mut axes: Sizes = if given.is_empty() && !op.noop_with_empty_axes {
        (0..rank).collect()
    } else {
        tensormill_ir::infer::axes(&given, rank).map_err(|e| e.0)?.into_iter().collect()
    };
    axes.sort_unstable();
    // Axes of one element may count as reduced or not, whichever joins the others.
    axes.retain(|a| x.shape[*a] != 1);
    let (first, last) = match (axes.first(), axes.last()) {
        (Some(&f), Some(&l)) => (f, l + 1),
        _ => (rank, rank),
    };
    if (first..last).any(|a| x.shape[a] != 1 && !axes.contains(&a)) {
        return Err("the axes are not neighbours".into());
    }
    let product = |d: &[usize]| d.iter().product::<usize>();
    let sizes = [product(&x.shape[..first]), product(&x.shape[first..last]), product(&x.shape[last..])];
    if sizes[1] == 0 {
        return Err("nothing to reduce".into());
    }
    let kind = match op.kind {
        ReduceKind::Sum => ReduceOp::Sum,
        ReduceKind::Mean => ReduceOp::Mean,
        ReduceKind::Max => ReduceOp::Max,
        ReduceKind::Min => ReduceOp::Min,
        ReduceKind::Prod => ReduceOp::Prod,
        ReduceKind::L1 => ReduceOp::L1,
        ReduceKind::L2 => ReduceOp::L2,
        ReduceKind::SumSquare => ReduceOp::SumSquare,
        ReduceKind::LogSum | ReduceKind::LogSumExp => return Err("no kernel for this reduction".into()),
    };
    let mut native = Native::new("reduce", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(reduce_kernel(pool, kind, x, sizes, c.out::<f32>(0)?)?)
    })?;
    native.flops = x.len() as u64;
    Ok(native)
}

/// The mean over all pixels of an operand whose channels lie innermost.
pub(crate) fn mean_of_pixels(p: &Prep<'_>, op: &Reduce) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let axes = p.get(1)?.ints().ok_or("axes known only at run time")?;
    let mut axes = tensormill_ir::infer::axes(&axes, x.shape.len()).map_err(|e| e.0)?;
    axes.sort_unstable();
    if op.kind != ReduceKind::Mean || !axes.iter().copied().eq(2..x.shape.len()) {
        return Err("not a mean over pixels".into());
    }
    let (batch, channels) = (x.shape[0], x.shape[1]);
    let pixels: usize = x.shape[2..].iter().product();
    let mut native = Native::new("nhwc-mean", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(global_average(pool, batch, pixels, channels, x, c.out::<f32>(0)?)?)
    })?;
    native.flops = x.len() as u64;
    Ok(native)
}

pub(crate) fn arg_reduce(p: &Prep<'_>, op: &ArgReduce) -> Built {
    p.need(0, DType::F32)?;
    let x = p.get(0)?;
    let axis = tensormill_ir::infer::axis(op.axis, x.shape.len()).map_err(|e| e.0)?;
    let n = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    if n == 0 || inner == 0 {
        return Err("an empty operand".into());
    }
    let (max, last) = (op.max, op.select_last);
    Native::new("arg_reduce", move |c| {
        let x = c.get::<f32>(0)?;
        // The first NaN wins over every number, as in numpy.
        let better = |old: f32, new: f32| match (old.is_nan(), new.is_nan()) {
            (true, new) => last && new,
            (false, true) => true,
            _ => (if max { new > old } else { new < old }) || (last && new == old),
        };
        for (o, out) in c.out::<i64>(0)?.iter_mut().enumerate() {
            let start = o / inner * n * inner + o % inner;
            let mut best = 0;
            for i in 1..n {
                if better(x[start + best * inner], x[start + i * inner]) {
                    best = i;
                }
            }
            *out = best as i64;
        }
        Ok(())
    })
}

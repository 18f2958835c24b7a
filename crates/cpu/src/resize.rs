//! Resizing of the last two axes.

use crate::native::{Built, Native, Prep, by_size};
use tensormill_ir::ops::{CoordinateMode, Resize, ResizeMode};
use tensormill_kernels::resize::{Blend, resize_linear, resize_nearest};
use tensormill_tensor::DType;

pub(crate) fn resize(p: &Prep<'_>, op: &Resize) -> Built {
    let x = p.get(0)?;
    if op.coordinates == CoordinateMode::TfCropAndResize {
        return Err("no kernel for regions".into());
    }
    let later = "sizes known only at run time";
    let scales = match p.opt(2) {
        None => None,
        Some(k) => Some(k.known.ok_or(later)?.to_f32_vec().map_err(|e| e.to_string())?),
    };
    let sizes = match p.opt(3) {
        None => None,
        Some(k) => Some(k.ints().ok_or(later)?),
    };
    let plan = op.plan(x.shape, scales.as_deref(), sizes.as_deref()).map_err(|e| e.0)?;
    let rank = x.shape.len();
    if rank < 2 || x.len() == 0 {
        return Err("no kernel for this rank".into());
    }
    // Per axis of the plane, every output's places in the operand with their weights.
    let mut tables: [Vec<Vec<(usize, f64)>>; 2] =
        [rank - 2, rank - 1].map(|a| (0..x.shape[a]).map(|i| vec![(i, 1.0)]).collect());
    for a in &plan {
        let table = tensormill_reference::resize_weights(op, a, x.shape[a.axis]);
        if a.axis + 2 >= rank {
            tables[a.axis + 2 - rank] = table;
        } else if a.output != x.shape[a.axis] || table.iter().enumerate().any(|(i, t)| t[..] != [(i, 1.0)]) {
            return Err("no kernel for axes before the last two".into());
        }
    }
    let planes: usize = x.shape[..rank - 2].iter().product();
    let from = [planes, x.shape[rank - 2], x.shape[rank - 1]];
    if op.mode == ResizeMode::Nearest {
        let [rows, columns] = tables.map(|t| t.iter().map(|t| t[0].0).collect::<Vec<usize>>());
        return by_size!(x.dtype.size().unwrap_or(0), T => Native::new("resize-nearest", move |c| {
            let (pool, x) = (c.pool, c.get::<T>(0)?);
            Ok(resize_nearest(pool, x, from, &rows, &columns, c.out::<T>(0)?)?)
        }));
    }
    p.need(0, DType::F32)?;
    let mut blends: [Vec<Blend>; 2] = Default::default();
    for (blends, table) in blends.iter_mut().zip(&tables) {
        for t in table {
            blends.push(match t[..] {
                [(low, 1.0)] => Blend { low, high: low, weight: 0.0 },
                [(low, a), (high, b)] if (a + b - 1.0).abs() < 1e-12 => Blend { low, high, weight: b as f32 },
                _ => return Err("no kernel for these weights".into()),
            });
        }
    }
    let [rows, columns] = blends;
    Native::new("resize-linear", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(resize_linear(pool, x, from, &rows, &columns, c.out::<f32>(0)?)?)
    })
}

//! Resizing of the two axes of a plane.

use crate::native::{Built, Native, Prep, by_size};
use std::borrow::Cow;
use tensormill_ir::ops::{CoordinateMode, Resize, ResizeMode};
use tensormill_kernels::channels_last::resize as last;
use tensormill_kernels::resize::{Blend, resize_linear, resize_nearest};
use tensormill_tensor::DType;

/// Per axis of the plane, every output's places in the operand with their weights.
type Tables = [Vec<Vec<(usize, f64)>>; 2];

/// The tables for the two axes from `first`; the others must stay as they are.
fn tables(p: &Prep<'_>, op: &Resize, first: usize) -> Result<Tables, Cow<'static, str>> {
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
    if x.len() == 0 {
        return Err("an empty operand".into());
    }
    let mut tables: Tables = [first, first + 1].map(|a| (0..x.shape[a]).map(|i| vec![(i, 1.0)]).collect());
    for a in &plan {
        let table = tensormill_reference::resize_weights(op, a, x.shape[a.axis]);
        if let Some(t) = a.axis.checked_sub(first).and_then(|i| tables.get_mut(i)) {
            *t = table;
        } else if a.output != x.shape[a.axis] || table.iter().enumerate().any(|(i, t)| t[..] != [(i, 1.0)]) {
            return Err("no kernel for other axes".into());
        }
    }
    Ok(tables)
}

fn nearest(tables: Tables) -> [Vec<usize>; 2] {
    tables.map(|t| t.iter().map(|t| t[0].0).collect())
}

fn blends(tables: &Tables) -> Result<[Vec<Blend>; 2], Cow<'static, str>> {
    let mut blends: [Vec<Blend>; 2] = Default::default();
    for (blends, table) in blends.iter_mut().zip(tables) {
        for t in table {
            blends.push(match t[..] {
                [(low, 1.0)] => Blend { low, high: low, weight: 0.0 },
                [(low, a), (high, b)] if (a + b - 1.0).abs() < 1e-12 => Blend { low, high, weight: b as f32 },
                _ => return Err("no kernel for these weights".into()),
            });
        }
    }
    Ok(blends)
}

pub(crate) fn resize(p: &Prep<'_>, op: &Resize) -> Built {
    let x = p.get(0)?;
    let rank = x.shape.len();
    let first = rank.checked_sub(2).ok_or("no kernel for this rank")?;
    let tables = tables(p, op, first)?;
    let planes: usize = x.shape[..first].iter().product();
    let from = [planes, x.shape[first], x.shape[first + 1]];
    if op.mode == ResizeMode::Nearest {
        let [rows, columns] = nearest(tables);
        return by_size!(x.dtype.size().unwrap_or(0), T => Native::new("resize-nearest", move |c| {
            let (pool, x) = (c.pool, c.get::<T>(0)?);
            Ok(resize_nearest(pool, x, from, &rows, &columns, c.out::<T>(0)?)?)
        }));
    }
    p.need(0, DType::F32)?;
    let [rows, columns] = blends(&tables)?;
    Native::new("resize-linear", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        Ok(resize_linear(pool, x, from, &rows, &columns, c.out::<f32>(0)?)?)
    })
}

/// As `resize`, for an operand and a result whose channels lie innermost.
pub(crate) fn resize_channels_last(p: &Prep<'_>, op: &Resize) -> Built {
    let x = p.get(0)?;
    if x.shape.len() != 4 {
        return Err("no kernel for this rank".into());
    }
    let tables = tables(p, op, 2)?;
    let channels = x.shape[1];
    let from = [x.shape[0], x.shape[2], x.shape[3], channels];
    let made: Built = if op.mode == ResizeMode::Nearest {
        let [rows, columns] = nearest(tables);
        by_size!(x.dtype.size().unwrap_or(0), T => Native::new("nhwc-resize-nearest", move |c| {
            let (pool, x, pitch) = (c.pool, c.get::<T>(0)?, c.pitch::<T>(0, channels));
            let out_pitch = c.out_pitch::<T>(channels);
            Ok(last::resize_nearest(pool, x, pitch, from, &rows, &columns, c.out::<T>(0)?, out_pitch)?)
        }))
    } else {
        p.need(0, DType::F32)?;
        let [rows, columns] = blends(&tables)?;
        Native::new("nhwc-resize-linear", move |c| {
            let (pool, x, pitch) = (c.pool, c.get::<f32>(0)?, c.pitch::<f32>(0, channels));
            let out_pitch = c.out_pitch::<f32>(channels);
            Ok(last::resize_linear(pool, x, pitch, from, &rows, &columns, c.out::<f32>(0)?, out_pitch)?)
        })
    };
    let mut native = made?;
    native.reads_rows.push((0, channels));
    native.writes_rows = Some(channels);
    Ok(native)
}

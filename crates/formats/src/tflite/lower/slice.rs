//! Cutting tensors up and putting them together.

use super::{LowerError, NodeCx, Order, Table, cx::Moved};
use tensormill_ir::ops::{Concat, Slice, Split, Squeeze, Unsqueeze};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("CONCATENATION", 10, concatenation),
    ("REVERSE_V2", 81, reverse),
    ("SLICE", 48, slice),
    ("SPLIT", 35, split),
    ("SPLIT_V", 79, split_v),
    ("STRIDED_SLICE", 32, strided_slice),
];

fn concatenation(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let axis = i64::from(cx.int("axis", 0, 0)?);
    let all = 0..cx.len();
    let order = if all.clone().any(|i| cx.home(i) == Order::First) { Order::First } else { Order::Plain };
    let plain = cx.byte("fused_activation_function", 1, 0)? == 0;
    let stored = plain && all.clone().all(|i| cx.same_quantization(i, 0));
    let mut parts = vec![];
    for i in all {
        parts.push(if stored { cx.input_in(i, order)? } else { cx.real(i, order)? });
    }
    let Some(&first) = parts.first() else { return LowerError::operand("there are no operands") };
    let axis = cx.axis("axis", axis, cx.rank(first)?)?;
    let y = cx.op(Concat { axis: order.axis(axis) as i64 }, &parts)?;
    let y = cx.fused(y, 1)?;
    cx.set_moved(0, y, order, &Moved { x: y, stored })
}

/// The parts of operand `i` along an axis of the file's, equal or of given sizes.
fn parts(cx: &mut NodeCx<'_, '_>, i: usize, axis: i64, sizes: Option<Vec<i64>>) -> Result<()> {
    let outputs = cx.outputs();
    let given = cx.int("num_splits", 0, 0)?;
    if usize::try_from(given).ok() != Some(outputs) || outputs == 0 {
        return LowerError::option("num_splits", format!("is {given}, but there are {outputs} results"));
    }
    let order = cx.home(i);
    let x = cx.moved(i, order)?;
    let dims = cx.dims(x.x)?;
    let axis = order.axis(cx.axis("axis", axis, dims.len())?);
    let mut sizes = sizes;
    if let Some(s) = &mut sizes {
        // One size may be what the others leave.
        let rest: i64 = s.iter().filter(|n| **n >= 0).fold(0, |a, n| a.saturating_add(*n));
        if s.contains(&-1) {
            let Some(size) = dims[axis].known().and_then(|n| i64::try_from(n).ok()) else {
                return LowerError::feature("a size that an open one decides");
            };
            let left = size.saturating_sub(rest);
            s.iter_mut().filter(|n| **n == -1).for_each(|n| *n = left);
        }
    } else if dims[axis].known().is_some_and(|n| n % outputs != 0) {
        return LowerError::option("num_splits", format!("does not divide the axis into {outputs}"));
    }
    let sizes = match sizes {
        Some(s) => Some(cx.ints_constant(&s)?),
        None => None,
    };
    let parts = cx.node(Split { axis: axis as i64, outputs }, &[Some(x.x), sizes])?;
    for (i, part) in parts.into_iter().enumerate() {
        cx.set_moved(i, part, order, &x)?;
    }
    Ok(())
}

/// The one number of an operand.
fn one(cx: &mut NodeCx<'_, '_>, i: usize) -> Result<i64> {
    match cx.known(i)?[..] {
        [n] => Ok(n),
        _ => LowerError::operand(format!("operand {i} must be one number")),
    }
}

fn split(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let axis = one(cx, 0)?;
    parts(cx, 1, axis, None)
}

fn split_v(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (sizes, axis) = (cx.known(1)?, one(cx, 2)?);
    parts(cx, 0, axis, Some(sizes))
}

/// Adds a slice by constants along axes of the file's.
fn cut(cx: &mut NodeCx<'_, '_>, x: tensormill_ir::ValueId, by: &[Part]) -> Result<tensormill_ir::ValueId> {
    let column = |f: fn(&Part) -> i64| by.iter().map(f).collect::<Vec<i64>>();
    let operands = [column(|p| p.start), column(|p| p.end), column(|p| p.axis), column(|p| p.step)];
    let mut inputs = vec![x];
    for v in operands {
        inputs.push(cx.ints_constant(&v)?);
    }
    cx.op(Slice {}, &inputs)
}

/// What is kept of an axis.
struct Part {
    axis: i64,
    start: i64,
    end: i64,
    step: i64,
}

fn slice(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let order = cx.home(0);
    let x = cx.moved(0, order)?;
    let (starts, sizes) = (cx.known(1)?, cx.known(2)?);
    let rank = cx.rank(x.x)?;
    if starts.len() != rank || sizes.len() != rank {
        return LowerError::operand(format!(
            "{} starts and {} sizes for {rank} axes",
            starts.len(),
            sizes.len()
        ));
    }
    let part = |(axis, (&start, &size)): (usize, (&i64, &i64))| match (start, size) {
        (0.., -1) => Ok(Part { axis: order.axis(axis) as i64, start, end: i64::MAX, step: 1 }),
        (0.., 0..) => {
            Ok(Part { axis: order.axis(axis) as i64, start, end: start.saturating_add(size), step: 1 })
        }
        _ => LowerError::operand(format!("a slice of {size} elements from {start} on")),
    };
    let parts = starts.iter().zip(&sizes).enumerate().map(part).collect::<Result<Vec<_>>>()?;
    let y = cut(cx, x.x, &parts)?;
    cx.set_moved(0, y, order, &x)
}

/// What the masks say of each entry, by its bit.
struct Masks {
    begin: i32,
    end: i32,
    ellipsis: i32,
    new_axis: i32,
    shrink: i32,
}

fn strided_slice(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let masks = Masks {
        begin: cx.int("begin_mask", 0, 0)?,
        end: cx.int("end_mask", 1, 0)?,
        ellipsis: cx.int("ellipsis_mask", 2, 0)?,
        new_axis: cx.int("new_axis_mask", 3, 0)?,
        shrink: cx.int("shrink_axis_mask", 4, 0)?,
    };
    let offset = cx.flag("offset", 5)?;
    let x = cx.moved(0, Order::Plain)?;
    let (begin, end, steps) = (cx.known(1)?, cx.known(2)?, cx.known(3)?);
    let (rank, entries) = (cx.rank(x.x)?, begin.len());
    if end.len() != entries || steps.len() != entries || entries > 31 {
        return LowerError::operand("starts, ends and steps must be of one length, of 31 at most");
    }
    let set = |mask: i32, i: usize| mask >> i & 1 != 0;
    let spelled = (0..entries).filter(|&i| !set(masks.ellipsis, i) && !set(masks.new_axis, i)).count();
    let Some(skipped) = rank.checked_sub(spelled) else {
        return LowerError::operand(format!("{spelled} entries for {rank} axes"));
    };
    let (mut parts, mut taken, mut added) = (vec![], vec![], vec![]);
    // The axis of x, and of the result before axes are taken away.
    let (mut axis, mut shown) = (0, 0);
    for i in 0..entries {
        if set(masks.ellipsis, i) {
            axis += skipped;
            shown += skipped;
            continue;
        }
        if set(masks.new_axis, i) {
            added.push(shown as i64);
            shown += 1;
            continue;
        }
        let step = steps[i];
        if step == 0 {
            return LowerError::operand("a step of 0");
        }
        let part = if set(masks.shrink, i) {
            taken.push(axis as i64);
            let end = if begin[i] == -1 { i64::MAX } else { begin[i].saturating_add(1) };
            Part { axis: axis as i64, start: begin[i], end, step: 1 }
        } else {
            shown += 1;
            let (first, last) = if step > 0 { (0, i64::MAX) } else { (i64::MAX, i64::MIN) };
            let start = if set(masks.begin, i) { first } else { begin[i] };
            let to = if offset { begin[i].saturating_add(end[i]) } else { end[i] };
            Part { axis: axis as i64, start, end: if set(masks.end, i) { last } else { to }, step }
        };
        parts.push(part);
        axis += 1;
    }
    let mut y = if parts.is_empty() { x.x } else { cut(cx, x.x, &parts)? };
    if !taken.is_empty() {
        let axes = cx.ints_constant(&taken)?;
        y = cx.op(Squeeze {}, &[y, axes])?;
    }
    if !added.is_empty() {
        let axes = cx.ints_constant(&added)?;
        y = cx.op(Unsqueeze {}, &[y, axes])?;
    }
    cx.set_moved(0, y, Order::Plain, &x)
}

fn reverse(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let order = cx.home(0);
    let x = cx.moved(0, order)?;
    let rank = cx.rank(x.x)?;
    let mut parts = vec![];
    for axis in cx.known(1)? {
        let axis = order.axis(cx.axis("axis", axis, rank)?) as i64;
        parts.push(Part { axis, start: i64::MAX, end: i64::MIN, step: -1 });
    }
    let y = cut(cx, x.x, &parts)?;
    cx.set_moved(0, y, order, &x)
}

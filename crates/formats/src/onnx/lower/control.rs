//! Branches and loops. Bodies become graphs; what they use of the values around them, operands.

use super::{LowerError, NodeCx, Table, cx::LoweredBody};
use crate::onnx::proto::GraphProto;
use tensormill_ir::{
    GraphBuilder, TensorType, Type, ValueId,
    attr::Body,
    ops::{
        If, Loop, OptionalGetElement, Scan, SequenceAt, SequenceEmpty, SequenceInsert, SequenceLength,
        fixed_point,
    },
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("If", branch), ("Loop", repeat), ("Scan", scan), ("SequenceMap", sequence_map)];

fn branch(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let condition = cx.input(0)?;
    let (first, second) = (cx.graph("then_branch")?, cx.graph("else_branch")?);
    let (then_branch, used) = cx.body(first, "then_branch", &[], &[])?;
    let (else_branch, used_too) = cx.body(second, "else_branch", &[], &[])?;
    let op = If { then_branch, else_branch, then_inputs: used.len() };
    let inputs: Vec<_> = std::iter::once(condition).chain(used).chain(used_too).map(Some).collect();
    let results = cx.node(op, &inputs)?;
    cx.set_all(&results);
    Ok(())
}

/// The types of a body's results.
fn results(body: &Body) -> Vec<Type> {
    body.0.outputs().iter().map(|o| body.0.ty(o.value).clone()).collect()
}

/// Lowers a body until the types of its carried values hold for every iteration; `before` come before
/// them, `after` follow, and `skip` results precede those of the carried values.
fn settled<'m>(
    cx: &mut NodeCx<'_, 'm>,
    g: &'m GraphProto,
    [before, carried, after]: [&[Type]; 3],
    skip: usize,
) -> Result<(LoweredBody, Vec<usize>)> {
    // A value that begins as an optional and goes on as what is inside is an optional throughout.
    let mut wrapped = vec![];
    let mut last = None;
    fixed_point(carried, &mut |types: &[Type]| {
        let inputs = [before, types, after].concat();
        let mut lowered = cx.body(g, "body", &inputs, &wrapped)?;
        let found = results(&lowered.0);
        let inside = |i: usize| matches!((&types[i], found.get(skip + i)), (Type::Optional(_), Some(t)) if !matches!(t, Type::Optional(_)));
        let open: Vec<usize> = (0..types.len()).filter(|&i| inside(i)).map(|i| skip + i).collect();
        if !open.is_empty() {
            wrapped.extend(open);
            lowered = cx.body(g, "body", &inputs, &wrapped)?;
        }
        let found = results(&lowered.0);
        last = Some(lowered);
        match found.get(skip..) {
            Some(f) => Ok(f.to_vec()),
            None => LowerError::operand("the body has too few results"),
        }
    })?;
    match last {
        Some(body) => Ok((body, wrapped.into_iter().map(|i| i - skip).collect())),
        None => LowerError::operand("the body was not read"),
    }
}

fn repeat(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let g = cx.graph("body")?;
    let most = cx.opt(0).map(|v| cx.cast(v, DType::I64)).transpose()?;
    let condition = cx.opt(1);
    let carried: Vec<ValueId> = (2..cx.len()).map(|i| cx.input(i)).collect::<Result<_>>()?;
    let types: Vec<Type> = carried.iter().map(|v| cx.ty(*v)).collect();
    let own = [Type::tensor(DType::I64, []), Type::tensor(DType::Bool, [])];
    let ((body, used), wrapped) = settled(cx, g, [&own, &types, &[]], 1)?;
    let op = Loop { body, carried: carried.len() };
    let rest = carried.into_iter().chain(used).map(Some);
    let inputs: Vec<_> = [most, condition].into_iter().chain(rest).collect();
    let mut results = cx.node(op, &inputs)?;
    for i in wrapped {
        results[i] = cx.op(OptionalGetElement {}, &[results[i]])?;
    }
    cx.set_all(&results);
    Ok(())
}

/// One axis or direction for each of `n` tensors.
fn per_tensor(cx: &NodeCx<'_, '_>, name: &str, n: usize) -> Result<Vec<i64>> {
    match cx.ints(name)? {
        None => Ok(vec![0; n]),
        Some(v) if v.len() == n => Ok(v),
        Some(v) => cx.bad(name, format!("has {} entries for {n} tensors", v.len())),
    }
}

/// A type without one of its axes.
fn sliced(ty: &Type, axis: i64) -> Result<Type> {
    let Some(t) = ty.as_tensor() else {
        return LowerError::operand(format!("only tensors are scanned, not {ty}"));
    };
    let mut t = t.clone();
    if let Some(d) = &mut t.dims {
        d.remove(tensormill_ir::infer::axis(axis, d.len())?);
    }
    Ok(t.into())
}

fn scan(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let g = cx.graph("body")?;
    let batched = cx.opset() < 9;
    let first = usize::from(batched);
    if batched && cx.opt(0).is_some() {
        return LowerError::feature("Scan over sequences of different lengths");
    }
    let operands: Vec<ValueId> = (first..cx.len()).map(|i| cx.input(i)).collect::<Result<_>>()?;
    let scanned = match cx.opt_int("num_scan_inputs")?.map(usize::try_from) {
        Some(Ok(n)) if (1..=operands.len()).contains(&n) => n,
        _ => return cx.bad("num_scan_inputs", "must be from 1 to the number of operands"),
    };
    let carried = operands.len() - scanned;
    let outputs = cx.outputs().max(g.output.len()).saturating_sub(carried);
    let reversed = |v: Vec<i64>| -> Vec<bool> { v.into_iter().map(|d| d != 0).collect() };
    let input_directions = if batched { "directions" } else { "scan_input_directions" };
    let mut op = Scan {
        carried,
        input_axes: per_tensor(cx, "scan_input_axes", scanned)?,
        input_reverse: reversed(per_tensor(cx, input_directions, scanned)?),
        output_axes: per_tensor(cx, "scan_output_axes", outputs)?,
        output_reverse: reversed(per_tensor(cx, "scan_output_directions", outputs)?),
        ..Default::default()
    };
    let mut types: Vec<Type> = operands.iter().map(|v| cx.ty(*v)).collect();
    if batched {
        types = types.iter().map(|t| sliced(t, 0)).collect::<Result<_>>()?;
    }
    let slices: Vec<Type> =
        types[carried..].iter().zip(&op.input_axes).map(|(t, a)| sliced(t, *a)).collect::<Result<_>>()?;
    let ((body, used), _) = settled(cx, g, [&[], &types[..carried], &slices], 0)?;
    op.body = body;
    if batched {
        op = over_batch(cx, op, &types, &used)?;
    }
    let inputs: Vec<_> = operands.into_iter().chain(used).map(Some).collect();
    let results = cx.node(op, &inputs)?;
    cx.set_all(&results);
    Ok(())
}

/// Before opset 9 every operand had a first axis of independent sequences: a scan over scans.
fn over_batch(cx: &mut NodeCx<'_, '_>, inner: Scan, types: &[Type], used: &[ValueId]) -> Result<Scan> {
    let mut b = GraphBuilder::new("batch");
    let mut inputs: Vec<Option<ValueId>> = vec![];
    for ty in types.iter().cloned().chain(used.iter().map(|v| cx.ty(*v))) {
        inputs.push(Some(b.unnamed_input(ty)));
    }
    let results = b.node(inner, &inputs)?;
    for (i, r) in results.iter().enumerate() {
        b.output(&i.to_string(), *r)?;
    }
    Ok(Scan {
        body: Body(b.finish()?.into()),
        carried: 0,
        input_axes: vec![0; types.len()],
        input_reverse: vec![false; types.len()],
        output_axes: vec![0; results.len()],
        output_reverse: vec![false; results.len()],
    })
}

/// Runs a body for every element of a sequence: a loop that carries the sequences of results.
fn sequence_map(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let g = cx.graph("body")?;
    let operands = cx.all()?;
    let Some(&first) = operands.first() else { return LowerError::operand("operand 0 is missing") };
    let types: Vec<Type> = operands.iter().map(|v| cx.ty(*v)).collect();
    let element = |t: &Type| match t {
        Type::Sequence(t) => (**t).clone(),
        t => t.clone(),
    };
    let elements: Vec<Type> = types.iter().map(element).collect();
    let (mapped, used) = cx.body(g, "body", &elements, &[])?;
    let mut carried = vec![];
    for ty in results(&mapped) {
        let Some(t) = ty.as_tensor() else { return LowerError::operand("a mapped result must be a tensor") };
        carried.push(cx.op(SequenceEmpty { dtype: t.dtype }, &[])?);
    }
    let around: Vec<ValueId> = operands.iter().copied().chain(used).collect();

    let mut b = GraphBuilder::new("map");
    let trip = b.unnamed_input(Type::tensor(DType::I64, []));
    let go = b.unnamed_input(Type::tensor(DType::Bool, []));
    let unknown = |v: &ValueId| match cx.ty(*v) {
        Type::Sequence(t) => Type::Sequence(Box::new(
            t.as_tensor().map_or((*t).clone(), |t| TensorType::unranked(t.dtype).into()),
        )),
        t => t,
    };
    let lists: Vec<ValueId> = carried.iter().map(|v| b.unnamed_input(unknown(v))).collect();
    let outside: Vec<ValueId> = around.iter().map(|v| b.unnamed_input(cx.ty(*v))).collect();
    let mut arguments = vec![];
    for (i, v) in outside.iter().enumerate() {
        let each = matches!(types.get(i), Some(Type::Sequence(_)));
        arguments.push(if each { b.op(SequenceAt {}, &[*v, trip])? } else { *v });
    }
    let found = inline(&mut b, &mapped, &arguments)?;
    b.output("go", go)?;
    for (i, (list, v)) in lists.iter().zip(found).enumerate() {
        let longer = b.op(SequenceInsert {}, &[*list, v])?;
        b.output(&i.to_string(), longer)?;
    }
    let op = Loop { body: Body(b.finish()?.into()), carried: carried.len() };
    let count = cx.op(SequenceLength {}, &[first])?;
    let inputs: Vec<_> =
        [Some(count), None].into_iter().chain(carried.into_iter().chain(around).map(Some)).collect();
    let results = cx.node(op, &inputs)?;
    cx.set_all(&results);
    Ok(())
}

/// Adds the nodes of a body to a graph; returns its results.
fn inline(b: &mut GraphBuilder, body: &Body, arguments: &[ValueId]) -> Result<Vec<ValueId>> {
    let g = &body.0;
    let mut values: Vec<Option<ValueId>> = vec![None; g.value_capacity()];
    for (v, a) in g.inputs().iter().zip(arguments) {
        values[v.index()] = Some(*a);
    }
    for id in g.order() {
        let node = g.node(id);
        let inputs: Vec<_> = node.inputs.iter().map(|v| v.and_then(|v| values[v.index()])).collect();
        b.set_origin(node.origin.as_deref());
        let results = b.node(node.op.clone(), &inputs)?;
        for (v, r) in node.outputs.iter().zip(results) {
            values[v.index()] = Some(r);
        }
    }
    let value = |v: ValueId| values[v.index()];
    let found: Option<Vec<_>> = g.outputs().iter().map(|o| value(o.value)).collect();
    found.map_or_else(|| LowerError::operand("a body's result is not computed"), Ok)
}

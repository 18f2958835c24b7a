use crate::{
    EvalError,
    data::{axis, place},
    error::refuse,
    eval::Operands,
    interpret::run_graph,
    slice::{cut, join},
};
use tensormill_ir::{
    Graph, Op, TensorType, Type, ValueId,
    attr::Body,
    infer::{Fact, Inferred, infer},
    ops::{If, Loop, Scan},
};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn run(body: &Body, inputs: &[Value], x: &Operands<'_>) -> Result<Vec<Value>> {
    if let Some(bodies) = x.bodies {
        return bodies.run(&body.0, inputs, x.trips);
    }
    let wanted: Vec<ValueId> = body.0.outputs().iter().map(|o| o.value).collect();
    run_graph(&body.0, inputs, &wanted, x.limits, x.trips)
}

/// The one element of a condition.
fn truth(v: &Value) -> Result<bool> {
    match v.as_tensor()?.to_bool_vec()?.as_slice() {
        [b] => Ok(*b),
        other => refuse(format!("a condition of {} elements", other.len())),
    }
}

/// Operands from `from` to `to`, which must all be there.
fn values(x: &Operands<'_>, from: usize, to: usize) -> Result<Vec<Value>> {
    (from..to).map(|i| x.value(i).cloned()).collect()
}

pub(crate) fn branch(op: &If, x: &Operands<'_>) -> Result<Vec<Value>> {
    let middle = 1usize.saturating_add(op.then_inputs).min(x.len());
    if truth(x.value(0)?)? {
        run(&op.then_branch, &values(x, 1, middle)?, x)
    } else {
        run(&op.else_branch, &values(x, middle, x.len())?, x)
    }
}

/// Takes one iteration out of what the call may still use.
fn trip(x: &Operands<'_>) -> Result<()> {
    x.limits.check_cancel()?;
    match x.trips.get().checked_sub(1) {
        Some(left) => {
            x.trips.set(left);
            Ok(())
        }
        None => Err(EvalError::TooLong { limit: x.limits.max_trips }),
    }
}

/// The elements that one result gathers over the iterations.
struct Stack {
    parts: Vec<Tensor>,
    elements: usize,
}

impl Stack {
    fn new() -> Self {
        Stack { parts: vec![], elements: 0 }
    }

    fn push(&mut self, v: Value, x: &Operands<'_>) -> Result<()> {
        let t = v.into_tensor()?;
        self.elements = self.elements.saturating_add(t.len());
        x.limits.check(&Shape::from([self.elements]))?;
        self.parts.push(t);
        Ok(())
    }

    /// The parts along a new axis; `like` tells the type when there are none.
    fn finish(mut self, at: i64, reverse: bool, like: &Type, x: &Operands<'_>) -> Result<Value> {
        if reverse {
            self.parts.reverse();
        }
        let Some(first) = self.parts.first() else { return nothing(at, like) };
        let at = axis(at, first.shape().rank() + 1)?;
        let parts: Vec<Tensor> = self
            .parts
            .iter()
            .map(|p| {
                let mut dims = p.shape().to_vec();
                dims.insert(at.min(dims.len()), 1);
                p.reshape(dims)
            })
            .collect::<std::result::Result<_, _>>()?;
        let mut dims = parts[0].shape().to_vec();
        dims[at] = parts.len();
        x.limits.check(&dims)?;
        Ok(join(&parts.iter().collect::<Vec<_>>(), at)?.into())
    }
}

/// What an element stacked no times makes: sizes that only an iteration could tell are 0.
fn nothing(at: i64, like: &Type) -> Result<Value> {
    let Some(t) = like.as_tensor() else { return refuse(format!("only tensors are stacked, not {like}")) };
    let mut dims: Vec<usize> = match &t.dims {
        Some(d) => d.iter().map(|d| d.known().unwrap_or(0)).collect(),
        None => vec![],
    };
    dims.insert(axis(at, dims.len() + 1)?, 0);
    Ok(Tensor::zeros(t.dtype, dims)?.into())
}

/// What inference says of the results on these very operands: more than the body alone says.
fn inferred(op: Op, x: &Operands<'_>) -> Option<Vec<Inferred>> {
    let types: Vec<Option<Type>> = (0..x.len()).map(|i| x.opt(i).and_then(Type::of)).collect();
    let facts: Vec<Option<Fact<'_>>> =
        types.iter().map(|ty| Some(Fact { ty: ty.as_ref()?, elements: None, constant: None })).collect();
    Some(infer(&op, &facts).ok()?.into_vec())
}

fn output_type(g: &Graph, i: usize) -> Result<&Type> {
    match g.outputs().get(i) {
        Some(o) => Ok(g.ty(o.value)),
        None => refuse(format!("a body has no result {i}")),
    }
}

pub(crate) fn repeat(op: &Loop, x: &Operands<'_>) -> Result<Vec<Value>> {
    let most = match x.opt_tensor(0)? {
        None => None,
        Some(t) => match t.to_i64_vec()?.as_slice() {
            [n] => Some(*n),
            other => return refuse(format!("a trip count of {} elements", other.len())),
        },
    };
    let mut go = x.opt(1).map_or(Ok(true), truth)?;
    let first_capture = 2usize.saturating_add(op.carried).min(x.len());
    let mut carried = values(x, 2, first_capture)?;
    let captures = values(x, first_capture, x.len())?;
    let stacked = op.body.0.outputs().len().saturating_sub(1 + op.carried);
    let mut stacks: Vec<Stack> = (0..stacked).map(|_| Stack::new()).collect();
    let mut i = 0i64;
    while go && most.is_none_or(|m| i < m) {
        trip(x)?;
        let mut inputs = Vec::with_capacity(op.body.0.inputs().len());
        inputs.push(Tensor::scalar(i).into());
        inputs.push(Tensor::from_bools([], vec![go])?.into());
        inputs.append(&mut carried);
        inputs.extend(captures.iter().cloned());
        let mut results = run(&op.body, &inputs, x)?.into_iter();
        let next = results.next().map(|v| truth(&v)).transpose()?;
        // Without a condition to begin with, what the body says of going on is ignored.
        if x.opt(1).is_some() {
            go = next.unwrap_or(false);
        }
        carried = results.by_ref().take(op.carried).collect();
        for (stack, v) in stacks.iter_mut().zip(results) {
            stack.push(v, x)?;
        }
        i += 1;
    }
    let known = if i == 0 { inferred(op.clone().into(), x) } else { None };
    for (j, stack) in stacks.into_iter().enumerate() {
        if let Some(t) = known.as_ref().and_then(|k| k.get(op.carried + j)?.ty.as_tensor()?.dims.as_deref()) {
            let dims: Vec<usize> = t.iter().skip(1).map(|d| d.known().unwrap_or(0)).collect();
            let like = output_type(&op.body.0, 1 + op.carried + j)?;
            let like = like.as_tensor().map(|t| TensorType::new(t.dtype, dims.into_iter().map(Into::into)));
            carried.push(match like {
                Some(like) => stack.finish(0, false, &like.into(), x)?,
                None => return refuse("only tensors are stacked"),
            });
            continue;
        }
        carried.push(stack.finish(0, false, output_type(&op.body.0, 1 + op.carried + j)?, x)?);
    }
    Ok(carried)
}

/// One slice, without the axis.
fn at(t: &Tensor, axis: usize, i: usize) -> Result<Tensor> {
    let part = cut(t, axis, i, 1)?;
    let mut dims = part.shape().to_vec();
    dims.remove(axis);
    Ok(part.reshape(dims)?)
}

pub(crate) fn scan(op: &Scan, x: &Operands<'_>) -> Result<Vec<Value>> {
    let scanned = op.input_axes.len();
    let used = op.carried.saturating_add(scanned);
    if scanned == 0 || used > x.len() || op.input_reverse.len() != scanned {
        return refuse(format!("{} operands for {} carried, {scanned} scanned", x.len(), op.carried));
    }
    let tensors: Vec<(&Tensor, usize)> = (0..scanned)
        .map(|i| {
            let t = x.tensor(op.carried + i)?;
            Ok((t, axis(op.input_axes[i], t.shape().rank())?))
        })
        .collect::<Result<_>>()?;
    let length = tensors[0].0.shape()[tensors[0].1];
    if let Some((t, a)) = tensors.iter().find(|(t, a)| t.shape()[*a] != length) {
        return refuse(format!("scanned axes of sizes {length} and {}", t.shape()[*a]));
    }
    let mut carried = values(x, 0, op.carried)?;
    let captures = values(x, used, x.len())?;
    let mut stacks: Vec<Stack> = op.output_axes.iter().map(|_| Stack::new()).collect();
    for i in 0..length {
        trip(x)?;
        let mut inputs = std::mem::take(&mut carried);
        for ((t, a), reverse) in tensors.iter().zip(&op.input_reverse) {
            let i = if *reverse { -1 - i as i64 } else { i as i64 };
            inputs.push(at(t, *a, place(i, length)?)?.into());
        }
        inputs.extend(captures.iter().cloned());
        let mut results = run(&op.body, &inputs, x)?.into_iter();
        carried = results.by_ref().take(op.carried).collect();
        for (stack, v) in stacks.iter_mut().zip(results) {
            stack.push(v, x)?;
        }
    }
    for (j, stack) in stacks.into_iter().enumerate() {
        let reverse = op.output_reverse.get(j).copied().unwrap_or(false);
        let like = output_type(&op.body.0, op.carried + j)?;
        carried.push(stack.finish(op.output_axes[j], reverse, like, x)?);
    }
    Ok(carried)
}

use super::OpDef;
use crate::{
    attr::Body,
    dim::Dim,
    error::InferError,
    infer::{InferCx, axis, infer_body, refuse},
    op_attrs,
    types::{TensorType, Type},
};
use std::cell::Cell;
use tensormill_tensor::DType;

/// Control flow within control flow that inference follows with the operands' own types; from there on
/// the types that bodies already have stand, so that the work does not multiply with every level.
const MAX_DEPTH: u32 = 3;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The types of a body's outputs for operands of these types.
fn outputs(body: &Body, given: &[Type]) -> Result<Vec<Type>, InferError> {
    let g = &body.0;
    if g.inputs().len() != given.len() {
        return refuse(format!("a body takes {} operands, got {}", g.inputs().len(), given.len()));
    }
    let own = |i: usize| g.ty(g.inputs()[i]);
    if let Some(i) = (0..given.len()).find(|&i| given[i].meet(own(i)).is_none()) {
        return refuse(format!("a body's input {i} is {}, not {}", own(i), given[i]));
    }
    let known = (0..given.len()).all(|i| given[i] == *own(i));
    if known || DEPTH.get() >= MAX_DEPTH {
        return Ok(g.outputs().iter().map(|o| g.ty(o.value).clone()).collect());
    }
    DEPTH.set(DEPTH.get() + 1);
    let types = infer_body(g, given);
    DEPTH.set(DEPTH.get() - 1);
    types
}

/// The types of the operands from `from` on, which must all be there.
fn types(cx: &InferCx<'_>, from: usize) -> Result<Vec<Type>, InferError> {
    (from..cx.len()).map(|i| cx.fact(i).map(|f| f.ty.clone())).collect()
}

/// A condition or count: one element.
fn single(cx: &InferCx<'_>, i: usize, dtype: DType) -> Result<(), InferError> {
    let t = cx.typed(i, dtype)?;
    match t.numel().and_then(|n| n.as_const()) {
        Some(1) | None => Ok(()),
        Some(n) => refuse(format!("operand {i} must have one element, not {n}")),
    }
}

op_attrs! {
    /// The results of one of two bodies. Operands: condition (one bool), what the first body uses of the
    /// values around it, what the second uses.
    If {
        /// Runs where the condition holds.
        then_branch: Body = Body::default(),
        /// Runs where it does not.
        else_branch: Body = Body::default(),
        /// Number of operands for the first body.
        then_inputs: usize = 0,
    }
}

impl OpDef for If {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        single(cx, 0, DType::Bool)?;
        let captures = types(cx, 1)?;
        let Some((first, second)) = captures.split_at_checked(self.then_inputs) else {
            return refuse(format!("{} operands for the first body of {}", self.then_inputs, captures.len()));
        };
        let (a, b) = (outputs(&self.then_branch, first)?, outputs(&self.else_branch, second)?);
        if a.len() != b.len() {
            return refuse(format!("the bodies have {} and {} results", a.len(), b.len()));
        }
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            match a.join(b) {
                Some(t) => cx.output(t),
                None => return refuse(format!("result {i} is {a} in one body and {b} in the other")),
            }
        }
        Ok(())
    }
}

/// The type that a value carried from one iteration to the next has in all of them.
///
/// # Errors
/// When it changes its kind or element type.
pub fn carried_type(before: &Type, after: &Type) -> Result<Type, InferError> {
    before.join(after).ok_or_else(|| {
        InferError::new(format!("a carried value is {before} before a step and {after} after"))
    })
}

/// The same with nothing known of ranks and sizes.
fn unranked(t: &Type) -> Type {
    match t {
        Type::Tensor(t) => TensorType::unranked(t.dtype).into(),
        Type::Sequence(t) => Type::Sequence(Box::new(unranked(t))),
        Type::Optional(t) => Type::Optional(Box::new(unranked(t))),
    }
}

/// Widens the types of carried values until a step keeps them. `step` gives the types of all results of
/// a body for those of its carried inputs; what is returned holds before and after every step.
///
/// # Errors
/// What `step` refuses, and values that change their kind or element type.
pub fn fixed_point<E: From<InferError>>(
    carried: &[Type],
    step: &mut dyn FnMut(&[Type]) -> Result<Vec<Type>, E>,
) -> Result<(Vec<Type>, Vec<Type>), E> {
    let mut types = carried.to_vec();
    for round in 0..3 {
        let results = step(&types)?;
        if results.len() < types.len() {
            return Err(InferError::new("a body has fewer results than carried values").into());
        }
        let mut wider = Vec::with_capacity(types.len());
        for (before, after) in types.iter().zip(&results) {
            let joined = carried_type(before, after)?;
            // A second change means that sizes are not all that changes.
            wider.push(if round > 0 && joined != *before { unranked(before) } else { joined });
        }
        if wider == types {
            return Ok((types, results));
        }
        types = wider;
    }
    // Widening what changed twice may have changed another value for the first time.
    types = types.iter().map(unranked).collect();
    let results = step(&types)?;
    for (before, after) in types.iter().zip(&results) {
        carried_type(before, after)?;
    }
    Ok((types, results))
}

op_attrs! {
    /// A body run again and again. Operands: most trips (one i64, optional), condition to begin (one bool,
    /// optional), carried values, what the body uses of the values around it.
    ///
    /// The body's inputs: the trip's number (i64 scalar), the condition (bool scalar), carried values, the
    /// used values; its results: whether to go on, carried values, and elements of results that are
    /// stacked along a new first axis. The results: carried values after the last trip, stacked elements.
    Loop {
        /// What runs in a trip.
        body: Body = Body::default(),
        /// Number of carried values.
        carried: usize = 0,
    }
}

impl OpDef for Loop {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        for (i, dtype) in [DType::I64, DType::Bool].into_iter().enumerate() {
            if cx.opt(i).is_some() {
                single(cx, i, dtype)?;
            }
        }
        let rest = types(cx, 2)?;
        let Some((carried, captures)) = rest.split_at_checked(self.carried) else {
            return refuse(format!("{} operands for {} carried values", rest.len(), self.carried));
        };
        let own = [Type::tensor(DType::I64, []), Type::tensor(DType::Bool, [])];
        let (kept, results) = fixed_point(carried, &mut |types: &[Type]| {
            let given = [&own[..], types, captures].concat();
            let mut out = outputs(&self.body, &given)?;
            if out.is_empty() {
                return refuse("a loop's body must say whether to go on");
            }
            match out.remove(0) {
                Type::Tensor(t) if t.dtype == DType::Bool => Ok(out),
                t => refuse(format!("a loop's condition must be bool, not {t}")),
            }
        })?;
        for t in kept {
            cx.output(t);
        }
        for element in &results[self.carried..] {
            cx.output(stacked(element, 0, Dim::Unknown)?);
        }
        Ok(())
    }
}

/// The type of elements stacked along a new axis.
fn stacked(element: &Type, at: i64, size: Dim) -> Result<TensorType, InferError> {
    let Some(t) = element.as_tensor() else {
        return refuse(format!("only tensors are stacked, not {element}"));
    };
    let mut dims = t.dims.clone();
    if let Some(d) = &mut dims {
        d.insert(axis(at, d.len() + 1)?, size);
    }
    Ok(TensorType { dtype: t.dtype, dims })
}

op_attrs! {
    /// A body run once for every slice of some tensors. Operands: carried values, the tensors, what the body
    /// uses of the values around it.
    ///
    /// The body's inputs: carried values, one slice of each tensor, the used values; its results: carried
    /// values, and elements of results that are stacked. The results: carried values after the last
    /// slice, stacked elements.
    Scan {
        /// What runs for a slice.
        body: Body = Body::default(),
        /// Number of carried values.
        carried: usize = 0,
        /// The axis that each tensor is sliced along; their number is that of the tensors.
        input_axes: Vec<i64> = vec![],
        /// Tensors that are sliced from the end.
        input_reverse: Vec<bool> = vec![],
        /// The axis that each result is stacked along; their number is that of the stacked results.
        output_axes: Vec<i64> = vec![],
        /// Results that are stacked from the end.
        output_reverse: Vec<bool> = vec![],
    }
}

impl OpDef for Scan {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let all = types(cx, 0)?;
        let scanned = self.input_axes.len();
        let used = self.carried.checked_add(scanned).filter(|n| *n <= all.len());
        let (Some(used), true) = (used, scanned > 0) else {
            return refuse(format!("{} operands for {} carried, {scanned} scanned", all.len(), self.carried));
        };
        if self.input_reverse.len() != scanned || self.output_reverse.len() != self.output_axes.len() {
            return refuse("axes and directions must be as many");
        }
        let mut length = Dim::Unknown;
        let mut slices = Vec::with_capacity(scanned);
        for (t, &a) in all[self.carried..used].iter().zip(&self.input_axes) {
            let Some(t) = t.as_tensor() else { return refuse(format!("only tensors are scanned, not {t}")) };
            let mut dims = t.dims.clone();
            if let Some(d) = &mut dims {
                let size = d.remove(axis(a, d.len())?);
                if let (Some(m), Some(n)) = (length.known(), size.known())
                    && m != n
                {
                    return refuse(format!("scanned axes of sizes {m} and {n}"));
                }
                if length.known().is_none() && size != Dim::Unknown {
                    length = size;
                }
            }
            slices.push(Type::from(TensorType { dtype: t.dtype, dims }));
        }
        let (kept, results) = fixed_point(&all[..self.carried], &mut |types: &[Type]| {
            outputs(&self.body, &[types, &slices, &all[used..]].concat())
        })?;
        if results.len() - self.carried != self.output_axes.len() {
            return refuse(format!("{} results for {} axes", results.len(), self.output_axes.len()));
        }
        for t in kept {
            cx.output(t);
        }
        for (element, &a) in results[self.carried..].iter().zip(&self.output_axes) {
            cx.output(stacked(element, a, length.clone())?);
        }
        Ok(())
    }
}

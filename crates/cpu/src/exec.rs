//! Running one op on tensors of its own: by a native kernel prepared on the spot, else by the reference.

use crate::native::{Call, Fail, Known, Prep, View, Weights, prepare};
use crate::order::Order;
use smallvec::SmallVec;
use tensormill_ir::infer::{self, Fact, MAX_ELEMENTS};
use tensormill_ir::{Expr, Type, ops::Op};
use tensormill_kernels::threads::Pool;
use tensormill_reference::{EvalError, EvalLimits};
use tensormill_tensor::{ALIGNMENT, DType, Shape, Tensor, Value};

/// What one op runs with.
pub(crate) struct Surroundings<'a> {
    pub pool: &'a Pool,
    pub weights: &'a Weights,
    pub node: Option<usize>,
    /// Which operands are the same in every run.
    pub constant: &'a dyn Fn(usize) -> bool,
    pub limits: &'a EvalLimits<'a>,
}

/// Operands up to this size are looked at when a kernel is prepared: axes, places, bounds.
const LOOKED_AT: usize = 1024;

/// The results of an op, with the kernel's name where there was one.
pub(crate) fn on_values(
    op: &Op,
    ins: &[Option<&Value>],
    s: &Surroundings<'_>,
) -> Result<(Vec<Value>, Option<&'static str>), EvalError> {
    if let Some(done) = natively(op, ins, s) {
        let (outs, name) = done.map_err(|f| EvalError::Operand(f.0))?;
        return Ok((outs, Some(name)));
    }
    tensormill_reference::eval(op, ins, s.limits).map(|v| (v, None))
}

/// Whether the op's meaning is only how its operand is seen, which the reference does without a copy.
pub(crate) fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::BitCast(_) | Op::ShapeOf(_)
    )
}

/// `None` when no kernel fits.
fn natively(
    op: &Op,
    ins: &[Option<&Value>],
    s: &Surroundings<'_>,
) -> Option<Result<(Vec<Value>, &'static str), Fail>> {
    if is_view(op) {
        return None;
    }
    let tensors: SmallVec<[Option<Tensor>; 4]> = ins
        .iter()
        .map(|v| match v {
            None => Some(None),
            Some(Value::Tensor(t)) => Some(Some(aligned(t))),
            Some(_) => None,
        })
        .collect::<Option<_>>()?;
    let outs = result_types(op, &tensors)?;
    for (_, shape) in &outs {
        shape.checked_numel().filter(|n| *n <= s.limits.max_elements)?;
    }
    let known: SmallVec<[Option<Known<'_>>; 4]> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.as_ref().map(|t| Known {
                dtype: t.dtype(),
                shape: t.shape(),
                constant: (s.constant)(i).then_some(t),
                known: (t.len() <= LOOKED_AT).then_some(t),
                strides: None,
                order: Order::Plain,
            })
        })
        .collect();
    let prep = Prep {
        op,
        ins: &known,
        outs: &outs,
        pool: s.pool,
        weights: s.weights,
        beside: &[],
        node: s.node,
        fewer_multiplications: false,
        tuner: None,
    };
    let native = prepare(&prep).ok()?;
    let mut results = SmallVec::<[Tensor; 1]>::new();
    for (dtype, shape) in &outs {
        match Tensor::zeros(*dtype, shape) {
            Ok(t) => results.push(t),
            Err(e) => return Some(Err(e.into())),
        }
    }
    let views: SmallVec<[Option<View<'_>>; 4]> =
        tensors.iter().map(|t| t.as_ref().map(|t| View { bytes: t.bytes(), pitch: None })).collect();
    let done = {
        let mut bytes: SmallVec<[&mut [u8]; 1]> =
            results.iter_mut().map(|t| t.bytes_mut().unwrap_or_default()).collect();
        let (pool, outs) = (s.pool, &mut bytes[..]);
        (native.run)(&mut Call { pool, ins: &views, outs, in_place: false, out_pitch: None })
    };
    Some(done.map(|()| (results.into_iter().map(Value::Tensor).collect(), native.name)))
}

/// The types of the results for these very operands, if all are tensors of known sizes.
fn result_types(op: &Op, tensors: &[Option<Tensor>]) -> Option<SmallVec<[(DType, Shape); 1]>> {
    let types: SmallVec<[Option<(Type, Option<Vec<Expr>>)>; 4]> = tensors
        .iter()
        .map(|t| {
            let t = t.as_ref()?;
            let small = t.len() <= MAX_ELEMENTS;
            let elements = small
                .then(|| infer::int_elements(t))
                .flatten()
                .map(|v| v.into_iter().map(Expr::constant).collect());
            Some((Type::Tensor(tensormill_ir::TensorType::of(t)), elements))
        })
        .collect();
    let facts: SmallVec<[Option<Fact<'_>>; 4]> = types
        .iter()
        .zip(tensors)
        .map(|(ty, t)| {
            let (ty, elements) = ty.as_ref()?;
            Some(Fact { ty, elements: elements.as_deref(), constant: t.as_ref() })
        })
        .collect();
    let inferred = infer::infer(op, &facts).ok()?;
    inferred
        .iter()
        .map(|i| {
            let t = i.ty.as_tensor()?;
            Some((t.dtype, t.static_shape()?))
        })
        .collect()
}

/// The same tensor at an address that every element type accepts.
pub(crate) fn aligned(t: &Tensor) -> Tensor {
    let size = t.dtype().size().unwrap_or(1).min(ALIGNMENT);
    if (t.bytes().as_ptr() as usize).is_multiple_of(size) { t.clone() } else { t.to_owned_aligned() }
}

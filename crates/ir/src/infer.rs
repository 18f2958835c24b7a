//! Types of results from types of operands, for one op and for a whole graph.
//!
//! The same code serves three callers: the builder (symbolic sizes), patches (checking), and a plan
//! that binds a run's sizes (every dim a number). Small integer tensors are followed element by
//! element as expressions, so that `Shape -> Gather -> Concat -> Reshape` chains keep their sizes.

use crate::{
    dim::{Dim, Expr},
    error::{InferError, IrError},
    graph::{Def, Graph, ValueId},
    ops::Op,
    types::{Dims, TensorType, Type},
};
use smallvec::SmallVec;
use tensormill_tensor::{DType, Tensor};

/// Longest integer tensor whose elements are followed.
pub const MAX_ELEMENTS: usize = 256;

/// What is known of an operand.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// Its type.
    pub ty: &'a Type,
    /// Its elements, row-major, for small integer tensors that are known.
    pub elements: Option<&'a [Expr]>,
    /// The tensor, if it is a constant.
    pub constant: Option<&'a Tensor>,
}

/// What is known of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Inferred {
    /// Its type.
    pub ty: Type,
    /// Its elements, for small integer tensors that are known.
    pub elements: Option<Vec<Expr>>,
}

/// The operands of one op, and the results as its inference declares them.
#[derive(Debug)]
pub struct InferCx<'a> {
    inputs: &'a [Option<Fact<'a>>],
    outputs: SmallVec<[Inferred; 1]>,
}

/// Shorthand for a typed refusal.
pub fn refuse<T>(what: impl Into<String>) -> Result<T, InferError> {
    Err(InferError::new(what))
}

impl<'a> InferCx<'a> {
    /// Number of operand places, given or left out.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no operand places.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Checks the number of operand places.
    pub fn arity(&self, range: std::ops::RangeInclusive<usize>) -> Result<(), InferError> {
        if range.contains(&self.inputs.len()) {
            return Ok(());
        }
        refuse(format!("takes {range:?} operands, got {}", self.inputs.len()))
    }

    /// An operand that may be left out.
    pub fn opt(&self, i: usize) -> Option<Fact<'a>> {
        self.inputs.get(i).copied().flatten()
    }

    /// An operand that must be there.
    pub fn fact(&self, i: usize) -> Result<Fact<'a>, InferError> {
        self.opt(i).ok_or_else(|| InferError::new(format!("operand {i} is missing")))
    }

    /// A tensor operand that must be there.
    pub fn tensor(&self, i: usize) -> Result<&'a TensorType, InferError> {
        let ty = self.fact(i)?.ty;
        ty.as_tensor().ok_or_else(|| InferError::new(format!("operand {i} must be a tensor, not {ty}")))
    }

    /// A tensor operand that may be left out.
    pub fn opt_tensor(&self, i: usize) -> Result<Option<&'a TensorType>, InferError> {
        if self.opt(i).is_some() { self.tensor(i).map(Some) } else { Ok(None) }
    }

    /// A tensor operand of a given dtype.
    pub fn typed(&self, i: usize, dtype: DType) -> Result<&'a TensorType, InferError> {
        let t = self.tensor(i)?;
        if t.dtype == dtype { Ok(t) } else { refuse(format!("operand {i} must be {dtype}, not {}", t.dtype)) }
    }

    /// The elements of an integer operand, when they are known.
    pub fn elements(&self, i: usize) -> Option<&'a [Expr]> {
        self.opt(i)?.elements
    }

    /// The elements of an integer operand, when all are known numbers.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        let fact = self.opt(i)?;
        match fact.elements {
            Some(e) => e.iter().map(Expr::as_const).collect(),
            None => int_elements(fact.constant?),
        }
    }

    /// Declares the next result.
    pub fn output(&mut self, ty: impl Into<Type>) {
        self.outputs.push(Inferred { ty: ty.into(), elements: None });
    }

    /// Declares the next result, an integer tensor whose elements may be known. Those that the dtype
    /// does not hold, as the run's would wrap, are forgotten.
    pub fn output_elements(&mut self, ty: TensorType, elements: Option<Vec<Expr>>) {
        let fits = |e: &Vec<Expr>| {
            e.len() <= MAX_ELEMENTS
                && ty.numel().and_then(|n| n.as_const()) == Some(e.len() as i64)
                && e.iter().all(|e| holds(ty.dtype, e))
        };
        let elements = elements.filter(fits);
        self.outputs.push(Inferred { ty: ty.into(), elements });
    }
}

/// Whether an element that exact arithmetic yields is what a run has. Sizes fit in 32 bits.
fn holds(dtype: DType, e: &Expr) -> bool {
    let Some(n) = e.as_const() else { return matches!(dtype, DType::I64 | DType::I32) };
    let bits = dtype.bits() as u32;
    match dtype {
        DType::Bool => n == 0 || n == 1,
        d if d.is_unsigned_int() => n >= 0 && (bits >= 63 || n >> bits == 0),
        _ => bits >= 64 || n >> (bits - 1) == 0 || n >> (bits - 1) == -1,
    }
}

/// An axis in `0..rank` from one that may count from the end.
pub fn axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let r = rank as i64;
    if (-r..r).contains(&axis) {
        return Ok(if axis < 0 { axis + r } else { axis } as usize);
    }
    refuse(format!("axis {axis} is out of range for rank {rank}"))
}

/// Distinct axes in `0..rank`, in the order given.
pub fn axes(given: &[i64], rank: usize) -> Result<SmallVec<[usize; 4]>, InferError> {
    let mut out: SmallVec<[usize; 4]> = SmallVec::new();
    for &a in given {
        let a = axis(a, rank)?;
        if out.contains(&a) {
            return refuse(format!("axis {a} is given twice"));
        }
        out.push(a);
    }
    Ok(out)
}

/// The dims of numpy-style broadcasting of both.
pub fn broadcast(a: Option<&Dims>, b: Option<&Dims>) -> Result<Option<Dims>, InferError> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let rank = a.len().max(b.len());
    let at = |d: &Dims, i: usize| (i + d.len()).checked_sub(rank).map_or(Dim::Known(1), |i| d[i].clone());
    let mut out = Dims::with_capacity(rank);
    for i in 0..rank {
        out.push(match (at(a, i), at(b, i)) {
            (x, y) if x.same(&y) => x,
            (Dim::Known(1), y) => y,
            (x, Dim::Known(1)) => x,
            (Dim::Known(m), Dim::Known(n)) => return refuse(format!("sizes {m} and {n} do not broadcast")),
            // The other must be 1 or the same number, or the run fails.
            (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(n),
            (Dim::Sym(x), Dim::Sym(y)) if y.is_cut_of(&x) => Dim::Sym(x),
            (Dim::Sym(x), Dim::Sym(y)) if x.is_cut_of(&y) => Dim::Sym(y),
            _ => Dim::Unknown,
        });
    }
    Ok(Some(out))
}

/// The elements of a small integer or bool tensor.
pub fn int_elements(t: &Tensor) -> Option<Vec<i64>> {
    if t.len() > 65_536 || !(t.dtype().is_int() || t.dtype() == DType::Bool) {
        return None;
    }
    t.to_i64_vec().ok()
}

/// The results of an op on these operands.
///
/// # Errors
/// When the op refuses them; the error ends with the operands' types.
pub fn infer(op: &Op, inputs: &[Option<Fact<'_>>]) -> Result<SmallVec<[Inferred; 1]>, InferError> {
    let mut cx = InferCx { inputs, outputs: SmallVec::new() };
    match op.infer(&mut cx) {
        Ok(()) => Ok(cx.outputs),
        Err(InferError(what)) => {
            // Names of sizes come from files, and may be of any length.
            let shown = |f: &Fact<'_>| f.ty.to_string().chars().take(200).collect();
            let types: Vec<String> =
                inputs.iter().take(32).map(|f| f.as_ref().map_or_else(|| "_".to_string(), shown)).collect();
            refuse(format!("{what}; operands ({})", types.join(", ")))
        }
    }
}

/// Every value's type and elements when the inputs have these types: what a plan does with the sizes
/// of a run. Entries are indexed by [`ValueId::index`]; those of removed values are `None`.
///
/// # Errors
/// [`IrError::Infer`] of the first node that refuses its operands.
pub fn infer_graph(g: &Graph, inputs: &[Inferred]) -> Result<Vec<Option<Inferred>>, IrError> {
    let mut facts: Vec<Option<Inferred>> = vec![None; g.value_capacity()];
    for (&v, given) in g.inputs().iter().zip(inputs) {
        facts[v.index()] = Some(given.clone());
    }
    for id in g.order() {
        let node = g.node(id);
        let outputs = {
            let operands: SmallVec<[Option<Fact<'_>>; 4]> = node
                .inputs
                .iter()
                .map(|v| {
                    let v = (*v)?;
                    let f = facts[v.index()].as_ref()?;
                    Some(Fact { ty: &f.ty, elements: f.elements.as_deref(), constant: g.constant(v) })
                })
                .collect();
            infer(&node.op, &operands).map_err(|what| IrError::Infer {
                node: node.origin.as_deref().map(str::to_owned),
                op: node.op.name(),
                what,
            })?
        };
        for (&v, out) in node.outputs.iter().zip(outputs) {
            facts[v.index()] = Some(out);
        }
    }
    Ok(facts)
}

/// The types of a body's outputs when its inputs have these types.
///
/// # Errors
/// As [`infer_graph`], as text that the op around it can wrap.
pub fn infer_body(body: &Graph, inputs: &[Type]) -> Result<Vec<Type>, InferError> {
    if inputs.len() != body.inputs().len() {
        return refuse(format!("a body takes {} operands, got {}", body.inputs().len(), inputs.len()));
    }
    let given: Vec<Inferred> = inputs.iter().map(|ty| Inferred { ty: ty.clone(), elements: None }).collect();
    let facts = infer_graph(body, &given).map_err(|e| InferError::new(format!("in a body: {e}")))?;
    let ty = |v: ValueId| facts[v.index()].as_ref().map(|f| f.ty.clone());
    body.outputs()
        .iter()
        .map(|o| ty(o.value).ok_or_else(|| InferError::new("a body's output has no type")))
        .collect()
}

impl Graph {
    /// Infers every type again and keeps what has become known since: sizes behind operands that a
    /// rewrite turned into constants. Returns how many values gained.
    ///
    /// # Errors
    /// [`IrError::Infer`] of the first node that refuses its operands; what came before it is kept.
    pub fn refine_types(&mut self) -> Result<usize, IrError> {
        let mut gained = 0;
        for id in self.order() {
            let inferred = {
                let node = self.node(id);
                let facts: SmallVec<[Option<Fact<'_>>; 4]> =
                    node.inputs.iter().map(|v| v.map(|v| self.fact(v))).collect();
                infer(&node.op, &facts).map_err(|what| IrError::Infer {
                    node: node.origin.as_deref().map(str::to_owned),
                    op: node.op.name(),
                    what,
                })?
            };
            for (v, new) in self.node(id).outputs.clone().into_iter().zip(inferred) {
                let info = self.value_mut(v);
                let mut better = false;
                if let Some(met) = info.ty.meet(&new.ty)
                    && met != info.ty
                {
                    info.ty = met;
                    better = true;
                }
                if info.elements.is_none() && new.elements.is_some() {
                    info.elements = new.elements.map(Into::into);
                    better = true;
                }
                gained += usize::from(better);
            }
        }
        Ok(gained)
    }

    /// What is known of an input before any run.
    pub fn input_fact(&self, id: ValueId) -> Inferred {
        debug_assert!(matches!(self.value(id).def, Def::Input(_)));
        Inferred { ty: self.ty(id).clone(), elements: None }
    }
}

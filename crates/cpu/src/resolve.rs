//! Branches that the sizes of a run decide: exporters spell a check of ranks or sizes as an `If`, whose
//! condition is known once the inputs' sizes are. The graph with the taken bodies in place of such nodes has
//! sizes everywhere, and kernels that are prepared before the run.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tensormill_ir::infer::Inferred;
use tensormill_ir::{Expr, Graph, GraphBuilder, IrError, Node, ValueId, ops::Op};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{Tensor, Value};

/// Bodies further inside are left to run time.
const DEEPEST: usize = 32;

/// Values of more elements are not computed to decide a branch.
const SMALL: usize = 64;

/// Whether the first body is taken, for the conditions that are known, in the order in which they are met.
pub(crate) type Decisions = Vec<Option<bool>>;

/// Whether any node of the graph is a branch.
pub(crate) fn has_branches(g: &Graph) -> bool {
    g.nodes().any(|(_, n)| matches!(n.op, Op::If(_)))
}

/// What inputs of these types decide; `None` when that is nothing.
pub(crate) fn decide(g: &Graph, wanted: &[ValueId], inputs: &[Inferred]) -> Option<Decisions> {
    let mut walk =
        Walk { b: GraphBuilder::new("sizes"), known: Some(FxHashMap::default()), made: vec![], at: 0 };
    walk.graph(g, wanted, |_, i| inputs.get(i).map(|f| f.ty.clone())).ok()?;
    walk.made.iter().any(Option::is_some).then_some(walk.made)
}

/// The graph with the bodies that were decided on in place of their nodes. Its outputs are those wanted.
pub(crate) fn taken(g: &Graph, wanted: &[ValueId], decisions: &Decisions) -> Result<Graph, IrError> {
    let b = GraphBuilder::new(g.name());
    let mut walk = Walk { b, known: None, made: decisions.clone(), at: 0 };
    let outputs = walk.graph(g, wanted, |v, _| Some(g.ty(v).clone()))?;
    let mut b = walk.b;
    for (i, v) in outputs.into_iter().enumerate() {
        b.output(&format!("output{i}"), v)?;
    }
    b.finish()
}

/// Copies nodes into a new graph; bodies of known conditions where their node was.
struct Walk {
    b: GraphBuilder,
    /// Small values that the inputs' sizes determine; `None` while following decisions made before.
    known: Option<FxHashMap<ValueId, Tensor>>,
    made: Decisions,
    /// How many conditions were met.
    at: usize,
}

/// The new ids of a graph's values.
type New = Vec<Option<ValueId>>;

impl Walk {
    fn graph(
        &mut self,
        g: &Graph,
        wanted: &[ValueId],
        ty: impl Fn(ValueId, usize) -> Option<tensormill_ir::Type>,
    ) -> Result<Vec<ValueId>, IrError> {
        let mut inputs = vec![];
        for (i, &v) in g.inputs().iter().enumerate() {
            let ty = ty(v, i).ok_or_else(|| IrError::Verify("an input has no type".into()))?;
            inputs.push(self.b.unnamed_input(ty));
        }
        self.copy(g, &inputs, wanted, 0)
    }

    /// Copies a graph whose inputs are these values; returns the wanted ones.
    fn copy(
        &mut self,
        g: &Graph,
        inputs: &[ValueId],
        wanted: &[ValueId],
        depth: usize,
    ) -> Result<Vec<ValueId>, IrError> {
        let lost = || IrError::Verify("a value is used before it is made".into());
        let mut new: New = vec![None; g.value_capacity()];
        for (&v, &given) in g.inputs().iter().zip(inputs) {
            new[v.index()] = Some(given);
        }
        for id in g.order() {
            let node = g.node(id);
            let mut ins: SmallVec<[Option<ValueId>; 4]> = SmallVec::new();
            for v in &node.inputs {
                ins.push(v.map(|v| new[v.index()].ok_or_else(lost)).transpose()?);
            }
            let outs = match self.body(node, &ins, depth)? {
                Some((body, captures)) => {
                    let wanted: Vec<ValueId> = body.outputs().iter().map(|o| o.value).collect();
                    self.copy(body, &captures, &wanted, depth + 1)?
                }
                None => self.node(g, node, &ins, depth)?,
            };
            for (v, made) in node.outputs.iter().zip(outs) {
                new[v.index()] = Some(made);
            }
        }
        wanted.iter().map(|v| new[v.index()].ok_or_else(lost)).collect()
    }

    /// The body that a branch takes, with its operands, if its condition is known.
    fn body<'g>(
        &mut self,
        node: &'g Node,
        ins: &[Option<ValueId>],
        depth: usize,
    ) -> Result<Option<(&'g Graph, Vec<ValueId>)>, IrError> {
        let Op::If(op) = &node.op else { return Ok(None) };
        if depth >= DEEPEST {
            return Ok(None);
        }
        if self.known.is_some() {
            let condition = ins.first().copied().flatten().and_then(|v| self.tensor(v));
            let truth = condition.and_then(|t| match t.to_bool_vec().ok()?[..] {
                [truth] => Some(truth),
                _ => None,
            });
            self.made.push(truth);
        }
        let decided = self.made.get(self.at).copied().flatten();
        self.at += 1;
        let Some(truth) = decided else { return Ok(None) };
        let middle = op.then_inputs.saturating_add(1).min(ins.len());
        let (body, captures) = match truth {
            true => (&op.then_branch.0, &ins[1..middle]),
            false => (&op.else_branch.0, &ins[middle..]),
        };
        let missing = || IrError::Verify("a body's operand is missing".into());
        let captures = captures.iter().map(|v| v.ok_or_else(missing)).collect::<Result<Vec<_>, _>>()?;
        if captures.len() != body.inputs().len() {
            return Err(missing());
        }
        Ok(Some((body, captures)))
    }

    fn node(
        &mut self,
        g: &Graph,
        node: &Node,
        ins: &[Option<ValueId>],
        depth: usize,
    ) -> Result<Vec<ValueId>, IrError> {
        self.b.set_origin(node.origin.as_deref());
        let outs = self.b.node(node.op.clone(), ins)?;
        if self.known.is_some() {
            self.compute(node, ins, &outs);
        }
        for (old, &v) in node.outputs.iter().zip(&outs) {
            // What the file says of a type may be more than is inferred, but symbols of bodies are their own.
            // Names are for reports.
            if depth == 0 && self.known.is_none() {
                let _ = self.b.refine(v, g.ty(*old));
                if let Some(name) = &g.value(*old).name {
                    let _ = self.b.name(v, name);
                }
            }
        }
        Ok(outs.into_iter().collect())
    }

    /// The elements of a small value, if they are known.
    fn tensor(&self, v: ValueId) -> Option<Tensor> {
        if let Some(t) = self.known.as_ref()?.get(&v) {
            return Some(t.clone());
        }
        let g = self.b.graph();
        if let Some(t) = g.constant(v) {
            return (t.len() <= SMALL).then(|| t.clone());
        }
        let elements: Vec<i64> =
            g.value(v).elements.as_ref()?.iter().map(Expr::as_const).collect::<Option<_>>()?;
        let ty = g.ty(v).as_tensor()?;
        Tensor::from_i64s(ty.dtype, ty.static_shape()?, elements).ok()
    }

    /// Notes the results of a node on known operands.
    fn compute(&mut self, node: &Node, ins: &[Option<ValueId>], outs: &[ValueId]) {
        let small = |v: &ValueId| {
            let shape = self.b.graph().ty(*v).as_tensor().and_then(|t| t.static_shape());
            shape.and_then(|s| s.checked_numel()).is_some_and(|n| n <= SMALL)
        };
        let plain = node.op.bodies().is_empty() && !node.op.is_random() && !ins.is_empty();
        if !plain || matches!(node.op, Op::Const(_)) || !outs.iter().all(small) {
            return;
        }
        let operands: Option<Vec<Option<Value>>> =
            ins.iter().map(|v| v.map_or(Some(None), |v| Some(Some(self.tensor(v)?.into())))).collect();
        let Some(operands) = operands else { return };
        let operands: Vec<Option<&Value>> = operands.iter().map(Option::as_ref).collect();
        let limits = EvalLimits { max_elements: SMALL, ..EvalLimits::default() };
        // Errors wait for the run, which may never get there.
        let Ok(found) = eval(&node.op, &operands, &limits) else { return };
        for (v, found) in outs.iter().zip(found) {
            if let (Value::Tensor(t), Some(known)) = (found, &mut self.known) {
                known.insert(*v, t);
            }
        }
    }
}

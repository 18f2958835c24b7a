//! From a plan and the types of a run's inputs to a layout: what is computed now, what only looks at
//! other values, which kernel runs what is left, and where everything lies.

mod blocks;
mod chains;
mod channels_last;
mod embed;
mod joins;

use crate::exec::{self, Surroundings, aligned};
use crate::layout::{Act, Base, Blocks, Hot, Kernel, Layout, Pitches, Place, Step, Typed, Work, plain};
use crate::native::{Known, Native, Prep, prepare};
use crate::order::Order;
use crate::place::{Class, Classes, Kind};
use crate::plan::Shared;
use crate::shape;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tensormill_backend::{BackendError, NodeReport, PlanReport};
use tensormill_ir::infer::{Inferred, infer_graph};
use tensormill_ir::{Expr, IrError, Node, NodeId, ValueId, ops::Op};
use tensormill_kernels::copy::row_major;
use tensormill_reference::EvalLimits;
use tensormill_tensor::table::Cut;
use tensormill_tensor::{DType, Shape, Tensor, Value};

/// Values computed while a state is made have at most this many elements in all operands and results.
const COMPUTED_NOW: usize = 1 << 16;

/// A node that runs, or a change of order on the way to one.
struct Running {
    node: NodeId,
    native: Option<Native>,
    /// Whether a kernel may be prepared during the run.
    native_later: bool,
    ins: SmallVec<[Option<ValueId>; 4]>,
    outs: SmallVec<[ValueId; 1]>,
    /// Whether the operands and results have their channels last.
    order: Order,
    /// Whether it only brings a value into another order.
    converts: bool,
    /// Its line in the report.
    told: usize,
}

type Operands = SmallVec<[Option<ValueId>; 4]>;

struct Binder<'a> {
    shared: &'a Shared,
    types: Vec<Option<(DType, Shape)>>,
    facts: Vec<Option<Inferred>>,
    constants: Vec<Tensor>,
    constant_of: FxHashMap<ValueId, usize>,
    classes: Classes,
    running: Vec<Running>,
    report: PlanReport,
    /// Operands of matrix products and attention that are read through a transposition.
    through: FxHashMap<(NodeId, usize), (ValueId, Vec<usize>)>,
    needed: Vec<bool>,
    /// How each value lies.
    orders: Vec<Order>,
    /// Values in the other order, which have ids past the graph's own.
    converted: FxHashMap<ValueId, ValueId>,
}

/// Lays a plan's graph out for inputs of these types.
pub(crate) fn bind(shared: &Shared, inputs: &[Inferred]) -> Result<Layout, BackendError> {
    let g = &shared.graph;
    if inputs.len() != g.inputs().len() {
        let what = format!("the graph takes {} inputs, got {}", g.inputs().len(), inputs.len());
        return Err(BackendError::Infer(IrError::Verify(what)));
    }
    let facts = infer_graph(g, inputs)?;
    let types = facts.iter().map(|f| f.as_ref().and_then(static_type)).collect();
    let mut b = Binder {
        shared,
        types,
        facts,
        constants: vec![],
        constant_of: FxHashMap::default(),
        classes: Classes::new(g.value_capacity()),
        running: vec![],
        report: PlanReport::default(),
        through: FxHashMap::default(),
        needed: vec![false; g.value_capacity()],
        orders: vec![Order::Plain; g.value_capacity()],
        converted: FxHashMap::default(),
    };
    b.narrow_weights();
    b.check_sizes()?;
    b.mark_needed();
    for (i, &v) in g.inputs().iter().enumerate() {
        let bytes = b.bytes(v);
        b.classes.add(v, Class::new(Kind::Input(i), bytes));
    }
    let embeddings = b.embeddings();
    let (chains, blocks) = (b.chains(&embeddings), b.blocks());
    for &id in &shared.order {
        if blocks.inside(id) || embeddings.inside(id) {
            continue;
        }
        if let Some(e) = embeddings.ending_with(id) {
            if !b.embed(id, e) {
                e.nodes().for_each(|id| b.node(id));
                b.node(id);
            }
            continue;
        }
        if let Some(nodes) = blocks.ending_with(id) {
            if !b.block(&nodes) {
                nodes.into_iter().for_each(|id| b.node(id));
            }
            continue;
        }
        match chains.ending_with(id) {
            _ if chains.goes_on(id) => {}
            Some(nodes) if b.chain(&nodes) => {}
            Some(nodes) => nodes.into_iter().for_each(|id| b.node(id)),
            None => b.node(id),
        }
    }
    b.place()
}

fn static_type(f: &Inferred) -> Option<(DType, Shape)> {
    let t = f.ty.as_tensor().filter(|t| plain(t.dtype))?;
    let shape = t.static_shape()?;
    t.dtype.bytes_for(shape.checked_numel()?)?;
    Some((t.dtype, shape))
}

impl Binder<'_> {
    /// Gives constants of four bits their types where only products read them, which pack them; nobody else may
    /// see such elements as memory has them.
    fn narrow_weights(&mut self) {
        let g = &self.shared.graph;
        for (&v, t) in &self.shared.constants {
            let packs = |id: &NodeId| matches!(g.node(*id).op, Op::QuantizedMatMul(_));
            if matches!(t.dtype(), DType::I4 | DType::U4) && g.value(v).users().iter().all(packs) {
                self.types[v.index()] = Some((t.dtype(), t.shape().clone()));
            }
        }
    }

    fn check_sizes(&self) -> Result<(), BackendError> {
        let limit = self.shared.options.max_elements;
        for (dtype, shape) in self.types.iter().flatten() {
            // Axes of no elements count as one: loops over the others would still take their time.
            let n = shape.iter().fold(1usize, |n, d| n.saturating_mul((*d).max(1)));
            if n > limit {
                let bytes = |n| dtype.bytes_for(n).unwrap_or(usize::MAX);
                return Err(BackendError::TooLarge { bytes: bytes(n), limit: bytes(limit) });
            }
        }
        Ok(())
    }

    fn bytes(&self, v: ValueId) -> usize {
        self.ty(v).and_then(|(d, s)| d.bytes_for(s.numel())).unwrap_or(0)
    }

    fn ty(&self, v: ValueId) -> Option<&(DType, Shape)> {
        self.types[v.index()].as_ref()
    }

    /// Walks from the outputs back, so that nothing runs in vain, and lets matrix products and attention
    /// see through transpositions.
    fn mark_needed(&mut self) {
        let g = &self.shared.graph;
        for v in &self.shared.wanted {
            self.needed[v.index()] = true;
        }
        for &id in self.shared.order.iter().rev() {
            let node = g.node(id);
            if !node.outputs.iter().any(|v| self.needed[v.index()]) {
                continue;
            }
            let beside = self.beside(node).is_some();
            let readers = if beside { 0 } else { self.reads_strides(node) };
            for (i, v) in node.inputs.iter().enumerate() {
                let Some(v) = *v else { continue };
                if beside && i == 1 {
                    continue;
                }
                if i < readers
                    && let Some((source, strides)) = self.transposed(v, &node.op, i)
                {
                    self.needed[source.index()] = true;
                    self.through.insert((id, i), (source, strides));
                    continue;
                }
                self.needed[v.index()] = true;
            }
        }
    }

    /// The parts of a product's right operand, where it is packed from them and need not be put together.
    fn beside(&self, node: &Node) -> Option<&[Tensor]> {
        let Op::MatMul(_) = node.op else { return None };
        let parts = self.shared.beside.get(&node.input(1)?)?;
        // A kernel that is prepared during the run has tensors for operands.
        let known = node.inputs.iter().flatten().chain(&node.outputs).all(|v| self.ty(*v).is_some());
        known.then_some(&parts[..])
    }

    /// How many of a node's first operands its kernel reads by strides.
    fn reads_strides(&self, node: &Node) -> usize {
        match &node.op {
            Op::MatMul(_) => 2,
            Op::Attention(op) => {
                let known = |v: &Option<ValueId>| {
                    let (dtype, shape) = self.ty((*v)?)?;
                    let dtype = *dtype;
                    Some(Known {
                        dtype,
                        shape,
                        constant: None,
                        known: None,
                        strides: None,
                        order: Order::Plain,
                    })
                };
                let ins: SmallVec<[Option<Known<'_>>; 4]> = node.inputs.iter().map(known).collect();
                let all = node.inputs.iter().zip(&ins).all(|(v, k)| v.is_some() == k.is_some());
                if all && self.ty(node.output()).is_some() && crate::attention::runs(op, &ins) {
                    3
                } else {
                    0
                }
            }
            _ => 0,
        }
    }

    /// What `v` transposes, with the strides of `v`'s axes in it, if the op can read it so as this operand.
    fn transposed(&self, v: ValueId, op: &Op, operand: usize) -> Option<(ValueId, Vec<usize>)> {
        let (_, node) = self.shared.graph.producer(v)?;
        let Op::Transpose(t) = &node.op else { return None };
        if self.shared.constants.contains_key(&v) {
            return None;
        }
        let source = node.input(0)?;
        let (dtype, shape) = self.ty(source)?;
        let rank = shape.rank();
        if *dtype != DType::F32 || rank < 2 || self.ty(v).is_none() {
            return None;
        }
        let dense = row_major(shape);
        let strides: Vec<usize> = shape::permutation(t, rank).iter().map(|&a| dense[a]).collect();
        if matches!(op, Op::Attention(_)) {
            // The elements of a head must lie together.
            return (rank == 4 && strides[3] == 1).then_some((source, strides));
        }
        let near = strides[rank - 2..].contains(&1);
        // Only operands with one dense axis are read well in place.
        (near || operand == 0 && shape.numel() < 4096).then_some((source, strides))
    }

    fn tell(&mut self, node: &Node, kernel: &str, reason: impl Into<String>, fallback: bool) {
        self.report.nodes.push(NodeReport {
            node: node.origin.as_deref().map(str::to_owned),
            op: node.op.name(),
            backend: if fallback { "reference" } else { "cpu" },
            kernel: kernel.into(),
            reason: reason.into(),
            fallback,
        });
    }

    fn set_constant(&mut self, v: ValueId, t: Tensor) {
        let index = self.constants.len();
        self.classes.add(v, Class::new(Kind::Const(index), t.bytes().len()));
        self.constants.push(t);
        self.constant_of.insert(v, index);
    }

    /// The tensor, if the value is known before the run; its class is made when first asked for.
    fn constant(&mut self, v: ValueId) -> Option<Tensor> {
        if let Some(&i) = self.constant_of.get(&v) {
            return Some(self.constants[i].clone());
        }
        let t = self.shared.constants.get(&v)?.clone();
        self.set_constant(v, t.clone());
        Some(t)
    }

    fn node(&mut self, id: NodeId) {
        let shared = self.shared;
        let node = shared.graph.node(id);
        if matches!(node.op, Op::Const(_)) || !node.outputs.iter().any(|v| self.needed[v.index()]) {
            return;
        }
        if node.outputs.iter().all(|v| shared.constants.contains_key(v)) {
            return self.tell(node, "constant", "every operand is constant", false);
        }
        if self.by_elements(node) || self.computed_now(node) {
            return self.tell(node, "constant", "known from the sizes of the inputs", false);
        }
        let ins: SmallVec<[Option<ValueId>; 4]> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(i, v)| self.through.get(&(id, i)).map(|t| t.0).or(*v))
            .collect();
        for v in ins.iter().flatten() {
            self.constant(*v);
        }
        if self.channels_last(id, node, &ins) {
            return;
        }
        let ins: Operands = ins.iter().map(|v| v.map(|v| self.in_order(id, v, Order::Plain))).collect();
        match self.native(id, node, &ins) {
            Ok(None) => self.tell(node, "alias", "the elements stay where they are", false),
            Ok(Some(native)) => self.runs(id, native, ins, Order::Plain),
            Err((reason, native_later)) => {
                let view = exec::is_view(&node.op);
                if native_later || view {
                    self.tell(node, "run-time", reason, false);
                } else if !node.op.bodies().is_empty() {
                    self.tell(node, "bodies", "each body is a plan of its own", false);
                } else {
                    self.tell(node, "reference", reason, true);
                }
                for v in &node.outputs {
                    let bytes = self.bytes(*v);
                    let slot = self.classes.slots();
                    self.classes.add(*v, Class::new(Kind::Slot(slot), bytes));
                }
                self.running.push(Running {
                    node: id,
                    native: None,
                    native_later,
                    ins,
                    outs: node.outputs.clone(),
                    order: Order::Plain,
                    converts: false,
                    told: self.report.nodes.len().saturating_sub(1),
                });
            }
        }
    }

    /// Notes that a kernel runs for the node, and that its results lie in this order.
    fn runs(&mut self, id: NodeId, native: Native, mut ins: Operands, order: Order) {
        let node = self.shared.graph.node(id);
        self.tell(node, native.name, native.reason.clone(), false);
        for v in &node.outputs {
            let bytes = self.bytes(*v);
            self.classes.add(*v, Class::new(Kind::Step, bytes));
        }
        if let Some(i) = native.packed {
            ins[i] = None;
        }
        self.running.push(Running {
            node: id,
            native: Some(native),
            native_later: false,
            ins,
            outs: node.outputs.clone(),
            order,
            converts: false,
            told: self.report.nodes.len().saturating_sub(1),
        });
    }

    /// Takes results whose elements inference knows.
    fn by_elements(&mut self, node: &Node) -> bool {
        let known = |b: &Self, v: &ValueId| -> Option<Tensor> {
            let f = b.facts[v.index()].as_ref()?;
            let (dtype, shape) = static_type(f)?;
            let e: Vec<i64> = f.elements.as_ref()?.iter().map(Expr::as_const).collect::<Option<_>>()?;
            Tensor::from_i64s(dtype, shape, e).ok()
        };
        let Some(all) = node.outputs.iter().map(|v| known(self, v)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        for (v, t) in node.outputs.iter().zip(all) {
            self.set_constant(*v, aligned(&t));
        }
        true
    }

    /// Computes small results all of whose operands are known.
    fn computed_now(&mut self, node: &Node) -> bool {
        if node.op.is_random() || !node.op.bodies().is_empty() || node.inputs.is_empty() {
            return false;
        }
        let mut ins: Vec<Option<Value>> = vec![];
        let mut total = 0usize;
        for v in &node.inputs {
            ins.push(match v {
                None => None,
                Some(v) => {
                    let Some(t) = self.constant(*v) else { return false };
                    total = total.saturating_add(t.len());
                    Some(t.into())
                }
            });
        }
        for v in &node.outputs {
            let Some((_, shape)) = self.ty(*v) else { return false };
            total = total.saturating_add(shape.numel());
        }
        if total > COMPUTED_NOW {
            return false;
        }
        let limits = EvalLimits { max_elements: self.shared.options.max_elements, ..EvalLimits::default() };
        let around = Surroundings {
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            node: None,
            constant: &|_| false,
            limits: &limits,
        };
        let ins: Vec<Option<&Value>> = ins.iter().map(Option::as_ref).collect();
        let Ok((outs, _)) = exec::on_values(&node.op, &ins, &around) else { return false };
        let fits = |(v, out): (&ValueId, &Value)| match (out, self.ty(*v)) {
            (Value::Tensor(t), Some((dtype, shape))) => t.dtype() == *dtype && t.shape() == shape,
            _ => false,
        };
        if !node.outputs.iter().zip(&outs).all(fits) {
            return false;
        }
        for (v, out) in node.outputs.iter().zip(outs) {
            if let Value::Tensor(t) = out {
                self.set_constant(*v, aligned(&t));
            }
        }
        true
    }

    /// A kernel for the node; `None` when its results only look at an operand; else why there is none, and
    /// whether sizes are all that is missing.
    fn native(
        &mut self,
        id: NodeId,
        node: &Node,
        ins: &[Option<ValueId>],
    ) -> Result<Option<Native>, (String, bool)> {
        if !node.op.bodies().is_empty() {
            return Err(("control flow".into(), false));
        }
        let all = node.inputs.iter().flatten().chain(&node.outputs).chain(ins.iter().flatten());
        for v in all {
            if self.ty(*v).is_none() {
                let tensors = node.inputs.iter().flatten().chain(&node.outputs).all(|v| {
                    let f = self.facts[v.index()].as_ref();
                    f.and_then(|f| f.ty.as_tensor()).is_some_and(|t| plain(t.dtype))
                });
                return Err(("sizes known only at run time".into(), tensors));
            }
        }
        let known: SmallVec<[Option<Known<'_>>; 4]> = node
            .inputs
            .iter()
            .zip(ins)
            .enumerate()
            .map(|(i, (v, source))| {
                let (v, source) = ((*v)?, (*source)?);
                let (dtype, shape) = self.types[v.index()].as_ref()?;
                Some(Known {
                    dtype: *dtype,
                    shape,
                    constant: self.shared.constants.get(&source),
                    known: self.constant_of.get(&source).map(|&i| &self.constants[i]),
                    strides: self.through.get(&(id, i)).map(|t| &t.1[..]),
                    order: Order::Plain,
                })
            })
            .collect();
        let outs: SmallVec<[(DType, Shape); 1]> =
            node.outputs.iter().filter_map(|v| self.types[v.index()].clone()).collect();
        if let Some(places) = shape::alias(&node.op, &known, &outs) {
            let size = |v: &ValueId| self.types[v.index()].as_ref().and_then(|t| t.0.size()).unwrap_or(0);
            let seen: Vec<_> = node
                .outputs
                .iter()
                .zip(places)
                .filter_map(|(v, (operand, at))| Some((*v, ins[operand]?, at * size(v), self.bytes(*v))))
                .collect();
            for (v, of, offset, bytes) in seen {
                self.classes.alias(v, of, offset, bytes);
            }
            return Ok(None);
        }
        let prep = Prep {
            op: &node.op,
            ins: &known,
            outs: &outs,
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            beside: self.beside(node).unwrap_or_default(),
            node: Some(id.index()),
            fewer_multiplications: self.shared.options.fewer_multiplications,
            tuner: self.shared.tuner.as_ref(),
        };
        prepare(&prep).map(Some).map_err(|why| (why.into_owned(), false))
    }

    /// Decides lifetimes and places, and writes the steps down.
    fn place(mut self) -> Result<Layout, BackendError> {
        let g = &self.shared.graph;
        let wanted: Vec<ValueId> = self.shared.wanted.iter().map(|v| self.given_out(*v)).collect();
        for v in &wanted {
            // An output may be a constant that no step reads.
            self.constant(*v);
            self.classes.output(*v);
        }
        for (i, r) in self.running.iter().enumerate() {
            for v in &r.outs {
                self.classes.written(*v, i);
            }
            for v in r.ins.iter().flatten() {
                self.classes.read(*v, i);
            }
        }
        self.join();
        let in_place = self.reuse_operands();
        let too_large = |bytes| BackendError::TooLarge { bytes, limit: self.shared.options.max_state_bytes };
        let plan = self.classes.plan().ok_or(too_large(usize::MAX))?;
        if plan.bytes() > self.shared.options.max_state_bytes {
            return Err(too_large(plan.bytes()));
        }
        let running = std::mem::take(&mut self.running);
        let typed = |v: ValueId| -> Typed {
            let bytes = self.bytes(v);
            let place = self.classes.spot(v).map_or(
                Place { base: Base::Slot(usize::MAX), offset: 0, bytes, whole: true, pitch: None },
                |at| plan.place(at),
            );
            Typed { place, ty: self.types[v.index()].clone() }
        };
        let outputs: Vec<Typed> = wanted.iter().map(|v| typed(*v)).collect();
        let mut results: Vec<(DType, Shape)> =
            plan.results.iter().map(|&bytes| (DType::U8, Shape::from([bytes]))).collect();
        for o in &outputs {
            if let (Base::Result(i), true, Some(ty)) = (o.place.base, o.place.whole, &o.ty) {
                results[i] = ty.clone();
            }
        }
        let last = self.classes.slot_ends();
        let blocks = Blocks {
            results: results.len(),
            inputs: g.inputs().len(),
            constants: self.constants.len(),
            slots: self.classes.slots(),
        };
        let mut steps = Vec::with_capacity(running.len());
        let mut hot = Vec::with_capacity(running.len());
        for (i, r) in running.into_iter().enumerate() {
            let ins: SmallVec<[Option<Typed>; 4]> = r.ins.iter().map(|v| v.map(typed)).collect();
            let outs: SmallVec<[Typed; 1]> = r.outs.iter().map(|v| typed(*v)).collect();
            let (work, act) = match r.native {
                Some(Native { name, flops, anywhere, run, .. }) => {
                    let in_place = in_place[i];
                    // What is overwritten is in the result already.
                    let reads = ins.iter().enumerate().map(|(at, t)| {
                        t.as_ref().filter(|_| !in_place || at > 0).map(|t| blocks.spot(t.place))
                    });
                    let cut = Cut::new(reads, outs.iter().map(|t| blocks.spot(t.place)));
                    let lost = || BackendError::Device("a step would overwrite what it reads".into());
                    let cut = cut.ok_or_else(lost)?;
                    let pitches = Pitches::of(&ins, &outs);
                    (
                        Work::Native { name, flops, anywhere },
                        Act::Kernel(Kernel { run, cut, in_place, pitches }),
                    )
                }
                None => (Work::Values { native: r.native_later }, Act::Values),
            };
            let free = last.get(&i).cloned().unwrap_or_default();
            hot.push(Hot { step: i, act, frees: !free.is_empty() });
            steps.push(Step { node: r.node, work, ins, outs, free, converts: r.converts });
        }
        let arena = plan.arena;
        self.align_constants(&steps, &outputs);
        Ok(Layout {
            steps,
            hot,
            blocks,
            inputs: g.inputs().iter().map(|v| self.types[v.index()].clone()).collect(),
            arena,
            results,
            own_constants: self
                .constant_of
                .iter()
                .filter(|(v, _)| !self.shared.constants.contains_key(v))
                .map(|(_, &i)| self.constants[i].byte_len())
                .sum(),
            constants: self.constants,
            outputs,
            report: self.report,
        })
    }

    /// Aligns the constants that steps read. Those that kernels packed, or read anywhere, stay where the file
    /// has them.
    fn align_constants(&mut self, steps: &[Step], outputs: &[Typed]) {
        let mut read = vec![false; self.constants.len()];
        let mut used = read.clone();
        for step in steps {
            let anywhere = match &step.work {
                Work::Native { anywhere, .. } => &anywhere[..],
                Work::Values { .. } => &[],
            };
            for (at, t) in step.ins.iter().enumerate() {
                if let Some(Base::Const(i)) = t.as_ref().map(|t| t.place.base) {
                    used[i] = true;
                    read[i] |= !anywhere.contains(&at);
                }
            }
        }
        for t in outputs {
            if let Base::Const(i) = t.place.base {
                read[i] = true;
            }
        }
        for (v, &i) in &self.constant_of {
            if read[i] && self.shared.constants.contains_key(v) {
                self.constants[i] = self.shared.readable(*v, &self.constants[i]);
            } else if !read[i] && !used[i] {
                // Folding or packing may have looked at it.
                self.constants[i].release();
            }
        }
    }

    /// Lets elementwise steps overwrite an operand that nobody reads after them.
    fn reuse_operands(&mut self) -> Vec<bool> {
        let mut reused = vec![false; self.running.len()];
        for (i, r) in self.running.iter().enumerate() {
            if !r.native.as_ref().is_some_and(|n| n.in_place) {
                continue;
            }
            let (Some(x), Some(&y)) = (r.ins.first().copied().flatten(), r.outs.first()) else { continue };
            // What the step also reads as another operand must stay as it is.
            let block = |v: ValueId| self.classes.find(v).map(|f| f.0);
            if r.ins[1..].iter().flatten().any(|&v| block(v) == block(x)) {
                continue;
            }
            reused[i] = self.classes.overwrite(y, x, self.bytes(y), i);
        }
        reused
    }
}

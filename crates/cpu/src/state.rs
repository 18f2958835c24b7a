//! A state: one caller's memory for one set of input sizes, and the walk over the steps.

use crate::bind::bind;
use crate::control::{BodyStates, Runner};
use crate::exec::{self, Surroundings, aligned};
use crate::layout::{Act, Base, Kernel, Layout, Typed, Work};
use crate::native::{Call, Fail, View};
use crate::plan::Shared;
use crate::tune::Tuner;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tensormill_backend::{BackendError, Io, RunError, Sample, State};
use tensormill_ir::infer::Inferred;
use tensormill_kernels::threads::Pool;
use tensormill_reference::{EvalError, EvalLimits, eval_with};
use tensormill_tensor::arena::Arena;
use tensormill_tensor::table::Table;
use tensormill_tensor::{DType, Shape, Tensor, Value};

/// One caller's memory.
pub(crate) struct CpuState {
    shared: Arc<Shared>,
    layout: Layout,
    /// The blocks that values lie in, numbered by the layout. Results stay there after a run, to be written
    /// again once the caller has dropped them.
    table: Table,
    /// Outputs that are parts of a block or lie in the arena, copied out; kept as the results are.
    copies: Vec<Option<Tensor>>,
    bodies: BodyStates,
    /// Iterations of loops that the run may still take.
    trips: Cell<u64>,
}

impl CpuState {
    pub fn new(shared: Arc<Shared>, inputs: &[Inferred]) -> Result<CpuState, BackendError> {
        let plan = shared.resolved(inputs).unwrap_or_else(|| shared.clone());
        let mut layout = bind(&plan, inputs)?;
        plan.weights.save(&plan.pool);
        plan.tuner.iter().for_each(Tuner::save);
        shared.note(&layout.report);
        let shared = plan;
        let limit = shared.options.max_state_bytes;
        let arena = Arena::new(layout.arena).ok_or(BackendError::TooLarge { bytes: layout.arena, limit })?;
        let mut table = Table::new(layout.blocks.len());
        table.put_arena(layout.blocks.number(Base::Arena), arena);
        for (i, t) in std::mem::take(&mut layout.constants).into_iter().enumerate() {
            table.put(layout.blocks.number(Base::Const(i)), t.into());
        }
        let copies = vec![None; layout.outputs.len()];
        let (bodies, trips) = (BodyStates::default(), Cell::new(shared.options.max_trips));
        Ok(CpuState { shared, layout, table, copies, bodies, trips })
    }

    /// Runs as part of a run that may still take `trips` iterations of loops.
    pub fn run_within(&mut self, io: &mut Io<'_>, trips: &Cell<u64>) -> Result<(), RunError> {
        self.trips.set(trips.get());
        let done = self.run_once(io);
        trips.set(self.trips.get());
        done
    }

    fn run_once(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let _busy = shared.pool.busy();
        if io.inputs.len() != self.layout.inputs.len() {
            let what = format!("the plan takes {} inputs, got {}", self.layout.inputs.len(), io.inputs.len());
            return Err(RunError::Input(what));
        }
        let done = self.walk(io);
        // Whatever happened, nothing of this run stays but the memory of its results.
        let blocks = self.layout.blocks;
        (0..blocks.inputs).for_each(|i| self.table.clear(blocks.number(Base::Input(i))));
        (0..blocks.slots).for_each(|i| self.table.clear(blocks.number(Base::Slot(i))));
        done
    }

    /// Puts the run's inputs into their blocks.
    fn take_inputs(&mut self, inputs: &[Value]) -> Result<(), RunError> {
        for (i, (want, given)) in self.layout.inputs.iter().zip(inputs).enumerate() {
            let value = match (want, given) {
                (None, v) => v.clone(),
                (Some((dtype, shape)), Value::Tensor(t)) if t.dtype() == *dtype && t.shape() == shape => {
                    aligned(t).into()
                }
                (Some((dtype, shape)), given) => {
                    let what = match given {
                        Value::Tensor(t) => format!("{}{}", t.dtype(), t.shape()),
                        other => other.kind().to_owned(),
                    };
                    let what = format!("input {i}: the state was made for {dtype}{shape}, not {what}");
                    return Err(RunError::Input(what));
                }
            };
            self.table.put(self.layout.blocks.number(Base::Input(i)), value);
        }
        Ok(())
    }

    /// Makes the blocks of the results such that they can be written. Steps write every element, as in the
    /// arena. What somebody still holds is not touched.
    fn renew_results(&mut self) -> Result<(), RunError> {
        for (i, (dtype, shape)) in self.layout.results.iter().enumerate() {
            let block = self.layout.blocks.number(Base::Result(i));
            if !self.table.reclaim(block) {
                let limit = self.shared.options.max_state_bytes;
                let fresh = Tensor::zeros(*dtype, shape).map_err(|_| RunError::TooLarge { limit })?;
                self.table.put_writable(block, fresh);
            } else if cfg!(debug_assertions) {
                // So that a step which counts on zeros is found.
                self.table.writable(block).fill(0xa5);
            }
        }
        Ok(())
    }

    fn walk(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        let begin = io.profile.is_some().then(Instant::now);
        self.take_inputs(io.inputs)?;
        self.renew_results()?;
        for at in 0..self.layout.hot.len() {
            if io.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(RunError::Cancelled);
            }
            let hot = &self.layout.hot[at];
            let (i, frees) = (hot.step, hot.frees);
            match (&hot.act, begin, io.profile.as_deref_mut()) {
                (Act::Kernel(k), None, _) => {
                    let done = kernel(&mut self.table, &self.shared.pool, k);
                    done.map_err(|f| self.named(i, EvalError::Operand(f.0)))?;
                }
                (_, Some(begin), Some(profile)) => {
                    let start = Instant::now();
                    let mut bodies = vec![];
                    let measure = Some((begin, &mut bodies));
                    let by = self.step(at, io.cancel, measure).map_err(|e| self.named(i, e))?;
                    // Nodes of bodies count themselves: what is left is the step's own, told as if it came last.
                    let inner = bodies.iter().map(|s: &Sample| s.time).sum();
                    let own = start.elapsed().saturating_sub(inner);
                    profile.samples.append(&mut bodies);
                    profile.samples.push(self.sample(i, by, start.duration_since(begin) + inner, own));
                }
                _ => {
                    self.step(at, io.cancel, None).map_err(|e| self.named(i, e))?;
                }
            }
            if frees {
                for &slot in &self.layout.steps[i].free {
                    self.table.clear(self.layout.blocks.number(Base::Slot(slot)));
                }
            }
        }
        for i in 0..self.layout.outputs.len() {
            io.outputs.push(self.output(i).map_err(|f| RunError::Input(f.0))?);
        }
        if let (Some(profile), Some(begin)) = (io.profile.as_deref_mut(), begin) {
            profile.total = begin.elapsed();
        }
        Ok(())
    }

    fn named(&self, i: usize, e: EvalError) -> RunError {
        let node = self.shared.graph.node(self.layout.steps[i].node);
        match e {
            EvalError::Cancelled => RunError::Cancelled,
            e => RunError::Node {
                node: node.origin.as_deref().map(str::to_owned),
                op: node.op.name(),
                what: e.to_string(),
            },
        }
    }

    fn sample(
        &self,
        i: usize,
        by: Option<&'static str>,
        start: std::time::Duration,
        time: std::time::Duration,
    ) -> Sample {
        let step = &self.layout.steps[i];
        let g = &self.shared.graph;
        let node = g.node(step.node);
        let first = node.outputs.first().and_then(|v| g.value(*v).name.as_deref());
        let size = |t: &Typed| t.ty.as_ref().and_then(|(d, s)| d.bytes_for(s.numel())).unwrap_or(0) as u64;
        let shapes: Vec<String> =
            step.outs.iter().map(|o| o.ty.as_ref().map_or("?".into(), |t| t.1.to_string())).collect();
        let (kernel, flops) = match &step.work {
            Work::Native { name, flops, .. } => (*name, *flops),
            Work::Values { .. } => (by.unwrap_or("reference"), 0),
        };
        Sample {
            node: node.origin.as_deref().or(first).unwrap_or_default().to_owned(),
            op: if step.converts { "convert" } else { node.op.name() },
            kernel: kernel.into(),
            start,
            time,
            flops,
            bytes: step.ins.iter().flatten().chain(&step.outs).map(size).sum(),
            shape: shapes.join(" "),
        }
    }

    /// The name of the kernel, where it is chosen while running. With the beginning of a measured run come
    /// the samples to add those of bodies to.
    fn step(
        &mut self,
        at: usize,
        cancel: Option<&AtomicBool>,
        measure: Option<(Instant, &mut Vec<Sample>)>,
    ) -> Result<Option<&'static str>, EvalError> {
        let hot = &self.layout.hot[at];
        if let Act::Kernel(k) = &hot.act {
            let done = kernel(&mut self.table, &self.shared.pool, k);
            return done.map(|()| None).map_err(|f| EvalError::Operand(f.0));
        }
        let i = hot.step;
        let Work::Values { native } = self.layout.steps[i].work else { return Ok(None) };
        let gathered: SmallVec<[Option<Value>; 4]> = (0..self.layout.steps[i].ins.len())
            .map(|n| self.operand(i, n))
            .collect::<Result<_, _>>()
            .map_err(|f| EvalError::Operand(f.0))?;
        let ins: SmallVec<[Option<&Value>; 4]> = gathered.iter().map(Option::as_ref).collect();
        let limits = EvalLimits {
            max_elements: self.shared.options.max_elements,
            max_trips: self.shared.options.max_trips,
            cancel,
        };
        let node = self.shared.graph.node(self.layout.steps[i].node);
        let constant = |i: usize| node.input(i).is_some_and(|v| self.shared.constants.contains_key(&v));
        let around = Surroundings {
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            node: Some(self.layout.steps[i].node.index()),
            constant: &constant,
            limits: &limits,
        };
        let (outs, by) = if native {
            exec::on_values(&node.op, &ins, &around)?
        } else {
            let states = RefCell::new(std::mem::take(&mut self.bodies));
            let measured = measure.as_ref().map(|m| (m.0, RefCell::new(vec![])));
            let runner = Runner { shared: &self.shared, states, cancel, measured };
            let outs = eval_with(&node.op, &ins, &limits, &self.trips, &runner);
            if let (Some(m), Some(found)) = (measure, runner.measured) {
                m.1.append(&mut found.1.into_inner());
            }
            self.bodies = runner.states.into_inner();
            (outs?, None)
        };
        self.keep(i, outs)?;
        Ok(by)
    }

    /// Puts a step's results into their slots.
    fn keep(&mut self, i: usize, outs: Vec<Value>) -> Result<(), EvalError> {
        let step = &self.layout.steps[i];
        if outs.len() != step.outs.len() {
            return Err(EvalError::Operand("a wrong number of results".into()));
        }
        for (t, out) in step.outs.iter().zip(outs) {
            let Base::Slot(slot) = t.place.base else { continue };
            let out = match (out, &t.ty) {
                (Value::Tensor(v), None) => Value::Tensor(aligned(&v)),
                (Value::Tensor(v), Some((dtype, shape))) => {
                    if v.dtype() != *dtype || v.shape() != shape {
                        let what = format!("gave {}{}, not {dtype}{shape}", v.dtype(), v.shape());
                        return Err(EvalError::Operand(what));
                    }
                    Value::Tensor(aligned(&v))
                }
                (other, _) => other,
            };
            if slot < self.layout.blocks.slots {
                self.table.put(self.layout.blocks.number(Base::Slot(slot)), out);
            }
        }
        Ok(())
    }

    /// The value that a step takes as an operand.
    fn operand(&mut self, step: usize, n: usize) -> Result<Option<Value>, Fail> {
        let Some(t) = &self.layout.steps[step].ins[n] else { return Ok(None) };
        let block = self.layout.blocks.number(t.place.base);
        if let Some(seen) = whole(&mut self.table, block, t)? {
            return Ok(Some(seen));
        }
        let (dtype, shape) = t.ty.as_ref().ok_or_else(missing)?;
        let mut copy = Tensor::zeros(*dtype, shape)?;
        copy.bytes_mut().ok_or_else(missing)?.copy_from_slice(part(&self.table, block, t)?);
        Ok(Some(copy.into()))
    }

    /// The value of an output, once every step has run.
    fn output(&mut self, i: usize) -> Result<Value, Fail> {
        let t = &self.layout.outputs[i];
        let block = self.layout.blocks.number(t.place.base);
        if let Some(seen) = whole(&mut self.table, block, t)? {
            return Ok(seen);
        }
        let (dtype, shape) = t.ty.as_ref().ok_or_else(missing)?;
        let bytes = part(&self.table, block, t)?;
        let kept = &mut self.copies[i];
        if kept.as_mut().is_none_or(|t| t.bytes_mut().is_none()) {
            *kept = Some(Tensor::zeros(*dtype, shape)?);
        }
        let copy = kept.as_mut().ok_or_else(missing)?;
        copy.bytes_mut().ok_or_else(missing)?.copy_from_slice(bytes);
        Ok(copy.clone().into())
    }
}

fn missing() -> Fail {
    Fail("a value was not computed".into())
}

/// The value of a block that is all of it, without copying elements.
fn whole(table: &mut Table, block: usize, t: &Typed) -> Result<Option<Value>, Fail> {
    if t.place.base == Base::Arena {
        return Ok(None);
    }
    let whole = |(dtype, shape): &(DType, Shape), held: &Value| match held {
        Value::Tensor(held) if t.place.whole && held.dtype() == *dtype => {
            if held.shape() == shape {
                Some(Ok(held.clone()))
            } else {
                Some(held.reshape(shape))
            }
        }
        _ => None,
    };
    let Some(ty) = &t.ty else { return table.share(block).cloned().map(Some).ok_or_else(missing) };
    // Parts of it may still be written, but not once all of it was.
    if !t.place.whole {
        return Ok(None);
    }
    let held = table.share(block).ok_or_else(missing)?;
    Ok(whole(ty, held).transpose()?.map(Value::Tensor))
}

/// The bytes at a place.
fn part<'a>(table: &'a Table, block: usize, t: &Typed) -> Result<&'a [u8], Fail> {
    let range = t.place.offset..t.place.offset + t.place.bytes;
    if range.is_empty() { Ok(&[]) } else { table.bytes(block).get(range).ok_or_else(missing) }
}

/// Runs a kernel on its places.
#[inline]
fn kernel(table: &mut Table, pool: &Pool, kernel: &Kernel) -> Result<(), Fail> {
    let mut ins: SmallVec<[Option<View<'_>>; 16]> = SmallVec::new();
    let mut outs: SmallVec<[&mut [u8]; 8]> = SmallVec::new();
    let read = |bytes: Option<_>| ins.push(bytes.map(|bytes| View { bytes, pitch: None }));
    if !table.views(&kernel.cut, read, |bytes| outs.push(bytes)) {
        return Err(Fail("a value lies outside its block".into()));
    }
    let mut out_pitch = None;
    if let Some(pitches) = &kernel.pitches {
        for (view, pitch) in ins.iter_mut().zip(&pitches.ins) {
            view.iter_mut().for_each(|v| v.pitch = *pitch);
        }
        out_pitch = pitches.out;
    }
    (kernel.run)(&mut Call { pool, ins: &ins, outs: &mut outs, in_place: kernel.in_place, out_pitch })
}

impl State for CpuState {
    fn run(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        self.trips.set(self.shared.options.max_trips);
        self.run_once(io)
    }

    fn bytes(&self) -> usize {
        self.layout.arena + self.layout.own_constants
    }
}

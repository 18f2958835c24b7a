//! A state: one caller's memory for one set of input sizes, and the walk over the steps.

use crate::bind::bind;
use crate::control::{BodyStates, Runner};
use crate::exec::{self, Surroundings, aligned};
use crate::layout::{Base, Layout, Place, Step, Typed, Work};
use crate::native::{Call, Fail, View};
use crate::plan::Shared;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tensormill_backend::{BackendError, Io, RunError, Sample, State};
use tensormill_ir::infer::Inferred;
use tensormill_reference::{EvalError, EvalLimits, eval_with};
use tensormill_tensor::arena::{Arena, Rest, carve};
use tensormill_tensor::{Tensor, Value};

/// One caller's arena.
pub(crate) struct CpuState {
    shared: Arc<Shared>,
    layout: Layout,
    arena: Arena,
    results: Vec<Tensor>,
    /// Those of the run before, to be written again once the caller has dropped them.
    given: Vec<Tensor>,
    inputs: Vec<Value>,
    slots: Vec<Option<Value>>,
    bodies: BodyStates,
    /// Iterations of loops that the run may still take.
    trips: Cell<u64>,
}

impl CpuState {
    pub fn new(shared: Arc<Shared>, inputs: &[Inferred]) -> Result<CpuState, BackendError> {
        let layout = bind(&shared, inputs)?;
        shared.weights.save(&shared.pool);
        shared.note(&layout.report);
        let limit = shared.options.max_state_bytes;
        let arena = Arena::new(layout.arena).ok_or(BackendError::TooLarge { bytes: layout.arena, limit })?;
        let slots = vec![None; layout.slots];
        let (bodies, trips) = (BodyStates::default(), Cell::new(shared.options.max_trips));
        Ok(CpuState {
            shared,
            layout,
            arena,
            results: vec![],
            given: vec![],
            inputs: vec![],
            slots,
            bodies,
            trips,
        })
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
        std::mem::swap(&mut self.results, &mut self.given);
        self.results.clear();
        self.inputs.clear();
        self.slots.iter_mut().for_each(|s| *s = None);
        done
    }

    fn walk(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        let begin = Instant::now();
        for (i, want) in self.layout.inputs.iter().enumerate() {
            let given = &io.inputs[i];
            self.inputs.push(match (want, given) {
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
            });
        }
        let mut given = std::mem::take(&mut self.given).into_iter();
        for (dtype, shape) in &self.layout.results {
            let limit = self.shared.options.max_state_bytes;
            // Steps write every element, as in the arena. What somebody still holds is not touched.
            let again = given.next().filter(|t| t.dtype() == *dtype && t.shape() == shape);
            let again = again.and_then(|mut t| {
                let bytes = t.bytes_mut()?;
                if cfg!(debug_assertions) {
                    // So that a step which counts on zeros is found.
                    bytes.fill(0xa5);
                }
                Some(t)
            });
            self.results.push(match again {
                Some(t) => t,
                None => Tensor::zeros(*dtype, shape).map_err(|_| RunError::TooLarge { limit })?,
            });
        }
        for i in 0..self.layout.steps.len() {
            if io.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(RunError::Cancelled);
            }
            let start = io.profile.is_some().then(Instant::now);
            let mut bodies = vec![];
            let measure = start.is_some().then_some((begin, &mut bodies));
            let by = self.step(i, io.cancel, measure).map_err(|e| self.named(i, e))?;
            if let (Some(profile), Some(start)) = (io.profile.as_deref_mut(), start) {
                // Nodes of bodies count themselves: what is left is the step's own, told as if it came last.
                let inner = bodies.iter().map(|s: &Sample| s.time).sum();
                let own = start.elapsed().saturating_sub(inner);
                profile.samples.append(&mut bodies);
                profile.samples.push(self.sample(i, by, start.duration_since(begin) + inner, own));
            }
            for &slot in &self.layout.steps[i].free {
                self.slots[slot] = None;
            }
        }
        for o in &self.layout.outputs {
            io.outputs.push(self.value(o).map_err(|f| RunError::Input(f.0))?);
        }
        if let Some(profile) = io.profile.as_deref_mut() {
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
            Work::Native { native, .. } => (native.name, native.flops),
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
        i: usize,
        cancel: Option<&AtomicBool>,
        measure: Option<(Instant, &mut Vec<Sample>)>,
    ) -> Result<Option<&'static str>, EvalError> {
        let step = &self.layout.steps[i];
        match &step.work {
            Work::Native { .. } => {
                let mut blocks = Blocks {
                    arena: &mut self.arena,
                    results: &mut self.results,
                    inputs: &self.inputs,
                    constants: &self.layout.constants,
                    slots: &self.slots,
                };
                blocks.native(step, &self.shared).map_err(|f| EvalError::Operand(f.0))?;
                Ok(None)
            }
            Work::Values { native } => {
                let gathered: SmallVec<[Option<Value>; 4]> = step
                    .ins
                    .iter()
                    .map(|t| t.as_ref().map(|t| self.value(t)).transpose())
                    .collect::<Result<_, _>>()
                    .map_err(|f| EvalError::Operand(f.0))?;
                let ins: SmallVec<[Option<&Value>; 4]> = gathered.iter().map(Option::as_ref).collect();
                let limits = EvalLimits {
                    max_elements: self.shared.options.max_elements,
                    max_trips: self.shared.options.max_trips,
                    cancel,
                };
                let node = self.shared.graph.node(step.node);
                let constant =
                    |i: usize| node.input(i).is_some_and(|v| self.shared.constants.contains_key(&v));
                let around = Surroundings {
                    pool: &self.shared.pool,
                    weights: &self.shared.weights,
                    node: Some(step.node.index()),
                    constant: &constant,
                    limits: &limits,
                };
                let (outs, by) = if *native {
                    exec::on_values(&node.op, &ins, &around)?
                } else {
                    {
                        let states = RefCell::new(std::mem::take(&mut self.bodies));
                        let measured = measure.as_ref().map(|m| (m.0, RefCell::new(vec![])));
                        let runner = Runner { shared: &self.shared, states, cancel, measured };
                        let outs = eval_with(&node.op, &ins, &limits, &self.trips, &runner);
                        if let (Some(m), Some(found)) = (measure, runner.measured) {
                            m.1.append(&mut found.1.into_inner());
                        }
                        self.bodies = runner.states.into_inner();
                        (outs?, None)
                    }
                };
                self.keep(i, outs)?;
                Ok(by)
            }
        }
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
            if let Some(s) = self.slots.get_mut(slot) {
                *s = Some(out);
            }
        }
        Ok(())
    }

    /// A value of its own of what lies at a place.
    fn value(&self, t: &Typed) -> Result<Value, Fail> {
        let missing = || Fail("a value was not computed".into());
        let block = match t.place.base {
            Base::Arena => None,
            Base::Result(i) => self.results.get(i).map(|t| Value::Tensor(t.clone())),
            Base::Input(i) => self.inputs.get(i).cloned(),
            Base::Const(i) => self.layout.constants.get(i).map(|t| Value::Tensor(t.clone())),
            Base::Slot(i) => Some(self.slots.get(i).cloned().flatten().ok_or_else(missing)?),
        };
        let Some((dtype, shape)) = &t.ty else { return block.ok_or_else(missing) };
        if let Some(Value::Tensor(block)) = &block
            && t.place.whole
            && block.dtype() == *dtype
        {
            return Ok(if block.shape() == shape { block.clone() } else { block.reshape(shape)? }.into());
        }
        let bytes = match &block {
            None => self.arena.bytes(),
            Some(v) => v.as_tensor()?.bytes(),
        };
        let range = t.place.offset..t.place.offset + t.place.bytes;
        let bytes = if t.place.bytes == 0 { &[] } else { bytes.get(range).ok_or_else(missing)? };
        let mut copy = Tensor::zeros(*dtype, shape)?;
        copy.bytes_mut().ok_or_else(missing)?.copy_from_slice(bytes);
        Ok(copy.into())
    }
}

/// All that a native step may touch.
struct Blocks<'a> {
    arena: &'a mut Arena,
    results: &'a mut [Tensor],
    inputs: &'a [Value],
    constants: &'a [Tensor],
    slots: &'a [Option<Value>],
}

impl<'a> Blocks<'a> {
    fn native(&mut self, step: &Step, shared: &Shared) -> Result<(), Fail> {
        let Work::Native { native, in_place } = &step.work else { return Ok(()) };
        let lost = || Fail("a value lies outside its block".into());
        let mut carved: SmallVec<[&mut [u8]; 2]> = SmallVec::new();
        let own = |base: Base| {
            step.order.iter().map(|&o| step.outs[o].place).filter(move |p| p.base == base && p.bytes > 0)
        };
        let range = |p: Place| p.offset..p.offset + p.bytes;
        let rest =
            carve(self.arena.bytes_mut(), own(Base::Arena).map(range), &mut carved).ok_or_else(lost)?;
        let mut rests: SmallVec<[Rest<'_>; 2]> = SmallVec::new();
        for (i, r) in self.results.iter_mut().enumerate() {
            let bytes = r.bytes_mut().ok_or_else(lost)?;
            rests.push(carve(bytes, own(Base::Result(i)).map(range), &mut carved).ok_or_else(lost)?);
        }
        let view = |t: &Typed| -> Option<View<'_>> {
            let p = t.place;
            if p.bytes == 0 {
                return Some(View { bytes: &[], pitch: None });
            }
            let tensor = |v: &'a Value| v.as_tensor().ok().and_then(|t| t.bytes().get(range(p)));
            let bytes = match p.base {
                Base::Arena => rest.get(range(p)),
                Base::Result(i) => rests.get(i)?.get(range(p)),
                Base::Input(i) => tensor(self.inputs.get(i)?),
                Base::Const(i) => self.constants.get(i)?.bytes().get(range(p)),
                Base::Slot(i) => tensor(self.slots.get(i)?.as_ref()?),
            }?;
            Some(View { bytes, pitch: p.pitch })
        };
        let mut ins: SmallVec<[Option<View<'_>>; 6]> = SmallVec::new();
        for (i, t) in step.ins.iter().enumerate() {
            ins.push(match t {
                Some(_) if *in_place && i == 0 => None,
                Some(t) => Some(view(t).ok_or_else(lost)?),
                None => None,
            });
        }
        // Carved in the order of places, handed over in that of results.
        let mut by_result: SmallVec<[Option<&mut [u8]>; 2]> = step.outs.iter().map(|_| None).collect();
        let written = step.order.iter().filter(|&&o| step.outs[o].place.bytes > 0);
        for (&o, bytes) in written.zip(carved) {
            by_result[o] = Some(bytes);
        }
        let mut outs: SmallVec<[&mut [u8]; 2]> =
            by_result.into_iter().map(Option::unwrap_or_default).collect();
        let out_pitch = step.outs.first().and_then(|o| o.place.pitch);
        let (pool, in_place) = (&shared.pool, *in_place);
        (native.run)(&mut Call { pool, ins: &ins, outs: &mut outs, in_place, out_pitch })
    }
}

impl State for CpuState {
    fn run(&mut self, io: &mut Io<'_>) -> Result<(), RunError> {
        self.trips.set(self.shared.options.max_trips);
        self.run_once(io)
    }

    fn bytes(&self) -> usize {
        self.arena.len() + self.layout.own_constants
    }
}

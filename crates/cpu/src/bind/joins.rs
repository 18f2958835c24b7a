//! Concatenations whose operands are written where the result wants them, and splits whose results are read
//! where they lie.
//!
//! Along an axis with others before it, the parts are parts of each row of the whole: they lie apart, by the
//! whole's row. Kernels say which operands and results may lie so. Such a part reaches over its siblings, so
//! no step may write one and read another: it keeps its copy.

use super::{Binder, Running};
use crate::native::Native;
use crate::order::{self, Order};
use crate::place::Put;
use crate::slice::split_rows;
use smallvec::SmallVec;
use tensormill_ir::{ValueId, ops::Op};
use tensormill_tensor::Shape;

/// Which steps touch what.
struct Uses {
    /// By value: steps that read it, and as which operand.
    readers: Vec<SmallVec<[(usize, usize); 2]>>,
    /// By value: the step that writes it.
    writer: Vec<Option<usize>>,
    /// By class: steps that write into it.
    writers: Vec<SmallVec<[usize; 2]>>,
}

/// An array as rows along one of its axes.
struct Rows {
    rows: usize,
    /// Bytes of a row.
    width: usize,
}

/// A step that does nothing: its results lie where others wrote them.
fn nothing(reason: &str) -> Native {
    Native {
        name: "alias",
        reason: reason.into(),
        flops: 0,
        in_place: false,
        packed: None,
        anywhere: SmallVec::new(),
        reads_rows: SmallVec::new(),
        writes_rows: None,
        run: Box::new(|_| Ok(())),
    }
}

impl Binder<'_> {
    /// Saves copies by concatenations and splits, wherever the other steps allow it. Steps keep their numbers
    /// for the lifetimes: one that is not needed any more stays as one that does nothing.
    pub(super) fn join(&mut self) {
        let values = self.types.len();
        let mut uses =
            Uses { readers: vec![SmallVec::new(); values], writer: vec![None; values], writers: vec![] };
        for (step, r) in self.running.iter().enumerate() {
            for (operand, v) in r.ins.iter().enumerate() {
                if let Some(v) = v {
                    uses.readers[v.index()].push((step, operand));
                }
            }
            for v in &r.outs {
                uses.writer[v.index()] = Some(step);
                if let Some((class, _)) = self.classes.all_of(*v) {
                    uses.writers.resize(uses.writers.len().max(class + 1), SmallVec::new());
                    uses.writers[class].push(step);
                }
            }
        }
        let g = &self.shared.graph;
        let of = |b: &Self, step: usize| match (&g.node(b.running[step].node).op, &b.running[step]) {
            (_, Running { converts: true, .. } | Running { native: None, .. }) => None,
            (Op::Split(s), _) => Some((s.axis, true)),
            (Op::Concat(c), _) => Some((c.axis, false)),
            _ => None,
        };
        // What is split in place can still become a part of a concatenation.
        for step in 0..self.running.len() {
            if let Some((axis, true)) = of(self, step) {
                self.split_in_place(step, axis, &mut uses);
            }
        }
        for step in 0..self.running.len() {
            if let Some((axis, false)) = of(self, step) {
                self.concat_in_place(step, axis, &mut uses);
            }
        }
    }

    /// The value as the rows that end with this axis of its shape, in the order that memory has.
    fn rows(&self, v: ValueId, axis: i64, order: Order) -> Option<Rows> {
        let shape: Shape = self.ty(v)?.1.clone();
        let axis = tensormill_ir::infer::axis(axis, shape.rank()).ok()?;
        let memory: SmallVec<[usize; 6]> = match order {
            Order::Plain => (0..shape.rank()).collect(),
            Order::ChannelsLast => order::axes(shape.rank()),
        };
        let rows: usize = memory.iter().take_while(|&&a| a != axis).map(|&a| shape[a]).product();
        (rows > 0 && !shape.contains(&0)).then(|| Rows { rows, width: self.bytes(v) / rows })
    }

    /// Whether all that touches the value takes its rows, of `run` bytes, wherever they lie; else why not.
    fn by_rows(&self, v: ValueId, run: usize, uses: &Uses, written: bool) -> Result<(), String> {
        let apart = || "it is a part of another value, or another a part of it".to_owned();
        let (class, values) = self.classes.all_of(v).ok_or_else(apart)?;
        for &m in values {
            let whole = self.classes.all_of(m).is_some_and(|a| a.0 == class);
            let size = self.ty(m).and_then(|t| t.0.size()).ok_or_else(apart)?;
            if !whole || !run.is_multiple_of(size) {
                return Err(apart());
            }
            let row = Some(run / size);
            for &(step, operand) in &uses.readers[m.index()] {
                let r = &self.running[step];
                // What another step did away with reads nothing any more.
                let reads = r.ins.get(operand).copied().flatten() == Some(m);
                if reads && r.native.as_ref().and_then(|n| n.row_read(operand)) != row {
                    return Err(format!("`{}` reads its rows together", self.called(step)));
                }
            }
            if let (true, Some(step)) = (written, uses.writer[m.index()]) {
                let r = &self.running[step];
                if r.outs.len() != 1 || r.native.as_ref().and_then(|n| n.writes_rows) != row {
                    return Err(format!("`{}` writes its rows together", self.called(step)));
                }
            }
        }
        Ok(())
    }

    /// What a step is called in reports.
    fn called(&self, step: usize) -> &str {
        let r = &self.running[step];
        match (&r.native, self.shared.graph.node(r.node)) {
            (Some(native), _) if r.converts => native.name,
            (_, node) => node.origin.as_deref().unwrap_or(node.op.name()),
        }
    }

    fn retell(&mut self, step: usize, kernel: &'static str, reason: &str) {
        if let Some(n) = self.report.nodes.get_mut(self.running[step].told) {
            (n.kernel, n.reason) = (kernel.into(), reason.into());
        }
    }

    /// Lets results of a split be read where they lie.
    fn split_in_place(&mut self, step: usize, axis: i64, uses: &mut Uses) {
        let r = &self.running[step];
        let (Some(x), outs) = (r.ins.first().copied().flatten(), r.outs.clone()) else { return };
        let Some(Rows { rows, width }) = self.rows(x, axis, r.order) else { return };
        let Some(size) = self.ty(x).and_then(|t| t.0.size()) else { return };
        let (mut at, mut left, mut parts, mut why) = (0, SmallVec::new(), vec![], String::new());
        for &v in &outs {
            let run = self.bytes(v) / rows;
            let put = self.by_rows(v, run, uses, false).and_then(|()| {
                self.classes.put(v, x, at, rows).ok_or_else(|| "its operand cannot be shared".to_owned())
            });
            match put {
                // Nobody writes it any more.
                Ok(_) => uses.writer[v.index()] = None,
                Err(reason) => {
                    left.push(v);
                    parts.push((at / size, run / size));
                    why = reason;
                }
            }
            at += run;
        }
        if left.len() == outs.len() {
            return;
        }
        let reason = match left.len() {
            0 => "its results are read in place".to_owned(),
            n => format!("{n} of {} results are copied: {why}", outs.len()),
        };
        let native = match left.is_empty() {
            true => nothing(&reason),
            false => match split_rows(size, rows, width / size, parts) {
                Ok(native) => native,
                Err(_) => return,
            },
        };
        let name = native.name;
        let r = &mut self.running[step];
        (r.native, r.outs) = (Some(native), left);
        if r.outs.is_empty() {
            r.ins.clear();
        }
        self.retell(step, name, &reason);
    }

    /// Lets operands of a concatenation be written where the result wants them.
    fn concat_in_place(&mut self, step: usize, axis: i64, uses: &mut Uses) {
        let r = &self.running[step];
        let Some(&out) = r.outs.first() else { return };
        let ins = r.ins.clone();
        let Some(Rows { rows, .. }) = self.rows(out, axis, r.order) else { return };
        if rows == 1 {
            let parts: Vec<(ValueId, usize)> = ins.iter().flatten().map(|v| (*v, self.bytes(*v))).collect();
            if self.classes.join(out, &parts) {
                self.joined(step);
            }
            return;
        }
        let (mut k, mut at, mut copied, mut why) = (0, 0, 0, String::new());
        while let Some(&Some(v)) = ins.get(k) {
            let (whole, count) = self.parts_of_one(&ins[k..]).unwrap_or((v, 1));
            let run = self.bytes(whole) / rows;
            match self.put_operand(step, whole, k..k + count, (out, at, rows), uses) {
                Ok(()) => {}
                Err(reason) => {
                    copied += count;
                    why = reason;
                }
            }
            (k, at) = (k + count, at + run);
        }
        match copied {
            0 => self.joined(step),
            n if n == ins.len() => self.retell(step, "concat", &format!("every operand is copied: {why}")),
            n => self.retell(step, "concat", &format!("{n} of {} operands are copied: {why}", ins.len())),
        }
    }

    fn joined(&mut self, step: usize) {
        let reason = "its operands are written in place";
        self.running[step].native = Some(nothing(reason));
        self.running[step].ins.clear();
        self.retell(step, "alias", reason);
    }

    /// The value whose parts the first operands are, one after the other, and how many they are.
    fn parts_of_one(&self, ins: &[Option<ValueId>]) -> Option<(ValueId, usize)> {
        let (class, 0) = self.classes.row_of(ins.first().copied().flatten()?)? else { return None };
        let (whole, rows) = (self.classes.owner(class)?, self.classes.rows(class)?);
        let mut bytes = 0;
        for (i, v) in ins.iter().enumerate() {
            let v = (*v)?;
            let at = self.classes.row_of(v).filter(|p| p.0 == class)?.1;
            if at * rows != bytes {
                return None;
            }
            bytes += self.bytes(v);
            if bytes == self.bytes(whole) {
                return Some((whole, i + 1));
            }
        }
        None
    }

    /// Puts a value into each row of a concatenation's result, if no step minds.
    fn put_operand(
        &mut self,
        step: usize,
        v: ValueId,
        operands: std::ops::Range<usize>,
        (out, at, rows): (ValueId, usize, usize),
        uses: &mut Uses,
    ) -> Result<(), String> {
        let run = self.bytes(v) / rows;
        self.by_rows(v, run, uses, true)?;
        let shared = || "its memory cannot be shared".to_owned();
        let (Some((part, _)), Some((whole, _))) = (self.classes.all_of(v), self.classes.all_of(out)) else {
            return Err(shared());
        };
        let put: Put = self.classes.put(v, out, at, rows).ok_or_else(shared)?;
        let before = self.running[step].ins.clone();
        self.running[step].ins[operands].fill(None);
        let writers = |class: usize| uses.writers.get(class).cloned().unwrap_or_default();
        let added = writers(part);
        let clash = writers(whole).into_iter().chain(added.iter().copied()).find(|&s| self.clashes(s));
        if let Some(s) = clash {
            let reason = format!("`{}` reads one part while it writes another", self.called(s));
            self.classes.take_back(&put);
            self.running[step].ins = before;
            return Err(reason);
        }
        uses.writers.resize(uses.writers.len().max(whole + 1), SmallVec::new());
        uses.writers[whole].extend(added);
        Ok(())
    }

    /// Whether a step reads something that lies between what it writes.
    fn clashes(&self, step: usize) -> bool {
        let r = &self.running[step];
        r.outs.iter().filter_map(|v| self.classes.spot(*v)).any(|o| {
            r.ins
                .iter()
                .flatten()
                .filter_map(|v| self.classes.spot(*v))
                .any(|i| i.class == o.class && i.offset < o.offset + o.span && o.offset < i.offset + i.span)
        })
    }
}

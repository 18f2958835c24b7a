use super::{LowerError, Order, graph::Lowerer};
use crate::tflite::{
    flat::Table,
    model::{Operator, Quantization, TensorInfo},
    tensor::dtype_of,
};
use std::cell::RefCell;
use tensormill_ir::{
    Dim, Op, ValueId,
    attr::F32,
    ops::{BinaryKind, UnaryKind},
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

/// One operator on its way into the graph: its options, operands and results.
pub(super) struct NodeCx<'a, 'm> {
    pub(super) l: &'a mut Lowerer<'m>,
    op: &'m Operator,
    options: Option<Table<'m>>,
    /// Fields of the options that were read.
    read: RefCell<Vec<usize>>,
    results: Vec<Option<(ValueId, Order)>>,
}

/// An operand whose elements are moved.
pub(super) struct Moved {
    pub(super) x: ValueId,
    pub(super) stored: bool,
}

impl<'a, 'm> NodeCx<'a, 'm> {
    /// An operator whose options are of the kind `expected`; some files leave out options that have no fields.
    pub(super) fn new(l: &'a mut Lowerer<'m>, op: &'m Operator, expected: u8) -> Result<Self> {
        if op.newer_options {
            return LowerError::feature("an operator with options of the second union");
        }
        if op.options_type != 0 && op.options_type != expected {
            let what = format!("options of kind {} where kind {expected} belongs", op.options_type);
            return LowerError::operand(what);
        }
        let options = l.model.options(op).filter(|_| op.options_type != 0);
        let results = vec![None; op.outputs.len()];
        Ok(NodeCx { l, op, options, read: RefCell::default(), results })
    }

    // Operands

    /// Number of operand places, given or left out.
    pub(super) fn len(&self) -> usize {
        self.op.inputs.len()
    }

    /// Number of results.
    pub(super) fn outputs(&self) -> usize {
        self.op.outputs.len()
    }

    /// The tensor of an operand that may be left out.
    pub(super) fn opt(&self, i: usize) -> Option<usize> {
        self.op.inputs.get(i).copied().flatten()
    }

    /// The tensor of an operand.
    pub(super) fn tensor(&self, i: usize) -> Result<usize> {
        self.opt(i).ok_or_else(|| LowerError::Operand(format!("operand {i} is missing")))
    }

    /// What the file says of a result.
    pub(super) fn result(&self, i: usize) -> Result<&'m TensorInfo> {
        match self.op.outputs.get(i) {
            Some(&t) => Ok(&self.l.graph.tensors[t]),
            None => LowerError::operand(format!("result {i} is missing")),
        }
    }

    /// The element type of a result.
    pub(super) fn result_dtype(&self, i: usize) -> Result<DType> {
        let code = self.result(i)?.dtype;
        dtype_of(code).map_or_else(|| LowerError::feature(format!("a result of element type {code}")), Ok)
    }

    /// An operand as the file stores it, in the file's order.
    pub(super) fn input(&mut self, i: usize) -> Result<ValueId> {
        let t = self.tensor(i)?;
        self.l.value(t, Order::Plain)
    }

    /// An operand as the file stores it, in an order.
    pub(super) fn input_in(&mut self, i: usize, order: Order) -> Result<ValueId> {
        let t = self.tensor(i)?;
        self.l.value(t, order)
    }

    /// The real numbers of an operand.
    pub(super) fn real(&mut self, i: usize, order: Order) -> Result<ValueId> {
        let t = self.tensor(i)?;
        let v = self.l.value(t, order)?;
        self.l.dequantize(t, v, |a| order.axis(a))
    }

    /// The real numbers of an operand as they broadcast to four axes in an order; `None` where they do not.
    pub(super) fn real_broadcast(&mut self, i: usize, order: Order) -> Result<Option<ValueId>> {
        let t = self.tensor(i)?;
        if self.l.quantization(t).is_some_and(|q| q.scale.len() > 1) && order == Order::First {
            return Ok(None);
        }
        let Some(v) = self.l.broadcast(t, order)? else { return Ok(None) };
        self.l.dequantize(t, v, |a| a).map(Some)
    }

    /// The integers of an operand of sizes, axes or places, as a vector of i64.
    pub(super) fn ints(&mut self, i: usize) -> Result<ValueId> {
        let v = self.input(i)?;
        let v = self.cast(v, DType::I64)?;
        if self.rank(v)? == 0 {
            let shape = self.l.builder.ints(&[1])?;
            return self.op(tensormill_ir::ops::Reshape::default(), &[v, shape]);
        }
        Ok(v)
    }

    /// The same, which must be known.
    pub(super) fn known(&mut self, i: usize) -> Result<Vec<i64>> {
        let t = self.tensor(i)?;
        if let Some(v) = self.l.constant_ints(t)? {
            return Ok(v);
        }
        let v = self.ints(i)?;
        match self.l.builder.graph().const_ints(v) {
            Some(v) => Ok(v),
            None => LowerError::feature(format!("operand {i} that is computed")),
        }
    }

    /// The order that an operand was computed in.
    pub(super) fn home(&self, i: usize) -> Order {
        self.opt(i).map_or(Order::Plain, |t| self.l.home(t))
    }

    /// What an operand's integers stand for.
    pub(super) fn quantization(&self, i: usize) -> Option<&Quantization> {
        self.l.quantization(self.opt(i)?)
    }

    /// What a result's integers stand for.
    pub(super) fn result_quantization(&self, i: usize) -> Option<&Quantization> {
        self.l.quantization(*self.op.outputs.get(i)?)
    }

    /// An operand for an op that only moves elements: as it is stored where the result stores them alike, else
    /// its real numbers.
    pub(super) fn moved(&mut self, i: usize, order: Order) -> Result<Moved> {
        let stored = self.same_quantization(i, 0);
        let x = if stored { self.input_in(i, order)? } else { self.real(i, order)? };
        Ok(Moved { x, stored })
    }

    /// Declares the result of such an op.
    pub(super) fn set_moved(&mut self, i: usize, y: ValueId, order: Order, from: &Moved) -> Result<()> {
        if !from.stored {
            return self.set_real(i, y, order);
        }
        self.set(i, y, order);
        Ok(())
    }

    /// Whether an operand's and a result's integers stand for the same numbers.
    pub(super) fn same_quantization(&self, i: usize, result: usize) -> bool {
        let (a, b) = (self.quantization(i), self.result_quantization(result));
        let numbers = |q: &Quantization| (q.scale[0].to_bits(), q.zero[0]);
        match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let dtype = |t: Option<usize>| t.map(|t| self.l.graph.tensors[t].dtype);
                let same_dtype = dtype(self.opt(i)) == dtype(self.op.outputs.get(result).copied());
                same_dtype && a.scale.len() == 1 && b.scale.len() == 1 && numbers(a) == numbers(b)
            }
            _ => false,
        }
    }

    pub(super) fn dims(&self, v: ValueId) -> Result<Vec<Dim>> {
        self.l.dims(v)
    }

    pub(super) fn rank(&self, v: ValueId) -> Result<usize> {
        Ok(self.dims(v)?.len())
    }

    pub(super) fn dtype(&self, v: ValueId) -> Result<DType> {
        match self.l.builder.ty(v).as_tensor() {
            Some(t) => Ok(t.dtype),
            None => LowerError::operand("expected a tensor"),
        }
    }

    /// An axis that may count from the end.
    pub(super) fn axis(&self, name: &str, axis: i64, rank: usize) -> Result<usize> {
        let at = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(at).ok().filter(|a| *a < rank) {
            Some(a) => Ok(a),
            None => LowerError::option(name, format!("is {axis}, but there are {rank} axes")),
        }
    }

    // Options

    fn field<T>(
        &self,
        (name, field): (&str, usize),
        read: impl Fn(&Table<'m>, usize) -> std::result::Result<Option<T>, crate::tflite::flat::FlatError>,
    ) -> Result<Option<T>> {
        let Some(t) = &self.options else { return Ok(None) };
        self.read.borrow_mut().push(field);
        read(t, field).or_else(|e| LowerError::option(name, e.what))
    }

    /// An integer option, by its name and place in the schema.
    pub(super) fn int(&self, name: &str, field: usize, default: i32) -> Result<i32> {
        Ok(self.field((name, field), |t, f| t.i32(f))?.unwrap_or(default))
    }

    /// An option of one byte: a word of a list, or a flag.
    pub(super) fn byte(&self, name: &str, field: usize, default: u8) -> Result<u8> {
        Ok(self.field((name, field), |t, f| t.u8(f))?.unwrap_or(default))
    }

    /// A flag.
    pub(super) fn flag(&self, name: &str, field: usize) -> Result<bool> {
        Ok(self.byte(name, field, 0)? != 0)
    }

    /// A float option.
    pub(super) fn float(&self, name: &str, field: usize, default: f32) -> Result<f32> {
        Ok(self.field((name, field), |t, f| t.f32(f))?.unwrap_or(default))
    }

    /// Integers; none where the option is left out.
    pub(super) fn int_list(&self, name: &str, field: usize) -> Result<Vec<i64>> {
        let read = |t: &Table<'m>, f| t.vector(f, 4).map(Some);
        Ok(match self.field((name, field), read)? {
            Some(v) => v.i32s().map(i64::from).collect(),
            None => vec![],
        })
    }

    /// Marks an option as read that has no effect here.
    pub(super) fn ignore(&self, field: usize) {
        self.read.borrow_mut().push(field);
    }

    // Nodes and results

    pub(super) fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        self.l.op(op, inputs)
    }

    /// Adds a node; returns its results.
    pub(super) fn node(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let used = inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        Ok(self.l.builder.node(op, &inputs[..used])?.to_vec())
    }

    pub(super) fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Result<ValueId> {
        Ok(self.l.builder.unary(kind, x)?)
    }

    pub(super) fn binary(&mut self, kind: BinaryKind, a: ValueId, b: ValueId) -> Result<ValueId> {
        Ok(self.l.builder.binary(kind, a, b)?)
    }

    pub(super) fn constant(&mut self, t: Tensor) -> Result<ValueId> {
        Ok(self.l.builder.constant(t)?)
    }

    pub(super) fn ints_constant(&mut self, v: &[i64]) -> Result<ValueId> {
        Ok(self.l.builder.ints(v)?)
    }

    /// A number of a value's element type.
    pub(super) fn scalar_like(&mut self, like: ValueId, v: f64) -> Result<ValueId> {
        let dtype = self.dtype(like)?;
        Ok(self.l.builder.scalar(dtype, v)?)
    }

    pub(super) fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        Ok(self.l.builder.cast(x, to)?)
    }

    /// The activation that an operator ends with, by the option at `field`.
    pub(super) fn fused(&mut self, x: ValueId, field: usize) -> Result<ValueId> {
        let name = "fused_activation_function";
        let clamp = |min, max| UnaryKind::Clamp { min: F32(min), max: F32(max) };
        let kind = match self.byte(name, field, 0)? {
            0 => return Ok(x),
            1 => UnaryKind::Relu,
            2 => clamp(-1.0, 1.0),
            3 => clamp(0.0, 6.0),
            4 => UnaryKind::Tanh,
            5 => return LowerError::feature("the activation SIGN_BIT"),
            n => return LowerError::option(name, format!("is {n}, which names no activation")),
        };
        self.unary(kind, x)
    }

    /// Declares a result by what is to be stored.
    pub(super) fn set(&mut self, i: usize, v: ValueId, order: Order) {
        if let Some(r) = self.results.get_mut(i) {
            *r = Some((v, order));
        }
    }

    /// Declares a result by its real numbers.
    pub(super) fn set_real(&mut self, i: usize, v: ValueId, order: Order) -> Result<()> {
        let Some(&t) = self.op.outputs.get(i) else { return Ok(()) };
        let v = self.l.quantize(t, v, order)?;
        self.set(i, v, order);
        Ok(())
    }

    /// The results by their tensors, once every option has been read.
    pub(super) fn finish(self) -> Result<Vec<(usize, (ValueId, Order))>> {
        let read = self.read.borrow();
        let present = match &self.options {
            Some(t) => t.present().or_else(|e| LowerError::option("builtin_options", e.what))?,
            None => vec![],
        };
        if let Some(f) = present.iter().find(|f| !read.contains(f)) {
            return LowerError::option(
                &format!("field {f}"),
                "is unknown: the file may be of a newer format",
            );
        }
        let result = |(&t, r): (&usize, &Option<(ValueId, Order)>)| match r {
            Some(r) => Ok((t, *r)),
            None => LowerError::feature(format!("a result besides the first, {}", self.l.place(t))),
        };
        self.op.outputs.iter().zip(&self.results).map(result).collect()
    }
}

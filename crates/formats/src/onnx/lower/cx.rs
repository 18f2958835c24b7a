use super::{LowerError, LowerWarning, body, graph::Lowerer};
use crate::{
    onnx::{
        AttributeValue, dtype_of,
        proto::{AttributeProto, GraphProto, NodeProto},
    },
    text::quoted,
};
use std::{cell::RefCell, collections::HashSet};
use tensormill_ir::{
    Dim, GraphBuilder, Op, TensorType, Type, ValueId,
    attr::Body,
    ops::{BinaryKind, UnaryKind},
};
use tensormill_tensor::{DType, Tensor};

/// One node on its way into the graph: its attributes, operands and results.
pub(super) struct NodeCx<'a, 'm> {
    lowerer: &'a mut Lowerer<'m>,
    node: &'m NodeProto,
    inputs: Vec<Option<ValueId>>,
    opset: i64,
    read: RefCell<HashSet<&'m str>>,
    results: Vec<Option<ValueId>>,
}

/// A body, and the values around it that follow its own inputs.
pub(super) type LoweredBody = (Body, Vec<ValueId>);

type Result<T> = std::result::Result<T, LowerError>;

impl<'a, 'm> NodeCx<'a, 'm> {
    pub(super) fn new(
        l: &'a mut Lowerer<'m>,
        node: &'m NodeProto,
        inputs: Vec<Option<ValueId>>,
        opset: i64,
    ) -> Self {
        NodeCx {
            lowerer: l,
            node,
            inputs,
            opset,
            read: RefCell::default(),
            results: vec![None; node.output.len()],
        }
    }

    /// Version of the operator set that the node's meaning comes from.
    pub(super) fn opset(&self) -> i64 {
        self.opset
    }

    /// Name of the operator.
    pub(super) fn op_type(&self) -> &'m str {
        &self.node.op_type
    }

    // Operands

    /// Number of operand places, given or left out.
    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Refuses operands that the operator does not take.
    pub(super) fn at_most(&self, most: usize) -> Result<()> {
        match self.inputs.len() {
            n if n > most => LowerError::operand(format!("takes at most {most} operands, got {n}")),
            _ => Ok(()),
        }
    }

    /// An operand that may be left out.
    pub(super) fn opt(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// An operand that must be there.
    pub(super) fn input(&self, i: usize) -> Result<ValueId> {
        self.opt(i).ok_or_else(|| LowerError::Operand(format!("operand {i} is missing")))
    }

    /// All operands, which must all be there.
    pub(super) fn all(&self) -> Result<Vec<ValueId>> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// The type of a value, which must be a tensor.
    pub(super) fn tensor(&self, v: ValueId) -> Result<TensorType> {
        let ty = self.lowerer.scopes.builder_ref().ty(v);
        ty.as_tensor().cloned().ok_or_else(|| LowerError::Operand(format!("expected a tensor, got {ty}")))
    }

    /// The element type of a tensor value.
    pub(super) fn dtype(&self, v: ValueId) -> Result<DType> {
        Ok(self.tensor(v)?.dtype)
    }

    /// The rank of a tensor value, which must be known.
    pub(super) fn rank(&self, v: ValueId) -> Result<usize> {
        match self.tensor(v)?.rank() {
            Some(r) => Ok(r),
            None => LowerError::feature("an operand of unknown rank"),
        }
    }

    /// The dims of a tensor value of known rank.
    pub(super) fn dims(&self, v: ValueId) -> Result<Vec<Dim>> {
        self.rank(v)?;
        Ok(self.tensor(v)?.dims.map(|d| d.to_vec()).unwrap_or_default())
    }

    /// The type of a value.
    pub(super) fn ty(&self, v: ValueId) -> Type {
        self.lowerer.scopes.builder_ref().ty(v).clone()
    }

    /// The elements of a small integer operand, when they are known.
    pub(super) fn ints_of(&self, v: ValueId) -> Option<Vec<i64>> {
        self.lowerer.scopes.builder_ref().graph().const_ints(v)
    }

    // Attributes

    fn attribute(&self, name: &str) -> Result<Option<AttributeValue<'m>>> {
        let Some(a) = self.node.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        self.read.borrow_mut().insert(&a.name);
        let value = |a: &'m AttributeProto| {
            a.value().map_err(|what| LowerError::Attribute { name: name.into(), what })
        };
        match value(a)? {
            // Of a function that leaves the attribute out, the operator's default holds.
            AttributeValue::Reference(outer) => match self.lowerer.scopes.current().attributes.get(outer) {
                Some(a) => value(a).map(Some),
                None => Ok(None),
            },
            v => Ok(Some(v)),
        }
    }

    fn wrong<T>(name: &str, expected: &str) -> Result<T> {
        Err(LowerError::Attribute { name: name.into(), what: format!("must be {expected}") })
    }

    /// An attribute whose value makes no sense.
    pub(super) fn bad<T>(&self, name: &str, what: impl Into<String>) -> Result<T> {
        Err(LowerError::Attribute { name: name.into(), what: what.into() })
    }

    /// Whether the node has the attribute; does not count as reading it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.node.attribute.iter().any(|a| a.name == name)
    }

    /// Marks an attribute as read that has no effect here.
    pub(super) fn ignore(&self, name: &str) {
        if let Some(a) = self.node.attribute.iter().find(|a| a.name == name) {
            self.read.borrow_mut().insert(&a.name);
        }
    }

    /// An integer.
    pub(super) fn opt_int(&self, name: &str) -> Result<Option<i64>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Int(i)) => Ok(Some(i)),
            Some(_) => Self::wrong(name, "an integer"),
        }
    }

    /// An integer with a default.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// A flag: 0 or another integer.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.opt_int(name)?.map_or(default, |i| i != 0))
    }

    /// A float with a default.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    /// A float.
    pub(super) fn opt_float(&self, name: &str) -> Result<Option<f32>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Float(f)) => Ok(Some(f)),
            Some(_) => Self::wrong(name, "a float"),
        }
    }

    /// Integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Ints(v)) => Ok(Some(v.to_vec())),
            Some(_) => Self::wrong(name, "a list of integers"),
        }
    }

    /// Floats.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Floats(v)) => Ok(Some(v.to_vec())),
            Some(_) => Self::wrong(name, "a list of floats"),
        }
    }

    /// A string.
    pub(super) fn string(&self, name: &str) -> Result<Option<String>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::String(s)) => match std::str::from_utf8(s) {
                Ok(s) => Ok(Some(s.into())),
                Err(_) => Self::wrong(name, "UTF-8"),
            },
            Some(_) => Self::wrong(name, "a string"),
        }
    }

    /// Strings.
    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Strings(v)) => {
                let utf8 =
                    v.iter().map(|s| String::from_utf8(s.to_vec())).collect::<std::result::Result<_, _>>();
                utf8.map(Some).or_else(|_| Self::wrong(name, "UTF-8"))
            }
            Some(_) => Self::wrong(name, "a list of strings"),
        }
    }

    /// A tensor.
    pub(super) fn tensor_attribute(&self, name: &str) -> Result<Option<Tensor>> {
        let at = || format!("attribute {}", quoted(name));
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Tensor(t)) => Ok(Some(self.lowerer.model.tensor(t, &at())?)),
            Some(AttributeValue::SparseTensor(t)) => Ok(Some(self.lowerer.model.sparse(t, &at())?)),
            Some(_) => Self::wrong(name, "a tensor"),
        }
    }

    /// An element type.
    pub(super) fn dtype_attribute(&self, name: &str) -> Result<Option<DType>> {
        match self.opt_int(name)? {
            None => Ok(None),
            Some(code) => match i32::try_from(code).ok().and_then(dtype_of) {
                Some(d) => Ok(Some(d)),
                None => self.bad(name, format!("names the unknown element type {code}")),
            },
        }
    }

    /// A type.
    pub(super) fn type_attribute(&self, name: &str) -> Result<Option<Type>> {
        match self.attribute(name)? {
            None => Ok(None),
            Some(AttributeValue::Type(t)) => super::types::read_type(t),
            Some(_) => Self::wrong(name, "a type"),
        }
    }

    /// A body, which must be there.
    pub(super) fn graph(&self, name: &str) -> Result<&'m GraphProto> {
        match self.attribute(name)? {
            Some(AttributeValue::Graph(g)) => Ok(g),
            _ => Self::wrong(name, "a graph"),
        }
    }

    /// Lowers a body whose own inputs have these types; the results at `optional` become optionals.
    pub(super) fn body(
        &mut self,
        g: &'m GraphProto,
        name: &str,
        inputs: &[Type],
        optional: &[usize],
    ) -> Result<LoweredBody> {
        let lowered = body::lower_body(self.lowerer, g, name, inputs, optional);
        self.lowerer.scopes.builder().set_origin(Some(&self.node.name));
        lowered
    }

    /// Puts a body's nodes into the graph, its inputs being these values; returns its outputs.
    pub(super) fn inline(
        &mut self,
        g: &'m GraphProto,
        name: &str,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>> {
        let results = body::inline(self.lowerer, g, name, inputs);
        self.lowerer.scopes.builder().set_origin(Some(&self.node.name));
        results
    }

    // Nodes and results

    /// The graph being built, for everything that has no shorthand here.
    pub(super) fn builder(&mut self) -> &mut GraphBuilder {
        self.lowerer.scopes.builder()
    }

    /// Adds a node all of whose operands are given; returns its first result.
    pub(super) fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.builder().op(op, inputs)?)
    }

    /// Adds a node; returns its results.
    pub(super) fn node(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let used = inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        Ok(self.builder().node(op, &inputs[..used])?.to_vec())
    }

    /// Adds a unary elementwise node.
    pub(super) fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Result<ValueId> {
        Ok(self.builder().unary(kind, x)?)
    }

    /// Adds a binary elementwise node.
    pub(super) fn binary(&mut self, kind: BinaryKind, a: ValueId, b: ValueId) -> Result<ValueId> {
        Ok(self.builder().binary(kind, a, b)?)
    }

    /// Adds a binary elementwise node whose second operand is a number.
    pub(super) fn binary_scalar(&mut self, kind: BinaryKind, a: ValueId, b: f64) -> Result<ValueId> {
        let b = self.scalar_like(a, b)?;
        self.binary(kind, a, b)
    }

    /// Adds a constant.
    pub(super) fn constant(&mut self, t: Tensor) -> Result<ValueId> {
        Ok(self.builder().constant(t)?)
    }

    /// Adds a constant i64 vector.
    pub(super) fn ints_constant(&mut self, v: &[i64]) -> Result<ValueId> {
        Ok(self.builder().ints(v)?)
    }

    /// Adds a constant scalar of a value's element type.
    pub(super) fn scalar_like(&mut self, like: ValueId, v: f64) -> Result<ValueId> {
        let dtype = self.dtype(like)?;
        Ok(self.builder().scalar(dtype, v)?)
    }

    /// Adds a cast, unless the value has that type already.
    pub(super) fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        Ok(self.builder().cast(x, to)?)
    }

    /// Number of results that the node names, up to the last one wanted.
    pub(super) fn outputs(&self) -> usize {
        self.node.output.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1)
    }

    /// Whether anybody wants the result at `i`.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|n| !n.is_empty())
    }

    /// Declares the result at `i`.
    pub(super) fn set(&mut self, i: usize, v: ValueId) {
        if let Some(r) = self.results.get_mut(i) {
            *r = Some(v);
        }
    }

    /// Declares the results from the first on.
    pub(super) fn set_all(&mut self, values: &[ValueId]) {
        for (i, v) in values.iter().enumerate() {
            self.set(i, *v);
        }
    }

    /// Notes that the result differs from the operator's definition.
    pub(super) fn approximation(&mut self, what: impl Into<String>) {
        let at = format!("{} {}", self.node.op_type, quoted(&self.node.name));
        self.lowerer.warnings.push(LowerWarning::Approximation { at, what: what.into() });
    }

    /// The results by name, once every attribute has been read.
    pub(super) fn finish(self) -> Result<Vec<(String, ValueId)>> {
        let read = self.read.borrow();
        if let Some(a) = self.node.attribute.iter().find(|a| !read.contains(a.name.as_str())) {
            let what = format!("of {} is unknown in opset {}", self.node.op_type, self.opset);
            return Err(LowerError::Attribute { name: a.name.clone(), what });
        }
        let wanted = self.node.output.iter().zip(&self.results).filter(|(n, _)| !n.is_empty());
        wanted
            .map(|(name, v)| match v {
                Some(v) => Ok((name.clone(), *v)),
                None => LowerError::feature(format!("result {} of {}", quoted(name), self.node.op_type)),
            })
            .collect()
    }
}

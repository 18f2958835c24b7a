//! One node on its way into a message, and what builds nodes of the file.

use super::{
    error::{Result, refuse},
    graph::GraphCx,
    types::{code, write_type},
};
use crate::onnx::{
    AttributeType,
    encode::write_tensor,
    proto::{AttributeProto, GraphProto, NodeProto},
};
use bytes::Bytes;
use tensormill_ir::{Graph, Node, TensorType, Type, ValueId, attr::Body};
use tensormill_tensor::{DType, Tensor};

/// Operators that came after the set that everything else is written in.
const SINCE: &[(&str, i64)] = &[
    ("Attention", 23),
    ("BitCast", 26),
    ("CausalConvWithState", 27),
    ("CumProd", 26),
    ("LinearAttention", 27),
    ("RMSNormalization", 23),
    ("RotaryEmbedding", 23),
    ("Swish", 24),
    ("TensorScatter", 24),
];

/// What a function that writes a node works on.
pub(super) struct NodeCx<'c, 'w, 'g> {
    cx: &'c mut GraphCx<'w, 'g>,
    pub(super) node: &'g Node,
    named: bool,
}

impl<'c, 'w, 'g> NodeCx<'c, 'w, 'g> {
    pub(super) fn new(cx: &'c mut GraphCx<'w, 'g>, node: &'g Node) -> Self {
        NodeCx { cx, node, named: false }
    }

    pub(super) fn g(&self) -> &'g Graph {
        self.cx.g
    }

    /// Asks for a version of ONNX's own operators.
    pub(super) fn require(&mut self, opset: i64) {
        self.cx.w.require(opset);
    }

    // Operands and results

    /// The name of a value.
    pub(super) fn name(&mut self, v: ValueId) -> String {
        self.cx.name(v)
    }

    /// The name of an operand; empty where it is left out.
    pub(super) fn input(&mut self, i: usize) -> String {
        self.node.input(i).map_or_else(String::new, |v| self.cx.name(v))
    }

    /// The names of all operands.
    pub(super) fn inputs(&mut self) -> Vec<String> {
        (0..self.node.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// The name of a result.
    pub(super) fn output(&mut self, i: usize) -> String {
        let v = self.node.outputs[i];
        self.cx.name(v)
    }

    /// The names of all results.
    pub(super) fn outputs(&mut self) -> Vec<String> {
        (0..self.node.outputs.len()).map(|i| self.output(i)).collect()
    }

    /// An operand that must be there.
    pub(super) fn operand(&self, i: usize) -> Result<ValueId> {
        self.node.input(i).map_or_else(|| refuse(format!("operand {i} is missing")), Ok)
    }

    pub(super) fn tensor(&self, v: ValueId) -> Option<&'g TensorType> {
        self.g().ty(v).as_tensor()
    }

    pub(super) fn dtype_of(&self, i: usize) -> Result<DType> {
        match self.tensor(self.operand(i)?) {
            Some(t) => Ok(t.dtype),
            None => refuse(format!("operand {i} is no tensor")),
        }
    }

    pub(super) fn rank_of(&self, i: usize) -> Option<usize> {
        self.tensor(self.node.input(i)?)?.rank()
    }

    /// A size of an operand, when it is known.
    pub(super) fn size_of(&self, i: usize, axis: usize) -> Option<usize> {
        self.tensor(self.node.input(i)?)?.dims.as_ref()?.get(axis)?.known()
    }

    /// The tensor of a constant operand.
    pub(super) fn constant(&self, i: usize) -> Option<&'g Tensor> {
        self.g().constant(self.node.input(i)?)
    }

    /// The elements of a small integer operand, when they are known.
    pub(super) fn ints_of(&self, i: usize) -> Option<Vec<i64>> {
        self.g().const_ints(self.node.input(i)?)
    }

    // Nodes of the file

    /// A name for a value in between.
    pub(super) fn temporary(&mut self) -> String {
        let base = self.node.output();
        let base = self.cx.name(base);
        self.cx.w.names.fresh(&format!("{base}_part"))
    }

    /// A constant of the writer's own.
    pub(super) fn new_constant(&mut self, what: &str, t: &Tensor) -> String {
        let base = self.node.output();
        let base = self.cx.name(base);
        self.cx.new_constant(&format!("{base}_{what}"), t)
    }

    /// A constant i64 vector of the writer's own.
    pub(super) fn new_ints(&mut self, what: &str, v: &[i64]) -> Result<String> {
        let t = made(Tensor::from_vec([v.len()], v.to_vec()))?;
        Ok(self.new_constant(what, &t))
    }

    /// A constant scalar of the writer's own.
    pub(super) fn new_scalar(&mut self, what: &str, dtype: DType, v: f64) -> Result<String> {
        let t = if dtype.is_int() {
            Tensor::from_i64s(dtype, [], [v as i64])
        } else {
            Tensor::from_f64s(dtype, [], [v])
        };
        let t = made(t)?;
        Ok(self.new_constant(what, &t))
    }

    /// The node's operator, with all its operands and results.
    pub(super) fn plain(&mut self, op_type: &str) -> Made<'_> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        self.add(op_type, inputs, outputs)
    }

    /// An operator with one result in between, whose name comes back.
    pub(super) fn part(&mut self, op_type: &str, inputs: Vec<String>) -> String {
        let y = self.temporary();
        self.add(op_type, inputs, vec![y.clone()]);
        y
    }

    /// An operator of ONNX's own.
    pub(super) fn add(&mut self, op_type: &str, input: Vec<String>, output: Vec<String>) -> Made<'_> {
        if let Some((_, since)) = SINCE.iter().find(|(op, _)| *op == op_type) {
            self.require(*since);
        }
        let origin = self.node.origin.as_deref().unwrap_or("");
        let name = match (self.named, origin) {
            // A node without a name stays without one.
            (_, "") => String::new(),
            (false, origin) => self.cx.w.node_name(origin),
            (true, origin) => self.cx.w.node_name(&format!("{origin}_{op_type}")),
        };
        self.named = true;
        let node = NodeProto { op_type: op_type.into(), input, output, name, ..NodeProto::default() };
        Made(self.cx.push(node))
    }

    /// An operator of classical machine learning.
    pub(super) fn add_ml(
        &mut self,
        op_type: &str,
        version: i64,
        input: Vec<String>,
        output: Vec<String>,
    ) -> Made<'_> {
        self.cx.w.require_ml(version);
        let made = self.add(op_type, input, output);
        made.0.domain = "ai.onnx.ml".into();
        made
    }

    /// The message of a body that captures these values.
    pub(super) fn body(&mut self, body: &Body, captured: &[String]) -> Result<GraphProto> {
        self.cx.body(body, captured)
    }
}

/// A tensor of elements that are as many as its shape says.
pub(super) fn made(t: std::result::Result<Tensor, tensormill_tensor::TensorError>) -> Result<Tensor> {
    t.or_else(|e| refuse(e.to_string()))
}

/// A node of the file that attributes are added to.
pub(super) struct Made<'a>(&'a mut NodeProto);

impl Made<'_> {
    fn with(self, name: &str, ty: AttributeType, fill: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut a = AttributeProto { name: name.into(), r#type: ty as i32, ..AttributeProto::default() };
        fill(&mut a);
        self.0.attribute.push(a);
        self
    }

    pub(super) fn int(self, name: &str, v: i64) -> Self {
        self.with(name, AttributeType::Int, |a| a.i = Some(v))
    }

    /// An integer that is not the operator's default.
    pub(super) fn int_unless(self, name: &str, v: i64, default: i64) -> Self {
        if v == default { self } else { self.int(name, v) }
    }

    pub(super) fn size(self, name: &str, v: usize) -> Self {
        self.int(name, i64::try_from(v).unwrap_or(i64::MAX))
    }

    /// A flag that is not set by default.
    pub(super) fn flag(self, name: &str, v: bool) -> Self {
        if v { self.int(name, 1) } else { self }
    }

    pub(super) fn float(self, name: &str, v: f32) -> Self {
        self.with(name, AttributeType::Float, |a| a.f = Some(v))
    }

    pub(super) fn ints(self, name: &str, v: &[i64]) -> Self {
        let v = v.to_vec();
        self.with(name, AttributeType::Ints, |a| a.ints = v)
    }

    /// Sizes, unless there are none.
    pub(super) fn sizes(self, name: &str, v: &[usize]) -> Self {
        if v.is_empty() {
            return self;
        }
        let v: Vec<i64> = v.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
        self.ints(name, &v)
    }

    pub(super) fn floats(self, name: &str, v: Vec<f32>) -> Self {
        self.with(name, AttributeType::Floats, |a| a.floats = v)
    }

    pub(super) fn string(self, name: &str, v: &str) -> Self {
        let v = Bytes::copy_from_slice(v.as_bytes());
        self.with(name, AttributeType::String, |a| a.s = Some(v))
    }

    pub(super) fn strings<'s>(self, name: &str, v: impl IntoIterator<Item = &'s str>) -> Self {
        let v = v.into_iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
        self.with(name, AttributeType::Strings, |a| a.strings = v)
    }

    pub(super) fn tensor(self, name: &str, t: &Tensor) -> Result<Self> {
        let proto = write_tensor(name, t).or_else(|e| refuse(e.to_string()))?;
        Ok(self.with(name, AttributeType::Tensor, |a| a.t = Some(Box::new(proto))))
    }

    pub(super) fn graph(self, name: &str, g: GraphProto) -> Self {
        self.with(name, AttributeType::Graph, |a| a.g = Some(Box::new(g)))
    }

    pub(super) fn dtype(self, name: &str, d: DType) -> Self {
        self.int(name, i64::from(code(d)))
    }

    pub(super) fn ty(self, name: &str, t: &Type) -> Self {
        let proto = write_type(t);
        self.with(name, AttributeType::Type, |a| a.tp = Some(Box::new(proto)))
    }
}

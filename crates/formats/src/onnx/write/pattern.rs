//! Which nodes are written, and in what form: what operators of ONNX fell apart into when they were read
//! is found again.

use std::collections::HashMap;
use tensormill_ir::{
    Graph, Node, NodeId, Op, ValueId,
    ops::{BinaryKind, ReduceKind, UnaryKind},
};
use tensormill_tensor::{DType, Tensor};

/// How a node is written.
pub(super) enum Form {
    /// As the operator of its own op.
    Plain,
    /// A sum whose first term is a product of matrices with no other reader, as one Gemm.
    Gemm { product: NodeId, c: ValueId },
    /// A product or convolution of 8-bit integers less their zero points.
    Integer(Box<[Narrow; 2]>),
    /// Range, scale, zero point and quantization of one tensor.
    DynamicQuantize { x: ValueId, y: ValueId, scale: ValueId, point: ValueId },
}

/// 8-bit integers behind an i32 factor, and their zero point.
pub(super) struct Narrow {
    pub(super) value: Source,
    pub(super) zero: Option<Source>,
}

/// A value of the graph, or a constant narrowed here.
pub(super) enum Source {
    Value(ValueId),
    Constant(Tensor),
}

/// The forms of all nodes that outputs need.
pub(super) struct Plan {
    at: HashMap<NodeId, Vec<Form>>,
}

impl Plan {
    pub(super) fn of(g: &Graph) -> Plan {
        let order = g.order();
        let mut rank = vec![usize::MAX; g.node_capacity()];
        for (i, id) in order.iter().enumerate() {
            rank[id.index()] = i;
        }
        let mut plan = Plan { at: HashMap::new() };
        let mut needed = vec![false; g.node_capacity()];
        // Nodes whose results come from another operator.
        let mut provided = vec![false; g.node_capacity()];
        for o in g.outputs() {
            demand(g, &mut needed, o.value);
        }
        for &id in order.iter().rev() {
            let node = g.node(id);
            if !needed[id.index()] || provided[id.index()] || matches!(node.op, Op::Const(_)) {
                continue;
            }
            if let Some((form, station, others)) = dynamic_quantize(g, node, &rank) {
                let Form::DynamicQuantize { x, .. } = &form else { continue };
                demand(g, &mut needed, *x);
                for n in others {
                    provided[n.index()] = true;
                }
                plan.at.entry(station).or_default().insert(0, form);
                continue;
            }
            let form = gemm(g, node).or_else(|| integer(g, node)).unwrap_or(Form::Plain);
            match &form {
                Form::Gemm { product, c } => {
                    for v in g.node(*product).inputs.iter().flatten().chain([c]) {
                        demand(g, &mut needed, *v);
                    }
                }
                Form::Integer(factors) => {
                    for s in factors.iter().flat_map(|f| [Some(&f.value), f.zero.as_ref()]).flatten() {
                        if let Source::Value(v) = s {
                            demand(g, &mut needed, *v);
                        }
                    }
                }
                _ => {
                    for v in node.inputs.iter().flatten() {
                        demand(g, &mut needed, *v);
                    }
                }
            }
            plan.at.entry(id).or_default().push(form);
        }
        plan
    }

    /// What is written at a node's place.
    pub(super) fn at(&self, id: NodeId) -> &[Form] {
        self.at.get(&id).map_or(&[], |f| f)
    }
}

fn demand(g: &Graph, needed: &mut [bool], v: ValueId) {
    if let Some((id, _)) = g.producer(v) {
        needed[id.index()] = true;
    }
}

fn rank(g: &Graph, v: ValueId) -> Option<usize> {
    g.ty(v).as_tensor()?.rank()
}

fn dtype(g: &Graph, v: ValueId) -> Option<DType> {
    Some(g.ty(v).as_tensor()?.dtype)
}

/// `a * b + c` of matrices, where the product has no other reader.
fn gemm(g: &Graph, node: &Node) -> Option<Form> {
    let Op::Binary(op) = &node.op else { return None };
    if op.kind != BinaryKind::Add {
        return None;
    }
    let (p, c) = (node.input(0)?, node.input(1)?);
    let (product, below) = g.producer(p)?;
    let Op::MatMul(m) = &below.op else { return None };
    let plain = m.epilogue.is_empty() && g.value(p).users().len() == 1 && !g.is_output(p);
    let matrices = rank(g, below.input(0)?) == Some(2) && rank(g, below.input(1)?) == Some(2);
    let row = rank(g, c) == Some(1) && g.ty(p) == g.ty(node.output());
    (plain && matrices && row && dtype(g, p)?.is_float()).then_some(Form::Gemm { product, c })
}

/// A product or convolution whose factors are widened integers.
fn integer(g: &Graph, node: &Node) -> Option<Form> {
    match &node.op {
        Op::MatMul(m) if m.epilogue.is_empty() && !m.trans_a && !m.trans_b => {}
        Op::Conv(c) if c.epilogue.is_empty() && node.inputs.len() == 2 => {}
        _ => return None,
    }
    // Zero points of a right factor stand along its columns, all others along rows or kernels.
    let columns = matches!(node.op, Op::MatMul(_));
    let (a, b) = (narrow(g, node.input(0)?, false)?, narrow(g, node.input(1)?, columns)?);
    Some(Form::Integer(Box::new([a, b])))
}

fn narrow(g: &Graph, v: ValueId, columns: bool) -> Option<Narrow> {
    if dtype(g, v)? != DType::I32 {
        return None;
    }
    if let Some((_, Node { op: Op::Binary(b), inputs, .. })) = g.producer(v)
        && b.kind == BinaryKind::Sub
    {
        let value = widened(g, inputs[0]?)?;
        let narrow = match &value {
            Source::Value(v) => dtype(g, *v)?,
            Source::Constant(t) => t.dtype(),
        };
        let zero = zero_point(g, inputs[1]?, narrow, columns)?;
        return Some(Narrow { value, zero: Some(zero) });
    }
    Some(Narrow { value: widened(g, v)?, zero: None })
}

/// What an i32 value was before it was widened.
fn widened(g: &Graph, v: ValueId) -> Option<Source> {
    if let Some(t) = g.constant(v) {
        return narrowed(t, &[DType::I8, DType::U8]).map(Source::Constant);
    }
    let (_, node) = g.producer(v)?;
    let Op::Cast(_) = &node.op else { return None };
    let x = node.input(0)?;
    matches!(dtype(g, x)?, DType::I8 | DType::U8).then_some(Source::Value(x))
}

/// The elements in the first of these types that holds all.
fn narrowed(t: &Tensor, types: &[DType]) -> Option<Tensor> {
    let v = t.to_i64_vec().ok()?;
    let dtype = types.iter().find(|d| {
        let range = if **d == DType::I8 { -128..=127 } else { 0..=255 };
        v.iter().all(|x| range.contains(x))
    })?;
    Tensor::from_i64s(*dtype, t.shape(), v).ok()
}

/// A zero point before it was widened and shaped for subtraction: a scalar, or a vector along rows or
/// columns.
fn zero_point(g: &Graph, v: ValueId, to: DType, columns: bool) -> Option<Source> {
    let dims = g.ty(v).as_tensor()?.dims.as_ref()?;
    let single = dims.iter().all(|d| d.known() == Some(1));
    // A vector is one of columns; of rows, it ends in axes of size 1.
    let placed = match (columns, &dims[..]) {
        (true, d) => d.len() == 1,
        (false, [_, rest @ ..]) => !rest.is_empty() && rest.iter().all(|d| d.known() == Some(1)),
        (false, []) => true,
    };
    if !single && !placed {
        return None;
    }
    if let Some(t) = g.constant(v) {
        let t = narrowed(t, &[to])?;
        let t = if t.len() == 1 { t.reshape([]) } else { t.reshape([t.len()]) };
        return t.ok().map(Source::Constant);
    }
    let mut v = v;
    loop {
        let (_, node) = g.producer(v)?;
        let x = node.input(0)?;
        match &node.op {
            Op::Reshape(_) | Op::Unsqueeze(_) => v = x,
            Op::Cast(_) => return (dtype(g, x)? == to).then_some(Source::Value(x)),
            _ => return None,
        }
    }
}

/// The node behind a value, if it is a binary op of this kind, with its operands.
fn binary(g: &Graph, v: ValueId, kind: BinaryKind) -> Option<(NodeId, ValueId, ValueId)> {
    let (id, node) = g.producer(v)?;
    match &node.op {
        Op::Binary(b) if b.kind == kind => Some((id, node.input(0)?, node.input(1)?)),
        _ => None,
    }
}

fn unary(g: &Graph, v: ValueId) -> Option<(UnaryKind, ValueId)> {
    let (_, node) = g.producer(v)?;
    match &node.op {
        Op::Unary(u) => Some((u.kind, node.input(0)?)),
        _ => None,
    }
}

fn is_number(g: &Graph, v: ValueId, n: f64) -> bool {
    g.constant(v).is_some_and(|t| t.len() == 1 && t.to_f64_vec().is_ok_and(|v| v[0] == n))
}

/// Of `kind(reduce(x), 0)`: the reduction's node, and x.
fn extreme(g: &Graph, v: ValueId, bound: BinaryKind, kind: ReduceKind) -> Option<(NodeId, ValueId)> {
    let (_, a, b) = binary(g, v, bound)?;
    let reduced = if is_number(g, b, 0.0) {
        a
    } else if is_number(g, a, 0.0) {
        b
    } else {
        return None;
    };
    let (id, node) = g.producer(reduced)?;
    match &node.op {
        Op::Reduce(r) if r.kind == kind && !r.keepdims && node.inputs.len() == 1 => {
            Some((id, node.input(0)?))
        }
        _ => None,
    }
}

/// The parts that a dynamic quantization fell into when it was read: the form, the node whose place it
/// takes (the first of them), and the nodes whose results it gives too.
fn dynamic_quantize(g: &Graph, node: &Node, order: &[usize]) -> Option<(Form, NodeId, [NodeId; 2])> {
    let Op::QuantizeLinear(q) = &node.op else { return None };
    if q.to != DType::U8 || q.block_size != 0 || q.precision.is_some() {
        return None;
    }
    let (x, divisor, point) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (_, choice) = g.producer(divisor)?;
    let Op::Where(_) = &choice.op else { return None };
    let scale = choice.input(2)?;
    let (_, a, b) = binary(g, choice.input(0)?, BinaryKind::Equal)?;
    let flat = (a == scale && is_number(g, b, 0.0)) || (b == scale && is_number(g, a, 0.0));
    let (scale_node, range, steps) = binary(g, scale, BinaryKind::Div)?;
    let (_, high, low) = binary(g, range, BinaryKind::Sub)?;
    let (min, source) = extreme(g, low, BinaryKind::Min, ReduceKind::Min)?;
    let (max, also) = extreme(g, high, BinaryKind::Max, ReduceKind::Max)?;
    let (point_node, cast) = g.producer(point)?;
    let Op::Cast(_) = &cast.op else { return None };
    let clipped = cast.input(0)?;
    let rounded = match g.producer(clipped)?.1 {
        Node { op: Op::Clip(_), inputs, .. } => {
            let bounds = is_number(g, (*inputs.get(1)?)?, 0.0) && is_number(g, (*inputs.get(2)?)?, 255.0);
            bounds.then_some(inputs[0]?)?
        }
        _ => match unary(g, clipped)? {
            (UnaryKind::Clamp { min, max }, v) if min.0 == 0.0 && max.0 == 255.0 => v,
            _ => return None,
        },
    };
    let (UnaryKind::Round, negated) = unary(g, rounded)? else { return None };
    let (UnaryKind::Neg, quotient) = unary(g, negated)? else { return None };
    let (_, dividend, by) = binary(g, quotient, BinaryKind::Div)?;
    let whole = flat
        && is_number(g, choice.input(1)?, 1.0)
        && is_number(g, steps, 255.0)
        && source == x
        && also == x
        && dividend == low
        && by == divisor
        && dtype(g, x) == Some(DType::F32);
    let station = if order[min.index()] < order[max.index()] { min } else { max };
    let form = Form::DynamicQuantize { x, y: node.output(), scale, point };
    whole.then_some((form, station, [scale_node, point_node]))
}

use super::{Real, Stored};
use crate::{
    pass::Numerics,
    pattern::{dims, find, same_dims},
    rule::{Outcome, Rule, RuleCx},
};
use rustc_hash::FxHashMap;
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{ByteTable, Op},
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{Tensor, Value};

/// Steps that one table stands for at most.
const MAX_STEPS: usize = 16;

/// Makes a table of what elementwise steps do to each of the 256 integers between a dequantization and the
/// quantization after it: activations, constant factors, a change of scales.
#[derive(Debug)]
pub struct TableOfBytes;

/// The steps behind a value, each after those it reads.
struct Steps<'a> {
    g: &'a Graph,
    order: Vec<NodeId>,
    /// The dequantized tensor that they begin with.
    start: Option<ValueId>,
}

impl Steps<'_> {
    /// Collects the steps that compute `v` from the one dequantized tensor; `None` where something else is
    /// read, or more than a table is for.
    fn collect(&mut self, v: ValueId) -> Option<()> {
        if self.start == Some(v) || self.g.constant(v).is_some_and(|t| t.len() == 1) {
            return Some(());
        }
        let (id, node) = self.g.producer(v)?;
        if Real::whole(self.g, v).is_some() {
            return self.start.replace(v).is_none().then_some(());
        }
        if self.order.contains(&id) {
            return Some(());
        }
        let elementwise = matches!(node.op, Op::Unary(_) | Op::Binary(_));
        if !elementwise || self.order.len() >= MAX_STEPS {
            return None;
        }
        node.inputs.iter().try_for_each(|i| self.collect((*i)?))?;
        self.order.push(id);
        Some(())
    }
}

impl Rule for TableOfBytes {
    fn name(&self) -> &'static str {
        "byte_table"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::QuantizeLinear]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let q = find!(Stored::at(g, node));
        let mut steps = Steps { g, order: vec![], start: None };
        find!(steps.collect(q.x));
        let start = find!(steps.start);
        let real = find!(Real::whole(g, start));
        if g.constant(real.x).is_some() {
            return Outcome::NoMatch;
        }
        if [Some(real.scale), real.zero].iter().flatten().any(|v| g.constant(*v).is_none()) {
            return Outcome::Declined("the scale of what is dequantized is computed");
        }
        // A step that others read is computed anyway.
        let inside = |id: &NodeId| *id == at || steps.order.contains(id);
        let private = |v: ValueId| !cx.is_output(v) && g.value(v).users().iter().all(inside);
        if !steps.order.iter().all(|s| private(g.node(*s).output())) {
            return Outcome::Declined("the real numbers have other readers");
        }
        if !dims(g, real.x).zip(dims(g, node.output())).is_some_and(|(a, b)| same_dims(a, b)) {
            return Outcome::Declined("a constant may enlarge the result");
        }
        let Some(table) = table(g, &steps.order, start, at) else {
            return Outcome::Declined("it cannot be computed");
        };
        let mut p = Patch::new();
        let table = p.constant(table);
        let new = p.op(ByteTable {}, &[New::Old(real.x), table]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

/// What becomes of each byte from the dequantization that computes `start` to the quantization `last`.
fn table(g: &Graph, steps: &[NodeId], start: ValueId, last: NodeId) -> Option<Tensor> {
    let (first, node) = g.producer(start)?;
    let bytes: Vec<u8> = (0..=255).collect();
    let x = node.input(0)?;
    let all = Tensor::from_bytes(super::dtype(g, x)?, [256], bytes.into()).ok()?;
    let mut values: FxHashMap<ValueId, Value> = FxHashMap::default();
    values.insert(x, all.into());
    for id in [first].iter().chain(steps).chain([&last]) {
        let node = g.node(*id);
        for v in node.inputs.iter().flatten() {
            // One number, whatever its axes.
            if !values.contains_key(v) {
                values.insert(*v, g.constant(*v)?.reshape(&[][..]).ok()?.into());
            }
        }
        let operands: Vec<Option<&Value>> =
            node.inputs.iter().map(|v| v.as_ref().and_then(|v| values.get(v))).collect();
        let result = eval(&node.op, &operands, &EvalLimits::default()).ok()?.pop()?;
        values.insert(node.output(), result);
    }
    values.remove(&g.node(last).output())?.into_tensor().ok()
}

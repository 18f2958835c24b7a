use crate::{
    pass::Numerics,
    pattern::find,
    rule::{Outcome, Rule, RuleCx},
};
use rustc_hash::FxHashMap;
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{Concat, Op, Unsqueeze},
};
use tensormill_tensor::Tensor;

/// Puts the nodes of a branch whose condition is a constant in the place of the branch.
#[derive(Debug)]
pub struct ConstantIf;

impl Rule for ConstantIf {
    fn name(&self) -> &'static str {
        "constant_if"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::If]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::If(op) = &node.op else { return Outcome::NoMatch };
        let condition = match g.const_ints(find!(node.input(0))).as_deref() {
            Some([c]) => *c != 0,
            _ => return Outcome::Declined("the condition is computed"),
        };
        let captured = find!(node.inputs.get(1..));
        let (first, second) = find!(captured.split_at_checked(op.then_inputs));
        let (body, given) = if condition { (&op.then_branch.0, first) } else { (&op.else_branch.0, second) };
        let given: Vec<New> = find!(given.iter().map(|v| v.map(New::Old)).collect());
        let mut p = Patch::new();
        let results = find!(inline(&mut p, body, &given));
        node.outputs.iter().zip(results).for_each(|(out, result)| p.replace(*out, result));
        Outcome::Rewrite(p)
    }
}

/// Puts the nodes of a loop with a constant number of few trips, which no condition ends, one trip after the
/// other.
#[derive(Debug)]
pub struct UnrollLoop;

/// Trips that are unrolled at most.
const MAX_TRIPS: i64 = 64;
/// Nodes that a loop may become.
const MAX_NODES: usize = 512;

/// Whether a body goes on for ever: its condition is true, or the one it was given.
fn goes_on(body: &Graph) -> Option<bool> {
    let next = body.outputs().first()?.value;
    if body.inputs().get(1) == Some(&next) {
        return Some(true);
    }
    let given = match body.producer(next) {
        Some((_, n)) if matches!(n.op, Op::Cast(_)) => n.input(0)?,
        _ => next,
    };
    Some(matches!(body.const_ints(given).as_deref(), Some([c]) if *c != 0))
}

impl Rule for UnrollLoop {
    fn name(&self) -> &'static str {
        "unroll_loop"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Loop]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Loop(op) = &node.op else { return Outcome::NoMatch };
        let body = &*op.body.0;
        let trips = match node.input(0).map(|n| g.const_ints(n)) {
            Some(Some(n)) => *find!(n.first()),
            _ => return Outcome::Declined("the number of trips is computed, or not given"),
        };
        // Without a condition to begin with, what the body says of going on is ignored.
        let holds = |v: ValueId| matches!(g.const_ints(v).as_deref(), Some([c]) if *c != 0);
        if node.input(1).is_some_and(|begin| !holds(begin) || goes_on(body) != Some(true)) {
            return Outcome::Declined("a condition may end it");
        }
        let size = body.nodes().count();
        let fits = (1..=MAX_TRIPS).contains(&trips) && size.saturating_mul(trips as usize) <= MAX_NODES;
        if !fits {
            return Outcome::Declined("there are too many trips or nodes, or none");
        }
        if body.nodes().any(|(_, n)| n.op.is_random()) {
            return Outcome::Declined("it draws random numbers");
        }
        let operands: Vec<New> = find!(node.inputs.iter().skip(2).map(|v| v.map(New::Old)).collect());
        let (first, captures) = find!(operands.split_at_checked(op.carried));
        let mut p = Patch::new();
        let mut carried = first.to_vec();
        let mut stacks: Vec<Vec<New>> = vec![vec![]; node.outputs.len().saturating_sub(op.carried)];
        let yes = p.constant(find!(Tensor::from_bools([], vec![true]).ok()));
        let front = p.constant(find!(Tensor::from_vec([1], vec![0i64]).ok()));
        for trip in 0..trips {
            let number = p.constant(Tensor::scalar(trip));
            let given = [&[number, yes], &carried[..], captures].concat();
            let mut results = find!(inline(&mut p, body, &given)).into_iter().skip(1);
            carried = results.by_ref().take(op.carried).collect();
            for (stack, element) in stacks.iter_mut().zip(results) {
                stack.push(p.op(Unsqueeze {}, &[element, front]));
            }
        }
        let stacked: Vec<New> = stacks.iter().map(|parts| p.op(Concat { axis: 0 }, parts)).collect();
        for (out, new) in node.outputs.iter().zip(carried.into_iter().chain(stacked)) {
            p.replace(*out, new);
        }
        Outcome::Rewrite(p)
    }
}

/// Adds a body's nodes to a patch, for these values of its inputs; the values of its outputs.
fn inline(p: &mut Patch, body: &Graph, given: &[New]) -> Option<Vec<New>> {
    if body.inputs().len() != given.len() {
        return None;
    }
    let mut values: FxHashMap<ValueId, New> =
        body.inputs().iter().copied().zip(given.iter().copied()).collect();
    for id in body.order() {
        let inner = body.node(id);
        let inputs: Vec<Option<New>> = inner
            .inputs
            .iter()
            .map(|v| match v {
                None => Some(None),
                Some(v) => values.get(v).map(|v| Some(*v)),
            })
            .collect::<Option<_>>()?;
        let new = p.node(inner.op.clone(), &inputs);
        p.origin(inner.origin.clone());
        values.extend(inner.outputs.iter().enumerate().map(|(i, v)| (*v, new.sibling(i))));
    }
    body.outputs().iter().map(|o| values.get(&o.value).copied()).collect()
}

use crate::{
    pass::Numerics,
    pattern::find,
    rule::{Outcome, Rule, RuleCx},
};
use rustc_hash::FxHashMap;
use tensormill_ir::{Graph, New, NodeId, OpKind, Patch, ValueId, ops::Op};

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
        let mut p = Patch::new();
        let mut values: FxHashMap<ValueId, New> = FxHashMap::default();
        for (inner, outer) in body.inputs().iter().zip(given) {
            values.insert(*inner, New::Old(find!(*outer)));
        }
        for id in body.order() {
            let inner = body.node(id);
            let inputs: Option<Vec<Option<New>>> = inner
                .inputs
                .iter()
                .map(|v| match v {
                    None => Some(None),
                    Some(v) => values.get(v).map(|v| Some(*v)),
                })
                .collect();
            let new = p.node(inner.op.clone(), &find!(inputs));
            p.origin(inner.origin.clone());
            values.extend(inner.outputs.iter().enumerate().map(|(i, v)| (*v, new.sibling(i))));
        }
        for (out, result) in node.outputs.iter().zip(body.outputs()) {
            p.replace(*out, *find!(values.get(&result.value)));
        }
        Outcome::Rewrite(p)
    }
}

use crate::pass::{Budget, Numerics, OptOptions};
use rustc_hash::FxHashSet;
use std::cell::RefCell;
use tensormill_ir::{Graph, NodeId, OpKind, Patch, ValueId};

/// What a rule says about a node.
#[derive(Debug)]
pub enum Outcome {
    /// Not the shape that the rule looks for.
    NoMatch,
    /// The shape, but the rewrite would be wrong or not pay here; the reason goes to the log.
    Declined(&'static str),
    /// The change.
    Rewrite(Patch),
}

/// A local rewrite: looks at one node and its surroundings.
pub trait Rule: Send + Sync {
    /// Its name in logs and golden files.
    fn name(&self) -> &'static str;

    /// What it does to the numbers.
    fn numerics(&self) -> Numerics;

    /// The ops at which it may match.
    fn roots(&self) -> &'static [OpKind];

    /// Looks at a node of one of its roots.
    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome;
}

/// What rules ask of their surroundings.
#[derive(Debug)]
pub struct RuleCx<'a> {
    /// The options of the run.
    pub options: &'a OptOptions,
    pub(crate) outputs: FxHashSet<ValueId>,
    pub(crate) budget: RefCell<Budget>,
}

impl<'a> RuleCx<'a> {
    pub(crate) fn new(g: &Graph, options: &'a OptOptions, budget: Budget) -> Self {
        let mut cx = RuleCx { options, outputs: FxHashSet::default(), budget: RefCell::new(budget) };
        cx.see_outputs(g);
        cx
    }

    /// Outputs move when what they name is replaced.
    pub(crate) fn see_outputs(&mut self, g: &Graph) {
        self.outputs.clear();
        self.outputs.extend(g.outputs().iter().map(|o| o.value));
    }

    /// Whether the value is an output of the graph; unlike [`Graph::is_output`] in constant time.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// Whether nothing but one operand place of one node sees the value.
    pub fn is_private(&self, g: &Graph, v: ValueId) -> bool {
        g.value(v).users().len() == 1 && !self.is_output(v)
    }

    /// Whether folding may still add this many bytes to the constants.
    pub fn may_grow(&self, bytes: usize) -> bool {
        bytes <= self.budget.borrow().growth
    }

    /// Takes bytes from what folding may add.
    pub fn grow(&self, bytes: usize) {
        let mut budget = self.budget.borrow_mut();
        budget.growth = budget.growth.saturating_sub(bytes);
    }
}

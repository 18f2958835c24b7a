use crate::{
    log::{Decline, LogEntry},
    pass::{Changed, Numerics, Pass, PassCx, PassError},
    rule::{Outcome, Rule, RuleCx},
};
use rustc_hash::FxHashMap;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tensormill_ir::{Graph, IrError, NodeId, OpKind, ValueId};

/// Rounds over the whole graph after the work list ran dry.
const MAX_ROUNDS: usize = 8;
/// Nodes that a log names for one reason to decline.
const MAX_NAMED: usize = 8;

/// Rules as a pass: applied to a fixed point, or until a budget that grows with the graph is spent, so
/// that no two rules can undo each other for ever.
pub struct RuleSet {
    name: &'static str,
    rules: Vec<Box<dyn Rule>>,
    /// By op, the positions of the rules that may match there.
    by_root: Vec<Vec<usize>>,
}

/// What the driver counts for each rule.
#[derive(Default, Clone)]
struct Count {
    rewrites: u64,
    time: Duration,
}

impl RuleSet {
    /// A pass of these rules; where several match a node, the first wins.
    pub fn new(name: &'static str, rules: Vec<Box<dyn Rule>>) -> Self {
        let mut by_root = vec![vec![]; OpKind::ALL.len()];
        for (i, rule) in rules.iter().enumerate() {
            for root in rule.roots() {
                by_root[*root as usize].push(i);
            }
        }
        RuleSet { name, rules, by_root }
    }

    /// The rules.
    pub fn rules(&self) -> impl Iterator<Item = &dyn Rule> {
        self.rules.iter().map(|r| &**r)
    }
}

/// The nodes still to look at, each at most once.
struct Worklist {
    queue: VecDeque<NodeId>,
    waiting: Vec<bool>,
}

impl Worklist {
    fn push(&mut self, id: NodeId) {
        if self.waiting.len() <= id.index() {
            self.waiting.resize(id.index() + 1, false);
        }
        if !std::mem::replace(&mut self.waiting[id.index()], true) {
            self.queue.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<NodeId> {
        let id = self.queue.pop_front()?;
        self.waiting[id.index()] = false;
        Some(id)
    }
}

impl Pass for RuleSet {
    fn name(&self) -> &'static str {
        self.name
    }

    fn numerics(&self) -> Numerics {
        self.rules.iter().map(|r| r.numerics()).min().unwrap_or(Numerics::Exact)
    }

    fn run(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut rcx = RuleCx::new(g, cx.options, cx.budget.clone());
        let mut left = 16 * g.nodes().count() as u64 + 256;
        let mut counts = vec![Count::default(); self.rules.len()];
        let mut declined: FxHashMap<(usize, NodeId), &'static str> = FxHashMap::default();
        let mut result = Ok(());
        let mut work = Worklist { queue: VecDeque::new(), waiting: vec![] };
        'rounds: for _ in 0..MAX_ROUNDS {
            let before = left;
            for id in g.order() {
                work.push(id);
            }
            while let Some(id) = work.pop() {
                let Some(node) = g.get_node(id) else { continue };
                for &r in &self.by_root[node.op.kind() as usize] {
                    let rule = &*self.rules[r];
                    if rule.numerics() > cx.options.numerics {
                        continue;
                    }
                    let start = Instant::now();
                    let outcome = rule.apply(g, id, &rcx);
                    counts[r].time += start.elapsed();
                    let patch = match outcome {
                        Outcome::NoMatch => {
                            declined.remove(&(r, id));
                            continue;
                        }
                        Outcome::Declined(why) => {
                            declined.insert((r, id), why);
                            continue;
                        }
                        Outcome::Rewrite(patch) => patch,
                    };
                    if left == 0 || !cx.spend() {
                        break 'rounds;
                    }
                    left -= 1;
                    let replaced: Vec<ValueId> = patch.replaced().collect();
                    let (mut near, first_new) = (neighbours(g, &replaced), g.node_capacity());
                    match g.apply(patch) {
                        Ok(()) => {}
                        // Only a graph whose sizes contradict each other gets here: its runs fail.
                        Err(IrError::Infer { .. }) => {
                            declined.insert((r, id), "the sizes around it contradict each other");
                            continue;
                        }
                        Err(source) => {
                            result = Err(PassError::Rule { rule: rule.name(), source });
                            break 'rounds;
                        }
                    }
                    counts[r].rewrites += 1;
                    if replaced.iter().any(|v| rcx.is_output(*v)) {
                        rcx.see_outputs(g);
                    }
                    near.extend(g.nodes_from(first_new));
                    near.into_iter().filter(|n| g.get_node(*n).is_some()).for_each(|n| work.push(n));
                    break;
                }
            }
            if left == before {
                break;
            }
        }
        cx.budget.growth = rcx.budget.borrow().growth;
        self.record(g, cx, &counts, declined);
        result?;
        Ok(counts.iter().any(|c| c.rewrites > 0).into())
    }
}

/// The nodes whose surroundings change when these values are replaced: their users, and the other
/// users of what their producers read, which may now be the only ones.
fn neighbours(g: &Graph, replaced: &[ValueId]) -> Vec<NodeId> {
    /// A value that many read has no sole reader to find.
    const FEW: usize = 4;
    let mut out = vec![];
    for &v in replaced {
        let Some(info) = g.get_value(v) else { continue };
        out.extend_from_slice(info.users());
        let Some((id, node)) = g.producer(v) else { continue };
        out.push(id);
        for &input in node.inputs.iter().flatten() {
            let users = g.value(input).users();
            if users.len() <= FEW {
                out.extend_from_slice(users);
            }
        }
    }
    out
}

impl RuleSet {
    fn record(
        &self,
        g: &Graph,
        cx: &mut PassCx<'_>,
        counts: &[Count],
        declined: FxHashMap<(usize, NodeId), &'static str>,
    ) {
        let mut by_rule: Vec<Vec<Decline>> = vec![vec![]; self.rules.len()];
        let mut declined: Vec<_> =
            declined.into_iter().filter(|((_, n), _)| g.get_node(*n).is_some()).collect();
        declined.sort();
        for ((r, id), reason) in declined {
            let list = &mut by_rule[r];
            let at = list.iter().position(|d| d.reason == reason).unwrap_or_else(|| {
                list.push(Decline { reason, count: 0, nodes: vec![] });
                list.len() - 1
            });
            list[at].count += 1;
            if list[at].nodes.len() < MAX_NAMED {
                list[at].nodes.push(label(g, id));
            }
        }
        for ((rule, count), declines) in self.rules.iter().zip(counts).zip(by_rule) {
            cx.log.record(LogEntry {
                pass: self.name,
                rule: Some(rule.name()),
                rewrites: count.rewrites,
                declines,
                time: count.time,
            });
        }
    }
}

/// What a log calls a node: its source name, its result's name, or its op.
pub(crate) fn label(g: &Graph, id: NodeId) -> String {
    let node = g.node(id);
    let name = node.origin.clone().or_else(|| node.outputs.iter().find_map(|v| g.value(*v).name.clone()));
    name.map_or_else(|| node.op.name().to_owned(), |n| n.to_string())
}

//! Which nodes compute with integers under static ranges, and which values are integers between them.

use super::{
    options::QuantOptions,
    report::{NodeEntry, Treatment},
    weighted::{Absorbed, Weighted},
};
use crate::pattern::{dims, dtype, scalar};
use std::collections::{BTreeMap, BTreeSet};
use tensormill_ir::{
    Graph, Node, NodeId, ValueId,
    ops::{BinaryKind, CoordinateMode, Op, PadMode, ReduceKind, ResizeMode, UnaryKind},
};
use tensormill_tensor::DType;

/// What a node is to integers.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// Products with constant weights.
    Product(Weighted),
    /// Computes from integers with several ranges to one with its own.
    Arithmetic,
    /// Moves numbers: what comes out has the range of what went in.
    Mover,
}

/// A node that computes with integers.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) role: Role,
    /// What follows it element by element before its readers; of products and arithmetic.
    pub(super) after: Absorbed,
}

/// Decisions of the static scheme.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) nodes: BTreeMap<NodeId, Chosen>,
    /// Values that are integers between nodes, with the value whose range they have.
    pub(super) values: BTreeMap<ValueId, ValueId>,
    pub(super) entries: Vec<(NodeId, NodeEntry)>,
}

impl Plan {
    /// Decides over a graph whose batch norms are part of its convolutions.
    pub(super) fn of(g: &Graph, o: &QuantOptions) -> Plan {
        let order = g.order();
        let mut plan = Plan::default();
        let mut candidates: BTreeMap<NodeId, Chosen> = BTreeMap::new();
        let mut inside: BTreeSet<NodeId> = BTreeSet::new();
        // Values that come out of integer arithmetic, if all candidates are taken.
        let mut integer: BTreeSet<ValueId> = BTreeSet::new();
        for &id in &order {
            if inside.contains(&id) {
                continue;
            }
            let node = g.node(id);
            let found = match Weighted::at(g, id, o) {
                Some(Ok(w)) => Some(Role::Product(w)),
                Some(Err(why)) => {
                    let entry = NodeEntry::new(g, id, node.output(), Treatment::Float(why));
                    plan.entries.push((id, entry));
                    None
                }
                None => role(g, node).filter(|_| {
                    let mut data =
                        data_operands(g, node).into_iter().filter(|v| g.constant(*v).is_none()).peekable();
                    data.peek().is_some() && data.all(|v| integer.contains(&v)) && !o.excludes(g, id)
                }),
            };
            let Some(role) = found else { continue };
            let after = match role {
                Role::Mover => Absorbed { end: node.output(), nodes: vec![] },
                _ if !absorbs(node) => Absorbed { end: node.output(), nodes: vec![] },
                _ => Absorbed::after(g, node.output(), o),
            };
            inside.extend(&after.nodes);
            match role {
                Role::Mover => integer.extend(node.outputs.iter()),
                _ => _ = integer.insert(after.end),
            }
            candidates.insert(id, Chosen { role, after });
        }
        plan.keep_useful(g, &order, candidates, &inside);
        plan.sources(g, &order);
        plan
    }

    /// Keeps products, and what leads from integers to products: elsewhere integers would only cost.
    fn keep_useful(
        &mut self,
        g: &Graph,
        order: &[NodeId],
        mut candidates: BTreeMap<NodeId, Chosen>,
        inside: &BTreeSet<NodeId>,
    ) {
        let mut wanted: BTreeSet<ValueId> = BTreeSet::new();
        for id in order.iter().rev() {
            let Some(chosen) = candidates.remove(id) else { continue };
            let node = g.node(*id);
            let useful = match &chosen.role {
                Role::Product(_) => true,
                Role::Arithmetic => wanted.contains(&chosen.after.end),
                Role::Mover => node.outputs.iter().any(|v| wanted.contains(v)),
            };
            if !useful {
                let why = "no product reads what it computes";
                let entry = NodeEntry::new(g, *id, chosen.after.end, Treatment::Float(why));
                self.entries.push((*id, entry));
                continue;
            }
            wanted.extend(match &chosen.role {
                Role::Product(w) => vec![w.x],
                _ => data_operands(g, node).into_iter().filter(|v| g.constant(*v).is_none()).collect(),
            });
            self.nodes.insert(*id, chosen);
        }
        self.values = wanted.into_iter().map(|v| (v, v)).collect();
        for (id, c) in &self.nodes {
            // Outputs of a split that only floats read are integers all the same: they have no range of their own.
            if matches!(c.role, Role::Mover) {
                self.values.extend(g.node(*id).outputs.iter().map(|v| (*v, *v)));
            }
        }
        for id in order {
            let node = g.node(*id);
            let left = role(g, node).is_some_and(|r| !matches!(r, Role::Mover));
            if left && !self.nodes.contains_key(id) && !inside.contains(id) && !self.has_entry(*id) {
                let entry = NodeEntry::new(g, *id, node.output(), Treatment::Float("it reads floats"));
                if is_float(g, node) {
                    self.entries.push((*id, entry));
                }
            }
        }
    }

    fn has_entry(&self, id: NodeId) -> bool {
        self.entries.iter().any(|(i, _)| *i == id)
    }

    /// Finds for every integer value the one whose range it has.
    fn sources(&mut self, g: &Graph, order: &[NodeId]) {
        let mut source: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let ends: BTreeSet<ValueId> =
            self.nodes.values().filter(|c| !matches!(c.role, Role::Mover)).map(|c| c.after.end).collect();
        for id in order {
            let Some(c) = self.nodes.get(id) else { continue };
            let node = g.node(*id);
            if let Role::Mover = c.role {
                let x = node.inputs[0].unwrap_or(node.output());
                let from = *source.get(&x).unwrap_or(&x);
                source.extend(node.outputs.iter().map(|v| (*v, from)));
            } else if let Op::Concat(_) = node.op {
                let out = node.output();
                let parts = data_operands(g, node);
                let of = |v: &ValueId| *source.get(v).unwrap_or(v);
                if let Some(first) = parts.first().map(of)
                    && parts.iter().all(|v| of(v) == first)
                {
                    source.insert(out, first);
                    continue;
                }
                // What only this reads is written with the range of the whole at once.
                for v in parts {
                    let only = g.value(v).users().iter().all(|u| u == id) && !g.is_output(v);
                    if only && ends.contains(&v) && !source.contains_key(&v) {
                        source.insert(v, out);
                    }
                }
            }
        }
        for s in self.values.values_mut() {
            while let Some(next) = source.get(s) {
                *s = *next;
            }
        }
    }

    /// The values that others have their range from.
    pub(super) fn ranges(&self) -> BTreeSet<ValueId> {
        self.values.values().copied().collect()
    }

    /// Every value that is integers, or would be if more nodes stayed in float.
    pub(super) fn observed(&self) -> BTreeSet<ValueId> {
        self.values.keys().chain(self.values.values()).copied().collect()
    }
}

fn is_float(g: &Graph, node: &Node) -> bool {
    dtype(g, node.output()) == Some(DType::F32)
}

/// Whether elementwise steps after it belong to it.
fn absorbs(node: &Node) -> bool {
    matches!(node.op, Op::Conv(_) | Op::MatMul(_) | Op::Binary(_))
}

/// What a node without weights could be; `None`: it computes with floats.
fn role(g: &Graph, node: &Node) -> Option<Role> {
    if node.outputs.iter().any(|v| dtype(g, *v) != Some(DType::F32)) || node.input(0).is_none() {
        return None;
    }
    let constant = |i: usize| node.input(i).is_none_or(|v| g.constant(v).is_some());
    match &node.op {
        Op::Binary(b) => matches!(b.kind, BinaryKind::Add | BinaryKind::Mul).then_some(Role::Arithmetic),
        Op::Unary(u) => {
            matches!(u.kind, UnaryKind::Relu | UnaryKind::Clamp { .. } | UnaryKind::LeakyRelu { .. })
                .then_some(Role::Arithmetic)
        }
        Op::Concat(_) | Op::AveragePool(_) => Some(Role::Arithmetic),
        // Over places, as global pools are; over other axes it is no pool.
        Op::Reduce(r) if r.kind == ReduceKind::Mean => {
            let rank = dims(g, node.input(0)?)?.len() as i64;
            let axes = g.const_ints(node.input(1)?)?;
            let spatial = axes.iter().all(|a| (if *a < 0 { a + rank } else { *a }) >= 2);
            (rank > 2 && !axes.is_empty() && spatial).then_some(Role::Arithmetic)
        }
        Op::MaxPool(p) => (!p.with_indices).then_some(Role::Mover),
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::Transpose(_)
        | Op::Expand(_) => Some(Role::Mover),
        Op::Slice(_) | Op::Split(_) | Op::Gather(_) | Op::Tile(_) => Some(Role::Mover),
        Op::Resize(r) => {
            let moves = r.mode == ResizeMode::Nearest && r.coordinates != CoordinateMode::TfCropAndResize;
            moves.then_some(Role::Mover)
        }
        // Zero is an integer of every range; another number may not be.
        Op::Pad(p) => {
            let zero = node.input(2).is_none_or(|v| scalar(g, v) == Some(0.0));
            ((p.mode != PadMode::Constant || zero) && constant(2)).then_some(Role::Mover)
        }
        _ => None,
    }
}

/// The operands that are integers, of a node that is no product.
pub(super) fn data_operands(g: &Graph, node: &Node) -> Vec<ValueId> {
    match role(g, node) {
        Some(Role::Arithmetic) if !matches!(node.op, Op::Reduce(_)) => {
            node.inputs.iter().flatten().copied().collect()
        }
        _ => node.input(0).into_iter().collect(),
    }
}

//! Embeddings: rows picked from tables, added up and normalized as one step, so that neither the rows nor their
//! sums are ever whole in memory.

use super::{Binder, Operands};
use crate::native::{Built, Call, Native};
use crate::order::Order;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tensormill_ir::{
    Node, NodeId, ValueId, infer,
    ops::{Binary, BinaryKind, LayerNorm, Op},
};
use tensormill_kernels::embed::{Picks, Term as Rows, embed_norm};
use tensormill_tensor::{DType, Shape};

/// Terms of a sum at most.
const MAX_TERMS: usize = 6;

/// What is added up.
#[derive(Debug, Clone, Copy)]
enum Term {
    /// Rows of a table, and which.
    Table { table: ValueId, picks: ValueId },
    /// Rows that are there, maybe fewer: then they begin again.
    Rows(ValueId),
}

/// A normalization with what it is computed from.
pub(super) struct Embedding {
    terms: SmallVec<[Term; MAX_TERMS]>,
    /// The nodes before it that run with it.
    inside: Vec<NodeId>,
    rows: usize,
    n: usize,
}

impl Embedding {
    /// The nodes before the normalization, in an order that they may run in.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.inside.iter().rev().copied()
    }
}

/// The embeddings of a graph.
#[derive(Default)]
pub(super) struct Embeddings {
    ends: FxHashMap<NodeId, Embedding>,
    inside: FxHashSet<NodeId>,
}

impl Embeddings {
    /// Whether the node runs with a normalization after it.
    pub fn inside(&self, id: NodeId) -> bool {
        self.inside.contains(&id)
    }

    /// The embedding that ends with this normalization.
    pub fn ending_with(&self, id: NodeId) -> Option<&Embedding> {
        self.ends.get(&id)
    }
}

impl Binder<'_> {
    /// Finds the embeddings of the graph.
    pub(super) fn embeddings(&self) -> Embeddings {
        let mut all = Embeddings::default();
        for &id in &self.shared.order {
            let node = self.shared.graph.node(id);
            let Op::LayerNorm(op) = &node.op else { continue };
            if let Some(found) = self.embedding(node, op) {
                all.inside.extend(&found.inside);
                all.ends.insert(id, found);
            }
        }
        all
    }

    /// The node that computes a value which one node reads, once, and nobody else.
    fn only_for_one(&self, v: ValueId) -> Option<(NodeId, &Node)> {
        let g = &self.shared.graph;
        let alone = g.value(v).users().len() == 1
            && !self.shared.wanted.contains(&v)
            && !self.shared.constants.contains_key(&v);
        g.producer(v).filter(|_| alone)
    }

    fn embedding(&self, node: &Node, op: &LayerNorm) -> Option<Embedding> {
        let out = self.ty(node.output())?;
        let rank = out.1.rank();
        let n = *out.1.last()?;
        let factors = node.inputs.iter().skip(1).flatten();
        let fits = !op.with_stats
            && self.needed[node.output().index()]
            && out.0 == DType::F32
            && !out.1.contains(&0)
            && infer::axis(op.axis, rank) == Ok(rank - 1)
            && factors.into_iter().all(|v| {
                self.ty(*v).is_some_and(|t| t.0 == DType::F32 && t.1.numel() == n && t.1.last() == Some(&n))
            });
        let mut v = node.input(0)?;
        if !fits || self.ty(v)? != out {
            return None;
        }
        let sum = |v: ValueId| {
            let (id, n) = self.only_for_one(v)?;
            let adds = matches!(n.op, Op::Binary(Binary { kind: BinaryKind::Add }));
            (adds && self.ty(v) == Some(out)).then_some((id, n.input(0)?, n.input(1)?))
        };
        let mut found = Embedding { terms: SmallVec::new(), inside: vec![], rows: out.1.numel() / n, n };
        // From the last that is added to the first.
        while let Some((id, a, b)) = sum(v) {
            found.inside.push(id);
            let (next, term) = if sum(a).is_some() { (a, b) } else { (b, a) };
            if found.terms.len() + 2 > MAX_TERMS || sum(term).is_some() {
                return None;
            }
            self.term(term, &out.1, &mut found)?;
            v = next;
        }
        self.term(v, &out.1, &mut found)?;
        found.terms.reverse();
        found.terms.iter().any(|t| matches!(t, Term::Table { .. })).then_some(found)
    }

    /// Adds a term to those of an embedding whose sum has this shape, if it is made of rows.
    fn term(&self, v: ValueId, sum: &Shape, to: &mut Embedding) -> Option<()> {
        let (dtype, shape) = self.ty(v)?;
        let own = shape.numel();
        if let Some((id, gather)) = self.only_for_one(v)
            && let Op::Gather(op) = &gather.op
            && let (Some(table), Some(picks)) = (gather.input(0), gather.input(1))
            && let (Some((DType::F32, t)), Some((DType::I32 | DType::I64, p))) =
                (self.ty(table), self.ty(picks))
            && let [_, width] = t[..]
            && width == to.n
            && infer::axis(op.axis, 2) == Ok(0)
            && p.numel() == to.rows
            && own == to.rows * to.n
        {
            to.inside.push(id);
            to.terms.push(Term::Table { table, picks });
            return Some(());
        }
        // Axes along which it is repeated come before all others.
        let own = || shape.iter().rev().copied().take(shape.iter().skip_while(|d| **d == 1).count());
        let cycles = own().count() <= sum.rank() && own().eq(sum.iter().rev().copied().take(own().count()));
        (*dtype == DType::F32 && shape.last() == Some(&to.n) && cycles).then(|| to.terms.push(Term::Rows(v)))
    }

    /// Prepares one step for an embedding.
    pub(super) fn embed(&mut self, id: NodeId, e: &Embedding) -> bool {
        let shared = self.shared;
        let node = shared.graph.node(id);
        let Op::LayerNorm(op) = &node.op else { return false };
        let mut ins: SmallVec<[ValueId; 8]> = SmallVec::new();
        for t in &e.terms {
            match *t {
                Term::Table { table, picks } => ins.extend([table, picks]),
                Term::Rows(v) => ins.push(v),
            }
        }
        let factors = ins.len();
        ins.extend(node.inputs.iter().skip(1).flatten().copied());
        let narrow = |v: ValueId| self.ty(v).is_some_and(|t| t.0 == DType::I32);
        let terms: SmallVec<[Kind; MAX_TERMS]> = e
            .terms
            .iter()
            .map(|t| match *t {
                Term::Table { picks, .. } => Kind::Table { narrow: narrow(picks) },
                Term::Rows(_) => Kind::Rows,
            })
            .collect();
        let Ok(mut native) = prepare(terms, factors, ins.len() - factors > 1, [e.rows, e.n], op.epsilon.0)
        else {
            return false;
        };
        native.reason = format!("{} nodes as one", e.inside.len() + 1);
        native.flops = ((8 + e.terms.len()) * e.rows * e.n) as u64;
        for &v in &ins {
            self.constant(v);
        }
        let ins: Operands = ins.into_iter().map(|v| Some(self.in_order(id, v, Order::Plain))).collect();
        for id in e.nodes() {
            self.tell(shared.graph.node(id), "embed-norm", "runs with the normalization after it", false);
        }
        self.runs(id, native, ins, Order::Plain);
        true
    }
}

/// How a term is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Table { narrow: bool },
    Rows,
}

/// A step whose operands are those of the terms, and from `factors` on those of the normalization.
fn prepare(
    terms: SmallVec<[Kind; MAX_TERMS]>,
    factors: usize,
    with_bias: bool,
    sizes: [usize; 2],
    epsilon: f32,
) -> Built {
    let mut anywhere = SmallVec::new();
    let mut at = 0;
    for t in &terms {
        if matches!(t, Kind::Table { .. }) {
            anywhere.push(at);
            at += 1;
        }
        at += 1;
    }
    let mut native = Native::new("embed-norm", move |c: &mut Call<'_, '_>| {
        let mut rows: SmallVec<[Rows<'_>; MAX_TERMS]> = SmallVec::new();
        let mut at = 0;
        for t in &terms {
            rows.push(match t {
                Kind::Rows => Rows::Cycle(c.get(at)?),
                Kind::Table { narrow } => {
                    let data = c.view(at)?.bytes.as_chunks().0;
                    at += 1;
                    let picks = if *narrow { Picks::Narrow(c.get(at)?) } else { Picks::Wide(c.get(at)?) };
                    Rows::Table { data, picks }
                }
            });
            at += 1;
        }
        let bias = if with_bias { Some(c.get::<f32>(factors + 1)?) } else { None };
        let scale = c.get::<f32>(factors)?;
        Ok(embed_norm(c.pool, &rows, sizes, scale, bias, epsilon, c.out(0)?)?)
    })?;
    native.anywhere = anywhere;
    Ok(native)
}

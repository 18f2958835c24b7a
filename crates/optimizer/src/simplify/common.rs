use crate::{
    log::LogEntry,
    pass::{Changed, Numerics, Pass, PassCx, PassError},
};
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;
use std::{
    hash::{Hash, Hasher},
    time::Duration,
};
use tensormill_ir::{Graph, Node, NodeId, Patch, ValueId, ops::Op};
use tensormill_tensor::Tensor;

/// Larger constants are compared by where they lie, not by what they hold.
const MAX_COMPARED: usize = 1 << 20;

/// Computes equal nodes once: same op, same attributes, same operands; constants by content.
#[derive(Debug)]
pub struct Common;

type Operands = SmallVec<[Option<ValueId>; 4]>;

/// The operands in an order that does not depend on how a commutative op was written.
fn operands(n: &Node) -> Operands {
    let mut inputs = n.inputs.clone();
    if matches!(&n.op, Op::Binary(b) if b.kind.is_commutative()) {
        inputs.sort();
    }
    inputs
}

fn same_constant(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() || a.byte_len() != b.byte_len() {
        return false;
    }
    let in_place = std::ptr::eq(a.bytes(), b.bytes());
    in_place || (a.byte_len() <= MAX_COMPARED && a.same_bits(b))
}

fn same(g: &Graph, a: NodeId, n: &Node, inputs: &Operands) -> bool {
    let m = g.node(a);
    match (&m.op, &n.op) {
        (Op::Const(x), Op::Const(y)) => same_constant(&x.tensor, &y.tensor),
        _ => m.op == n.op && operands(m) == *inputs,
    }
}

impl Pass for Common {
    fn name(&self) -> &'static str {
        "common"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn run(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut seen: FxHashMap<u64, SmallVec<[NodeId; 1]>> = FxHashMap::default();
        let mut rewrites = 0;
        // Operands come first, so that by the time a node is looked at, its own are the ones kept.
        for id in g.order() {
            let Some(node) = g.get_node(id) else { continue };
            if node.op.is_random() {
                continue;
            }
            let inputs = operands(node);
            let mut hash = FxHasher::default();
            node.op.hash(&mut hash);
            inputs.hash(&mut hash);
            let bucket = seen.entry(hash.finish()).or_default();
            let Some(&first) = bucket.iter().find(|&&a| same(g, a, node, &inputs)) else {
                bucket.push(id);
                continue;
            };
            let pairs: SmallVec<[_; 2]> =
                node.outputs.iter().copied().zip(g.node(first).outputs.iter().copied()).collect();
            // A file may declare one of them finer than the other; a contradiction is the file's to report.
            if pairs.iter().any(|(a, b)| g.ty(*a).meet(g.ty(*b)).is_none()) {
                continue;
            }
            if !cx.spend() {
                break;
            }
            let mut p = Patch::new();
            for (old, new) in pairs {
                p.replace(old, new);
            }
            g.apply(p).map_err(|source| PassError::Graph { pass: self.name(), source })?;
            rewrites += 1;
        }
        cx.log.record(LogEntry {
            pass: self.name(),
            rule: None,
            rewrites,
            declines: vec![],
            time: Duration::ZERO,
        });
        Ok((rewrites > 0).into())
    }
}

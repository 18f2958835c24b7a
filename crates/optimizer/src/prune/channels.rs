//! Channels, and heads of attention, taken out of every node that has them.

use super::{
    Changes, PruneEntry, PruneError, PruneOptions, Pruned, Pruning, excluded,
    groups::{Axis, Groups, Slot, Why},
    heads,
    operands::{self, Operand},
    rebuilt,
};
use crate::{
    driver::label,
    fuse,
    pass::OptOptions,
    pattern::dims,
    pipeline::Pipeline,
    simplify::{self, Common, Dead, Refine},
};
use std::collections::{BTreeMap, BTreeSet};
use tensormill_ir::{Graph, Op, ValueId, ops};
use tensormill_tensor::{Tensor, TensorError};

/// Channels that must go together.
#[derive(Default)]
struct Group {
    /// The axes that they are of.
    axes: BTreeSet<Axis>,
    /// Sum of the squares of their weights.
    squares: f64,
    weights: usize,
}

/// Whether a constant scales or shifts what passes through it; running means and variances do not.
fn is_weight(g: &Graph, v: ValueId) -> bool {
    g.constant(v).is_some_and(|t| t.dtype().is_float())
        && g.value(v).users().iter().all(|id| {
            let n = g.node(*id);
            !matches!(n.op, Op::BatchNorm(_)) || n.input(1) == Some(v) || n.input(2) == Some(v)
        })
}

pub(super) fn prune(g: &Graph, o: &PruneOptions) -> Result<Pruned, PruneError> {
    let plain = apart(&simplified(g.clone())?)?;
    let (kept, entries) = choose(&plain, o)?;
    let graph = if kept.is_empty() { g.clone() } else { simplified(cut(&plain, &kept)?)? };
    Ok(Pruned { graph, entries })
}

/// The graph with shapes as constants where they can be; steps of quantization stay.
fn simplified(mut g: Graph) -> Result<Graph, PruneError> {
    let passes = || simplify::pass();
    let all = vec![
        Box::new(Dead) as _,
        fuse::part(),
        fuse::join(),
        passes(),
        Box::new(Common),
        Box::new(Refine),
        passes(),
        Box::new(Common),
    ];
    Pipeline::new("prune", all).run(&mut g, &OptOptions::default())?;
    Ok(g)
}

/// The graph with a vector for each that reads it: files store equal ones once, and zeros of one layer are no reason to keep
/// the channels of another. Those that stay equal are one again when the graph is simplified.
fn apart(g: &Graph) -> Result<Graph, PruneError> {
    let mut operands = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for id in g.order() {
        for (i, v) in g.node(id).inputs.iter().enumerate() {
            let Some((v, t)) = v.and_then(|v| Some((v, g.constant(v)?))) else { continue };
            if t.shape().len() == 1 && t.dtype().is_float() && !seen.insert(v) {
                operands.insert((id, i), Operand::Constant(t.clone()));
            }
        }
    }
    Ok(rebuilt(g, &Changes { operands, ..Changes::default() })?)
}

/// What stays of every axis that loses something.
pub(super) type Kept = BTreeMap<Axis, Vec<usize>>;

fn choose(g: &Graph, o: &PruneOptions) -> Result<(Kept, Vec<PruneEntry>), PruneError> {
    let mut all = Groups::of(g, &|n| excluded(g, n, o));
    let slots: Vec<(Axis, Slot)> = all.slots.iter().map(|(a, s)| (*a, *s)).collect();
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (at, slot) in &slots {
        let sums = if is_weight(g, at.0) { Some(squares(g, *at)?) } else { None };
        for i in 0..slot.size {
            let root = all.root(*slot, i);
            let group = groups.entry(root).or_default();
            group.axes.insert(*at);
            if let Some((sums, each)) = &sums {
                group.squares += sums[i];
                group.weights += each;
            }
        }
    }
    let (of_heads, mut entries) = headed(&mut all);
    // Channels of the same axes are alternatives of each other.
    let mut alike: BTreeMap<Vec<Axis>, Vec<usize>> = BTreeMap::new();
    for (root, group) in &groups {
        if all.frozen(*root).is_none() && group.weights > 0 {
            alike.entry(group.axes.iter().copied().collect()).or_default().push(*root);
        }
    }
    let mut gone: BTreeSet<usize> = BTreeSet::new();
    for (axes, mut roots) in alike {
        let count = ((o.ratio * roots.len() as f64).floor() as usize).min(roots.len() - 1);
        let norm = |r: &usize| groups.get(r).map_or(0.0, |x| (x.squares / x.weights as f64).sqrt());
        roots.sort_by(|a, b| norm(a).total_cmp(&norm(b)).then(a.cmp(b)));
        gone.extend(&roots[..count]);
        let nodes = makers(g, &axes);
        if !nodes.is_empty() {
            let what = if of_heads.contains(&roots[0]) { Pruning::Heads } else { Pruning::Channels };
            let (before, after) = (roots.len(), roots.len() - count);
            entries.push(PruneEntry { what, nodes, before, after, kept: None });
        }
    }
    let mut kept = Kept::new();
    for (at, slot) in &slots {
        let left: Vec<usize> = (0..slot.size).filter(|i| !gone.contains(&all.root(*slot, *i))).collect();
        if left.len() < slot.size {
            kept.insert(*at, left);
        }
    }
    Ok((kept, entries))
}

/// The groups that are heads of attention, and what is to be said of attention whose heads all stay.
fn headed(all: &mut Groups<'_>) -> (BTreeSet<usize>, Vec<PruneEntry>) {
    let g = all.g;
    let (mut of_heads, mut stay) = (BTreeSet::new(), vec![]);
    for (id, at) in all.heads.clone() {
        let n = g.node(id);
        let roots: BTreeSet<usize> = match all.slots.get(&at).copied() {
            Some(slot) => (0..slot.size).map(|i| all.root(slot, i)).collect(),
            None => BTreeSet::new(),
        };
        let why = match roots.iter().map(|r| all.frozen(*r)).collect::<Option<Vec<_>>>() {
            Some(reasons) => match reasons.into_iter().min() {
                None => "how many heads there are is not known".to_owned(),
                Some(Why::Interface) => "an input or output of the model has a size for each head".to_owned(),
                Some(Why::Excluded) => "excluded".to_owned(),
                Some(Why::Node(node)) => {
                    let n = g.node(node);
                    format!("{} at {} cannot do with fewer heads", n.op.name(), label(g, node))
                }
            },
            None => {
                of_heads.extend(roots);
                continue;
            }
        };
        let heads = match &n.op {
            Op::Attention(op) => heads::count(g, n, op).map(|c| c.1),
            _ => dims(g, at.0).and_then(|d| d.get(at.1)?.known()),
        };
        let count = heads.unwrap_or(0);
        stay.push(PruneEntry {
            what: Pruning::Heads,
            nodes: vec![label(g, id)],
            before: count,
            after: count,
            kept: Some(why),
        });
    }
    (of_heads, stay)
}

fn cut(g: &Graph, kept: &Kept) -> Result<Graph, PruneError> {
    let mut constants: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for (at, left) in kept {
        if let Some(t) = g.constant(at.0) {
            let t = constants.get(&at.0).unwrap_or(t);
            constants.insert(at.0, take(t, at.1, left)?);
        }
    }
    let op = |id| {
        let n = g.node(id);
        // How many of these there were, and how many are left.
        let left = |v: Option<ValueId>, axis: usize| {
            Some((dims(g, v?)?.get(axis)?.known()?, kept.get(&(v?, axis))?.len()))
        };
        let fewer = |heads: usize, (before, after): (usize, usize)| heads * after / before;
        Some(match &n.op {
            // Where every channel is convolved by itself, there are as many groups as channels.
            Op::Conv(c) if c.group > 1 => {
                Op::Conv(ops::Conv { group: left(Some(n.output()), 1)?.1, ..c.clone() })
            }
            Op::Attention(a) if a.q_heads > 0 => {
                let now = left(n.input(1), 2)?;
                let (q_heads, kv_heads) = (fewer(a.q_heads, now), fewer(a.kv_heads, now));
                Op::Attention(ops::Attention { q_heads, kv_heads, ..a.clone() })
            }
            Op::RotaryEmbedding(r) if r.heads > 0 => {
                let heads = fewer(r.heads, left(n.input(0), 2)?);
                Op::RotaryEmbedding(ops::RotaryEmbedding { heads, ..r.clone() })
            }
            _ => return None,
        })
    };
    let changes = Changes {
        resized: kept.keys().map(|at| at.0).collect(),
        constants,
        ops: g.nodes().filter_map(|(id, _)| Some((id, op(id)?))).collect(),
        operands: operands::of(g, kept),
    };
    Ok(rebuilt(g, &changes)?)
}

/// The products that make channels of these axes.
fn makers(g: &Graph, axes: &[Axis]) -> Vec<String> {
    let product = |at: &Axis| {
        let (id, n) = g.producer(at.0)?;
        let weighs = n.input(1).is_some_and(|w| g.constant(w).is_some());
        (weighs && matches!(n.op, Op::Conv(_) | Op::MatMul(_))).then(|| label(g, id))
    };
    axes.iter().filter_map(product).collect()
}

/// The sum of squares of each slice of a constant along an axis, and the numbers in a slice.
fn squares(g: &Graph, (v, axis): Axis) -> Result<(Vec<f64>, usize), TensorError> {
    let Some(t) = g.constant(v) else { return Ok((vec![], 0)) };
    let shape = t.shape();
    let inner: usize = shape[axis + 1..].iter().product();
    let n = shape[axis];
    let mut out = vec![0.0; n];
    for (i, x) in t.to_f64_vec()?.into_iter().enumerate() {
        out[i / inner % n] += x * x;
    }
    Ok((out, t.len() / n.max(1)))
}

/// The slices of a tensor at these places of an axis.
fn take(t: &Tensor, axis: usize, places: &[usize]) -> Result<Tensor, TensorError> {
    let mut shape = t.shape().to_vec();
    let bits = t.dtype().bits();
    if !bits.is_multiple_of(8) {
        return Err(TensorError::Unsupported { what: "cutting channels out", dtype: t.dtype() });
    }
    let inner = shape[axis + 1..].iter().product::<usize>() * bits / 8;
    let (n, outer) = (shape[axis], shape[..axis].iter().product::<usize>());
    let bytes = t.bytes();
    let mut data = Vec::with_capacity(outer * places.len() * inner);
    for row in 0..outer {
        for p in places {
            let at = (row * n + p) * inner;
            data.extend_from_slice(&bytes[at..at + inner]);
        }
    }
    shape[axis] = places.len();
    Tensor::from_bytes(t.dtype(), shape, data.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Pattern, prune as prune_graph};
    use super::*;
    use tensormill_ir::{Dim, GraphBuilder, Type, ops};
    use tensormill_reference::{EvalLimits, interpret};
    use tensormill_tensor::{DType, Value};

    /// Numbers that follow from a seed.
    pub(in crate::prune) struct Draw(u64);

    impl Draw {
        pub(in crate::prune) fn new(seed: u64) -> Draw {
            Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 >> 16
        }

        pub(in crate::prune) fn below(&mut self, n: usize) -> usize {
            self.next() as usize % n
        }

        pub(in crate::prune) fn tensor(&mut self, shape: &[usize]) -> Tensor {
            let n = shape.iter().product::<usize>();
            let v = (0..n).map(|_| (self.next() % 2001) as f32 / 1000.0 - 0.999).collect();
            Tensor::from_vec(shape, v).unwrap()
        }
    }

    struct Net {
        b: GraphBuilder,
        draw: Draw,
        made: usize,
    }

    impl Net {
        fn channels(&self, v: ValueId) -> usize {
            self.b.ty(v).as_tensor().unwrap().dims.as_ref().unwrap()[1].known().unwrap()
        }

        fn constant(&mut self, shape: &[usize]) -> ValueId {
            let t = self.draw.tensor(shape);
            self.b.constant(t).unwrap()
        }

        fn conv(&mut self, x: ValueId, out: usize, group: usize) -> ValueId {
            let c = self.channels(x);
            self.made += 1;
            self.b.set_origin(Some(&format!("conv{}", self.made)));
            let w = self.constant(&[out, c / group, 3, 3]);
            let b = self.constant(&[out]);
            let op = ops::Conv { pads: vec![1; 4], group, ..Default::default() };
            self.b.op(op, &[x, w, b]).unwrap()
        }

        fn unary(&mut self, x: ValueId) -> ValueId {
            let kinds = [ops::UnaryKind::Relu, ops::UnaryKind::Sigmoid, ops::UnaryKind::HardSwish];
            let kind = kinds[self.draw.below(3)];
            self.b.unary(kind, x).unwrap()
        }

        fn norm(&mut self, x: ValueId) -> ValueId {
            let c = self.channels(x);
            let (scale, bias, mean) = (self.constant(&[c]), self.constant(&[c]), self.constant(&[c]));
            let var = self.b.constant(Tensor::from_vec([c], vec![0.5f32; c]).unwrap()).unwrap();
            self.b.op(ops::BatchNorm::default(), &[x, scale, bias, mean, var]).unwrap()
        }
    }

    /// A network of everything that channels are followed through.
    fn net(seed: u64) -> Graph {
        let draw = Draw::new(seed);
        let mut n = Net { b: GraphBuilder::new("net"), draw, made: 0 };
        let x =
            n.b.input("x", Type::tensor(DType::F32, [Dim::symbol("N"), 3.into(), 6.into(), 6.into()]))
                .unwrap();
        let mut v = n.conv(x, 8, 1);
        for _ in 0..4 {
            let c = n.channels(v);
            v = match n.draw.below(7) {
                0 => {
                    let y = n.conv(v, c, 1);
                    let y = n.unary(y);
                    n.b.binary(ops::BinaryKind::Add, v, y).unwrap()
                }
                1 => {
                    let size = 4 + n.draw.below(4);
                    let y = n.conv(v, size, 1);
                    n.b.op(ops::Concat { axis: 1 }, &[y, v]).unwrap()
                }
                2 => n.conv(v, c, c),
                3 => n.norm(v),
                4 => {
                    // Squeeze and excite: one number a channel.
                    let axes = n.b.ints(&[2, 3]).unwrap();
                    let mean = ops::Reduce { kind: ops::ReduceKind::Mean, ..Default::default() };
                    let s = n.b.op(mean, &[v, axes]).unwrap();
                    let s = n.conv(s, 4, 1);
                    let s = n.conv(s, c, 1);
                    let s = n.unary(s);
                    n.b.binary(ops::BinaryKind::Mul, v, s).unwrap()
                }
                5 if c.is_multiple_of(2) => n.conv(v, c, 2),
                _ => n.conv(v, 6, 1),
            };
            v = n.unary(v);
        }
        let c = n.channels(v);
        let flat = if n.draw.below(2) == 0 {
            n.b.op(ops::Flatten::default(), &[v]).unwrap()
        } else {
            let shape = n.b.ints(&[0, -1]).unwrap();
            n.b.op(ops::Reshape::default(), &[v, shape]).unwrap()
        };
        let w = n.constant(&[c * 36, 5]);
        let h = n.b.op(ops::MatMul::default(), &[flat, w]).unwrap();
        let bias = n.constant(&[5]);
        let h = n.b.binary(ops::BinaryKind::Add, h, bias).unwrap();
        let h = n.unary(h);
        let w = n.constant(&[2, 5]);
        let y = n.b.op(ops::MatMul { trans_b: true, ..Default::default() }, &[h, w]).unwrap();
        n.b.output("y", y).unwrap();
        n.b.finish().unwrap()
    }

    fn run(g: &Graph, seed: u64) -> Vec<f32> {
        let x = Draw(seed | 1).tensor(&[2, 3, 6, 6]);
        let y = interpret(g, &[Value::Tensor(x)], &EvalLimits::default()).unwrap();
        let Value::Tensor(y) = &y[0] else { panic!("no tensor") };
        y.to_f32_vec().unwrap()
    }

    /// The graph with the weights of what would be cut out set to zero.
    fn zeroed(g: &Graph, kept: &Kept) -> Graph {
        let mut new: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        for ((v, axis), left) in kept {
            let Some(t) = g.constant(*v).filter(|_| is_weight(g, *v)) else { continue };
            let t = new.get(v).unwrap_or(t);
            let (inner, n) = (t.shape()[axis + 1..].iter().product::<usize>(), t.shape()[*axis]);
            let values = t.to_f32_vec().unwrap();
            let zero = |(i, x): (usize, f32)| if left.contains(&(i / inner % n)) { x } else { 0.0 };
            let values = values.into_iter().enumerate().map(zero).collect();
            new.insert(*v, Tensor::from_vec(t.shape().clone(), values).unwrap());
        }
        rebuilt(g, &Changes { constants: new, ..Changes::default() }).unwrap()
    }

    /// A graph whose weights that would be cut out are zero, and what is left of it.
    pub(in crate::prune) fn checked(g: &Graph, o: &PruneOptions) -> (Graph, Pruned) {
        let g = apart(&simplified(g.clone()).unwrap()).unwrap();
        let (kept, _) = choose(&g, o).unwrap();
        let zero = zeroed(&g, &kept);
        assert_eq!(choose(&zero, o).unwrap().0, kept);
        let pruned = prune_graph(&zero, o).unwrap();
        pruned.graph.verify().unwrap();
        (zero, pruned)
    }

    #[test]
    fn channels_of_zero_weights_change_nothing_when_they_go() {
        let mut cut_somewhere = 0;
        for seed in 0..60 {
            let g = net(seed);
            let o = PruneOptions { pattern: Pattern::Channels, ratio: 0.4, exclude: BTreeSet::new() };
            let (zero, pruned) = checked(&g, &o);
            let (a, b) = (run(&zero, seed), run(&pruned.graph, seed));
            for (x, y) in a.iter().zip(&b) {
                assert!(
                    (x - y).abs() <= 1e-4 * x.abs().max(1.0),
                    "seed {seed}: {x} became {y}\n{}",
                    pruned.graph
                );
            }
            assert!(pruned.graph.constant_bytes() <= g.constant_bytes());
            cut_somewhere += usize::from(pruned.graph.constant_bytes() < g.constant_bytes() * 9 / 10);
        }
        assert!(cut_somewhere > 40, "only {cut_somewhere} networks shrank");
    }

    #[test]
    fn excluded_nodes_and_outputs_keep_their_channels() {
        let g = tensormill_ir::text::parse(
            "graph @g(%x: f32[1,2,1,1]) -> (%y) {\n%w: f32[4,2,1,1] = const [1, 2, 3, 4, 5, 6, 7, 8]\n\
             %h: f32[1,4,1,1] = conv %x, %w !\"first\"\n%r: f32[1,4,1,1] = relu %h\n\
             %v: f32[2,4,1,1] = const [1, 2, 3, 4, 5, 6, 7, 8]\n%y: f32[1,2,1,1] = conv %r, %v !\"last\"\n}",
        )
        .unwrap();
        let mut o = PruneOptions { pattern: Pattern::Channels, ratio: 0.5, exclude: BTreeSet::new() };
        let pruned = prune_graph(&g, &o).unwrap();
        assert_eq!(
            pruned.entries,
            [PruneEntry {
                what: Pruning::Channels,
                nodes: vec!["first".into()],
                before: 4,
                after: 2,
                kept: None
            }]
        );
        let expected = "f32[1,2,1,1]";
        let h = pruned.graph.value_by_name("h").unwrap();
        assert_eq!(pruned.graph.ty(h).to_string(), expected);
        o.exclude.insert("first".into());
        assert!(prune_graph(&g, &o).unwrap().graph.same_as(&g));
        o.exclude.insert("nobody".into());
        assert!(matches!(prune_graph(&g, &o), Err(PruneError::Name(_))));
        o.ratio = 1.0;
        assert!(matches!(prune_graph(&g, &o), Err(PruneError::Ratio(_))));
    }
}

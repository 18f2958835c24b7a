//! Networks with attention in every spelling that heads are followed through.

use super::{
    Pattern, PruneEntry, PruneOptions, Pruning,
    channels::tests::{Draw, checked},
    prune,
};
use std::collections::BTreeSet;
use tensormill_ir::{Dim, Graph, GraphBuilder, Type, ValueId, ops};
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{DType, Tensor, Value};

/// Channels of the rows between blocks.
const WIDTH: usize = 12;

/// How queries, keys and values come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each from a product of its own, for as many heads of keys as of queries.
    Separate,
    /// One product, cut in three.
    Split,
    /// One product, cut by slices.
    Sliced,
    /// One product as `[3, heads, size]`, of which one is picked.
    Picked,
    /// One product as `[heads, 3 * size]`.
    Interleaved,
    /// Fewer heads of keys, which are repeated.
    Repeated,
    /// One head of keys for all.
    Single,
    /// An op on rows.
    Rows,
    /// An op on heads, with positions turned in.
    Heads,
}

const KINDS: [Kind; 9] = [
    Kind::Separate,
    Kind::Split,
    Kind::Sliced,
    Kind::Picked,
    Kind::Interleaved,
    Kind::Repeated,
    Kind::Single,
    Kind::Rows,
    Kind::Heads,
];

struct Net {
    b: GraphBuilder,
    draw: Draw,
    heads: usize,
    size: usize,
    mask: ValueId,
}

impl Net {
    fn constant(&mut self, shape: &[usize]) -> ValueId {
        let t = self.draw.tensor(shape);
        self.b.constant(t).unwrap()
    }

    fn linear(&mut self, name: &str, x: ValueId, inner: usize, outer: usize) -> ValueId {
        self.b.set_origin(Some(name));
        let trans_b = self.draw.below(2) == 0;
        let w = self.constant(&if trans_b { [outer, inner] } else { [inner, outer] });
        let bias = self.constant(&[outer]);
        if self.draw.below(3) == 0 {
            let epilogue = ops::PostOps(vec![ops::PostOp::Binary {
                kind: ops::BinaryKind::Add,
                operand: 2,
                swapped: false,
            }]);
            return self
                .b
                .op(ops::MatMul { trans_b, epilogue, ..Default::default() }, &[x, w, bias])
                .unwrap();
        }
        let y = self.b.op(ops::MatMul { trans_b, ..Default::default() }, &[x, w]).unwrap();
        self.b.binary(ops::BinaryKind::Add, bias, y).unwrap()
    }

    fn norm(&mut self, x: ValueId) -> ValueId {
        let (scale, bias) = (self.constant(&[WIDTH]), self.constant(&[WIDTH]));
        self.b.op(ops::LayerNorm::default(), &[x, scale, bias]).unwrap()
    }

    fn reshape(&mut self, x: ValueId, shape: &[i64]) -> ValueId {
        let shape = self.b.ints(shape).unwrap();
        self.b.op(ops::Reshape::default(), &[x, shape]).unwrap()
    }

    fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.b.op(ops::Transpose { perm: perm.to_vec() }, &[x]).unwrap()
    }

    /// `[batch, heads, sequence, size]` of rows.
    fn by_heads(&mut self, x: ValueId, heads: usize) -> ValueId {
        let (h, d) = (heads as i64, self.size as i64);
        let shapes = [[0, 0, h, d], [0, 0, -1, d], [0, 0, h, -1]];
        let shape = shapes[self.draw.below(3)];
        let y = self.reshape(x, &shape);
        self.transpose(y, &[0, 2, 1, 3])
    }

    fn slice(&mut self, x: ValueId, axis: i64, start: usize, end: usize) -> ValueId {
        let ints = [start as i64, end as i64, axis].map(|v| self.b.ints(&[v]).unwrap());
        self.b.op(ops::Slice {}, &[x, ints[0], ints[1], ints[2]]).unwrap()
    }

    /// Queries, keys and values by heads.
    fn projections(&mut self, name: &str, x: ValueId, kind: Kind) -> [ValueId; 3] {
        let (h, d) = (self.heads, self.size);
        let rows = h * d;
        let keys = match kind {
            Kind::Repeated | Kind::Rows | Kind::Heads => h / 2,
            Kind::Single => 1,
            _ => h,
        };
        match kind {
            Kind::Split | Kind::Sliced => {
                let all = self.linear(name, x, WIDTH, 3 * rows);
                let parts = if kind == Kind::Sliced {
                    [0, 1, 2].map(|i| self.slice(all, 2, i * rows, (i + 1) * rows))
                } else if self.draw.below(2) == 0 {
                    let sizes = self.b.ints(&[rows as i64; 3]).unwrap();
                    let parts = self.b.node(ops::Split { axis: -1, outputs: 3 }, &[Some(all), Some(sizes)]);
                    parts.unwrap()[..].try_into().unwrap()
                } else {
                    let parts = self.b.node(ops::Split { axis: 2, outputs: 3 }, &[Some(all)]);
                    parts.unwrap()[..].try_into().unwrap()
                };
                parts.map(|p| self.by_heads(p, h))
            }
            Kind::Picked => {
                let all = self.linear(name, x, WIDTH, 3 * rows);
                let all = self.reshape(all, &[0, 0, 3, h as i64, d as i64]);
                let all = self.transpose(all, &[2, 0, 3, 1, 4]);
                [0, 1, 2].map(|i| {
                    let at = self.b.scalar(DType::I64, f64::from(i)).unwrap();
                    self.b.op(ops::Gather { axis: 0 }, &[all, at]).unwrap()
                })
            }
            Kind::Interleaved => {
                let all = self.linear(name, x, WIDTH, 3 * rows);
                let all = self.reshape(all, &[0, 0, h as i64, 3 * d as i64]);
                let all = self.transpose(all, &[0, 2, 1, 3]);
                [0, 1, 2].map(|i| self.slice(all, 3, i * d, (i + 1) * d))
            }
            _ => {
                let q = self.linear(&format!("{name}_q"), x, WIDTH, rows);
                let k = self.linear(&format!("{name}_k"), x, WIDTH, keys * d);
                let v = self.linear(&format!("{name}_v"), x, WIDTH, keys * d);
                if kind == Kind::Rows {
                    return [q, k, v];
                }
                let q = self.by_heads(q, h);
                let [k, v] = [k, v].map(|x| self.by_heads(x, keys));
                if kind != Kind::Repeated {
                    return [q, k, v];
                }
                let again = (h / keys) as i64;
                [q, self.repeated(k, keys, again), self.repeated(v, keys, again)]
            }
        }
    }

    fn repeated(&mut self, x: ValueId, heads: usize, times: i64) -> ValueId {
        let axes = self.b.ints(&[2]).unwrap();
        let y = self.b.op(ops::Unsqueeze {}, &[x, axes]).unwrap();
        let shape = if self.draw.below(2) == 0 {
            self.b.ints(&[1, 1, times, 1, 1]).unwrap()
        } else {
            self.b.ints(&[1, heads as i64, times, 1, 1]).unwrap()
        };
        let y = self.b.op(ops::Expand {}, &[y, shape]).unwrap();
        // Sizes that are asked of the tensor come before those that are known.
        let of = self.b.op(ops::ShapeOf { start: 0, end: 1 }, &[y]).unwrap();
        let seq = self.b.op(ops::ShapeOf { start: 3, end: 4 }, &[y]).unwrap();
        let known = self.b.ints(&[heads as i64 * times]).unwrap();
        let size = self.b.ints(&[self.size as i64]).unwrap();
        let shape = self.b.op(ops::Concat { axis: 0 }, &[of, known, seq, size]).unwrap();
        self.b.op(ops::Reshape::default(), &[y, shape]).unwrap()
    }

    fn scale(&mut self, x: ValueId) -> ValueId {
        let c = self.b.scalar(DType::F32, (self.size as f64).powf(-0.5)).unwrap();
        self.b.binary(ops::BinaryKind::Mul, x, c).unwrap()
    }

    fn attention(&mut self, name: &str, x: ValueId, kind: Kind) -> ValueId {
        let [q, k, v] = self.projections(name, x, kind);
        let (rows, per_head) = ((self.heads * self.size) as i64, self.draw.below(3) == 0);
        // A mask for all heads, or a number for each.
        let mask = if per_head { self.constant(&[1, self.heads, 1, 1]) } else { self.mask };
        let mix = if per_head { self.b.binary(ops::BinaryKind::Add, self.mask, mask).unwrap() } else { mask };
        let y = match kind {
            Kind::Rows => {
                let (q_heads, kv_heads) = (self.heads, self.heads / 2);
                let op = ops::Attention { q_heads, kv_heads, causal: true, ..Default::default() };
                return self.b.op(op, &[q, k, v, mix]).unwrap();
            }
            Kind::Heads => {
                let half = self.size / 2;
                let [cos, sin] = [0, 1].map(|_| self.constant(&[8, half]));
                let places =
                    self.b.constant(Tensor::from_vec([2, 5], vec![0i64, 1, 2, 3, 4, 3, 1, 4, 1, 5]).unwrap());
                let places = places.unwrap();
                let q = self.b.op(ops::RotaryEmbedding::default(), &[q, cos, sin, places]).unwrap();
                self.b.op(ops::Attention::default(), &[q, k, v, mix]).unwrap()
            }
            _ => {
                let q = self.scale(q);
                let k = self.transpose(k, &[0, 1, 3, 2]);
                let scores = self.b.op(ops::MatMul::default(), &[q, k]).unwrap();
                let scores = self.b.binary(ops::BinaryKind::Add, scores, mix).unwrap();
                let p = self.b.op(ops::Softmax { axis: -1 }, &[scores]).unwrap();
                self.b.set_origin(Some(&format!("{name}_mix")));
                self.b.op(ops::MatMul::default(), &[p, v]).unwrap()
            }
        };
        let y = self.transpose(y, &[0, 2, 1, 3]);
        let shape = [[0, 0, rows], [0, 0, -1]][self.draw.below(2)];
        self.reshape(y, &shape)
    }

    /// Attention and a feed-forward part, each beside what it adds to.
    fn block(&mut self, name: &str, x: ValueId, kind: Kind) -> ValueId {
        let inner = if self.draw.below(2) == 0 { self.norm(x) } else { x };
        let y = self.attention(name, inner, kind);
        let y = self.linear(&format!("{name}_out"), y, self.heads * self.size, WIDTH);
        let x = self.b.binary(ops::BinaryKind::Add, x, y).unwrap();
        let x = self.norm(x);
        let y = self.linear(&format!("{name}_up"), x, WIDTH, 20);
        let y = self.b.unary(ops::UnaryKind::Tanh, y).unwrap();
        let y = self.linear(&format!("{name}_down"), y, 20, WIDTH);
        let x = self.b.binary(ops::BinaryKind::Add, x, y).unwrap();
        self.norm(x)
    }
}

fn net(seed: u64, kinds: [Kind; 2]) -> Graph {
    let mut draw = Draw::new(seed);
    let mut b = GraphBuilder::new("net");
    let (n, s) = (Dim::symbol("N"), Dim::symbol("S"));
    let x = b.input("x", Type::tensor(DType::F32, [n.clone(), s.clone(), WIDTH.into()])).unwrap();
    let mask = b.input("mask", Type::tensor(DType::F32, [n, 1.into(), 1.into(), s])).unwrap();
    let (heads, size) = (4 + 2 * draw.below(2), 2 + 2 * draw.below(2));
    let mut net = Net { b, draw, heads, size, mask };
    let mut v = x;
    for (i, kind) in kinds.into_iter().enumerate() {
        v = net.block(&format!("block{i}"), v, kind);
    }
    net.b.output("y", v).unwrap();
    net.b.finish().unwrap()
}

fn run(g: &Graph, seed: u64) -> Vec<f32> {
    let mut draw = Draw::new(seed);
    let x = draw.tensor(&[2, 5, WIDTH]);
    let mask = (0..10).map(|_| if draw.below(4) == 0 { -1e4 } else { 0.0f32 }).collect();
    let mask = Tensor::from_vec([2, 1, 1, 5], mask).unwrap();
    let y = interpret(g, &[Value::Tensor(x), Value::Tensor(mask)], &EvalLimits::default()).unwrap();
    let Value::Tensor(y) = &y[0] else { panic!("no tensor") };
    y.to_f32_vec().unwrap()
}

fn options(ratio: f64) -> PruneOptions {
    PruneOptions { pattern: Pattern::Channels, ratio, exclude: BTreeSet::new() }
}

fn heads(entries: &[PruneEntry]) -> Vec<&PruneEntry> {
    entries.iter().filter(|e| e.what == Pruning::Heads).collect()
}

#[test]
fn heads_of_zero_weights_change_nothing_when_they_go() {
    for seed in 0..54 {
        let kinds = [KINDS[seed as usize % 9], KINDS[(seed as usize / 9 + 3 * seed as usize) % 9]];
        let g = net(seed, kinds);
        let (zero, pruned) = checked(&g, &options(0.5));
        let found = heads(&pruned.entries);
        assert_eq!(found.len(), 2, "seed {seed}, {kinds:?}: {found:?}");
        for e in found {
            assert!(
                e.after == e.before - e.before / 2 && e.before > 1 && e.kept.is_none(),
                "{kinds:?}: {e:?}"
            );
        }
        let channels = pruned.entries.iter().filter(|e| e.what == Pruning::Channels);
        assert_eq!(channels.map(|e| (e.before, e.after)).collect::<Vec<_>>(), [(20, 10); 2]);
        let (a, b) = (run(&zero, seed), run(&pruned.graph, seed));
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(&b) {
            assert!(
                (x - y).abs() <= 1e-4 * x.abs().max(1.0),
                "seed {seed}, {kinds:?}: {x} became {y}\n{}",
                pruned.graph
            );
        }
    }
}

#[test]
fn all_heads_but_one_may_go() {
    for kind in KINDS {
        let g = net(7, [kind; 2]);
        let pruned = prune(&g, &options(0.99)).unwrap();
        pruned.graph.verify().unwrap();
        assert!(heads(&pruned.entries).iter().all(|e| e.after == 1), "{kind:?}: {:?}", pruned.entries);
        assert_eq!(run(&pruned.graph, 3).len(), 2 * 5 * WIDTH);
    }
}

/// Attention of two heads with two channels each: further inputs, from queries and keys to scores, further outputs.
fn small(inputs: &str, keys: &str, outputs: &str, own: bool) -> Graph {
    let last = if own { "out" } else { "in" };
    let text = format!(
        "graph @g(%x: f32[N,S,4]{inputs}) -> (%y{outputs}) {{\n\
         %in: f32[4,4] = const [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]\n\
         %out: f32[4,4] = const [1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1]\n\
         %q: f32[N,S,4] = matmul %x, %in !\"query\"\n%k: f32[N,S,4] = tanh %q\n%v: f32[N,S,4] = relu %q\n\
         %s: i64[4] = const [0, 0, 2, 2]\n%q4: f32[N,S,2,2] = reshape %q, %s\n\
         %k4: f32[N,S,2,2] = reshape %k, %s\n%v4: f32[N,S,2,2] = reshape %v, %s\n\
         %qh: f32[N,2,S,2] = transpose %q4 {{perm=[0, 2, 1, 3]}}\n\
         %kh: f32[N,2,S,2] = transpose %k4 {{perm=[0, 2, 1, 3]}}\n\
         %vh: f32[N,2,S,2] = transpose %v4 {{perm=[0, 2, 1, 3]}}\n{keys}\n\
         %p: f32[N,2,S,S] = softmax %scores\n%m: f32[N,2,S,2] = matmul %p, %vh !\"mix\"\n\
         %mt: f32[N,S,2,2] = transpose %m {{perm=[0, 2, 1, 3]}}\n%s3: i64[3] = const [0, 0, 4]\n\
         %rows: f32[N,S,4] = reshape %mt, %s3\n%y: f32[N,S,4] = matmul %rows, %{last} !\"last\"\n}}"
    );
    tensormill_ir::text::parse(&text).unwrap()
}

#[test]
fn what_needs_all_heads_says_why() {
    let product =
        "%kt: f32[N,2,2,S] = transpose %kh {perm=[0, 1, 3, 2]}\n%raw: f32[N,2,S,S] = matmul %qh, %kt\n";
    let plain = format!("{product}%scores: f32[N,2,S,S] = tanh %raw");
    let said = |g: &Graph, o: &PruneOptions| {
        let pruned = prune(g, o).unwrap();
        let found = heads(&pruned.entries);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].nodes[0].as_str(), found[0].before),
            (["mix", "query"][usize::from(found[0].kept.is_none())], 2)
        );
        assert_eq!(found[0].after, if found[0].kept.is_some() { 2 } else { 1 });
        assert_eq!(pruned.graph.same_as(g), found[0].kept.is_some());
        found[0].kept.clone()
    };
    let mut o = options(0.5);
    assert_eq!(said(&small("", &plain, "", true), &o), None);
    // The last product's rows are those of the first, whose are the input's.
    assert!(said(&small("", &plain, "", false), &o).unwrap().contains("input or output"));
    // Keys of earlier runs.
    let cached = format!("%all: f32[N,2,P+S,2] = concat %past, %kh {{axis=2}}\n{plain}");
    let g = small(", %past: f32[N,2,P,2]", &cached, ", %all", true);
    assert!(said(&g, &o).unwrap().contains("input or output"));
    // Sums over heads.
    let summed = format!(
        "{product}%axis: i64[] = const [1]\n%sum: f32[N,2,S,S] = cum_sum %raw, %axis\n\
         %scores: f32[N,2,S,S] = add %raw, %sum"
    );
    assert!(said(&small("", &summed, "", true), &o).unwrap().contains("cum_sum"));
    o.exclude.insert("mix".into());
    assert_eq!(said(&small("", &plain, "", true), &o).as_deref(), Some("excluded"));
}

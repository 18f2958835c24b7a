//! Products of one left operand, merged: their weights are packed beside one another and never put together,
//! and attention reads the parts where they are. Every number has the bits it has without.

mod common;

use common::{f32s, graph, run, same};
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{Graph, GraphBuilder, Type, ValueId, ops};
use tensormill_optimizer::{OptOptions, Pipeline};
use tensormill_tensor::{DType, Tensor, Value};

fn merged(g: &Graph) -> Graph {
    let mut o = g.clone();
    Pipeline::by_name("default").unwrap().run(&mut o, &OptOptions::default()).unwrap();
    o
}

fn matrix(rows: usize, columns: usize, seed: usize) -> Tensor {
    // No zeros: those would be reason enough to leave a product alone.
    let number = |i: usize| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 0.9001;
    Tensor::from_vec([rows, columns], (0..rows * columns).map(number).collect()).unwrap()
}

struct Layer {
    batch: usize,
    rows: usize,
    /// Keys, and where they come from: other rows than the queries, for cross attention.
    keys: Option<usize>,
    depth: usize,
    heads: [usize; 2],
    sizes: [usize; 2],
    biases: [bool; 3],
    trans_b: bool,
}

impl Layer {
    fn graph(&self) -> (Graph, Vec<Value>) {
        let mut b = GraphBuilder::new("layer");
        let x = b.unnamed_input(Type::tensor(
            DType::F32,
            [self.batch.into(), self.rows.into(), self.depth.into()],
        ));
        let mut inputs = vec![f32s(&[self.batch, self.rows, self.depth], 3)];
        let z = self.keys.map(|keys| {
            inputs.push(f32s(&[self.batch, keys, self.depth], 11));
            b.unnamed_input(Type::tensor(DType::F32, [self.batch.into(), keys.into(), self.depth.into()]))
        });
        let [kv_heads, group] = self.heads;
        let q_heads = kv_heads * group;
        let columns = [q_heads * self.sizes[0], kv_heads * self.sizes[0], kv_heads * self.sizes[1]];
        let operands: Vec<ValueId> = (0..3)
            .map(|i| {
                let (rows, columns) =
                    if self.trans_b { (columns[i], self.depth) } else { (self.depth, columns[i]) };
                let w = b.constant(matrix(rows, columns, 17 * i)).unwrap();
                let x = if i > 0 { z.unwrap_or(x) } else { x };
                let y = b.op(ops::MatMul { trans_b: self.trans_b, ..Default::default() }, &[x, w]).unwrap();
                if !self.biases[i] {
                    return y;
                }
                let bias = matrix(1, if self.trans_b { rows } else { columns }, 5 * i);
                let bias = b.constant(bias.reshape([bias.len()]).unwrap()).unwrap();
                b.op(ops::Binary { kind: ops::BinaryKind::Add }, &[y, bias]).unwrap()
            })
            .collect();
        let y = b.op(ops::Attention { q_heads, kv_heads, ..Default::default() }, &operands).unwrap();
        b.output("y", y).unwrap();
        (b.finish().unwrap(), inputs)
    }
}

fn outputs(g: &Graph, inputs: &[Value], threads: usize) -> (Vec<Value>, Vec<(String, String)>) {
    let plan =
        CpuBackend::new(Pool::new(threads).unwrap()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let out = run(&*plan, inputs).unwrap();
    (out, plan.report().nodes.iter().map(|n| (n.op.to_owned(), n.kernel.to_string())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn the_bits_of_each_by_itself(
        (batch, rows, depth) in (1usize..3, 1usize..20, 1usize..70), keys in proptest::option::of(1usize..20),
        heads in [1usize..3, 1usize..3], sizes in [1usize..20, 1usize..20], biases: [bool; 3], trans_b: bool,
        threads in 1usize..4,
    ) {
        let layer = Layer { batch, rows, keys, depth, heads, sizes, biases, trans_b };
        let (g, inputs) = layer.graph();
        let o = merged(&g);
        prop_assert!(o.to_string().contains(" = concat"), "{o}");
        prop_assert!(merged(&o).same_as(&o), "{o}");
        let mut parted = o.clone();
        let part = Pipeline::new("part", vec![Pipeline::pass_by_name("part").unwrap()]);
        part.run(&mut parted, &OptOptions::default()).unwrap();
        prop_assert!(!parted.to_string().contains(" = concat"), "{parted}");
        prop_assert!(outputs(&parted, &inputs, 1).0[0].same_bits(&outputs(&o, &inputs, 1).0[0]), "{parted}");
        same(&o, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{o}")))?;
        let (a, b) = (outputs(&g, &inputs, 1), outputs(&o, &inputs, threads));
        prop_assert!(a.0[0].same_bits(&b.0[0]), "{g}\nbecame\n{o}");
        for (op, kernel) in b.1 {
            prop_assert!(op != "concat", "the weights are put together");
            prop_assert!(op != "split" || kernel == "alias", "the parts are copied by `{kernel}`");
        }
    }
}

/// The optimizer merges no such thing, but a file may: what else reads the concatenation gets it.
#[test]
fn concatenations_with_other_readers() {
    let source = |more: &str, out: &str| {
        graph(&format!(
            "graph @main(%x: f32[3,2]) -> (%y{out}) {{
              %a: f32[2,1] = const [1.0, 2.0]
              %b: f32[2,2] = const [3.0, 4.0, 5.0, 6.0]
              %w: f32[2,3] = concat %a, %b {{axis=1}}
              %y: f32[3,3] = matmul %x, %w
              {more}
            }}"
        ))
    };
    let inputs = [f32s(&[3, 2], 1)];
    for (more, out) in [
        ("", ""),
        ("", ", %w"),
        ("%z: f32[2,3] = relu %w", ", %z"),
        ("%c: f32[2,1] = const [1.0, 2.0]\n%z: f32[1,3] = matmul %c, %w {trans_a=true}", ", %z"),
        (
            "%c: f32[4,3] = const [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0, 1.0, 2.0]\n%z: f32[4,2] = matmul %c, %w {trans_b=true}",
            ", %z",
        ),
    ] {
        same(&source(more, out), &inputs, 2).unwrap();
    }
}

/// Rows that are counted during the run have kernels prepared there, which take the weights as one tensor.
#[test]
fn rows_counted_during_the_run() {
    let g = graph(
        "graph @main(%x: f32[5,2]) -> (%p, %q) {
          %zero: f32[] = const [0.0]
          %a: f32[2,1] = const [1.0, 2.0]
          %b: f32[2,2] = const [3.0, 4.0, 5.0, 6.0]
          %w: f32[2,3] = concat %a, %b {axis=1}
          %sizes: i64[2] = const [1, 2]
          %c: bool[5,2] = greater %x, %zero
          %at: i64[2,?] = non_zero %c
          %t: i64[?,2] = transpose %at {perm=[1, 0]}
          %f: f32[?,2] = cast %t {to=f32}
          %y: f32[?,3] = matmul %f, %w
          %p: f32[?,1], %q: f32[?,2] = split %y, %sizes {axis=-1, outputs=2}
        }",
    );
    for seed in 0..4 {
        same(&g, &[f32s(&[5, 2], seed)], 2).unwrap();
    }
}

//! Attention as graphs have it: written out, found by the optimizer, by rows and by heads, with masks of
//! every shape; all as the reference computes it.

mod common;

use common::{f32s, graph, same};
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::Graph;
use tensormill_optimizer::{OptOptions, Pipeline};
use tensormill_tensor::{Tensor, Value};

fn optimized(g: &Graph) -> Graph {
    let mut o = g.clone();
    Pipeline::by_name("default").unwrap().run(&mut o, &OptOptions::default()).unwrap();
    o
}

/// The op alone.
#[derive(Debug, Clone)]
struct Alone {
    batch: usize,
    kv_heads: usize,
    group: usize,
    queries: usize,
    keys: usize,
    sizes: [usize; 2],
    rows: bool,
    turned: bool,
    mask: Option<(bool, [bool; 4], usize)>,
    causal: bool,
    blind_nan: bool,
    softcap: bool,
}

fn alone() -> impl Strategy<Value = Alone> {
    let n = || prop_oneof![0usize..4, 1usize..40];
    let mask = proptest::option::of((any::<bool>(), any::<[bool; 4]>(), 0usize..5));
    ((1usize..3, 1usize..3, 1usize..3), (n(), n(), n(), n()), any::<[bool; 5]>(), mask).prop_map(
        |((batch, kv_heads, group), (queries, keys, size, value_size), flags, mask)| {
            let [rows, turned, causal, blind_nan, softcap] = flags;
            let sizes = [size, value_size];
            Alone {
                batch,
                kv_heads,
                group,
                queries,
                keys,
                sizes,
                rows,
                turned,
                mask,
                causal,
                blind_nan,
                softcap,
            }
        },
    )
}

fn build(a: &Alone) -> (Graph, Vec<Value>) {
    let heads = a.kv_heads * a.group;
    let operand = |heads: usize, rows: usize, size: usize| {
        if a.rows {
            vec![a.batch, rows, heads * size]
        } else if a.turned {
            vec![a.batch, rows, heads, size]
        } else {
            vec![a.batch, heads, rows, size]
        }
    };
    let shapes = [
        operand(heads, a.queries, a.sizes[0]),
        operand(a.kv_heads, a.keys, a.sizes[0]),
        operand(a.kv_heads, a.keys, a.sizes[1]),
    ];
    let mut inputs: Vec<Value> = shapes.iter().enumerate().map(|(i, s)| f32s(s, i * 77)).collect();
    let mut parameters: Vec<String> =
        shapes.iter().enumerate().map(|(i, s)| format!("%x{i}: f32{s:?}").replace(' ', "")).collect();
    let mut lines = String::new();
    let mut names: Vec<String> = (0..3).map(|i| format!("%x{i}")).collect();
    if !a.rows && a.turned {
        for (i, s) in shapes.iter().enumerate() {
            let dims = format!("[{},{},{},{}]", s[0], s[2], s[1], s[3]);
            lines += &format!("  %t{i}: f32{dims} = transpose %x{i} {{perm=[0, 2, 1, 3]}}\n");
            names[i] = format!("%t{i}");
        }
    }
    if let Some((seen, broadcast, short)) = a.mask {
        let keys = a.keys.saturating_sub(short);
        let mut dims: Vec<usize> = [a.batch, heads, a.queries, keys]
            .iter()
            .zip(broadcast)
            .map(|(d, one)| if one { 1 } else { *d })
            .collect();
        // The last axis never broadcasts.
        dims[3] = keys;
        let n = dims.iter().product::<usize>();
        let hidden = |i: usize| i % 5 == 1 || i / keys.max(1) % 4 == 2;
        let value = if seen {
            Tensor::from_bools(&dims[..], (0..n).map(|i| !hidden(i)).collect()).unwrap()
        } else {
            let x = |i: usize| if hidden(i) { f32::NEG_INFINITY } else { (i % 7) as f32 / 3.0 };
            Tensor::from_vec(&dims[..], (0..n).map(x).collect()).unwrap()
        };
        inputs.push(value.into());
        let dtype = if seen { "bool" } else { "f32" };
        parameters.push(format!("%mask: {dtype}{dims:?}").replace(' ', "").replace(":", ": "));
        names.push("%mask".into());
    }
    let y = if a.rows {
        vec![a.batch, a.queries, heads * a.sizes[1]]
    } else {
        vec![a.batch, heads, a.queries, a.sizes[1]]
    };
    let y = format!("{y:?}").replace(' ', "");
    let (causal, blind, cap) = (a.causal, a.blind_nan, if a.softcap { 1.5 } else { 0.0 });
    let source = format!(
        "graph @main({}) -> (%y) {{\n{lines}  %y: f32{y} = attention {} {{q_heads={heads}, kv_heads={}, \
         scale=0.6, softcap={cap:?}, causal={causal}, blind_nan={blind}}}\n}}",
        parameters.join(", "),
        names.join(", "),
        a.kv_heads,
    );
    (graph(&source), inputs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_op(a in alone(), threads in 1usize..4) {
        let (g, inputs) = build(&a);
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{g}")))?;
    }

    #[test]
    fn written_out(batch in 1usize..3, s in 1usize..30, heads in 1usize..4, size in 1usize..9, low in any::<bool>(), by in 0usize..3, threads in 1usize..3) {
        let width = heads * size;
        let scores = ["mul %s, %c", "div %s, %c", "mul %c, %s"][by];
        let low = if low { "-inf" } else { "-30.0" };
        let source = format!(
            "graph @main(%x: f32[B,S,{width}], %z: f32[B,S,{width}], %m: f32[B,1,S,S]) -> (%y) {{
              %heads: i64[4] = const [0, 0, {heads}, {size}]
              %rows: i64[3] = const [0, 0, {width}]
              %c: f32[] = const [0.7]
              %zero: f32[] = const [0.0]
              %low: f32[] = const [{low}]
              %h: bool[B,1,S,S] = less %m, %zero
              %mask: f32[B,1,S,S] = where %h, %low, %zero
              %xr: f32[B,S,{heads},{size}] = reshape %x, %heads
              %zr: f32[B,S,{heads},{size}] = reshape %z, %heads
              %q: f32[B,{heads},S,{size}] = transpose %xr {{perm=[0, 2, 1, 3]}}
              %k: f32[B,{heads},{size},S] = transpose %zr {{perm=[0, 2, 3, 1]}}
              %v: f32[B,{heads},S,{size}] = transpose %zr {{perm=[0, 2, 1, 3]}}
              %s: f32[B,{heads},S,S] = matmul %q, %k
              %a: f32[B,{heads},S,S] = {scores}
              %b: f32[B,{heads},S,S] = add %a, %mask
              %p: f32[B,{heads},S,S] = softmax %b
              %o: f32[B,{heads},S,{size}] = matmul %p, %v
              %t: f32[B,S,{heads},{size}] = transpose %o {{perm=[0, 2, 1, 3]}}
              %y: f32[B,S,{width}] = reshape %t, %rows
            }}"
        );
        let g = graph(&source);
        let o = optimized(&g);
        prop_assert!(o.to_string().contains("attention"), "{o}");
        let inputs = [f32s(&[batch, s, width], 1), f32s(&[batch, s, width], 5), f32s(&[batch, 1, s, s], 9)];
        same(&g, &inputs, threads).map_err(TestCaseError::fail)?;
        same(&o, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{o}")))?;
        let plan = |g: &Graph| CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
        let (whole, fused) = (common::run(&*plan(&g), &inputs).unwrap(), common::run(&*plan(&o), &inputs).unwrap());
        common::near(&whole[0], &fused[0]).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn rotary_positions(sizes in (1usize..3, 1usize..4, 0usize..9), half in 1usize..12, more in 0usize..3, flags: [bool; 3], threads in 1usize..3) {
        let ((batch, heads, s), [by_rows, interleaved, given]) = (sizes, flags);
        let size = 2 * half + more;
        let x = if by_rows { vec![batch, s, heads * size] } else { vec![batch, heads, s, size] };
        let (table, ids) = if given { (vec![7, half], format!(", %ids: i64[{batch},{s}]")) } else { (vec![batch, s, half], String::new()) };
        let also = if given { ", %ids" } else { "" };
        let source = format!(
            "graph @main(%x: f32{x:?}, %c: f32{table:?}, %s: f32{table:?}{ids}) -> (%y) {{
              %y: f32{x:?} = rotary_embedding %x, %c, %s{also} {{heads={heads}, dim={}, interleaved={interleaved}}}
            }}",
            2 * half
        );
        let mut inputs = vec![f32s(&x, 1), f32s(&table, 5), f32s(&table, 9)];
        if given {
            let ids = (0..batch * s).map(|i| (i * 5 % 7) as i64).collect();
            inputs.push(Tensor::from_vec([batch, s], ids).unwrap().into());
        }
        let g = graph(&source);
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{g}")))?;
        let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
        common::run(&*plan, &inputs).unwrap();
        prop_assert!(plan.report().nodes.iter().any(|n| n.kernel == "rotary-embedding"), "{}", plan.report());
    }
}

/// Heads that were only turned to the front need no copy.
#[test]
fn transpositions_are_read_through() {
    let a = Alone {
        batch: 2,
        kv_heads: 2,
        group: 2,
        queries: 20,
        keys: 30,
        sizes: [8, 16],
        rows: false,
        turned: true,
        mask: None,
        causal: false,
        blind_nan: false,
        softcap: false,
    };
    let (g, inputs) = build(&a);
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let report = plan.report();
    let kernels: Vec<_> = report.nodes.iter().map(|n| &*n.kernel).collect();
    assert_eq!(kernels, ["attention"], "{report}");
    same(&g, &inputs, 2).unwrap();
}

/// One product for queries, keys and values, whose parts are read where they lie: as rows, and by heads that
/// were only turned to the front.
#[test]
fn merged_operands_are_read_in_place() {
    let g = graph(
        "graph @main(%x: f32[B,S,12], %w: f32[12,36]) -> (%y, %z) {
          %sizes: i64[3] = const [12, 12, 12]
          %heads: i64[4] = const [0, 0, 3, 4]
          %p: f32[B,S,36] = matmul %x, %w
          %q: f32[B,S,12], %k: f32[B,S,12], %v: f32[B,S,12] = split %p, %sizes {axis=2, outputs=3}
          %y: f32[B,S,12] = attention %q, %k, %v {q_heads=3, kv_heads=3}
          %qr: f32[B,S,3,4] = reshape %q, %heads
          %kr: f32[B,S,3,4] = reshape %k, %heads
          %vr: f32[B,S,3,4] = reshape %v, %heads
          %qt: f32[B,3,S,4] = transpose %qr {perm=[0, 2, 1, 3]}
          %kt: f32[B,3,S,4] = transpose %kr {perm=[0, 2, 1, 3]}
          %vt: f32[B,3,S,4] = transpose %vr {perm=[0, 2, 1, 3]}
          %z: f32[B,3,S,4] = attention %qt, %kt, %vt
        }",
    );
    for (batch, rows) in [(1, 1), (1, 9), (3, 1), (2, 20)] {
        let inputs = [f32s(&[batch, rows, 12], 1), f32s(&[12, 36], 5)];
        let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
        common::run(&*plan, &inputs).unwrap();
        let report = plan.report();
        let split = report.nodes.iter().find(|n| n.op == "split").unwrap();
        assert_eq!(split.kernel, "alias", "{report}");
        same(&g, &inputs, 2).unwrap();
    }
}

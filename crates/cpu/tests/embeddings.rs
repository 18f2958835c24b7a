//! Rows picked from tables, added up and normalized: one step, with the bits of many.

mod common;

use common::{f32s, graph, run, same};
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::Graph;
use tensormill_tensor::{Tensor, Value};

fn outputs(g: &Graph, inputs: &[Value], threads: usize) -> (Result<Vec<Value>, String>, Vec<String>) {
    let plan =
        CpuBackend::new(Pool::new(threads).unwrap()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let out = run(&*plan, inputs);
    (out, plan.report().nodes.iter().map(|n| n.kernel.to_string()).collect())
}

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    rows: usize,
    n: usize,
    len: usize,
    /// Terms after the first: a table, one of the caller's, rows of each batch, of all, a single row, a table read by
    /// fewer rows.
    terms: Vec<u8>,
    swapped: Vec<bool>,
    narrow: bool,
    bias: bool,
}

impl Case {
    /// The graph, with the sum as an output too if that is asked for: then it must be there.
    fn graph(&self, with_sum: bool) -> (Graph, Vec<Value>) {
        let Case { batch, rows, n, len, narrow, .. } = *self;
        let ids = if narrow { "i32" } else { "i64" };
        let pick = |shape: &[usize], step: usize| -> Value {
            let count = shape.iter().product();
            let all = (0..count).map(|i: usize| (i * step % (2 * len)) as i64 - len as i64);
            match narrow {
                true => Tensor::from_vec(shape, all.map(|i| i as i32).collect()).unwrap().into(),
                false => Tensor::from_vec(shape, all.collect()).unwrap().into(),
            }
        };
        let all = format!("f32[{batch},{rows},{n}]");
        let mut parameters = vec![
            format!("%t: f32[{len},{n}]"),
            format!("%i: {ids}[{batch},{rows}]"),
            format!("%s: f32[{n}]"),
        ];
        let mut inputs = vec![f32s(&[len, n], 1), pick(&[batch, rows], 5), f32s(&[n], 2)];
        let mut lines = format!("  %h0: {all} = gather %t, %i\n");
        for (k, kind) in self.terms.iter().enumerate() {
            let mut given = |name: &str, shape: &[usize]| {
                parameters.push(format!("%{name}{k}: f32{}", format!("{shape:?}").replace(' ', "")));
                inputs.push(f32s(shape, 9 * k + 4));
            };
            match kind {
                0 => given("u", &[len, n]),
                1 => given("x", &[batch, rows, n]),
                2 => given("x", &[1, rows, n]),
                3 => given("x", &[rows, n]),
                4 => given("x", &[n]),
                5 => given("x", &[batch, 1, n]),
                _ => given("u", &[len, n]),
            }
            if *kind == 0 {
                parameters.push(format!("%j{k}: {ids}[{batch},{rows}]"));
                inputs.push(pick(&[batch, rows], 3 + k));
                lines += &format!("  %x{k}: {all} = gather %u{k}, %j{k}\n");
            } else if *kind > 5 {
                parameters.push(format!("%j{k}: {ids}[1,{rows}]"));
                inputs.push(pick(&[1, rows], 3 + k));
                lines += &format!("  %x{k}: f32[1,{rows},{n}] = gather %u{k}, %j{k}\n");
            }
            let (a, b) = (format!("%h{k}"), format!("%x{k}"));
            let (a, b) = if self.swapped[k] { (b, a) } else { (a, b) };
            lines += &format!("  %h{}: {all} = add {a}, {b}\n", k + 1);
        }
        let bias = if self.bias { ", %b" } else { "" };
        if self.bias {
            parameters.push(format!("%b: f32[{n}]"));
            inputs.push(f32s(&[n], 3));
        }
        let h = format!("%h{}", self.terms.len());
        let sum = if with_sum { format!(", {h}") } else { String::new() };
        let source = format!(
            "graph @main({}) -> (%y{sum}) {{\n{lines}  %y: {all} = layer_norm {h}, %s{bias} {{axis=-1, epsilon=1e-5}}\n}}",
            parameters.join(", ")
        );
        (graph(&source), inputs)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_bits_of_many_steps(
        (batch, rows, n, len) in (1usize..4, 1usize..9, 1usize..40, 1usize..6), terms in prop::collection::vec(0u8..7, 0..5),
        swapped in prop::collection::vec(any::<bool>(), 5), narrow: bool, bias: bool, threads in 1usize..4,
    ) {
        let case = Case { batch, rows, n, len, terms, swapped, narrow, bias };
        let ((g, inputs), (apart, _)) = (case.graph(false), case.graph(true));
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{g}")))?;
        let (one, many) = (outputs(&g, &inputs, threads), outputs(&apart, &inputs, 1));
        prop_assert!(one.0.unwrap()[0].same_bits(&many.0.unwrap()[0]), "{g}");
        // A row for each batch is repeated within it, which is no cycle.
        let fits = !case.terms.contains(&5) || rows == 1 || batch == 1;
        let together = |kernels: &[String]| kernels.iter().filter(|k| *k == "embed-norm").count();
        prop_assert_eq!(together(&one.1) > 1, fits, "{}", g);
        prop_assert_eq!(together(&many.1), 0);
    }
}

#[test]
fn picks_outside_a_table_are_errors() {
    let g = graph(
        "graph @main(%t: f32[3,2], %i: i64[4], %s: f32[2]) -> (%y) {
          %h: f32[4,2] = gather %t, %i
          %y: f32[4,2] = layer_norm %h, %s {axis=-1}
        }",
    );
    for (ids, good) in [([0, 1, 2, -3], true), ([0, 1, 3, 0], false), ([0, -4, 1, 0], false)] {
        let ids = Tensor::from_vec([4], ids.to_vec()).unwrap().into();
        let (out, kernels) = outputs(&g, &[f32s(&[3, 2], 1), ids, f32s(&[2], 2)], 2);
        assert_eq!(out.is_ok(), good, "{out:?}");
        assert!(kernels.iter().all(|k| k == "embed-norm"), "{kernels:?}");
    }
}

/// What else reads a sum, or goes on elementwise from it, gets it; chains do not begin in the middle of one.
#[test]
fn sums_with_other_readers() {
    for (between, out) in [
        ("%r: f32[4,2] = relu %h\n%z: f32[4,2] = add %r, %x", ", %r"),
        ("%r: f32[4,2] = relu %x\n%z: f32[4,2] = add %h, %r", ""),
        ("%r: f32[4,2] = relu %x\n%q: f32[4,2] = tanh %r\n%z: f32[4,2] = add %q, %h", ""),
        ("%q: f32[4,2] = add %h, %x\n%z: f32[4,2] = relu %q", ""),
        ("%q: f32[4,2] = add %h, %x\n%r: f32[4,2] = add %x, %x\n%z: f32[4,2] = add %r, %q", ""),
    ] {
        let g = graph(&format!(
            "graph @main(%t: f32[3,2], %i: i64[4], %s: f32[2], %x: f32[4,2]) -> (%y{out}) {{
              %h: f32[4,2] = gather %t, %i
              {between}
              %y: f32[4,2] = layer_norm %z, %s {{axis=-1}}
            }}"
        ));
        let ids = Tensor::from_vec([4], vec![0i64, 2, -1, 1]).unwrap().into();
        same(&g, &[f32s(&[3, 2], 1), ids, f32s(&[2], 2), f32s(&[4, 2], 5)], 2).unwrap();
    }
}

//! Random graphs, ops over random shapes, sizes known only at run time: all as the reference computes them.

mod common;

use common::{f32s, graph, near, run, same, types};
use proptest::prelude::*;
use std::sync::Arc;
use tensormill_backend::{Backend, CompileOptions, Io, Plan, RunError};
use tensormill_cpu::{CpuBackend, Pool, ReferenceBackend};
use tensormill_ir::{Type, text};
use tensormill_optimizer::testing::{Bytes, random_graph, random_inputs};
use tensormill_tensor::{DType, Tensor, Value};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_graphs(seed in any::<u64>(), nodes in 1usize..24, threads in 1usize..3) {
        let mut bytes = Bytes::seeded(seed, 4096);
        let g = random_graph(&mut bytes, nodes).unwrap();
        let inputs = random_inputs(&g, &mut bytes);
        if let Err(e) = same(&g, &inputs, threads) {
            return Err(TestCaseError::fail(format!("{e}\n{}", text::print(&g).text)));
        }
    }

    #[test]
    fn broadcasting(a in prop::collection::vec(0usize..4, 0..4), ones in any::<u8>(), seed in 0usize..99) {
        let b: Vec<usize> = a.iter().enumerate().map(|(i, &d)| if ones >> i & 1 == 1 { 1 } else { d }).collect();
        let dims = |d: &[usize]| d.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        for op in ["add", "sub", "mul", "max", "less", "equal"] {
            let out = if op == "less" || op == "equal" { "bool" } else { "f32" };
            let g = graph(&format!(
                "graph @g(%a: f32[{0}], %b: f32[{1}]) -> (%y) {{\n  %y: {out}[{0}] = {op} %a, %b\n}}\n",
                dims(&a), dims(&b)
            ));
            same(&g, &[f32s(&a, seed), f32s(&b, seed + 1)], 2).map_err(TestCaseError::fail)?;
        }
    }
}

#[test]
fn transposed_operands_are_read_in_place() {
    let g = graph(
        "graph @g(%q: f32[2,5,3,4], %k: f32[2,7,3,4]) -> (%s) {
  %a: f32[2,3,5,4] = transpose %q {perm=[0,2,1,3]}
  %b: f32[2,3,4,7] = transpose %k {perm=[0,2,3,1]}
  %s: f32[2,3,5,7] = matmul %a, %b
}
",
    );
    let inputs = [f32s(&[2, 5, 3, 4], 0), f32s(&[2, 7, 3, 4], 1)];
    same(&g, &inputs, 2).unwrap();
    let plan = CpuBackend::new(Pool::serial()).compile(g, &CompileOptions::default()).unwrap();
    assert_eq!(plan.report().nodes.len(), 1, "{}", plan.report());
}

#[test]
fn padding_continues_with_the_operand() {
    use tensormill_ir::{GraphBuilder, ops};
    for mode in [ops::PadMode::Edge, ops::PadMode::Reflect, ops::PadMode::Wrap] {
        for (shape, pads) in
            [(&[5][..], &[3, 4][..]), (&[2, 3, 4], &[1, 0, 2, 3, 1, 5]), (&[1, 2], &[2, 1, 0, 3])]
        {
            let mut b = GraphBuilder::new("pad");
            let dims: Vec<_> = shape.iter().map(|&d: &usize| d.into()).collect();
            let x = b.input("x", Type::tensor(DType::F32, dims)).unwrap();
            let pads = b.ints(pads).unwrap();
            let y = b.op(ops::Pad { mode }, &[x, pads]).unwrap();
            b.output("y", y).unwrap();
            let g = b.finish().unwrap();
            same(&g, &[f32s(shape, 3)], 1).unwrap();
            let plan = CpuBackend::new(Pool::serial()).compile(g, &CompileOptions::default()).unwrap();
            assert!(plan.report().fallbacks().next().is_none(), "{}", plan.report());
        }
    }
}

#[test]
fn functions_in_a_row_are_one_step() {
    let g = graph(
        "graph @g(%x: f32[N,70], %b: f32[70]) -> (%w) {
  %y: f32[N,70] = tanh %x
  %z: f32[N,70] = sub %b, %y
  %w: f32[N,70] = mul %z, %x
}
",
    );
    for rows in [1, 3, 200] {
        same(&g, &[f32s(&[rows, 70], 0), f32s(&[70], 1)], 2).unwrap();
    }
    let plan = CpuBackend::new(Pool::serial()).compile(g, &CompileOptions::default()).unwrap();
    let report = plan.report();
    assert!(report.nodes.iter().all(|n| n.kernel == "chain"), "{report}");
}

#[test]
fn concatenations_and_slices_only_look() {
    let g = graph(
        "graph @g(%x: f32[1,4,6]) -> (%z) {
  %s: i64[1] = const [1]
  %e: i64[1] = const [3]
  %a: f32[1,4,6] = relu %x
  %b: f32[1,4,6] = neg %x
  %c: f32[1,8,6] = concat %a, %b {axis=1}
  %d: f32[1,2,6] = slice %c, %s, %e, %s
  %z: f32[1,2,6] = exp %d
}
",
    );
    same(&g, &[f32s(&[1, 4, 6], 3)], 1).unwrap();
}

#[test]
fn sizes_that_depend_on_data() {
    let g = graph(
        "graph @g(%x: f32[N,4], %w: f32[4,3]) -> (%y, %n, %p) {
  %b: bool[N,4] = cast %x {to=bool}
  %n: i64[2,?] = non_zero %b
  %t: i64[?,2] = transpose %n {perm=[1,0]}
  %f: f32[?,2] = cast %t {to=f32}
  %u: f32[2,?] = transpose %f {perm=[1,0]}
  %p: f32[2,2] = matmul %u, %f
  %y: f32[N,3] = matmul %x, %w
}
",
    );
    let options = CompileOptions::default();
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &options).unwrap();
    for n in [0usize, 1, 5, 2] {
        let inputs = [f32s(&[n, 4], n), f32s(&[4, 3], 7)];
        let expected = run(&*ReferenceBackend.compile(g.clone(), &options).unwrap(), &inputs).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        expected.iter().zip(&got).for_each(|(a, b)| near(a, b).unwrap());
    }
}

#[test]
fn states_of_one_plan_run_at_once() {
    let g = graph(
        "graph @g(%x: f32[N,64], %w: f32[64,64]) -> (%y) {
  %a: f32[N,64] = matmul %x, %w
  %b: f32[N,64] = tanh %a
  %y: f32[N,64] = matmul %b, %w
}
",
    );
    let plan: Arc<dyn Plan> =
        CpuBackend::new(Pool::new(2).unwrap()).compile(g, &CompileOptions::default()).unwrap();
    let w = f32s(&[64, 64], 5);
    let alone: Vec<Vec<Value>> =
        (1..5).map(|n| run(&*plan, &[f32s(&[n * 9, 64], n), w.clone()]).unwrap()).collect();
    std::thread::scope(|s| {
        for n in 1..5 {
            let (plan, w, alone) = (plan.clone(), w.clone(), &alone[n - 1]);
            s.spawn(move || {
                for _ in 0..20 {
                    let got = run(&*plan, &[f32s(&[n * 9, 64], n), w.clone()]).unwrap();
                    assert!(got.iter().zip(alone).all(|(a, b)| a.same_bits(b)));
                }
            });
        }
    });
}

#[test]
fn limits_and_wrong_inputs_are_errors() {
    let g = graph("graph @g(%x: f32[N,64]) -> (%y) {\n  %y: f32[N,64] = tanh %x\n}\n");
    let backend = CpuBackend::new(Pool::serial());
    let mut options = CompileOptions::default();
    options.max_elements = 100;
    let plan = backend.compile(g.clone(), &options).unwrap();
    assert!(plan.state(&types(&[f32s(&[2, 64], 0)])).is_err());
    let mut options = CompileOptions::default();
    options.max_state_bytes = 100;
    let plan = backend.compile(g.clone(), &options).unwrap();
    assert!(plan.state(&types(&[f32s(&[2, 64], 0)])).is_err());
    let plan = backend.compile(g, &CompileOptions::default()).unwrap();
    let mut state = plan.state(&types(&[f32s(&[2, 64], 0)])).unwrap();
    let mut outputs = vec![];
    let wrong = [f32s(&[3, 64], 0)];
    let mut io = Io { inputs: &wrong, outputs: &mut outputs, profile: None, cancel: None };
    assert!(matches!(state.run(&mut io), Err(RunError::Input(_))));
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let right = [f32s(&[2, 64], 0)];
    let mut io = Io { inputs: &right, outputs: &mut outputs, profile: None, cancel: Some(&cancel) };
    assert_eq!(state.run(&mut io), Err(RunError::Cancelled));
    let mut io = Io { inputs: &right, outputs: &mut outputs, profile: None, cancel: None };
    assert!(state.run(&mut io).is_ok(), "the state stays usable");
}

#[test]
fn bodies_run_as_plans() {
    use tensormill_ir::{GraphBuilder, attr::Body, ops};
    let scalar = |d| Type::tensor(d, []);
    let mut b = GraphBuilder::new("body");
    let _trip = b.unnamed_input(scalar(DType::I64));
    let go = b.unnamed_input(scalar(DType::Bool));
    let h = b.unnamed_input(Type::tensor(DType::F32, [2.into(), 3.into()]));
    let w = b.unnamed_input(Type::tensor(DType::F32, [3.into(), 3.into()]));
    let p = b.op(ops::MatMul::default(), &[h, w]).unwrap();
    let next = b.unary(ops::UnaryKind::Tanh, p).unwrap();
    b.output("go", go).unwrap();
    b.output("h", next).unwrap();
    b.output("each", p).unwrap();
    let body = Body(Arc::new(b.finish().unwrap()));
    let mut g = GraphBuilder::new("main");
    let x = g.input("x", Type::tensor(DType::F32, [2.into(), 3.into()])).unwrap();
    let w = g.input("w", Type::tensor(DType::F32, [3.into(), 3.into()])).unwrap();
    let n = g.input("n", scalar(DType::I64)).unwrap();
    let outs = g.node(ops::Loop { body, carried: 1 }, &[Some(n), None, Some(x), Some(w)]).unwrap();
    g.output("h", outs[0]).unwrap();
    g.output("each", outs[1]).unwrap();
    let g = g.finish().unwrap();
    for trips in [0i64, 1, 7] {
        let inputs = [f32s(&[2, 3], 1), f32s(&[3, 3], 2), Tensor::scalar(trips).into()];
        same(&g, &inputs, 2).unwrap();
    }
    let mut options = CompileOptions::default();
    options.max_trips = 5;
    let plan = CpuBackend::new(Pool::serial()).compile(g, &options).unwrap();
    assert!(run(&*plan, &[f32s(&[2, 3], 1), f32s(&[3, 3], 2), Tensor::scalar(6i64).into()]).is_err());
    assert!(run(&*plan, &[f32s(&[2, 3], 1), f32s(&[3, 3], 2), Tensor::scalar(5i64).into()]).is_ok());
    assert!(plan.report().fallbacks().next().is_none(), "{}", plan.report());
}

/// Linear layers that are large enough are computed in halves, and only where that is allowed.
#[test]
fn large_linear_layers_in_halves() {
    let mut b = tensormill_ir::GraphBuilder::new("g");
    let ty = |d: [usize; 2]| Type::tensor(DType::F32, d.map(tensormill_ir::Dim::Known));
    let x = b.input("x", ty([97, 768])).unwrap();
    let Value::Tensor(w) = f32s(&[768, 512], 3) else { unreachable!() };
    let w = b.constant(w).unwrap();
    let y = b.op(tensormill_ir::ops::MatMul::default(), &[x, w]).unwrap();
    b.output("y", y).unwrap();
    let g = b.finish().unwrap();
    let inputs = [f32s(&[97, 768], 1)];
    for threads in [1, 2] {
        same(&g, &inputs, threads).unwrap();
    }
    for fewer in [true, false] {
        let mut options = CompileOptions::default();
        options.fewer_multiplications = fewer;
        let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &options).unwrap();
        run(&*plan, &inputs).unwrap();
        let named = plan.report().nodes.iter().any(|n| n.kernel == "linear-strassen");
        assert_eq!(named, fewer, "{}", plan.report());
    }
}

/// A branch on a rank or a size is taken before the run, one inside it too; one on a value waits.
#[test]
fn sizes_decide_branches() {
    let g = graph(
        "graph @g(%x: f32[N,M], %flag: bool[]) -> (%y, %inner) {
  %shape: i64[2] = shape %x
  %zero: i64[] = const [0]
  %one: i64[] = const [1]
  %rows: i64[] = gather %shape, %zero
  %columns: i64[] = gather %shape, %one
  %single: bool[] = equal %rows, %one
  %square: bool[] = equal %rows, %columns
  %inner: f32[..] = if %single, %x, %x, %square {then_branch=graph @t(%0: f32[?,?]) -> (\"0\" = %r) {
    %r: f32[?,?] = neg %0
  }, else_branch=graph @e(%0: f32[?,?], %1: bool[]) -> (\"0\" = %r) {
    %d: f32[..] = if %1, %0, %0 {then_branch=graph @t(%0: f32[?,?]) -> (\"0\" = %r) {
      %r: f32[?,?] = transpose %0
    }, else_branch=graph @e(%0: f32[?,?]) -> (\"0\" = %r) {
      %r: f32[?,?] = relu %0
    }, then_inputs=1}
    %r: f32[..] = exp %d
  }, then_inputs=1}
  %y: f32[..] = if %flag, %inner, %inner {then_branch=graph @t(%0: f32[..]) -> (\"0\" = %r) {
    %r: f32[..] = abs %0
  }, else_branch=graph @e(%0: f32[..]) -> (\"0\" = %0) {
  }, then_inputs=1}
}
",
    );
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
    for dims in [[1, 1], [1, 5], [4, 4], [3, 5], [2, 0], [4, 4]] {
        for flag in [true, false] {
            let inputs = [f32s(&dims, 3), Tensor::from_bools([], vec![flag]).unwrap().into()];
            same(&g, &inputs, 2).unwrap();
            run(&*plan, &inputs).unwrap();
            // Only the branch on a value is left, and what is before it has a kernel.
            let report = plan.report();
            let bodies = report.nodes.iter().filter(|n| n.op == "if").count();
            assert_eq!(bodies, 1, "{report}");
            assert!(report.fallbacks().next().is_none(), "{report}");
        }
    }
}

#[test]
fn running_totals() {
    for (op, dtype) in [("cum_sum", "f32"), ("cum_prod", "f32"), ("cum_sum", "i64"), ("cum_prod", "i32")] {
        for (axis, exclusive, reverse) in
            [(0, false, false), (1, true, false), (-1, false, true), (1, true, true)]
        {
            let g = graph(&format!(
                "graph @g(%x: {dtype}[3,4,5]) -> (%y) {{
  %axis: i64[] = const [{axis}]
  %y: {dtype}[3,4,5] = {op} %x, %axis {{exclusive={exclusive}, reverse={reverse}}}
}}
"
            ));
            let ints: Vec<i64> = (0..60).map(|i| (i * 37) % 19 - 9).collect();
            let x = match dtype {
                "f32" => f32s(&[3, 4, 5], 1),
                "i64" => Tensor::from_i64s(DType::I64, [3, 4, 5], ints).unwrap().into(),
                _ => Tensor::from_i64s(DType::I32, [3, 4, 5], ints).unwrap().into(),
            };
            same(&g, &[x], 2).unwrap();
            let plan = CpuBackend::new(Pool::serial()).compile(g, &CompileOptions::default()).unwrap();
            assert!(plan.report().fallbacks().next().is_none(), "{}", plan.report());
        }
    }
}

/// What is shared with a caller or read by an op without a kernel is never written again.
#[test]
fn outputs_that_are_parts_are_copies_of_their_own() {
    let g = graph(
        "graph @g(%x: f32[4,6]) -> (%a, %b, %whole, %x2) {
  %whole: f32[4,6] = neg %x
  %sizes: i64[2] = const [1, 3]
  %a: f32[1,6], %b: f32[3,6] = split %whole, %sizes {axis=0, outputs=2}
  %x2: f32[6,4] = transpose %whole
}
",
    );
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let mut state = plan.state(&types(&[f32s(&[4, 6], 0)])).unwrap();
    let mut all = vec![];
    for seed in 0..4 {
        let inputs = [f32s(&[4, 6], seed)];
        let mut outputs = vec![];
        let mut io = Io { inputs: &inputs, outputs: &mut outputs, profile: None, cancel: None };
        state.run(&mut io).unwrap();
        // Some are held for long, some not at all.
        all.push((seed, outputs.split_off(seed % 3)));
    }
    for (seed, outputs) in all {
        let fresh = run(&*plan, &[f32s(&[4, 6], seed)]).unwrap();
        for (a, b) in fresh.iter().skip(seed % 3).zip(&outputs) {
            assert!(a.same_bits(b), "{seed}");
        }
    }
    same(&g, &[f32s(&[4, 6], 9)], 1).unwrap();
}

//! Single rows times weights of which most are zero.

mod common;

use common::{f32s, run, same};
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{Dim, Graph, GraphBuilder, Type, ops};
use tensormill_kernels::simd::Level;
use tensormill_tensor::{DType, Tensor, Value};

const N: usize = 1024;

/// A product with a bias after it, with the weights that `keep` leaves.
fn product(keep: impl Fn(usize, usize) -> bool, trans_b: bool) -> Graph {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", Type::tensor(DType::F32, [Dim::symbol("rows"), N.into()])).unwrap();
    let Value::Tensor(w) = f32s(&[N, N], 3) else { unreachable!() };
    let mut w = w.to_f32_vec().unwrap();
    for (i, w) in w.iter_mut().enumerate() {
        let (row, column) = if trans_b { (i % N, i / N) } else { (i / N, i % N) };
        *w = if keep(row, column) { *w / 32.0 } else { 0.0 };
    }
    let w = b.constant(Tensor::from_vec([N, N], w).unwrap()).unwrap();
    let Value::Tensor(bias) = f32s(&[N], 4) else { unreachable!() };
    let bias = b.constant(bias).unwrap();
    let epilogue =
        ops::PostOps(vec![ops::PostOp::Binary { kind: ops::BinaryKind::Add, operand: 2, swapped: false }]);
    let y = b.op(ops::MatMul { trans_b, epilogue, ..Default::default() }, &[x, w, bias]).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

#[test]
fn single_rows_leave_out_zeros() {
    let pairs = |r: usize, c: usize| (r / 4 + c + r) % 4 < 2;
    let few = |r: usize, c: usize| (r * 7 + c).is_multiple_of(9);
    let half = |r: usize, c: usize| (r / 4 + c).is_multiple_of(2);
    let cases = [
        (product(pairs, false), true),
        (product(pairs, true), true),
        (product(few, false), true),
        (product(few, true), true),
        // Half of them anywhere, which no form is faster for.
        (product(half, false), false),
    ];
    for (g, sparse) in cases {
        let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
        for rows in [1, 3, 1] {
            let x = f32s(&[rows, N], 1);
            same(&g, std::slice::from_ref(&x), 2).unwrap();
            run(&*plan, &[x]).unwrap();
            let named = plan.report().nodes.iter().any(|n| n.kernel == "linear-sparse");
            let can = Pool::serial().level() > Level::BASELINE;
            assert_eq!(named, sparse && can && rows == 1, "{}", plan.report());
        }
        // What is infinite times zero is not a number, stored or not.
        let Value::Tensor(x) = f32s(&[1, N], 2) else { unreachable!() };
        let mut x = x.to_f32_vec().unwrap();
        x[5] = f32::INFINITY;
        same(&g, &[Tensor::from_vec([1, N], x).unwrap().into()], 1).unwrap();
    }
}

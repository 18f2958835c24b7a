//! Networks with steps of quantization, as the optimizer leaves them: the kernels of bytes beside the reference.

mod common;

use common::run;
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{
    Graph, GraphBuilder, IrError, Type,
    ops::{PostOp, PostOps, QuantizedConv, QuantizedMatMul, UnaryKind},
};
use tensormill_optimizer::{
    OptOptions, Pipeline,
    testing::{Bytes, random_inputs, random_quantized},
};
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{DType, Shape, Tensor, Value};

/// The number of elements that differ by more than `steps` and `bound` of the largest.
fn far(a: &Value, b: &Value, steps: f64, bound: f64) -> Result<usize, String> {
    let (Value::Tensor(a), Value::Tensor(b)) = (a, b) else { return Err("no tensors".into()) };
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Err(format!("{a:?} and {b:?}"));
    }
    let (p, q) = (a.to_f64_vec().unwrap(), b.to_f64_vec().unwrap());
    let largest = p.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
    let most = if a.dtype().is_float() { bound * largest } else { steps };
    Ok(p.iter()
        .zip(&q)
        .filter(|(x, y)| !(x == y || (x.is_nan() && y.is_nan()) || (*x - *y).abs() <= most))
        .count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    /// A number near the middle between two steps may fall to either side, and what follows moves by as much:
    /// no integer is further off than two steps, and few are off at all. Real numbers may have met weights in few
    /// bits as activations of 16.
    #[test]
    fn networks_keep_their_integers(data in prop::collection::vec(any::<u8>(), 200..1500), seed: u64, threads in 1usize..3) {
        let mut bytes = Bytes::new(data);
        let nodes = 2 + bytes.below(9);
        let mut g = random_quantized(&mut bytes, nodes).expect("a valid graph");
        if Pipeline::by_name("default").expect("a pipeline").run(&mut g, &OptOptions::default()).is_err() {
            return Ok(());
        }
        let inputs = random_inputs(&g, &mut Bytes::seeded(seed, 1 << 13));
        let Ok(expected) = interpret(&g, &inputs, &EvalLimits::default()) else { return Ok(()) };
        let backend = CpuBackend::new(Pool::new(threads).unwrap());
        let plan = backend.compile(g.clone(), &CompileOptions::default()).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        for (a, b) in expected.iter().zip(&got) {
            let len = match a { Value::Tensor(t) => t.len(), _ => 0 };
            let off = far(a, b, 0.0, 1e-3).unwrap();
            prop_assert!(off <= 2 + len / 20, "{off} of {len} differ in\n{g}");
            prop_assert_eq!(far(a, b, 2.0, 0.1).unwrap(), 0, "in\n{}", g);
        }
    }

    /// Real numbers by weights in few bits: the kernel's activations have 16.
    #[test]
    fn weights_in_few_bits(
        rows in 1usize..7, depth in 1usize..90, columns in 1usize..40, kind in 0usize..4, block in 0usize..5,
        trans: bool, with_zero: bool, with_bias: bool, seed: u64, threads in 1usize..3,
    ) {
        let dtype = [DType::I8, DType::U8, DType::I4, DType::U4][kind];
        let block = [0, 2, 16, 32, 64][block];
        let mut bytes = Bytes::seeded(seed, 1 << 14);
        let build = |bytes: &mut Bytes| -> Result<Graph, IrError> {
            let mut b = GraphBuilder::new("main");
            let x = Value::from(Tensor::zeros(DType::F32, [2, rows, depth]).unwrap());
            let x = b.input("x", Type::of(&x).expect("a type"))?;
            let dims = if trans { [columns, depth] } else { [depth, columns] };
            let w = b.constant(bytes.tensor(dtype, &Shape::from(dims)))?;
            let blocks = depth.div_ceil(block.max(1));
            let per: Vec<usize> = match (block, trans) {
                (0, _) => vec![columns],
                (_, true) => vec![columns, blocks],
                (_, false) => vec![blocks, columns],
            };
            let count: usize = per.iter().product();
            let scales = (0..count).map(|i| 0.01 + (i % 7) as f32 * 0.003).collect();
            let scale = b.constant(Tensor::from_vec(Shape::from(&per[..]), scales).unwrap())?;
            let zero = if with_zero { Some(b.constant(bytes.tensor(dtype, &Shape::from(&per[..])))?) } else { None };
            let bias = if with_bias { Some(b.constant(bytes.tensor(DType::F32, &Shape::from([columns])))?) } else { None };
            let epilogue = PostOps(vec![PostOp::Unary(UnaryKind::Relu)]);
            let op = QuantizedMatMul { trans_b: trans, block_size: block, epilogue, to: None };
            let y = b.node(op, &[Some(x), Some(w), bias, None, None, Some(scale), zero])?[0];
            b.output("y", y)?;
            b.finish()
        };
        let g = build(&mut bytes).unwrap();
        let inputs = random_inputs(&g, &mut Bytes::seeded(seed ^ 1, 1 << 13));
        let expected = interpret(&g, &inputs, &EvalLimits::default()).unwrap();
        let backend = CpuBackend::new(Pool::new(threads).unwrap());
        let plan = backend.compile(g.clone(), &CompileOptions::default()).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        // The activation's rounding, half of a word's step, times what the weights can add up to.
        let numbers = |v: &Value| match v { Value::Tensor(t) => t.to_f64_vec().unwrap(), _ => vec![] };
        let largest = numbers(&inputs[0]).into_iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let weights = depth as f64 * 0.028 * if kind < 2 { 255.0 } else { 15.0 };
        let bound = weights * largest * (0.5 / 32767.0 + 1e-6);
        for (a, b) in numbers(&expected[0]).into_iter().zip(numbers(&got[0])) {
            prop_assert!((a - b).abs() <= bound + 1e-6 * a.abs(), "{a} and {b}, {bound} apart at most");
        }
        prop_assert!(plan.report().fallbacks().next().is_none(), "{}", plan.report());
    }
}

/// A convolution of 3 by 3 over bytes with zero points, and its real result.
fn conv_of(
    bytes: &mut Bytes,
    [x_dtype, w_dtype]: [DType; 2],
    [side, channels, kernels, group]: [usize; 4],
) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new("main");
    let x = Value::from(Tensor::zeros(x_dtype, [2, channels, side, side]).unwrap());
    let x = b.input("x", Type::of(&x).expect("a type"))?;
    let w = b.constant(bytes.tensor(w_dtype, &Shape::from([kernels, channels / group, 3, 3])))?;
    let bias = b.constant(bytes.tensor(DType::F32, &Shape::from([kernels])))?;
    let one = |b: &mut GraphBuilder, x: f32| b.constant(Tensor::from_vec([1], vec![x]).unwrap());
    let zero = |b: &mut GraphBuilder, dtype, x: u8| {
        b.constant(match dtype {
            DType::I8 => Tensor::from_vec([1], vec![x as i8]).unwrap(),
            _ => Tensor::from_vec([1], vec![x]).unwrap(),
        })
    };
    let (x_scale, x_zero) = (one(&mut b, 0.02)?, zero(&mut b, x_dtype, 77)?);
    let (w_scale, w_zero) = (one(&mut b, 0.004)?, zero(&mut b, w_dtype, 3)?);
    let epilogue = PostOps(vec![PostOp::Unary(UnaryKind::Relu)]);
    let op = QuantizedConv { group, pads: vec![1; 4], epilogue, ..QuantizedConv::default() };
    let own = [x, w, bias, x_scale, x_zero, w_scale, w_zero].map(Some);
    let y = b.node(op, &own)?[0];
    b.output("y", y)?;
    b.finish()
}

/// Runs a graph by one of these kernels, whose result is the reference's for any number of threads.
fn is_exact(g: &Graph, kernels: &[&str]) {
    let inputs = random_inputs(g, &mut Bytes::seeded(5, 1 << 16));
    let expected = interpret(g, &inputs, &EvalLimits::default()).unwrap();
    for threads in [1, 3] {
        let backend = CpuBackend::new(Pool::new(threads).unwrap());
        let plan = backend.compile(g.clone(), &CompileOptions::default()).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        assert_eq!(far(&expected[0], &got[0], 0.0, 1e-6), Ok(0));
        let report = plan.report();
        assert!(report.nodes.iter().any(|n| kernels.contains(&&n.kernel[..])), "{report}");
    }
}

/// Convolutions of 3 by 3 large enough that fewer multiplications pay: the sums are the reference's, and with them
/// all that follows.
#[test]
fn convolutions_in_tiles_are_exact() {
    for (side, channels, kernels, w_dtype, signed) in
        [(24, 32, 40, DType::I8, false), (13, 70, 33, DType::I8, true), (17, 48, 64, DType::U8, false)]
    {
        let mut bytes = Bytes::seeded(side as u64, 1 << 16);
        let x_dtype = if signed { DType::I8 } else { DType::U8 };
        let g = conv_of(&mut bytes, [x_dtype, w_dtype], [side, channels, kernels, 1]).unwrap();
        // Where bytes are multiplied four at a time, the direct kernel is kept.
        let direct = Pool::serial().level().name() == "avx512";
        let kernels = if direct { &["int8-winograd", "int8-conv"][..] } else { &["int8-winograd"] };
        is_exact(&g, kernels);
    }
}

/// Groups of few and of many channels, and several outputs for each channel.
#[test]
fn convolutions_in_groups_are_exact() {
    for (channels, kernels, group, w_dtype) in
        [(32, 48, 8, DType::I8), (96, 64, 2, DType::U8), (12, 24, 12, DType::I8), (15, 10, 5, DType::U8)]
    {
        let mut bytes = Bytes::seeded(channels as u64, 1 << 16);
        let g = conv_of(&mut bytes, [DType::U8, w_dtype], [9, channels, kernels, group]).unwrap();
        is_exact(&g, &["int8-conv-groups"]);
    }
}

//! Convolutions and matrix products of bytes whose sums are the result, beside the reference: integers have no tolerance.

mod common;

use common::{run, types};
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions, Io, Profile};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{
    Graph, GraphBuilder, IrError, Type, ValueId,
    ops::{Cast, ConvInteger, DynamicQuantize, MatMulInteger, Reshape},
};
use tensormill_optimizer::testing::{Bytes, random_inputs};
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{DType, Shape, Tensor, Value};

#[derive(Debug, Clone)]
struct Case {
    signs: [bool; 2],
    /// Batch, groups, channels and kernels of a group.
    sizes: [usize; 4],
    /// Size, window, stride, dilation, and padding of each axis.
    axes: Vec<[usize; 6]>,
    /// Whether weights and their zero points are known before the run.
    known: [bool; 2],
    /// Zero points of the weights: none, one, or one for each kernel.
    zeros: usize,
    /// Whether zero points are at the ends of their range, or left out where the operand has one.
    x_zero: Option<u8>,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = [1usize..3, 1..5, 1..9, 1..7].prop_flat_map(|[n, g, c, k]| {
        // Groups of one channel, many of them, have a kernel of their own.
        prop_oneof![
            3 => Just([n, g, c, k]),
            2 => Just([n, 1, 3 * c, 5 * k]),
            2 => Just([n, 7 * c, 1, 1]),
        ]
    });
    let axis = [2usize..9, 1..4, 1..3, 1..3, 0..3, 0..3];
    let axes = prop::collection::vec(axis, 1..4);
    let zero = prop_oneof![Just(None), Just(Some(0)), Just(Some(255)), any::<u8>().prop_map(Some)];
    (any::<[bool; 2]>(), sizes, axes, any::<[bool; 2]>(), 0usize..3, zero, any::<u64>())
        .prop_map(|(signs, sizes, axes, known, zeros, x_zero, seed)| Case {
            signs,
            sizes,
            axes,
            known,
            zeros,
            x_zero,
            seed,
        })
        .prop_filter("the window does not fit", |c| {
            c.axes.iter().all(|[n, k, _, d, a, b]| (k - 1) * d < n + a + b)
        })
}

/// A byte of this type.
fn byte(dtype: DType, x: u8) -> Tensor {
    match dtype {
        DType::I8 => Tensor::from_vec([], vec![x as i8]).unwrap(),
        _ => Tensor::from_vec([], vec![x]).unwrap(),
    }
}

fn graph(c: &Case, late: bool, bytes: &mut Bytes) -> Result<Graph, IrError> {
    let [x_dtype, w_dtype] = c.signs.map(|s| if s { DType::I8 } else { DType::U8 });
    let [batch, group, channels, kernels] = c.sizes;
    let mut b = GraphBuilder::new("main");
    let dims: Vec<usize> = [batch, group * channels].into_iter().chain(c.axes.iter().map(|a| a[0])).collect();
    let typed = |t: &Tensor| Type::of(&Value::from(t.clone())).expect("a type");
    let x = b.input("x", typed(&Tensor::zeros(x_dtype, &dims[..]).unwrap()))?;
    let x = if late {
        let dims = b.input("dims", Type::tensor(DType::I64, [dims.len().into()]))?;
        b.op(Reshape::default(), &[x, dims])?
    } else {
        x
    };
    let operand = |b: &mut GraphBuilder, name: &str, t: Tensor, known: bool| -> Result<ValueId, IrError> {
        if known { b.constant(t) } else { b.input(name, typed(&t)) }
    };
    let w_dims: Vec<usize> =
        [group * kernels, channels].into_iter().chain(c.axes.iter().map(|a| a[1])).collect();
    let w = operand(&mut b, "w", bytes.tensor(w_dtype, &Shape::from(&w_dims[..])), c.known[0])?;
    let x_zero = c.x_zero.map(|z| b.constant(byte(x_dtype, z))).transpose()?;
    let w_zero = match c.zeros {
        0 => None,
        1 => Some(operand(
            &mut b,
            "z",
            byte(w_dtype, if c.seed.is_multiple_of(2) { 255 } else { 128 }),
            c.known[1],
        )?),
        _ => {
            let zeros = bytes.tensor(w_dtype, &Shape::from([group * kernels]));
            Some(operand(&mut b, "z", zeros, c.known[1])?)
        }
    };
    let each = |i: usize| c.axes.iter().map(|a| a[i]).collect::<Vec<_>>();
    let pads = each(4).into_iter().chain(each(5)).collect();
    let op = ConvInteger { strides: each(2), dilations: each(3), pads, group, ..ConvInteger::default() };
    let y = b.node(op, &[Some(x), Some(w), x_zero, w_zero])?[0];
    b.output("sums", y)?;
    let real = b.op(Cast { to: DType::F32, ..Cast::default() }, &[y])?;
    b.output("real", real)?;
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn sums_are_the_references(c in case(), threads in 1usize..3) {
        let g = graph(&c, false, &mut Bytes::seeded(c.seed, 1 << 15)).unwrap();
        let inputs = random_inputs(&g, &mut Bytes::seeded(c.seed ^ 1, 1 << 15));
        let expected = interpret(&g, &inputs, &EvalLimits::default()).unwrap();
        let plan = CpuBackend::new(Pool::new(threads).unwrap()).compile(g, &CompileOptions::default()).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        for (a, b) in expected.iter().zip(&got) {
            prop_assert!(a.same_bits(b), "{a:?} {b:?} {}", plan.report());
        }
        let report = plan.report();
        prop_assert!(report.fallbacks().next().is_none(), "{report}");
    }
}

/// An operand whose sizes are known only in the run, by kernels that are prepared then: in groups or not, over one to
/// three axes, with weights of the plan or of the run, and a window of more taps than the depthwise kernel sums up.
#[test]
fn sizes_of_the_run_have_the_kernels() {
    let axis = |n: usize, k: usize| [n, k, 1, 1, k / 2, 0];
    for (sizes, axes) in [
        ([2, 1, 5, 9], vec![axis(7, 3), axis(6, 2)]),
        ([2, 20, 1, 1], vec![axis(7, 3), axis(6, 3)]),
        ([1, 3, 4, 5], vec![axis(9, 3)]),
        ([1, 20, 1, 1], vec![axis(320, 300)]),
        ([2, 2, 3, 2], vec![axis(4, 3), axis(5, 2), axis(6, 3)]),
    ] {
        for known in [true, false] {
            let signs = [known, !known];
            let c = Case {
                signs,
                sizes,
                axes: axes.clone(),
                known: [known; 2],
                zeros: 2,
                x_zero: Some(255),
                seed: 9,
            };
            let dims: Vec<i64> = [sizes[0], sizes[1] * sizes[2]]
                .iter()
                .chain(c.axes.iter().map(|a| &a[0]))
                .map(|&n| n as i64)
                .collect();
            for late in [false, true] {
                let g = graph(&c, late, &mut Bytes::seeded(3, 1 << 15)).unwrap();
                let mut inputs = random_inputs(&g, &mut Bytes::seeded(4, 1 << 15));
                if late {
                    inputs[1] = Tensor::from_vec([dims.len()], dims.clone()).unwrap().into();
                }
                let expected = interpret(&g, &inputs, &EvalLimits::default()).unwrap();
                let plan =
                    CpuBackend::new(Pool::new(2).unwrap()).compile(g, &CompileOptions::default()).unwrap();
                let mut state = plan.state(&types(&inputs)).unwrap();
                let (mut outputs, mut profile) = (vec![], Profile::default());
                let mut io =
                    Io { inputs: &inputs, outputs: &mut outputs, profile: Some(&mut profile), cancel: None };
                state.run(&mut io).unwrap();
                assert!(expected[0].same_bits(&outputs[0]), "{c:?}");
                let kernels: Vec<_> = profile.samples.iter().filter(|s| s.op == "conv_integer").collect();
                assert!(kernels.len() == 1 && kernels[0].kernel.starts_with("int8"), "{kernels:?}");
            }
        }
    }
}

/// Large enough for the kernels that only pay then, and with its operand quantized by its own range: which keeps the
/// order of channels that convolutions want.
#[test]
fn dynamic_convolutions_stay_in_order() {
    for (side, channels, kernels, group) in
        [(24, 32, 40, 1), (13, 70, 33, 1), (20, 48, 48, 48), (20, 48, 96, 48), (9, 3, 32, 1)]
    {
        let mut b = GraphBuilder::new("main");
        let mut bytes = Bytes::seeded(side as u64, 1 << 16);
        let dims = [1, channels, side, side];
        let mut x = b.input("x", Type::tensor(DType::F32, dims.map(Into::into))).unwrap();
        let mut from = channels;
        for _ in 0..2 {
            let group = if from == channels { group } else { 1 };
            let w = bytes.tensor(DType::I8, &Shape::from([kernels, from / group, 3, 3]));
            let w = b.constant(w).unwrap();
            let quantized = b.node(DynamicQuantize {}, &[Some(x)]).unwrap();
            let op = ConvInteger { pads: vec![1; 4], group, ..ConvInteger::default() };
            let y = b.node(op, &[Some(quantized[0]), Some(w), Some(quantized[2])]).unwrap()[0];
            x = b.op(Cast { to: DType::F32, ..Cast::default() }, &[y]).unwrap();
            from = kernels;
        }
        b.output("y", x).unwrap();
        let g = b.finish().unwrap();
        let inputs = random_inputs(&g, &mut Bytes::seeded(5, 1 << 16));
        let expected = interpret(&g, &inputs, &EvalLimits::default()).unwrap();
        for threads in [1, 3] {
            let backend = CpuBackend::new(Pool::new(threads).unwrap());
            let plan = backend.compile(g.clone(), &CompileOptions::default()).unwrap();
            assert!(expected[0].same_bits(&run(&*plan, &inputs).unwrap()[0]));
            let report = plan.report();
            assert!(report.fallbacks().next().is_none(), "{report}");
            let converts = report.nodes.iter().filter(|n| n.op == "convert").count();
            assert!(converts <= 2, "{report}");
        }
    }
}

/// What a batch and its broadcast make of a factor's axes before the matrix.
fn axes(batch: &[usize], way: usize) -> Vec<usize> {
    match way {
        0 => batch.to_vec(),
        1 => batch.iter().map(|_| 1).collect(),
        2 => batch.iter().enumerate().map(|(i, &n)| if i % 2 == 0 { 1 } else { n }).collect(),
        _ => batch[batch.len().min(1)..].to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Products of two factors of a run, batches of them and what broadcasts.
    #[test]
    fn products_are_the_references(
        signs: [bool; 2], batch in prop::collection::vec(1usize..4, 0..4), ways in [0usize..4, 0..4],
        [m, k, n] in [1usize..20, 1usize..70, 1usize..40], a_zero in prop_oneof![Just(0u8), Just(255), any::<u8>()],
        zeros in 0usize..3, known: bool, seed: u64, threads in 1usize..4,
    ) {
        let mut bytes = Bytes::seeded(seed, 1 << 15);
        let [a_dtype, b_dtype] = signs.map(|s| if s { DType::I8 } else { DType::U8 });
        let build = |bytes: &mut Bytes| -> Result<Graph, IrError> {
            let mut b = GraphBuilder::new("main");
            let typed = |dtype: DType, dims: &[usize]| {
                Type::tensor(dtype, dims.iter().map(|&d| d.into()).collect::<Vec<_>>())
            };
            let (mut left, mut right) = (axes(&batch, ways[0]), axes(&batch, ways[1]));
            left.extend([m, k]);
            right.extend([k, n]);
            let x = b.input("a", typed(a_dtype, &left))?;
            let y = b.input("b", typed(b_dtype, &right))?;
            let a_zero = b.constant(byte(a_dtype, a_zero))?;
            let b_zero = match zeros {
                0 => None,
                1 => Some(b.constant(byte(b_dtype, 255))?),
                _ if known => Some(b.constant(bytes.tensor(b_dtype, &Shape::from([n])))?),
                _ => Some(b.input("z", typed(b_dtype, &[n]))?),
            };
            let y = b.node(MatMulInteger {}, &[Some(x), Some(y), Some(a_zero), b_zero])?[0];
            b.output("y", y)?;
            b.finish()
        };
        let g = build(&mut bytes).unwrap();
        let inputs = random_inputs(&g, &mut Bytes::seeded(seed ^ 1, 1 << 15));
        let expected = interpret(&g, &inputs, &EvalLimits::default()).unwrap();
        let plan = CpuBackend::new(Pool::new(threads).unwrap()).compile(g, &CompileOptions::default()).unwrap();
        let got = run(&*plan, &inputs).unwrap();
        prop_assert!(expected[0].same_bits(&got[0]), "{}", plan.report());
        let report = plan.report();
        prop_assert!(report.fallbacks().next().is_none(), "{report}");
    }
}

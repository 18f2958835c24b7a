//! Products of small integers against the operations that they stand for.

use proptest::prelude::*;
use tensormill_ir::{
    Op,
    ops::{
        Binary, BinaryKind, Conv, ConvInteger, DequantizeLinear, DynamicQuantize, MatMul, MatMulInteger,
        PostOp, PostOps, QuantizeLinear, QuantizedBinary, QuantizedConv, QuantizedMatMul, Unary, UnaryKind,
    },
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{DType, Tensor, Value};

fn results(op: impl Into<Op>, operands: &[Option<&Tensor>]) -> Vec<Tensor> {
    let values: Vec<Option<Value>> = operands.iter().map(|t| t.map(|t| Value::Tensor(t.clone()))).collect();
    let operands: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
    let results = eval(&op.into(), &operands, &EvalLimits::default()).expect("evaluates");
    results.into_iter().map(|v| v.into_tensor().expect("is a tensor")).collect()
}

fn run(op: impl Into<Op>, operands: &[Option<&Tensor>]) -> Tensor {
    results(op, operands).swap_remove(0)
}

/// Numbers that follow from a seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn ints(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let (low, range) = match dtype {
            DType::U8 => (0, 256),
            DType::I4 => (-8, 16),
            DType::U4 => (0, 16),
            _ => (-128, 256),
        };
        let v: Vec<i64> = (0..n).map(|_| low + (self.next() % range) as i64).collect();
        Tensor::from_i64s(dtype, shape, v).expect("fits")
    }

    fn floats(&mut self, shape: &[usize], from: f32, to: f32) -> Tensor {
        let n: usize = shape.iter().product();
        let v =
            (0..n).map(|_| from + (to - from) * (self.next() % 4096) as f32 / 4096.0).collect::<Vec<f32>>();
        Tensor::from_vec(shape, v).expect("fits")
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

const BYTES: [DType; 2] = [DType::U8, DType::I8];

fn real(x: &Tensor, scale: &Tensor, zero: Option<&Tensor>, axis: i64, block_size: usize) -> Tensor {
    run(DequantizeLinear { to: DType::F32, axis, block_size }, &[Some(x), Some(scale), zero])
}

fn close(x: &Tensor, y: &Tensor) {
    assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()));
    let (x, y) = (x.to_f64_vec().expect("numbers"), y.to_f64_vec().expect("numbers"));
    let most = x.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in x.iter().zip(&y).enumerate() {
        assert!((a - b).abs() <= 1e-5 * most, "element {i}: {a} is not {b}");
    }
}

/// Within one step, and hardly ever as far: sums rounded otherwise reach another side of a tie.
fn same_steps(x: &Tensor, y: &Tensor) {
    assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()));
    let (x, y) = (x.to_i64_vec().expect("numbers"), y.to_i64_vec().expect("numbers"));
    let off = x.iter().zip(&y).filter(|(a, b)| a != b).count();
    assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() <= 1), "{x:?} is not {y:?}");
    assert!(off <= 1 + x.len() / 50, "{off} of {} differ: {x:?} is not {y:?}", x.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_quantized_convolution_is_that_of_real_numbers(seed: u64, group in 1usize..3, per_kernel: bool, zeros: bool, quantize: bool, pad in 0usize..2) {
        let mut d = Draw(seed);
        let (xt, wt, to) = (d.of(&BYTES), d.of(&BYTES), d.of(&BYTES));
        let (c, m) = (2 * group, 3 * group);
        let (x, w) = (d.ints(xt, &[2, c, 5, 4]), d.ints(wt, &[m, 2, 2, 3]));
        let n = if per_kernel { m } else { 1 };
        let (xs, ws) = (d.floats(&[], 0.01, 0.2), d.floats(&[n], 0.001, 0.1));
        let (xz, wz) = (d.ints(xt, &[]), d.ints(wt, &[n]));
        let (xz, wz) = (zeros.then_some(&xz), zeros.then_some(&wz));
        let b = d.floats(&[m], -1.0, 1.0);
        let (ys, yz) = (d.floats(&[], 0.05, 0.5), d.ints(to, &[1]));
        let plain = Conv { pads: vec![pad; 4], strides: vec![2, 1], group, ..Conv::default() };
        let op = QuantizedConv {
            pads: plain.pads.clone(),
            strides: plain.strides.clone(),
            group,
            epilogue: PostOps(vec![
                PostOp::Binary { kind: BinaryKind::Mul, operand: 9, swapped: false },
                PostOp::Unary(UnaryKind::Relu),
            ]),
            to: quantize.then_some(to),
            ..QuantizedConv::default()
        };
        let factor = d.floats(&[m, 1, 1], -1.0, 1.0);
        let stored = quantize.then_some(&ys);
        let got = run(op, &[
            Some(&x), Some(&w), Some(&b), Some(&xs), xz, Some(&ws), wz, stored, stored.map(|_| &yz), Some(&factor),
        ]);
        let y = run(plain, &[Some(&real(&x, &xs, xz, 0, 0)), Some(&real(&w, &ws, wz, 0, 0)), Some(&b)]);
        let y = run(Binary { kind: BinaryKind::Mul }, &[Some(&y), Some(&factor)]);
        let y = run(Unary { kind: UnaryKind::Relu }, &[Some(&y)]);
        if quantize {
            let y = run(QuantizeLinear { to, ..Default::default() }, &[Some(&y), Some(&ys), Some(&yz)]);
            same_steps(&y, &got);
        } else {
            close(&y, &got);
        }
    }

    #[test]
    fn a_quantized_product_is_that_of_real_numbers(seed: u64, trans_b: bool, float: bool, form in 0usize..3, zeros: bool, rank in 1usize..4) {
        let mut d = Draw(seed);
        let xt = d.of(&BYTES);
        let wt = if float { d.of(&[DType::U8, DType::I8, DType::I4, DType::U4]) } else { d.of(&BYTES) };
        let (k, n, block_size) = (7, 5, if form == 2 { 3 } else { 0 });
        let shape = [&[2, 3, 4][..rank - 1], &[k]].concat();
        let x = if float { d.floats(&shape, -2.0, 2.0) } else { d.ints(xt, &shape) };
        let w = d.ints(wt, &if trans_b { [n, k] } else { [k, n] });
        let per = match (form, trans_b) {
            (0, _) => vec![1],
            (1, _) => vec![n],
            (_, true) => vec![n, 3],
            _ => vec![3, n],
        };
        let (xs, ws) = (d.floats(&[1], 0.01, 0.2), d.floats(&per, 0.001, 0.1));
        let (xz, wz) = (d.ints(xt, &[]), d.ints(wt, &per));
        let (xs, xz) = ((!float).then_some(&xs), (!float && zeros).then_some(&xz));
        let wz = zeros.then_some(&wz);
        let b = d.floats(&[n], -1.0, 1.0);
        let op = QuantizedMatMul { trans_b, block_size, ..QuantizedMatMul::default() };
        let got = run(op, &[Some(&x), Some(&w), Some(&b), xs, xz, Some(&ws), wz]);
        let axis = i64::from(trans_b != (block_size == 0));
        let w = real(&w, &ws, wz, axis, block_size);
        let x = xs.map_or(x.clone(), |s| real(&x, s, xz, 0, 0));
        let y = run(MatMul { trans_b, ..MatMul::default() }, &[Some(&x), Some(&w)]);
        close(&run(Binary { kind: BinaryKind::Add }, &[Some(&y), Some(&b)]), &got);
    }

    #[test]
    fn integer_products_are_exact(seed: u64, per in 0usize..2) {
        let mut d = Draw(seed);
        let (at, bt) = (d.of(&BYTES), d.of(&BYTES));
        let one = |t: &Tensor| t.reshape(&[][..]).expect("one element");
        let ones = Tensor::scalar(1f32);
        // Matrices: a zero point for each row of the left one, for each column of the right one.
        let (a, b) = (d.ints(at, &[2, 3, 4]), d.ints(bt, &[2, 4, 5]));
        let (az, bz) = ([d.ints(at, &[1]), d.ints(at, &[3])], [d.ints(bt, &[1]), d.ints(bt, &[5])]);
        let got = run(MatMulInteger {}, &[Some(&a), Some(&b), Some(&az[per]), Some(&bz[per])]);
        let (x, y) = if per == 0 {
            (real(&a, &ones, Some(&one(&az[0])), 0, 0), real(&b, &ones, Some(&one(&bz[0])), 0, 0))
        } else {
            let each = |n: usize| Tensor::from_vec([n], vec![1f32; n]).expect("fits");
            (real(&a, &each(3), Some(&az[1]), 1, 0), real(&b, &each(5), Some(&bz[1]), 2, 0))
        };
        let want = run(MatMul::default(), &[Some(&x), Some(&y)]);
        prop_assert_eq!(got.dtype(), DType::I32);
        prop_assert_eq!(got.to_f64_vec().expect("numbers"), want.to_f64_vec().expect("numbers"));
        // Convolutions: padding stands for the zero point.
        let (x, w) = (d.ints(at, &[1, 2, 6]), d.ints(bt, &[4, 1, 3]));
        let (xz, wz) = (d.ints(at, &[1]), d.ints(bt, &[if per == 0 { 1 } else { 4 }]));
        let op = ConvInteger { pads: vec![1, 2], group: 2, ..ConvInteger::default() };
        let scales = Tensor::from_vec([wz.len()], vec![1f32; wz.len()]).expect("fits");
        let want = run(op.plain(), &[Some(&real(&x, &ones, Some(&xz), 0, 0)), Some(&real(&w, &scales, Some(&wz), 0, 0))]);
        let got = run(op, &[Some(&x), Some(&w), Some(&xz), Some(&wz)]);
        prop_assert_eq!(got.to_f64_vec().expect("numbers"), want.to_f64_vec().expect("numbers"));
    }

    #[test]
    fn a_quantized_binary_is_exactly_its_parts(seed: u64, relu: bool, mul: bool) {
        let mut d = Draw(seed);
        let (at, bt, to) = (d.of(&BYTES), d.of(&BYTES), d.of(&BYTES));
        let kind = if mul { BinaryKind::Mul } else { BinaryKind::Add };
        let (a, b) = (d.ints(at, &[2, 3, 4]), d.ints(bt, &[3, 1]));
        let s: Vec<Tensor> = (0..3).map(|_| d.floats(&[], 0.01, 0.3)).collect();
        let z = [d.ints(at, &[]), d.ints(bt, &[]), d.ints(to, &[])];
        let op = QuantizedBinary { kind, relu, to };
        let got = run(op, &[&a, &b, &s[0], &z[0], &s[1], &z[1], &s[2], &z[2]].map(Some));
        let (x, y) = (real(&a, &s[0], Some(&z[0]), 0, 0), real(&b, &s[1], Some(&z[1]), 0, 0));
        let mut want = run(Binary { kind }, &[Some(&x), Some(&y)]);
        if relu {
            want = run(Unary { kind: UnaryKind::Relu }, &[Some(&want)]);
        }
        let q = QuantizeLinear { to, ..Default::default() };
        prop_assert!(run(q, &[Some(&want), Some(&s[2]), Some(&z[2])]).same_bits(&got));
    }
}

#[test]
fn a_dynamic_range_reaches_zero() {
    let dynamic = |v: &[f32]| {
        let x = Tensor::from_vec([v.len()], v.to_vec()).expect("fits");
        let r = results(DynamicQuantize {}, &[Some(&x)]);
        let ints = |t: &Tensor| t.to_i64_vec().expect("integers");
        (ints(&r[0]), r[1].to_f64_vec().expect("a number")[0], ints(&r[2])[0])
    };
    // The operator's own examples.
    let (y, scale, zero) = dynamic(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
    assert_eq!((y, zero), (vec![153, 255, 0, 26, 221, 179], 153));
    assert!((scale - 0.019_607_844_7).abs() < 1e-9);
    assert_eq!(dynamic(&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0]).0, [191, 121, 172, 96, 42, 0]);
    assert_eq!(dynamic(&[1.0, 2.1, 1.3, 2.5, 3.34, 4.0]).2, 0);
    assert_eq!(dynamic(&[0.0, -0.0]), (vec![0, 0], 0.0, 0));
    assert_eq!(dynamic(&[]).1, 0.0);
}

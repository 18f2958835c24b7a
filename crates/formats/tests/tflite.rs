//! TensorFlow Lite operators mean what they mean there, in either order of their operands' axes.
#![cfg(feature = "tflite")]

#[path = "tflite/writer.rs"]
mod writer;

use tensormill_formats::tflite::{LowerWarning, Lowered, ParseLimits, lower, parse};
use tensormill_ir::ops::Op;
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{Tensor, Value};
use writer::{BOOL, F32, Field, I8, I32, Net, Table, U8};

fn lowered(file: Vec<u8>) -> Lowered {
    let model = parse(file.into(), &ParseLimits::default()).unwrap();
    let lowered = lower(&model).unwrap_or_else(|e| panic!("{e}"));
    lowered.graph.verify().unwrap();
    let back = tensormill_ir::text::parse(&lowered.graph.to_string()).unwrap();
    assert!(back.same_as(&lowered.graph));
    lowered
}

fn run(net: &Net, outputs: &[i32], inputs: &[Tensor]) -> Vec<Tensor> {
    let lowered = lowered(net.file(outputs));
    assert_eq!(lowered.warnings, []);
    let inputs: Vec<Value> = inputs.iter().cloned().map(Value::Tensor).collect();
    let outputs = interpret(&lowered.graph, &inputs, &EvalLimits::default()).unwrap();
    outputs.into_iter().map(|v| v.as_tensor().unwrap().clone()).collect()
}

fn f32s(dims: &[usize], v: Vec<f32>) -> Tensor {
    Tensor::from_vec(dims, v).unwrap()
}

/// 1, 2, 3, ..
fn counted(dims: &[usize]) -> Tensor {
    f32s(dims, (1..=dims.iter().product()).map(|n| n as f32).collect())
}

fn one(net: &Net, y: i32, x: Tensor) -> Vec<f32> {
    run(net, &[y], &[x])[0].to_f32_vec().unwrap()
}

/// Options of a window: padding (0: same), strides of columns and rows, then others.
fn window(padding: u8, stride: i32, more: &[(usize, Field)]) -> Table {
    let mut t = vec![(0, Field::U8(padding)), (1, Field::I32(stride)), (2, Field::I32(stride))];
    t.extend(more.iter().cloned());
    t
}

#[test]
fn odd_padding_goes_to_the_end() {
    // A kernel of ones of 2 by 2, stride 1: the last row and column see padding.
    let mut net = Net::new();
    let x = net.input("x", F32, &[1, 2, 3, 1]);
    let w = net.floats(&[1, 2, 2, 1], &[1.0; 4]);
    let b = net.floats(&[1], &[0.5]);
    let y = net.then(3, (1, window(0, 1, &[])), &[x, w, b], F32, &[1, 2, 3, 1]);
    assert_eq!(one(&net, y, counted(&[1, 2, 3, 1])), [12.5, 16.5, 9.5, 9.5, 11.5, 6.5]);
    // Relu to 6 after a valid window.
    let z = net.then(3, (1, window(1, 1, &[(3, Field::U8(3))])), &[x, w, b], F32, &[1, 1, 2, 1]);
    assert_eq!(one(&net, z, counted(&[1, 2, 3, 1])), [6.0, 6.0]);
    // Without a bias, and a stride that needs no padding in one direction.
    let z = net.then(3, (1, window(0, 2, &[])), &[x, w, -1], F32, &[1, 1, 2, 1]);
    assert_eq!(one(&net, z, counted(&[1, 2, 3, 1])), [12.0, 9.0]);
}

#[test]
fn kernels_are_output_height_width_input() {
    let mut net = Net::new();
    let x = net.input("x", F32, &[1, 1, 2, 2]);
    // Two results: the left pixel's first channel, and ten times the right pixel's second.
    let w = net.floats(&[2, 1, 2, 2], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0]);
    let y = net.then(3, (1, window(1, 1, &[])), &[x, w], F32, &[1, 1, 1, 2]);
    assert_eq!(one(&net, y, counted(&[1, 1, 2, 2])), [1.0, 40.0]);
    // Two kernels for each channel, next to each other.
    let w = net.floats(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let y = net.then(4, (2, window(1, 1, &[(3, Field::I32(2))])), &[x, w], F32, &[1, 1, 2, 4]);
    assert_eq!(one(&net, y, counted(&[1, 1, 2, 2])), [1.0, 2.0, 6.0, 8.0, 3.0, 6.0, 12.0, 16.0]);
    // Each channel by itself where kernels have fewer channels.
    let w = net.floats(&[2, 1, 1, 1], &[1.0, 10.0]);
    let y = net.then(3, (1, window(1, 1, &[])), &[x, w], F32, &[1, 1, 2, 2]);
    assert_eq!(one(&net, y, counted(&[1, 1, 2, 2])), [1.0, 20.0, 3.0, 40.0]);
    // The transpose: a kernel of two outputs for one input, a stride apart.
    let shape = net.ints(&[4], &[1, 1, 4, 1]);
    let w = net.floats(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let options = vec![(0, Field::U8(1)), (1, Field::I32(2)), (2, Field::I32(1))];
    let y = net.then(67, (49, options), &[shape, w, x], F32, &[1, 1, 4, 1]);
    assert_eq!(one(&net, y, counted(&[1, 1, 2, 2])), [5.0, 11.0, 11.0, 25.0]);
}

/// A quantized convolution as the format computes it, in integers.
#[test]
fn quantized_kernels_have_a_scale_a_channel() {
    let mut net = Net::new();
    let x = net.input("x", I8, &[1, 1, 2, 1]);
    net.quantized(x, &[0.5], &[-3], 0);
    let w = net.constant(I8, &[2, 1, 1, 1], vec![4, 0xfe]);
    net.quantized(w, &[0.25, 2.0], &[0, 0], 0);
    let b = net.ints(&[2], &[8, -1]);
    let y = net.tensor("y", I8, &[1, 1, 2, 2]);
    net.quantized(y, &[0.5], &[10], 0);
    net.op(3, (1, window(1, 1, &[])), &[x, w, b], &[y]);
    let file = net.file(&[y]);
    let g = lowered(file).graph;
    let count = |f: fn(&Op) -> bool| g.nodes().filter(|(_, n)| f(&n.op)).count();
    assert_eq!(count(|op| matches!(op, Op::DequantizeLinear(_))), 3);
    assert_eq!(count(|op| matches!(op, Op::QuantizeLinear(_))), 1);
    let x = Tensor::from_vec([1, 1, 2, 1], vec![5i8, -3]).unwrap();
    let got = run(&net, &[y], &[x])[0].to_i64_vec().unwrap();
    // (8 * 4 + 8) / 8 / 0.5, (8 * -2 - 1) * 1 / 0.5; of zeros, the biases.
    assert_eq!(got, [10 + 10, -34 + 10, 10 + 2, 10 - 2]);
}

#[test]
fn means_of_integers_round_halves_away_from_zero() {
    let mut net = Net::new();
    let x = net.input("x", I8, &[1, 1, 2, 4]);
    let y = net.tensor("y", I8, &[1, 1, 1, 4]);
    for t in [x, y] {
        net.quantized(t, &[0.5], &[-1], 0);
    }
    let options = window(1, 1, &[(3, Field::I32(2)), (4, Field::I32(1))]);
    net.op(1, (5, options), &[x], &[y]);
    let x = Tensor::from_vec([1, 1, 2, 4], vec![1i8, -1, 3, 127, 2, -2, 4, 126]).unwrap();
    assert_eq!(run(&net, &[y], &[x])[0].to_i64_vec().unwrap(), [2, -2, 4, 127]);
}

#[test]
fn biases_of_linear_layers_go_by_both_scales() {
    let mut net = Net::new();
    let x = net.input("x", U8, &[1, 1, 2, 1]);
    net.quantized(x, &[0.5], &[128], 0);
    let w = net.constant(I8, &[1, 2], vec![1, 2]);
    net.quantized(w, &[0.5], &[0], 0);
    let b = net.ints(&[1], &[4]);
    let y = net.then(9, (8, vec![(0, Field::U8(1))]), &[x, w, b], F32, &[1, 1]);
    let at = |v: Vec<u8>| one(&net, y, Tensor::from_vec([1, 1, 2, 1], v).unwrap());
    assert_eq!(at(vec![130, 129]), [0.25 * (2.0 + 2.0 + 4.0)]);
    // Relu.
    assert_eq!(at(vec![0, 0]), [0.0]);
}

fn zeros(n: &mut Net) -> i32 {
    n.ints(&[4], &[0; 4])
}

/// The sizes of the first two rows.
fn rows(n: &mut Net) -> i32 {
    n.ints(&[4], &[1, 2, 4, 2])
}

/// An operator on an operand, as a closure over the net that adds it.
type Add = fn(&mut Net, i32) -> i32;

/// Operators on x of 1 to 24 as `[1,3,4,2]`.
fn operators() -> Vec<(&'static str, Add)> {
    vec![
        ("ABS", |n, x| n.then(101, (78, vec![]), &[x], F32, &[1, 3, 4, 2])),
        ("ADD of channels", |n, x| {
            let c = n.floats(&[2], &[1.0, -2.0]);
            n.then(0, (11, vec![(0, Field::U8(1)), (1, Field::U8(1))]), &[x, c], F32, &[1, 3, 4, 2])
        }),
        ("SUB of a row", |n, x| {
            let c = n.floats(&[4, 1], &[1.0, 2.0, 3.0, 4.0]);
            n.then(41, (28, vec![]), &[c, x], F32, &[1, 3, 4, 2])
        }),
        ("MUL of a number", |n, x| {
            let c = n.floats(&[], &[3.0]);
            n.then(18, (21, vec![]), &[x, c], F32, &[1, 3, 4, 2])
        }),
        ("DIV of itself", |n, x| n.then(42, (29, vec![]), &[x, x], F32, &[1, 3, 4, 2])),
        ("MAXIMUM of four axes", |n, x| {
            let c = n.floats(&[1, 1, 4, 1], &[3.0, 20.0, 7.0, 1.0]);
            n.then(55, (39, vec![]), &[x, c], F32, &[1, 3, 4, 2])
        }),
        ("AVERAGE_POOL_2D", |n, x| {
            let o = window(0, 2, &[(3, Field::I32(2)), (4, Field::I32(2))]);
            n.then(1, (5, o), &[x], F32, &[1, 2, 2, 2])
        }),
        ("MAX_POOL_2D", |n, x| {
            let o = window(1, 1, &[(3, Field::I32(3)), (4, Field::I32(2)), (5, Field::U8(1))]);
            n.then(17, (5, o), &[x], F32, &[1, 2, 2, 2])
        }),
        ("MEAN of pictures", |n, x| {
            let a = n.ints(&[2], &[1, -2]);
            n.then(40, (27, vec![]), &[x, a], F32, &[1, 2])
        }),
        ("SUM of rows", |n, x| {
            let a = n.ints(&[1], &[1]);
            n.then(74, (27, vec![]), &[x, a], F32, &[1, 4, 2])
        }),
        ("REDUCE_MAX of channels", |n, x| {
            let a = n.ints(&[1], &[3]);
            n.then(82, (27, vec![(0, Field::U8(1))]), &[x, a], F32, &[1, 3, 4, 1])
        }),
        ("SOFTMAX", |n, x| n.then(25, (9, vec![(0, Field::F32(0.5))]), &[x], F32, &[1, 3, 4, 2])),
        ("RESHAPE", |n, x| {
            let s = n.ints(&[2], &[-1, 6]);
            n.then(22, (17, vec![(0, Field::I32s(vec![4, 6]))]), &[x, s], F32, &[4, 6])
        }),
        ("SQUEEZE", |n, x| n.then(43, (30, vec![(0, Field::I32s(vec![0]))]), &[x], F32, &[3, 4, 2])),
        ("EXPAND_DIMS", |n, x| {
            let a = n.ints(&[], &[-1]);
            n.then(70, (52, vec![]), &[x, a], F32, &[1, 3, 4, 2, 1])
        }),
        ("TRANSPOSE", |n, x| {
            let p = n.ints(&[4], &[0, 2, 1, 3]);
            n.then(39, (26, vec![]), &[x, p], F32, &[1, 4, 3, 2])
        }),
        ("CONCATENATION of channels", |n, x| {
            let c = n.floats(&[1, 3, 4, 1], &[5.0; 12]);
            n.then(2, (10, vec![(0, Field::I32(-1))]), &[x, c, x], F32, &[1, 3, 4, 5])
        }),
        ("PAD", |n, x| {
            let p = n.ints(&[4, 2], &[0, 0, 1, 0, 0, 2, 0, 1]);
            n.then(34, (22, vec![]), &[x, p], F32, &[1, 4, 6, 3])
        }),
        ("PADV2", |n, x| {
            let p = n.ints(&[4, 2], &[0, 0, 1, 0, 0, 2, 0, 1]);
            let v = n.floats(&[], &[9.0]);
            n.then(60, (43, vec![]), &[x, p, v], F32, &[1, 4, 6, 3])
        }),
        ("MIRROR_PAD", |n, x| {
            let p = n.ints(&[4, 2], &[0, 0, 1, 2, 0, 2, 0, 1]);
            n.then(100, (77, vec![]), &[x, p], F32, &[1, 6, 6, 3])
        }),
        ("STRIDED_SLICE", |n, x| {
            let (b, e) = (n.ints(&[3], &[0, -1, 3]), n.ints(&[3], &[1, 0, 0]));
            let s = n.ints(&[3], &[1, -2, -1]);
            // The second axis to its beginning, and one place of the third.
            let o = vec![(1, Field::I32(0b10)), (4, Field::I32(0b100))];
            n.then(45, (32, o), &[x, b, e, s], F32, &[1, 2, 2])
        }),
        ("STRIDED_SLICE with an ellipsis and a new axis", |n, x| {
            let (b, e) = (n.ints(&[3], &[0, 0, 1]), n.ints(&[3], &[0, 0, 2]));
            let s = n.ints(&[3], &[1, 1, 1]);
            let o = vec![(2, Field::I32(0b1)), (3, Field::I32(0b10))];
            n.then(45, (32, o), &[x, b, e, s], F32, &[1, 3, 4, 1, 1])
        }),
        ("SLICE", |n, x| {
            let (b, s) = (n.ints(&[4], &[0, 1, 0, 1]), n.ints(&[4], &[1, -1, 2, 1]));
            n.then(65, (48, vec![]), &[x, b, s], F32, &[1, 2, 2, 1])
        }),
        ("REVERSE_V2", |n, x| {
            let a = n.ints(&[1], &[3]);
            n.then(105, (81, vec![]), &[x, a], F32, &[1, 3, 4, 2])
        }),
        ("PACK", |n, x| {
            let o = vec![(0, Field::I32(2)), (1, Field::I32(1))];
            n.then(83, (59, o), &[x, x], F32, &[1, 2, 3, 4, 2])
        }),
        ("GATHER", |n, x| {
            let i = n.ints(&[2], &[2, 0]);
            n.then(36, (23, vec![(0, Field::I32(1))]), &[x, i], F32, &[1, 2, 4, 2])
        }),
        ("RESIZE_BILINEAR", |n, x| {
            let s = n.ints(&[2], &[6, 5]);
            n.then(23, (15, vec![(3, Field::U8(1))]), &[x, s], F32, &[1, 6, 5, 2])
        }),
        ("RESIZE_NEAREST_NEIGHBOR", |n, x| {
            let s = n.ints(&[2], &[6, 2]);
            n.then(97, (74, vec![]), &[x, s], F32, &[1, 6, 2, 2])
        }),
        ("BATCH_MATMUL", |n, x| n.then(126, (101, vec![(1, Field::U8(1))]), &[x, x], F32, &[1, 3, 4, 4])),
        ("ARG_MAX", |n, x| {
            let a = n.ints(&[], &[1]);
            n.then(56, (40, vec![(0, Field::U8(2))]), &[x, a], I32, &[1, 4, 2])
        }),
        ("SHAPE", |n, x| n.then(77, (55, vec![(0, Field::U8(2))]), &[x], I32, &[4])),
        ("CAST", |n, x| {
            n.then(53, (37, vec![(0, Field::U8(0)), (1, Field::U8(2))]), &[x], I32, &[1, 3, 4, 2])
        }),
        ("GREATER", |n, x| {
            let c = n.floats(&[2], &[5.0, 10.0]);
            n.then(61, (44, vec![]), &[x, c], BOOL, &[1, 3, 4, 2])
        }),
        ("QUANTIZE", |n, x| {
            let y = n.tensor("q", I8, &[1, 3, 4, 2]);
            n.quantized(y, &[0.5], &[-7], 0);
            n.op(114, (89, vec![]), &[x], &[y]);
            n.then(6, (38, vec![]), &[y], F32, &[1, 3, 4, 2])
        }),
        ("SPLIT of channels", |n, x| {
            let a = n.ints(&[], &[3]);
            let (y, z) = (n.tensor("y", F32, &[1, 3, 4, 1]), n.tensor("z", F32, &[1, 3, 4, 1]));
            n.op(49, (35, vec![(0, Field::I32(2))]), &[a, x], &[y, z]);
            z
        }),
        ("SPLIT_V of columns", |n, x| {
            let (s, a) = (n.ints(&[2], &[1, -1]), n.ints(&[], &[2]));
            let (y, z) = (n.tensor("y", F32, &[1, 3, 1, 2]), n.tensor("z", F32, &[1, 3, 3, 2]));
            n.op(102, (79, vec![(0, Field::I32(2))]), &[x, s, a], &[y, z]);
            z
        }),
        ("UNPACK", |n, x| {
            let all: Vec<i32> = (0..3).map(|i| n.tensor(&format!("u{i}"), F32, &[1, 4, 2])).collect();
            n.op(88, (64, vec![(0, Field::I32(3)), (1, Field::I32(1))]), &[x], &all);
            all[1]
        }),
        ("SPACE_TO_DEPTH", |n, x| {
            let from = [x, zeros(n), rows(n)];
            let top = n.then(65, (48, vec![]), &from, F32, &[1, 2, 4, 2]);
            n.then(26, (19, vec![(0, Field::I32(2))]), &[top], F32, &[1, 1, 2, 8])
        }),
        ("DEPTH_TO_SPACE of SPACE_TO_DEPTH", |n, x| {
            let from = [x, zeros(n), rows(n)];
            let top = n.then(65, (48, vec![]), &from, F32, &[1, 2, 4, 2]);
            let deep = n.then(26, (19, vec![(0, Field::I32(2))]), &[top], F32, &[1, 1, 2, 8]);
            n.then(5, (94, vec![(0, Field::I32(2))]), &[deep], F32, &[1, 2, 4, 2])
        }),
        ("SPACE_TO_BATCH_ND", |n, x| {
            let (b, p) = (n.ints(&[2], &[2, 2]), n.ints(&[2, 2], &[1, 0, 0, 0]));
            n.then(38, (25, vec![]), &[x, b, p], F32, &[4, 2, 2, 2])
        }),
        ("BATCH_TO_SPACE_ND of SPACE_TO_BATCH_ND", |n, x| {
            let (b, p) = (n.ints(&[2], &[2, 2]), n.ints(&[2, 2], &[1, 0, 0, 0]));
            let apart = n.then(38, (25, vec![]), &[x, b, p], F32, &[4, 2, 2, 2]);
            n.then(37, (24, vec![]), &[apart, b, p], F32, &[1, 3, 4, 2])
        }),
        ("FLOOR_DIV of integers", |n, x| {
            let i = n.then(53, (37, vec![]), &[x], I32, &[1, 3, 4, 2]);
            let c = n.ints(&[], &[-4]);
            n.then(90, (65, vec![]), &[i, c], I32, &[1, 3, 4, 2])
        }),
    ]
}

#[test]
fn operators_do_not_depend_on_the_order_of_axes() {
    for (name, add) in operators() {
        let mut net = Net::new();
        let x = net.input("x", F32, &[1, 3, 4, 2]);
        // A convolution that leaves all as it is, and its channels first.
        let w = net.floats(&[2, 1, 1, 2], &[1.0, 0.0, 0.0, 1.0]);
        let same = net.then(3, (1, window(0, 1, &[])), &[x, w], F32, &[1, 3, 4, 2]);
        let (plain, first) = (add(&mut net, x), add(&mut net, same));
        let out = run(&net, &[plain, first], &[counted(&[1, 3, 4, 2])]);
        assert_eq!(out[0].shape(), out[1].shape(), "{name}");
        assert_eq!(out[0].to_f64_vec().unwrap(), out[1].to_f64_vec().unwrap(), "{name}");
    }
}

#[test]
fn operators_compute_what_they_are_known_for() {
    let known: &[(&str, &[f64])] = &[
        ("AVERAGE_POOL_2D", &[6.0, 7.0, 10.0, 11.0, 18.0, 19.0, 22.0, 23.0]),
        ("MAX_POOL_2D", &[13.0, 14.0, 15.0, 16.0, 21.0, 22.0, 23.0, 24.0]),
        ("MEAN of pictures", &[12.0, 13.0]),
        ("SUM of rows", &[27.0, 30.0, 33.0, 36.0, 39.0, 42.0, 45.0, 48.0]),
        ("STRIDED_SLICE", &[23.0, 24.0, 7.0, 8.0]),
        (
            "STRIDED_SLICE with an ellipsis and a new axis",
            &[2., 4., 6., 8., 10., 12., 14., 16., 18., 20., 22., 24.],
        ),
        ("SLICE", &[10.0, 12.0, 18.0, 20.0]),
        ("ARG_MAX", &[2.0; 8]),
        ("SHAPE", &[1.0, 3.0, 4.0, 2.0]),
        ("SPACE_TO_DEPTH", &[1., 2., 3., 4., 9., 10., 11., 12., 5., 6., 7., 8., 13., 14., 15., 16.]),
        (
            "DEPTH_TO_SPACE of SPACE_TO_DEPTH",
            &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.],
        ),
        (
            "SPACE_TO_BATCH_ND",
            &[
                0., 0., 0., 0., 9., 10., 13., 14., 0., 0., 0., 0., 11., 12., 15., 16., 1., 2., 5., 6., 17.,
                18., 21., 22., 3., 4., 7., 8., 19., 20., 23., 24.,
            ],
        ),
        ("UNPACK", &[9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]),
        ("SPLIT of channels", &[2., 4., 6., 8., 10., 12., 14., 16., 18., 20., 22., 24.]),
        (
            "RESIZE_NEAREST_NEIGHBOR",
            &[
                1., 2., 5., 6., 1., 2., 5., 6., 9., 10., 13., 14., 9., 10., 13., 14., 17., 18., 21., 22.,
                17., 18., 21., 22.,
            ],
        ),
        (
            "FLOOR_DIV of integers",
            &[
                -1., -1., -1., -1., -2., -2., -2., -2., -3., -3., -3., -3., -4., -4., -4., -4., -5., -5.,
                -5., -5., -6., -6., -6., -6.,
            ],
        ),
    ];
    let all = operators();
    for (name, want) in known {
        let (_, add) = all.iter().find(|(n, _)| n == name).unwrap();
        let mut net = Net::new();
        let x = net.input("x", F32, &[1, 3, 4, 2]);
        let y = add(&mut net, x);
        assert_eq!(run(&net, &[y], &[counted(&[1, 3, 4, 2])])[0].to_f64_vec().unwrap(), *want, "{name}");
    }
}

#[test]
fn integers_that_stand_for_the_same_are_only_moved() {
    let mut net = Net::new();
    let x = net.input("x", I8, &[1, 2, 2, 1]);
    let pads = net.ints(&[4, 2], &[0, 0, 0, 0, 0, 1, 0, 0]);
    let y = net.tensor("y", I8, &[1, 2, 3, 1]);
    for t in [x, y] {
        net.quantized(t, &[0.5], &[-7], 0);
    }
    net.op(34, (22, vec![]), &[x, pads], &[y]);
    // Another scale: by way of real numbers.
    let z = net.tensor("z", I8, &[1, 2, 3, 1]);
    net.quantized(z, &[1.0], &[0], 0);
    net.op(22, (17, vec![(0, Field::I32s(vec![1, 2, 3, 1]))]), &[y], &[z]);
    let x = Tensor::from_vec([1, 2, 2, 1], vec![1i8, 2, 3, 5]).unwrap();
    let out = run(&net, &[y, z], &[x]);
    assert_eq!(out[0].to_i64_vec().unwrap(), [1, 2, -7, 3, 5, -7]);
    assert_eq!(out[1].to_i64_vec().unwrap(), [4, 4, 0, 5, 6, 0]);
}

#[test]
fn sizes_that_the_file_leaves_open_stay_open() {
    let mut net = Net::new();
    let x = net.input("x", F32, &[1, 2]);
    net.tensors[0].push((7, Field::I32s(vec![-1, 2])));
    let w = net.floats(&[1, 2], &[1.0, 10.0]);
    let y = net.then(9, (8, vec![]), &[x, w, -1], F32, &[1, 1]);
    assert_eq!(one(&net, y, counted(&[3, 2])), [21.0, 43.0, 65.0]);
    // Each row for itself is a result by name, which only the sizes of the file allow.
    let z = net.tensor("z", F32, &[2]);
    net.op(88, (64, vec![(0, Field::I32(1))]), &[x], &[z]);
    let fixed = lowered(net.file(&[z]));
    assert!(matches!(fixed.warnings[..], [LowerWarning::FixedSizes { .. }]), "{:?}", fixed.warnings);
    assert_eq!(fixed.graph.ty(fixed.graph.inputs()[0]).to_string(), "f32[1,2]");
}

//! TensorFlow Lite files made to hurt: each must give an error that says where, and cost next to nothing.
#![cfg(feature = "tflite")]

#[path = "tflite/writer.rs"]
mod writer;

use proptest::prelude::*;
use std::time::{Duration, Instant};
use tensormill_formats::tflite::{ParseLimits, lower, parse};
use writer::{F32, Field, I32, Net, Table, file, network};

/// What a file comes to: its graph, which verifies, or an error.
fn load(bytes: Vec<u8>) -> Result<String, String> {
    let model = parse(bytes.into(), &ParseLimits::default()).map_err(|e| e.to_string())?;
    let lowered = lower(&model).map_err(|e| e.to_string())?;
    lowered.graph.verify().expect("what the reader makes is a valid graph");
    Ok(lowered.graph.to_string())
}

#[track_caller]
fn refused(bytes: Vec<u8>, words: &[&str]) {
    let e = load(bytes).expect_err("the file is refused");
    for w in words {
        assert!(e.contains(w), "{e:?} does not say {w:?}");
    }
}

fn whole() -> Vec<u8> {
    let (net, y) = network();
    net.file(&[y])
}

/// A field of one of the network's tensors, changed.
fn with_tensor(t: usize, field: usize, to: Field) -> Vec<u8> {
    let (mut net, y) = network();
    net.tensors[t].retain(|(f, _)| *f != field);
    net.tensors[t].push((field, to));
    net.file(&[y])
}

/// A field of the options of the convolution, changed.
fn with_option(field: usize, to: Field) -> Vec<u8> {
    let (mut net, y) = network();
    let Some((_, Field::Table(options))) = net.operators[0].iter_mut().find(|(f, _)| *f == 4) else {
        unreachable!("it has options");
    };
    options.retain(|(f, _)| *f != field);
    options.push((field, to));
    net.file(&[y])
}

/// A field of the first operator, changed.
fn with_operator(field: usize, to: Field) -> Vec<u8> {
    let (mut net, y) = network();
    net.operators[0].retain(|(f, _)| *f != field);
    net.operators[0].push((field, to));
    net.file(&[y])
}

#[test]
fn the_network_itself_is_fine() {
    assert!(load(whole()).unwrap().contains("conv"));
}

#[test]
fn what_is_cut_off_is_refused() {
    let bytes = whole();
    for n in 0..bytes.len() {
        // The last bytes may be padding.
        if n + 64 < bytes.len() {
            assert!(load(bytes[..n].to_vec()).is_err(), "{n} of {} bytes", bytes.len());
        }
    }
    refused(vec![], &["TFL3"]);
    refused(b"\0\0\0\0TFL3".to_vec(), &["the model", "byte"]);
    refused(b"\xff\xff\xff\xffTFL3".to_vec(), &["past the end"]);
}

#[test]
fn numbers_that_name_nothing_are_refused() {
    refused(with_operator(1, Field::I32s(vec![0, 99])), &["subgraph 0: operator 0: inputs", "tensor 99 of"]);
    refused(with_operator(1, Field::I32s(vec![-2])), &["tensor -2 of"]);
    refused(with_operator(2, Field::I32s(vec![i32::MAX])), &["operator 0: outputs"]);
    refused(with_operator(2, Field::I32s(vec![-1])), &["operator 0: outputs"]);
    refused(with_operator(0, Field::U32(u32::MAX)), &["operator 0: opcode_index"]);
    refused(with_tensor(1, 2, Field::U32(77)), &["subgraph 0: tensor 1", "buffer", "77 of"]);
    refused(with_tensor(1, 1, Field::U8(200)), &["element type 200"]);
    refused(with_tensor(1, 1, Field::U8(5)), &["strings"]);
    // Read before anything computes it, by itself, computed twice, and left out.
    refused(with_operator(1, Field::I32s(vec![4, 1, 2])), &["operator 0 DEPTHWISE_CONV_2D", "tensor 4"]);
    refused(with_operator(1, Field::I32s(vec![3, 1, 2])), &["tensor 3 `y`", "before anything computes it"]);
    refused(with_operator(2, Field::I32s(vec![0])), &["tensor 0 `x`", "computed twice"]);
    refused(
        with_operator(1, Field::I32s(vec![0])),
        &["operator 0 DEPTHWISE_CONV_2D", "operand 1 is missing"],
    );
    refused(with_operator(2, Field::I32s(vec![3, 4])), &["a result besides the first"]);
}

#[test]
fn shapes_and_scales_must_make_sense() {
    refused(with_tensor(1, 0, Field::I32s(vec![1, 3, 3, -4])), &["tensor 1", "shape", "-4"]);
    refused(with_tensor(2, 0, Field::I32s(vec![i32::MAX; 4])), &["tensor 2"]);
    refused(with_tensor(2, 0, Field::I32s(vec![5])), &["tensor 2", "20"]);
    refused(with_tensor(2, 0, Field::I32s(vec![1; 65])), &["65 axes"]);
    refused(with_tensor(0, 0, Field::I32s(vec![4])), &["four axes"]);
    let quantized = |scale: &[f32], zero: &[i64], axis| {
        Field::Table(vec![
            (2, Field::F32s(scale.to_vec())),
            (3, Field::I64s(zero.to_vec())),
            (6, Field::I32(axis)),
        ])
    };
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(with_tensor(0, 4, quantized(&[bad], &[0], 0)), &["tensor 0 `x`: quantization: scale"]);
    }
    refused(with_tensor(1, 4, quantized(&[1.0; 3], &[0; 3], 3)), &["tensor 1", "3 scales do not fit axis 3"]);
    refused(with_tensor(1, 4, quantized(&[1.0; 4], &[0; 4], -1)), &["quantized_dimension"]);
    refused(with_tensor(1, 4, quantized(&[1.0; 4], &[0; 4], i32::MAX)), &["quantized_dimension"]);
    refused(with_tensor(1, 4, quantized(&[1.0; 4], &[0; 2], 3)), &["2 zero points for 4 scales"]);
    refused(with_tensor(0, 4, quantized(&[1.0], &[1 << 40], 0)), &["zero point of 1099511627776"]);
    refused(with_tensor(1, 4, Field::Table(vec![(4, Field::U8(1))])), &["a scheme of its own"]);
    refused(with_tensor(1, 6, Field::Table(vec![])), &["sparse"]);
}

#[test]
fn options_must_make_sense() {
    refused(with_option(3, Field::I32(0)), &["operator 0 DEPTHWISE_CONV_2D", "depth_multiplier", "is 0"]);
    refused(with_option(3, Field::I32(i32::MIN)), &["depth_multiplier"]);
    for n in [0, -1, i32::MIN] {
        refused(with_option(1, Field::I32(n)), &["stride_w", "must be positive"]);
        refused(with_option(5, Field::I32(n)), &["dilation_w_factor", "must be positive"]);
    }
    for n in [2, 255] {
        refused(with_option(0, Field::U8(n)), &["padding", "names no padding"]);
    }
    refused(with_option(4, Field::U8(77)), &["fused_activation_function", "is 77"]);
    refused(with_option(4, Field::U8(5)), &["SIGN_BIT", "not supported"]);
    refused(with_option(9, Field::I32(1)), &["field 9", "newer format"]);
    refused(with_operator(3, Field::U8(1)), &["options of kind 1 where kind 2 belongs"]);
    refused(with_operator(12, Field::U8(1)), &["second union"]);
    // Large, but sound: refused when its sizes are known, or padded.
    let _ = load(with_option(1, Field::I32(i32::MAX)));
    let _ = load(with_option(5, Field::I32(i32::MAX)));
}

#[test]
fn operators_that_are_not_translated_are_all_named() {
    let (mut net, _) = network();
    let y = net.then(16, (14, vec![]), &[0], F32, &[1]);
    net.codes.push(vec![(0, Field::U8(32)), (1, Field::Text("Evil\x1b[2J".into())), (3, Field::I32(32))]);
    let code = net.codes.len() as u32 - 1;
    net.operators.push(vec![(0, Field::U32(code)), (1, Field::I32s(vec![0])), (2, Field::I32s(vec![y]))]);
    net.then(163, (0, vec![]), &[0], F32, &[1]);
    let e = load(net.file(&[y])).unwrap_err();
    for w in ["3 operators", "LSTM (version 1) at operator 6", "CUSTOM Evil\\u{1b}", "operator 163", "ONNX"] {
        assert!(e.contains(w), "{e}");
    }
}

#[test]
fn models_without_a_graph_or_of_another_version_are_refused() {
    let without = |field: usize| -> Table {
        let (net, _) = network();
        net.root().into_iter().filter(|(f, _)| *f != field).collect()
    };
    refused(file(&without(2)), &["no subgraph"]);
    refused(file(&without(0)), &["version 0"]);
    refused(file(&without(1)), &["opcode_index"]);
    refused(file(&without(4)), &["buffer"]);
    let mut other = without(0);
    other.push((0, Field::U32(4)));
    refused(file(&other), &["version 4"]);
}

#[test]
fn bytes_after_the_structure_must_be_there() {
    let (mut net, y) = network();
    let buffer = net.buffers.len() - 1;
    let mut at = |offset: u64, size: u64| {
        net.buffers[buffer] = vec![(1, Field::U64(offset)), (2, Field::U64(size))];
        net.file(&[y])
    };
    let len = at(8, 48).len() as u64;
    // What lies there is no matrix of floats, but 48 bytes of them.
    assert!(load(at(8, 48)).is_ok());
    for (offset, size) in [(8, len), (len, 1), (u64::MAX, 2), (2, u64::MAX)] {
        refused(at(offset, size), &["buffer", "past the end"]);
    }
}

/// Where the vector or table behind a field is, and where the field is.
fn follow(bytes: &[u8], table: usize, field: usize) -> (usize, usize) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let slot = (table as i32 - word(table) as i32) as usize + 4 + 2 * field;
    let place = table + usize::from(u16::from_le_bytes(bytes[slot..slot + 2].try_into().unwrap()));
    (place + word(place) as usize, place)
}

/// A list of offsets to one table, which leads to one long list: a small file that asks for much memory.
#[test]
fn what_is_read_again_and_again_is_paid_for() {
    const MANY: usize = 100_000;
    let mut net = Net::new();
    let x = net.input("x", F32, &[1]);
    let y = net.then(19, (0, vec![]), &[x], F32, &[1]);
    let mut bytes = net.file(&[y]);
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let root = word(&bytes, 0);
    let (graphs, _) = follow(&bytes, root, 2);
    let graph = graphs + 4 + word(&bytes, graphs + 4);
    let (operators, place) = follow(&bytes, graph, 3);
    let first = operators + 4 + word(&bytes, operators + 4);
    let fields = (first as i32 - word(&bytes, first) as i32) as usize;
    // Offsets lead forward only, so the operator comes again behind a list of offsets that all lead to it.
    let list = bytes.len();
    let again = list + 4 + 4 * MANY;
    bytes.extend((MANY as u32).to_le_bytes());
    for i in 0..MANY {
        bytes.extend(((again - (list + 4 + 4 * i)) as u32).to_le_bytes());
    }
    let size = usize::from(u16::from_le_bytes(bytes[fields + 2..fields + 4].try_into().unwrap()));
    let mut copy = bytes[first..first + size].to_vec();
    copy[..4].copy_from_slice(&((again - fields) as u32).to_le_bytes());
    for field in [1, 2] {
        let at = follow(&bytes, first, field).1 - first;
        copy[at..at + 4].copy_from_slice(&((size - at) as u32).to_le_bytes());
    }
    bytes.extend(copy);
    bytes.extend((1u32 << 16).to_le_bytes());
    bytes.resize(bytes.len() + (4 << 16), 0);
    bytes[place..place + 4].copy_from_slice(&((list - place) as u32).to_le_bytes());
    let start = Instant::now();
    refused(bytes, &["subgraph 0: operator", "max_decoded_bytes"]);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn limits_hold() {
    let mut limits = ParseLimits::default();
    limits.max_nodes = 3;
    let e = parse(whole().into(), &limits).unwrap_err().to_string();
    assert!(e.contains("max_nodes") && e.contains('3'), "{e}");
    limits = ParseLimits::default();
    limits.max_tensor_bytes = 8;
    let model = parse(whole().into(), &limits).unwrap();
    assert!(lower(&model).unwrap_err().to_string().contains("max_tensor_bytes"));
    limits = ParseLimits::default();
    limits.max_decoded_bytes = 100;
    assert!(parse(whole().into(), &limits).unwrap_err().to_string().contains("max_decoded_bytes"));
}

/// Operators with operands that make no sense: an error, whatever it says.
#[test]
fn operands_that_make_no_sense_are_refused() {
    type Add = fn(&mut Net, i32) -> i32;
    let cases: &[(&str, Add)] = &[
        ("an axis out of range", |n, x| {
            n.then(2, (10, vec![(0, Field::I32(7))]), &[x, x], F32, &[1, 2, 2, 2])
        }),
        ("no operand", |n, _| n.then(2, (10, vec![]), &[], F32, &[1])),
        ("a size of two -1", |n, x| {
            let s = n.ints(&[2], &[-1, -1]);
            n.then(22, (17, vec![]), &[x, s], F32, &[8])
        }),
        ("a permutation of too few", |n, x| {
            let p = n.ints(&[2], &[0, 1]);
            n.then(39, (26, vec![]), &[x, p], F32, &[8])
        }),
        ("a permutation with a place twice", |n, x| {
            let p = n.ints(&[4], &[0, 1, 1, 2]);
            n.then(39, (26, vec![]), &[x, p], F32, &[8])
        }),
        ("a negative permutation", |n, x| {
            let p = n.ints(&[4], &[0, 1, 2, -1]);
            n.then(39, (26, vec![]), &[x, p], F32, &[8])
        }),
        ("padding for fewer axes", |n, x| {
            let p = n.ints(&[1, 2], &[0, 1]);
            n.then(34, (22, vec![]), &[x, p], F32, &[8])
        }),
        ("parts that are not there", |n, x| {
            let a = n.ints(&[], &[1]);
            n.then(49, (35, vec![(0, Field::I32(3))]), &[a, x], F32, &[8])
        }),
        ("a step of 0", |n, x| {
            let z = n.ints(&[1], &[0]);
            n.then(45, (32, vec![]), &[x, z, z, z], F32, &[8])
        }),
        ("more entries than axes", |n, x| {
            let z = n.ints(&[5], &[1; 5]);
            n.then(45, (32, vec![]), &[x, z, z, z], F32, &[8])
        }),
        ("a slice from before the beginning", |n, x| {
            let z = n.ints(&[4], &[-5; 4]);
            n.then(65, (48, vec![]), &[x, z, z], F32, &[8])
        }),
        ("channels that do not fit", |n, x| {
            let w = n.floats(&[1, 1, 1, 3], &[1.0; 3]);
            n.then(3, (1, vec![(1, Field::I32(1)), (2, Field::I32(1))]), &[x, w], F32, &[8])
        }),
        ("a kernel of no channels", |n, x| {
            let w = n.constant(F32, &[1, 1, 1, 0], vec![]);
            n.then(3, (1, vec![(1, Field::I32(1)), (2, Field::I32(1))]), &[x, w], F32, &[8])
        }),
        ("a window larger than the picture", |n, x| {
            let o = vec![
                (0, Field::U8(1)),
                (1, Field::I32(1)),
                (2, Field::I32(1)),
                (3, Field::I32(i32::MAX)),
                (4, Field::I32(9)),
            ];
            n.then(17, (5, o), &[x], F32, &[8])
        }),
        ("a result smaller than what windows cover", |n, x| {
            let (s, w) = (n.ints(&[4], &[1, 1, 1, 1]), n.floats(&[1, 1, 1, 2], &[1.0; 2]));
            let o = vec![(0, Field::U8(1)), (1, Field::I32(3)), (2, Field::I32(3))];
            n.then(67, (49, o), &[s, w, x], F32, &[8])
        }),
        ("a result of a negative size", |n, x| {
            let (s, w) = (n.ints(&[4], &[1, -1, 1, 1]), n.floats(&[1, 1, 1, 2], &[1.0; 2]));
            let o = vec![(1, Field::I32(3)), (2, Field::I32(3))];
            n.then(67, (49, o), &[s, w, x], F32, &[8])
        }),
        ("another type than is declared", |n, x| n.then(101, (78, vec![]), &[x], I32, &[8])),
        ("a picture of no size", |n, x| {
            let s = n.ints(&[2], &[-3, 0]);
            n.then(23, (15, vec![]), &[x, s], F32, &[8])
        }),
        ("two options that contradict", |n, x| {
            let s = n.ints(&[2], &[3, 3]);
            n.then(23, (15, vec![(2, Field::U8(1)), (3, Field::U8(1))]), &[x, s], F32, &[8])
        }),
        ("weights that are no matrix", |n, x| n.then(9, (8, vec![]), &[x, x], F32, &[8])),
        ("weights in shuffled order", |n, x| {
            let w = n.floats(&[1, 8], &[1.0; 8]);
            n.then(9, (8, vec![(1, Field::U8(1))]), &[x, w], F32, &[8])
        }),
    ];
    for (name, add) in cases {
        let mut net = Net::new();
        let x = net.input("x", F32, &[1, 2, 2, 2]);
        let y = add(&mut net, x);
        assert!(load(net.file(&[y])).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = whole();
        for (at, to) in changes {
            let i = at.index(bytes.len());
            bytes[i] = to;
        }
        let _ = load(bytes);
    }

    #[test]
    fn changed_words_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0u32), Just(1), Just(u32::MAX), Just(0x7fff_ffff), Just(0x8000_0000), 0u32..2000, any::<u32>(),
        ]), 1..4),
    ) {
        let mut bytes = whole();
        for (at, to) in changes {
            let i = at.index(bytes.len() / 4) * 4;
            bytes[i..i + 4].copy_from_slice(&to.to_le_bytes());
        }
        let _ = load(bytes);
    }

    #[test]
    fn any_bytes_after_the_identifier_do_no_harm(rest in prop::collection::vec(any::<u8>(), 0..400), root in 0u32..64) {
        let mut bytes = root.to_le_bytes().to_vec();
        bytes.extend(b"TFL3");
        bytes.extend(rest);
        let _ = load(bytes);
    }
}

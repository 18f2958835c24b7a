//! Operators with attributes, operands and values made to hurt, through the public API: each is refused
//! with a message that names the node, or runs, on every backend.
#![cfg(feature = "onnx")]

mod hostile;

use Fate::*;
use hostile::*;
use tensormill::{DType, Tensor};
use tensormill_formats::onnx::proto::*;

#[test]
fn windows_that_make_no_sense() {
    let conv = |name: &str, fate, x_dims: &[i64], w_dims: &[usize], attribute| {
        let w = constant("w", Tensor::zeros(DType::F32, w_dims).unwrap());
        case(name, fate, graph(vec![x(x_dims)], vec![w], vec![node("Conv", "x w", attribute)]))
    };
    let (x4, w4): (&[i64], &[usize]) = (&[1, 2, 8, 8], &[2, 2, 3, 3]);
    let mut cases = vec![
        conv("channels", Refused(&["the_Conv"]), &[1, 3, 8, 8], w4, vec![]),
        conv("channels only known at run", Refused(&["the_Conv"]), &[1, -1, 8, 8], &[2, 3, 3, 3], vec![]),
        conv("kernel larger than x", Refused(&["the_Conv"]), x4, &[2, 2, 9, 9], vec![]),
        conv("rank 2", Refused(&["the_Conv"]), &[1, 2], w4, vec![]),
    ];
    for (name, values) in [
        ("strides", &[0i64, 0][..]),
        ("strides", &[-1, 1]),
        ("strides", &[1]),
        ("dilations", &[0, 0]),
        ("dilations", &[i64::MAX, i64::MAX]),
        ("pads", &[-1, 0, 0, -1]),
        ("pads", &[i64::MAX; 4]),
        ("pads", &[1 << 40; 4]),
        ("pads", &[1; 5]),
        ("kernel_shape", &[2, 2]),
        ("kernel_shape", &[0, 0]),
    ] {
        cases.push(conv(
            &format!("{name} {values:?}"),
            Refused(&["the_Conv"]),
            x4,
            w4,
            vec![list(name, values)],
        ));
    }
    for group in [0, -1, 3, i64::MAX] {
        let fate = Refused(&["the_Conv"]);
        cases.push(conv(&format!("group {group}"), fate, x4, w4, vec![int("group", group)]));
    }
    cases.push(conv(
        "auto_pad",
        Refused(&["the_Conv", "auto_pad"]),
        x4,
        w4,
        vec![word("auto_pad", "SAME\x1b[2J")],
    ));
    for op in ["MaxPool", "AveragePool", "LpPool"] {
        let fate = |words| Refused(words);
        for (name, values) in [
            ("kernel_shape", &[0i64, 1][..]),
            ("kernel_shape", &[i64::MAX, 1]),
            ("kernel_shape", &[-2, 1]),
            ("strides", &[0, 1]),
            ("pads", &[i64::MAX, 0, i64::MAX, 0]),
        ] {
            let mut attributes = vec![list(name, values)];
            if name != "kernel_shape" {
                attributes.push(list("kernel_shape", &[2, 2]));
            }
            let words: &[&str] = match op {
                "MaxPool" => &["the_MaxPool"],
                "AveragePool" => &["the_AveragePool"],
                _ => &["the_LpPool"],
            };
            let g = graph(vec![x(x4)], vec![], vec![node(op, "x", attributes)]);
            cases.push(case(format!("{op} {name} {values:?}"), fate(words), g));
        }
    }
    let transposed = |attribute| {
        let w = constant("w", Tensor::zeros(DType::F32, [2, 2, 3, 3]).unwrap());
        graph(vec![x(x4)], vec![w], vec![node("ConvTranspose", "x w", attribute)])
    };
    for (name, values) in [
        ("strides", &[0i64, 1][..]),
        ("strides", &[1 << 40; 2]),
        ("output_shape", &[1 << 40; 2]),
        ("output_padding", &[9, 9]),
    ] {
        let fate = if name == "output_padding" { Harmless } else { Refused(&["the_ConvTranspose"]) };
        cases.push(case(
            format!("ConvTranspose {name} {values:?}"),
            fate,
            transposed(vec![list(name, values)]),
        ));
    }
    let pad = |pads: &[i64], mode| {
        graph(vec![x(&[2, 3])], vec![sizes("p", pads)], vec![node("Pad", "x p", vec![word("mode", mode)])])
    };
    for (pads, mode, fate) in [
        (&[0i64, i64::MAX, 0, i64::MAX][..], "constant", Refused(&["the_Pad"])),
        (&[0, 1 << 40, 0, 0], "constant", Refused(&[])),
        (&[0, -4, 0, 0], "constant", Refused(&["the_Pad"])),
        (&[i64::MIN, 0, 0, 0], "constant", Refused(&["the_Pad"])),
        (&[0, 9, 0, 9], "reflect", Harmless),
        (&[1, 1, 1], "constant", Refused(&["the_Pad"])),
        (&[1, 1, 1, 1], "sideways", Refused(&["the_Pad", "mode"])),
    ] {
        cases.push(case(format!("Pad {mode} {pads:?}"), fate, pad(pads, mode)));
    }
    check(cases);
}

#[test]
fn axes_and_shapes_that_make_no_sense() {
    let one = |op: &str, fate, attribute| {
        case(op, fate, graph(vec![x(&[2, 3])], vec![], vec![node(op, "x", attribute)]))
    };
    let two = |name: &str, op: &str, fate, second: TensorProto| {
        case(name, fate, graph(vec![x(&[2, 3])], vec![second], vec![node(op, "x s", vec![])]))
    };
    let mut cases = vec![
        one("Transpose", Refused(&["the_Transpose"]), vec![list("perm", &[0, 2])]),
        one("Transpose", Refused(&["the_Transpose"]), vec![list("perm", &[0, 0])]),
        one("Transpose", Harmless, vec![list("perm", &[-1, 0])]),
        one("Softmax", Refused(&["the_Softmax"]), vec![int("axis", 2)]),
        one("Softmax", Refused(&["the_Softmax"]), vec![int("axis", i64::MIN)]),
        one("Flatten", Refused(&["the_Flatten"]), vec![int("axis", 9)]),
        one("Concat", Refused(&["the_Concat"]), vec![int("axis", -3)]),
        one("Concat", Refused(&["the_Concat", "axis"]), vec![]),
        one("ArgMax", Refused(&["the_ArgMax"]), vec![int("axis", i64::MAX)]),
        one("Split", Refused(&["the_Split"]), vec![int("num_outputs", 0)]),
        one("LRN", Refused(&["the_LRN"]), vec![int("size", 0)]),
        one("DepthToSpace", Refused(&["the_DepthToSpace"]), vec![int("blocksize", 0)]),
        one("SpaceToDepth", Refused(&["the_SpaceToDepth"]), vec![int("blocksize", i64::MAX)]),
        one("Cast", Refused(&["the_Cast", "to"]), vec![int("to", 99)]),
        one("Cast", Refused(&["the_Cast"]), vec![int("to", 0)]),
        one("EyeLike", Refused(&["the_EyeLike"]), vec![int("dtype", -7)]),
        one("Einsum", Refused(&["the_Einsum"]), vec![word("equation", "ij,jk->ik")]),
        one("Einsum", Refused(&["the_Einsum"]), vec![word("equation", "i->\u{1b}")]),
        one("Relu", Refused(&["the_Relu", "surprise"]), vec![int("surprise", 1)]),
        two("two -1", "Reshape", Refused(&["the_Reshape"]), sizes("s", &[-1, -1])),
        two("negative", "Reshape", Refused(&["the_Reshape"]), sizes("s", &[-2, 3])),
        two("overflow", "Reshape", Refused(&["the_Reshape"]), sizes("s", &[i64::MAX, i64::MAX])),
        two("wraps to 6", "Reshape", Refused(&["the_Reshape"]), sizes("s", &[1 << 62, 4, 6])),
        two("0 past the rank", "Reshape", Refused(&["the_Reshape"]), sizes("s", &[2, 3, 0])),
        two("float sizes", "Reshape", Refused(&["the_Reshape"]), constant("s", floats(&[2], &[2.0, 3.0]))),
        two("negative", "Expand", Refused(&["the_Expand"]), sizes("s", &[-1, 3])),
        two("no broadcast", "Expand", Refused(&["the_Expand"]), sizes("s", &[2, 2])),
        two("huge", "Expand", Refused(&[]), sizes("s", &[1 << 40, 2, 3])),
        two("negative", "Tile", Refused(&["the_Tile"]), sizes("s", &[-1, 1])),
        two("huge", "Tile", Refused(&[]), sizes("s", &[1 << 40, 1 << 40])),
        two("axis", "Squeeze", Refused(&["the_Squeeze"]), sizes("s", &[5])),
        two("size 3", "Squeeze", Refused(&["the_Squeeze"]), sizes("s", &[1])),
        two("axis twice", "Unsqueeze", Refused(&["the_Unsqueeze"]), sizes("s", &[0, 0])),
        two("axis", "Unsqueeze", Refused(&["the_Unsqueeze"]), sizes("s", &[i64::MIN])),
        two("axis", "ReduceSum", Refused(&["the_ReduceSum"]), sizes("s", &[7])),
        two("k past the end", "TopK", Refused(&["the_TopK"]), sizes("s", &[4])),
        two("negative k", "TopK", Refused(&["the_TopK"]), sizes("s", &[-1])),
        two("huge k", "TopK", Refused(&["the_TopK"]), sizes("s", &[i64::MAX])),
        two("axis", "CumSum", Refused(&["the_CumSum"]), number("s", 2)),
        two("parts", "Split", Refused(&["the_Split"]), sizes("s", &[1, 9])),
    ];
    let slice = |starts: i64, ends: i64, step: i64| {
        let parts = vec![sizes("b", &[starts]), sizes("e", &[ends]), sizes("a", &[1]), sizes("s", &[step])];
        graph(vec![x(&[2, 3])], parts, vec![node("Slice", "x b e a s", vec![])])
    };
    cases.push(case("Slice step 0", Refused(&["the_Slice"]), slice(0, 2, 0)));
    cases.push(case("Slice step MIN", Fine, slice(i64::MAX, i64::MIN, i64::MIN)));
    cases.push(case("Slice step MAX", Fine, slice(i64::MIN, i64::MAX, i64::MAX)));
    cases.push(case("MatMul", Refused(&["the_MatMul"]), {
        let w = constant("w", Tensor::zeros(DType::F32, [2, 2]).unwrap());
        graph(vec![x(&[2, 3])], vec![w], vec![node("MatMul", "x w", vec![])])
    }));
    for op in ["Add", "Conv", "Gather", "Gemm", "BatchNormalization", "Where", "Loop", "If", "LSTM", "Concat"]
    {
        let words: &[&str] = &["graph.node[0]"];
        cases.push(case(
            format!("{op} of nothing"),
            Refused(words),
            graph(vec![], vec![], vec![node(op, "", vec![])]),
        ));
    }
    check(cases);
}

#[test]
fn values_that_make_no_sense() {
    let i = |dims: &[i64]| input("i", DType::I64, dims);
    let indexed = |op: &'static str, operands: &str, attribute| {
        let u = constant("u", Tensor::zeros(DType::F32, [2]).unwrap());
        let g = graph(vec![x(&[4]), i(&[2])], vec![u], vec![node(op, operands, attribute)]);
        move |fate, v: [i64; 2]| {
            case(format!("{op} {v:?}"), fate, g.clone()).with("i", ints(DType::I64, &[2], &v))
        }
    };
    let mut cases = vec![];
    let gather = indexed("Gather", "x i", vec![]);
    let elements = indexed("GatherElements", "x i", vec![]);
    let scatter = indexed("ScatterElements", "x i u", vec![]);
    for v in [[4, 0], [0, -5], [i64::MAX, 0], [i64::MIN, i64::MIN], [1 << 32, 0]] {
        cases.push(gather(Run(&["the_Gather"]), v));
        cases.push(elements(Run(&["the_GatherElements"]), v));
        cases.push(scatter(Run(&["the_ScatterElements"]), v));
    }
    for v in [[3, -4], [0, 0]] {
        cases.extend([gather(Fine, v), elements(Fine, v), scatter(Fine, v)]);
    }
    let nd = |op: &str, operands: &str, v: i64| {
        let u = constant("u", Tensor::zeros(DType::F32, [1]).unwrap());
        let words: &[&str] = if op == "GatherND" { &["the_GatherND"] } else { &["the_ScatterND"] };
        case(
            format!("{op} {v}"),
            Run(words),
            graph(vec![x(&[4]), i(&[1, 1])], vec![u], vec![node(op, operands, vec![])]),
        )
        .with("i", ints(DType::I64, &[1, 1], &[v]))
    };
    for v in [4, -5, i64::MAX, i64::MIN] {
        cases.extend([nd("GatherND", "x i", v), nd("ScatterND", "x i u", v)]);
    }
    for (op, dtype, min) in [
        ("Div", DType::I32, i64::from(i32::MIN)),
        ("Div", DType::I64, i64::MIN),
        ("Div", DType::I8, -128),
        ("Mod", DType::I64, i64::MIN),
        ("Mod", DType::I32, i64::from(i32::MIN)),
    ] {
        let words: &[&str] = if op == "Div" { &["the_Div"] } else { &["the_Mod"] };
        let g = || {
            graph(
                vec![input("a", dtype, &[5]), input("b", dtype, &[5])],
                vec![],
                vec![node(op, "a b", vec![])],
            )
        };
        let with = |fate, v: i64, by: i64| {
            case(format!("{v} {op} {by} in {dtype}"), fate, g())
                .with("a", ints(dtype, &[5], &[v; 5]))
                .with("b", ints(dtype, &[5], &[by; 5]))
        };
        cases.extend([with(Run(words), 1, 0), with(Harmless, min, -1)]);
        // The same among constants, where folding meets it.
        let held = vec![constant("a", ints(dtype, &[1], &[min])), constant("b", ints(dtype, &[1], &[0]))];
        cases.push(case(
            format!("constant {op}"),
            Run(words),
            graph(vec![], held, vec![node(op, "a b", vec![])]),
        ));
    }
    let range = |fate, v: [i64; 3]| {
        let parts = vec![number("s", v[0]), number("l", v[1]), number("d", v[2])];
        case(format!("Range {v:?}"), fate, graph(vec![], parts, vec![node("Range", "s l d", vec![])]))
    };
    cases.extend([
        range(Refused(&["the_Range"]), [0, 5, 0]),
        range(Refused(&[]), [0, 1 << 40, 1]),
        range(Refused(&[]), [i64::MIN, i64::MAX, 1]),
        range(Fine, [i64::MAX, i64::MIN, 1]),
        range(Fine, [i64::MIN, i64::MAX, i64::MAX]),
    ]);
    let given = |fate, v: [f32; 3]| {
        let scalars = ["s", "l", "d"].map(|n| input(n, DType::F32, &[]));
        let mut c = case(
            format!("Range {v:?}"),
            fate,
            graph(scalars.to_vec(), vec![], vec![node("Range", "s l d", vec![])]),
        );
        for (name, v) in ["s", "l", "d"].iter().zip(v) {
            c = c.with(name, Tensor::scalar(v));
        }
        c
    };
    for v in [
        [0.0, 1.0, 0.0],
        [0.0, f32::INFINITY, 1.0],
        [0.0, 1.0, f32::NAN],
        [0.0, 1e30, 1e-30],
        [f32::NAN, 1.0, 1.0],
    ] {
        cases.push(given(if v[0].is_nan() || v[2].is_nan() { Harmless } else { Run(&["the_Range"]) }, v));
    }
    let filled = |fate, s: &[i64]| {
        case(
            format!("ConstantOfShape {s:?}"),
            fate,
            graph(vec![], vec![sizes("s", s)], vec![node("ConstantOfShape", "s", vec![])]),
        )
    };
    cases.extend([
        filled(Refused(&[]), &[1 << 40]),
        filled(Refused(&[]), &[1 << 20, 1 << 20, 1 << 20, 1 << 20]),
        filled(Refused(&["the_ConstantOfShape"]), &[-1]),
        filled(Harmless, &[0, 1 << 40]),
    ]);
    // A few bytes whose folding would be large: 2^18 elements, squared by an outer sum.
    let v = vec![sizes("s", &[1 << 18, 1]), sizes("t", &[1, 1 << 18])];
    let mut a = node("ConstantOfShape", "s", vec![]);
    a.output = vec!["a".into()];
    let mut b = node("ConstantOfShape", "t", vec![]);
    b.output = vec!["b".into()];
    cases.push(case(
        "a constant of 2^36 elements",
        Refused(&[]),
        graph(vec![], v, vec![a, b, node("Add", "a b", vec![])]),
    ));
    check(cases);
}

fn quantization_cases() -> Vec<Case> {
    let scale =
        |v: &[f32]| constant("s", if v.len() == 1 { Tensor::scalar(v[0]) } else { floats(&[v.len()], v) });
    let both = |name: &str,
                fate: [Fate; 2],
                s: TensorProto,
                z: Option<TensorProto>,
                attribute: Vec<AttributeProto>| {
        let (mut parts, zero) = (vec![s], if z.is_some() { " z" } else { "" });
        parts.extend(z);
        let q = node("QuantizeLinear", &format!("x s{zero}"), attribute.clone());
        let d = node("DequantizeLinear", &format!("q s{zero}"), attribute);
        let q = case(format!("quantize, {name}"), fate[0], graph(vec![x(&[2, 4])], parts.clone(), vec![q]));
        let g = graph(vec![input("q", DType::U8, &[2, 4])], parts, vec![d]);
        [q, case(format!("dequantize, {name}"), fate[1], g)]
    };
    let refused = [Refused(&["the_QuantizeLinear"]), Refused(&["the_DequantizeLinear"])];
    let z = |dtype, n: usize| {
        Some(constant("z", Tensor::zeros(dtype, if n == 0 { vec![] } else { vec![n] }).unwrap()))
    };
    let mut cases = vec![];
    for v in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        cases.extend(both(&format!("scale {v}"), [Harmless; 2], scale(&[v]), z(DType::U8, 0), vec![]));
    }
    cases.extend(both("zero point of another length", refused, scale(&[1.0; 4]), z(DType::U8, 3), vec![]));
    cases.extend(both("scales of another length", refused, scale(&[1.0; 3]), z(DType::U8, 3), vec![]));
    cases.extend(both("zero point of floats", refused, scale(&[1.0]), z(DType::F32, 0), vec![]));
    let other = [Harmless, Refused(&["the_DequantizeLinear"])];
    cases.extend(both("zero point of another dtype", other, scale(&[1.0]), z(DType::I8, 0), vec![]));
    cases.extend(both("axis", refused, scale(&[1.0; 4]), None, vec![int("axis", 2)]));
    let blocks = || constant("s", Tensor::from_vec([2, 2], vec![1.0f32; 4]).unwrap());
    for size in [-1, 5, i64::MAX, i64::MIN] {
        cases.extend(both(
            &format!("blocks of {size}"),
            refused,
            blocks(),
            None,
            vec![int("block_size", size)],
        ));
    }
    cases.extend(both("blocks of 2", [Fine; 2], blocks(), None, vec![int("block_size", 2)]));
    cases
}

#[test]
fn quantization_that_makes_no_sense() {
    check(quantization_cases());
}

#[test]
fn zero_batches_run() {
    let dims: &[i64] = &[-1, 2, 4, 4];
    let mut cases = vec![];
    let w = || constant("w", Tensor::zeros(DType::F32, [2, 2, 3, 3]).unwrap());
    for (op, operands, attribute) in [
        ("Conv", "x w", vec![]),
        ("MaxPool", "x", vec![list("kernel_shape", &[2, 2])]),
        ("AveragePool", "x", vec![list("kernel_shape", &[2, 2])]),
        ("GlobalAveragePool", "x", vec![]),
        ("Softmax", "x", vec![]),
        ("Flatten", "x", vec![]),
        ("ReduceMean", "x", vec![]),
        ("Transpose", "x", vec![]),
        ("MatMul", "x x", vec![]),
        ("Concat", "x x", vec![int("axis", 0)]),
        ("ConvTranspose", "x w", vec![]),
    ] {
        let parts = if operands.contains('w') { vec![w()] } else { vec![] };
        let g = graph(vec![x(dims)], parts, vec![node(op, operands, attribute)]);
        cases.push(
            case(format!("{op} of no rows"), Fine, g)
                .with("x", Tensor::zeros(DType::F32, [0, 2, 4, 4]).unwrap()),
        );
    }
    check(cases);
}

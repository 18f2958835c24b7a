//! ONNX files and inputs made to hurt, through the public API: each is refused with a message that says
//! where, or runs; none panics, hangs, or uses more than the limits allow.
#![cfg(feature = "onnx")]

mod hostile;

use Fate::*;
use bytes::Bytes;
use hostile::*;
use prost::Message;
use std::time::{Duration, Instant};
use tensormill::{CancelToken, DType, Error, Limits, Model, RunOptions, SessionOptions, Tensor};
use tensormill_formats::onnx::proto::*;

fn relu() -> ModelProto {
    model(graph(vec![x(&[-1, 3])], vec![], vec![node("Relu", "x", vec![])]))
}

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
        filled(Fine, &[0, 1 << 40]),
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
fn graphs_that_make_no_sense() {
    let x2 = || vec![x(&[2])];
    let named = |op: &str, operands: &str, result: &str| {
        let mut n = node(op, operands, vec![]);
        n.output = vec![result.into()];
        n
    };
    let mut cases = vec![
        case(
            "a cycle",
            Load(&["the_Neg"]),
            graph(x2(), vec![], vec![named("Neg", "y", "a"), named("Relu", "a", "y")]),
        ),
        case("itself", Load(&["the_Relu"]), graph(x2(), vec![], vec![named("Relu", "y", "y")])),
        case(
            "a name twice",
            Load(&["the_Neg", "y"]),
            graph(x2(), vec![], vec![named("Relu", "x", "y"), named("Neg", "x", "y")]),
        ),
        case("an input's name", Load(&["x"]), graph(x2(), vec![], vec![named("Relu", "x", "x")])),
        case(
            "undefined",
            Load(&["the_Relu", "nobody"]),
            graph(x2(), vec![], vec![node("Relu", "nobody", vec![])]),
        ),
        case("no such output", Load(&["y"]), graph(x2(), vec![], vec![])),
        case(
            "two inputs of one name",
            Load(&["x"]),
            graph([x2(), x2()].concat(), vec![], vec![node("Relu", "x", vec![])]),
        ),
        case("no operator", Load(&["`the_`"]), graph(x2(), vec![], vec![node("", "x", vec![])])),
        case(
            "unknown operator",
            Load(&["Frobnicate"]),
            graph(x2(), vec![], vec![node("Frobnicate", "x", vec![])]),
        ),
        case(
            "too many operands",
            Load(&["the_Relu"]),
            graph(x2(), vec![], vec![node("Relu", "x x x", vec![])]),
        ),
    ];
    let mut own = node("Relu", "x", vec![]);
    own.output = vec!["y".into(), "z".into()];
    cases.push(case("too many results", Load(&["the_Relu"]), graph(x2(), vec![], vec![own])));
    for (name, ty) in [("unknown dtype", 99), ("no dtype", 0), ("negative dtype", -1)] {
        let mut g = graph(x2(), vec![], vec![node("Relu", "x", vec![])]);
        if let Some(TypeValue::Tensor(t)) = &mut g.input[0].r#type.as_mut().unwrap().value {
            t.elem_type = ty;
        }
        cases.push(case(name, Load(&["x"]), g));
    }
    for size in [-5, i64::MIN, i64::MAX] {
        let mut g = graph(x2(), vec![], vec![node("Relu", "x", vec![])]);
        if let Some(TypeValue::Tensor(t)) = &mut g.input[0].r#type.as_mut().unwrap().value {
            t.shape.as_mut().unwrap().dim =
                vec![Dimension { value: Some(DimensionValue::Size(size)), ..Dimension::default() }; 2];
        }
        // The size is one that no input can have, so there is nothing to run.
        let mut c = case(format!("input sizes {size}"), if size < 0 { Harmless } else { Refused(&[]) }, g);
        c = c.with("x", floats(&[1, 1], &[0.0]));
        cases.push(c);
    }
    let call = node("F", "x", vec![]);
    let call = NodeProto { domain: "f".into(), ..call };
    let function = FunctionProto {
        name: "F".into(),
        domain: "f".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        opset_import: vec![opset("", 21), opset("f", 1)],
        node: vec![call.clone()],
        ..FunctionProto::default()
    };
    let mut recursive =
        case("a function that calls itself", Load(&["f::F"]), graph(x2(), vec![], vec![call]));
    recursive.model.functions = vec![function];
    cases.push(recursive);
    for v in [0, -1, 999, i64::MAX] {
        let mut c = case(format!("opset {v}"), Load(&[]), relu().graph.unwrap());
        c.model.opset_import = vec![opset("", v)];
        cases.push(c);
        let mut c = case(format!("IR version {v}"), Load(&[]), relu().graph.unwrap());
        c.model.ir_version = v;
        cases.push(c);
    }
    let mut c = case("no opset", Load(&[]), relu().graph.unwrap());
    c.model.opset_import.clear();
    cases.push(c);
    // Names that play with terminals, in every place that an error may show.
    let wild = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";
    let mut g = graph(vec![x(&[2, 3])], vec![], vec![node("Softmax", "x", vec![int("axis", 7)])]);
    g.node[0].name = wild.into();
    cases.push(case("a wild name of a node", Refused(&["owned"]), g.clone()));
    g.node[0].name = "n".repeat(1 << 20);
    cases.push(case("a long name of a node", Refused(&["nnnn"]), g.clone()));
    g.node[0].op_type = wild.into();
    cases.push(case("a wild operator", Load(&["owned"]), g.clone()));
    g.node[0].op_type = "O".repeat(1 << 20);
    cases.push(case("a long operator", Load(&["OOOO"]), g.clone()));
    g.node[0] = node("Relu", wild, vec![]);
    cases.push(case("a wild operand", Load(&["owned"]), g.clone()));
    g.node[0] = node("Relu", &"p".repeat(1 << 20), vec![]);
    cases.push(case("a long operand", Load(&["pppp"]), g.clone()));
    g.node[0] = node("Relu", "x", vec![int(wild, 1)]);
    cases.push(case("a wild attribute", Load(&["owned"]), g.clone()));
    g.node[0] = node("Relu", "x", vec![int(&"q".repeat(1 << 20), 1)]);
    cases.push(case("a long attribute", Load(&["qqqq"]), g));
    for (what, name) in [("wild", wild.to_owned()), ("long", "s".repeat(1 << 20))] {
        let mut g = graph(vec![x(&[-1, 3])], vec![], vec![node("Softmax", "x", vec![int("axis", 7)])]);
        if let Some(TypeValue::Tensor(t)) = &mut g.input[0].r#type.as_mut().unwrap().value {
            t.shape.as_mut().unwrap().dim[0].value = Some(DimensionValue::Name(name));
        }
        cases.push(case(format!("a {what} name of a size"), Refused(&["the_Softmax"]), g.clone()));
        g.node[0] = node("Relu", "x", vec![]);
        let c = case(format!("a {what} name of a size that is wrong"), Run(&["\"x\""]), g);
        cases.push(c.with("x", floats(&[2, 2], &[0.0; 4])));
    }
    check(cases);
}

/// `y` after as many trips as `trips` says, each adding `x`.
fn looping(trips: i64) -> GraphProto {
    let bool_in = input("go", DType::Bool, &[]);
    let mut add = node("Add", "v x", vec![]);
    add.output = vec!["w".into()];
    let mut same = node("Identity", "go", vec![]);
    same.output = vec!["on".into()];
    let mut inner = graph(
        vec![input("i", DType::I64, &[]), bool_in, input("v", DType::F32, &[2])],
        vec![],
        vec![add, same],
    );
    inner.output =
        ["on", "w"].map(|n| ValueInfoProto { name: n.into(), ..ValueInfoProto::default() }).to_vec();
    graph(vec![x(&[2])], vec![number("m", trips)], vec![node("Loop", "m _ x", vec![body("body", inner)])])
}

#[test]
fn loops_end() {
    check(vec![
        case("2^63-1 trips", Run(&["the_Loop"]), looping(i64::MAX)),
        case("ten thousand and one trips", Run(&["the_Loop"]), looping(10_001)),
        case("a hundred trips", Fine, looping(100)),
        case("negative trips", Fine, looping(-1)),
    ]);
    let generous = Limits { max_trips: u64::MAX, max_time: Some(Duration::from_millis(300)), ..limits() };
    let m = Model::load_with(model(looping(i64::MAX)).encode_to_vec(), &generous).unwrap();
    let s = m.session().unwrap();
    let t = || floats(&[2], &[1.0, 1.0]);
    let began = Instant::now();
    assert!(matches!(s.run(t()), Err(Error::TimedOut { .. })));
    let token = CancelToken::new();
    let options = RunOptions::new().cancel(&token).max_time(Duration::from_secs(60));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            token.cancel();
        });
        assert!(matches!(s.run_with(t(), &options), Err(Error::Cancelled)));
    });
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn bodies_in_bodies_are_bounded() {
    let nested = |depth: usize| {
        let mut inner = graph(vec![], vec![], vec![node("Relu", "x", vec![])]);
        for _ in 0..depth {
            let n = node("If", "c", vec![body("then_branch", inner.clone()), body("else_branch", inner)]);
            inner = graph(vec![], vec![], vec![n]);
        }
        inner.input = vec![x(&[2]), input("c", DType::Bool, &[])];
        inner
    };
    let mut cases = vec![case("4 deep", Fine, nested(4))];
    // One branch each, so that the file stays small.
    let mut deep = graph(vec![], vec![], vec![node("Relu", "x", vec![])]);
    for _ in 0..25 {
        deep = graph(vec![], vec![], vec![node("If", "c", vec![body("then_branch", deep)])]);
    }
    deep.input = vec![x(&[2]), input("c", DType::Bool, &[])];
    cases.push(case("25 deep", Load(&["max_nesting"]), deep));
    check(cases);
    // Ten thousand, which no encoder here could write: length prefixes around each other.
    let wrap = |tag: u8, inner: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend(inner);
        out
    };
    let mut g = vec![];
    for _ in 0..10_000 {
        g = wrap(0x0a, &wrap(0x2a, &[b"\x0a\x01b\xa0\x01\x05".to_vec(), wrap(0x32, &g)].concat()));
    }
    let file = [b"\x08\x0a\x42\x02\x10\x15".to_vec(), wrap(0x3a, &g)].concat();
    let (stage, e) = attempt(file, &SessionOptions::new(), &[]).unwrap_err();
    assert!(stage == 0 && e.to_string().contains("max_nesting"), "{e}");
}

#[test]
fn no_cut_or_changed_byte_breaks_anything() {
    watch();
    let conv = {
        let w = constant("w", Tensor::zeros(DType::F32, [2, 2, 3, 3]).unwrap());
        graph(vec![x(&[1, 2, 5, 5])], vec![w], vec![node("Conv", "x w", vec![list("pads", &[1; 4])])])
    };
    for m in [relu(), model(conv), model(looping(3))] {
        let bytes = m.encode_to_vec();
        let options = SessionOptions::new().threads(1);
        for cut in (0..64).map(|i| i * bytes.len() / 64).chain([1]) {
            if let Err((_, e)) = attempt(bytes[..cut].to_vec(), &options, &[]) {
                presentable(&format!("cut at {cut}"), &e.to_string()).unwrap();
            }
        }
        for at in 0..bytes.len() {
            for v in [0, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x80] {
                let mut bytes = bytes.clone();
                bytes[at] = v;
                if let Err((_, e)) = attempt(bytes, &options, &[]) {
                    presentable(&format!("byte {at} as {v}"), &e.to_string()).unwrap();
                }
            }
        }
    }
    assert!(PANICS.lock().unwrap().is_empty(), "{:?}", PANICS.lock().unwrap());
}

#[test]
fn files_that_are_no_models() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut paths = vec![
        write("empty.onnx", b""),
        write("one.onnx", b"\x08"),
        write("text.onnx", b"hello"),
        write("\u{1b}[2Jzip.onnx", b"PK\x03\x04rest"),
        write("picture.png", b"\x89PNG\r\n\x1a\nrest"),
        write("noise.onnx", &[0xff; 64]),
        dir.path().join("absent.onnx"),
        dir.path().to_owned(),
    ];
    if cfg!(unix) {
        let pipe = dir.path().join("pipe.onnx");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
            paths.push(pipe);
        }
        paths.push("/dev/null".into());
        paths.push("/dev/zero".into());
    }
    for path in paths {
        let began = Instant::now();
        let e = Model::load_with(&path, &limits()).unwrap_err().to_string();
        presentable("a file", &e).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().escape_debug().to_string();
        assert!(e.contains(&name), "{e} does not name {name}");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    // A model is one under any name.
    assert!(Model::load(&write("model.png", &relu().encode_to_vec())).is_ok());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = write("secret.onnx", &relu().encode_to_vec());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0)).unwrap();
        // The superuser reads it all the same.
        if std::fs::read(&path).is_err() {
            assert!(Model::load(&path).unwrap_err().to_string().contains("secret.onnx"));
        }
    }
}

#[test]
fn data_beside_the_file_stays_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(dir.path().join("secret"), [0; 64]).unwrap();
    std::fs::write(folder.join("w.bin"), [0; 64]).unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let load = |location: &str, offset: &str, length: &str| {
        let external_data =
            vec![entry("location", location), entry("offset", offset), entry("length", length)];
        let w = TensorProto {
            name: "w".into(),
            dims: vec![2, 3],
            data_type: 1,
            data_location: 1,
            external_data,
            ..TensorProto::default()
        };
        let path = folder.join("m.onnx");
        let m = model(graph(vec![x(&[-1, 3])], vec![w], vec![node("Add", "x w", vec![])]));
        std::fs::write(&path, m.encode_to_vec()).unwrap();
        Model::load_with(&path, &limits())
    };
    load("w.bin", "0", "24").unwrap().session().unwrap();
    for (location, offset, length) in [
        ("../secret", "0", "24"),
        ("/etc/passwd", "0", "24"),
        ("w.bin\0", "0", "24"),
        ("\u{1b}[2J", "0", "24"),
        ("w.bin", "41", "24"),
        ("w.bin", "18446744073709551615", "24"),
        ("w.bin", "0", "23"),
        ("w.bin", "0", "18446744073709551615"),
        ("w.bin", "-1", "24"),
        ("w.bin", "x", "24"),
    ] {
        let e = load(location, offset, length).unwrap_err().to_string();
        presentable(location, &e).unwrap();
        assert!(e.contains("m.onnx") && e.contains("`w`"), "{e}");
    }
}

#[test]
fn inputs_that_do_not_fit() {
    let s = Model::load(relu().encode_to_vec()).unwrap().session().unwrap();
    let f = |dims: &[usize]| Tensor::zeros(DType::F32, dims).unwrap();
    for (name, t, words) in [
        ("z", f(&[2, 3]), &["\"z\"", "\"x\""][..]),
        ("\u{1b}[2J", f(&[2, 3]), &["\"x\""]),
        ("x", f(&[2, 4]), &["\"x\"", "4", "3"]),
        ("x", f(&[3]), &["\"x\"", "rank"]),
        ("x", f(&[1, 2, 3]), &["\"x\"", "rank"]),
        ("x", Tensor::zeros(DType::F64, [2, 3]).unwrap(), &["\"x\"", "f64", "f32"]),
    ] {
        let e = s.run([(name, t)]).unwrap_err().to_string();
        presentable(name, &e).unwrap();
        assert!(words.iter().all(|w| e.contains(w)), "{e}");
    }
    assert!(s.run(Vec::<Tensor>::new()).unwrap_err().to_string().contains("\"x\""));
    assert!(s.run([f(&[1, 3]), f(&[1, 3])]).is_err());
    assert!(s.run([("x", f(&[1, 3])), ("x", f(&[1, 3]))]).is_err());
    let empty = s.run(f(&[0, 3])).unwrap();
    assert_eq!(empty.tensor("y").unwrap().shape().dims(), [0, 3]);
    // A size of an input that no memory could hold times another.
    let outer =
        graph(vec![x(&[-1, 1]), input("z", DType::F32, &[1, -2])], vec![], vec![node("Add", "x z", vec![])]);
    let m = Model::load_with(model(outer).encode_to_vec(), &limits()).unwrap();
    let s = m.session().unwrap();
    let e = s.run([("x", f(&[1 << 19, 1])), ("z", f(&[1, 1 << 19]))]).unwrap_err();
    assert!(matches!(e, Error::Limit { .. } | Error::Run { .. }), "{e}");
    assert!(s.run([("x", f(&[2, 1])), ("z", f(&[1, 2]))]).is_ok());
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

/// Bytes that are a model of another size than they say, or of text that is none.
#[test]
fn tensors_that_contradict_themselves() {
    let w = constant("w", floats(&[3], &[1.0, 2.0, 3.0]));
    let with = |w: TensorProto| graph(vec![x(&[-1, 3])], vec![w], vec![node("Add", "x w", vec![])]);
    let mut cases = vec![case("as it should be", Fine, with(w.clone()))];
    for (name, bad) in [
        ("short", TensorProto { raw_data: Some(Bytes::from_static(&[0; 11])), ..w.clone() }),
        ("long", TensorProto { raw_data: Some(Bytes::from_static(&[0; 13])), ..w.clone() }),
        ("nothing", TensorProto { raw_data: None, ..w.clone() }),
        ("raw and typed", TensorProto { float_data: vec![0.0; 3], ..w.clone() }),
        ("negative", TensorProto { dims: vec![-3], ..w.clone() }),
        ("overflow", TensorProto { dims: vec![i64::MAX, 4], ..w.clone() }),
        ("wraps to 3", TensorProto { dims: vec![1 << 32, 1 << 32, 3], ..w.clone() }),
        ("dtype", TensorProto { data_type: 77, ..w.clone() }),
    ] {
        cases.push(case(format!("{name} initializer"), Load(&["`w`"]), with(bad.clone())));
        let mut constant = node("Constant", "", vec![held("value", bad)]);
        constant.output = vec!["w".into()];
        let g = graph(vec![x(&[-1, 3])], vec![], vec![constant, node("Add", "x w", vec![])]);
        cases.push(case(format!("{name} constant"), Load(&["the_Constant"]), g));
    }
    check(cases);
    // Peak memory of all tests of this process so far.
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let kib: usize = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
        assert!(kib < 1 << 20, "{kib} KiB at the peak");
    }
}

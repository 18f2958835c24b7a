//! Graphs on their way to ONNX and back: the same results, the same names, plain operators.
#![cfg(feature = "onnx")]

use bytes::Bytes;
use std::collections::BTreeMap;
use tensormill_formats::{
    external::ExternalData,
    onnx::{self, ParseLimits, WriteError, WriteOptions, proto::ModelProto},
};
use tensormill_ir::{Graph, text};
use tensormill_optimizer::{
    Numerics, OptOptions, Pipeline,
    testing::{Bytes as Draw, compare, random_graph, random_inputs},
};

fn metadata() -> BTreeMap<String, String> {
    [("onnx.doc", "what it is"), ("onnx.producer", "another"), ("classes", "cat,dog")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

/// A graph whose constants beside the text are filled with small numbers.
fn graph(source: &str) -> Graph {
    let fill = |_: &str, dtype, shape: &_| Ok(Draw::seeded(11, 8192).tensor(dtype, shape));
    text::parse_with(source, &fill).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

fn written(g: &Graph) -> ModelProto {
    onnx::write(g, &metadata()).unwrap_or_else(|e| panic!("{e}"))
}

fn read(bytes: Vec<u8>) -> Graph {
    let model = onnx::parse(Bytes::from(bytes), &ParseLimits::default(), ExternalData::deny());
    onnx::lower(&model.unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}")).graph
}

fn again(g: &Graph) -> Graph {
    read(onnx::to_bytes(g, &metadata()).unwrap_or_else(|e| panic!("{e}")))
}

fn operators(m: &ModelProto) -> Vec<&str> {
    m.graph.as_ref().map_or_else(Vec::new, |g| g.node.iter().map(|n| n.op_type.as_str()).collect())
}

/// Checks that a graph gives the same after a way through a file, on several random inputs.
fn same_after(g: &Graph, seed: u64) -> Result<Graph, String> {
    let back = again(g);
    let names = |g: &Graph| -> Vec<String> {
        let inputs = g.inputs().iter().map(|v| g.value(*v).name.as_deref().unwrap_or("").to_owned());
        inputs.chain(g.outputs().iter().map(|o| o.name.to_string())).collect()
    };
    assert_eq!(names(g), names(&back));
    for (v, w) in g.inputs().iter().zip(back.inputs()) {
        assert_eq!(g.ty(*v), back.ty(*w));
    }
    for i in 0..3 {
        let inputs = random_inputs(g, &mut Draw::seeded(seed + i, 4096));
        compare(g, &back, &inputs, Numerics::Reassociates)?;
    }
    Ok(back)
}

#[test]
fn random_graphs_mean_the_same_after_a_file() {
    for seed in 0..150 {
        let g = random_graph(&mut Draw::seeded(seed, 400), 12).unwrap();
        same_after(&g, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", text::print(&g).text));
    }
}

#[test]
fn fused_graphs_mean_the_same_after_a_file() {
    for seed in 0..150 {
        let plain = random_graph(&mut Draw::seeded(seed, 400), 12).unwrap();
        let mut g = plain.clone();
        // Of some graphs no run can succeed, which the optimizer finds.
        if Pipeline::by_name("default").unwrap().run(&mut g, &OptOptions::default()).is_err() {
            continue;
        }
        let back = again(&g);
        let inputs = random_inputs(&plain, &mut Draw::seeded(seed, 4096));
        compare(&plain, &back, &inputs, Numerics::Reassociates)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn the_same_graph_is_the_same_file_and_a_read_one_too() {
    for seed in 0..20 {
        let g = random_graph(&mut Draw::seeded(seed, 400), 12).unwrap();
        let bytes = onnx::to_bytes(&g, &metadata()).unwrap();
        assert_eq!(bytes, onnx::to_bytes(&g, &metadata()).unwrap());
        // What is read from a file names every value, and so comes to rest.
        let second = onnx::to_bytes(&read(bytes), &metadata()).unwrap();
        assert_eq!(second, onnx::to_bytes(&read(second.clone()), &metadata()).unwrap());
    }
}

/// Graphs of operators that random ones do not have, with the operators that they are written as.
const SPELLED: &[(&str, &[&str])] = &[
    (
        "graph @g(%x: f32[N,3,5,5]) -> (%y) {\n%w: f32[4,3,3,3] = const @\"any\"\n%b: f32[4] = const [1, 2, 3, 4]\n\
         %y0: f32[N,4,5,5] = conv %x, %w, %b {pads=[1,1,1,1]} !\"first\"\n%r: f32[N,4,5,5] = abs %y0\n\
         %y: f32[N,4,5,5] = conv %x, %w, %b, %r {pads=[1,1,1,1], epilogue=[relu, add(3), clamp(0, 6)]} !\"last\"\n}",
        &["Conv", "Abs", "Conv", "Relu", "Add", "Clip"],
    ),
    (
        "graph @g(%x: f32[N,3], %w: f32[3,4], %c: f32[4]) -> (%y) {\n%p: f32[N,4] = matmul %x, %w\n\
         %y: f32[N,4] = add %p, %c\n}",
        &["Gemm"],
    ),
    (
        "graph @g(%x: f32[N,3], %w: f32[4,3], %c: f32[4]) -> (%y) {\n\
         %y: f32[N,4] = matmul %x, %w, %c {trans_b=true, epilogue=[add(2), gelu]}\n}",
        &["Gemm", "Gelu"],
    ),
    (
        "graph @g(%x: f32[2,N,3], %w: f32[4,3]) -> (%y) {\n%y: f32[2,N,4] = matmul %x, %w {trans_b=true}\n}",
        &["Transpose", "MatMul"],
    ),
    (
        "graph @g(%x: f32[N,3,4,4]) -> (%y) {\n%a: i64[2] = const [2, 3]\n\
         %y: f32[N,3,1,1] = reduce_mean %x, %a {noop_with_empty_axes=true}\n}",
        &["GlobalAveragePool"],
    ),
    (
        "graph @g(%x: f32[N,3,4,4]) -> (%y) {\n%a: i64[2] = const [2, 3]\n%y: f32[N,3,1,1] = reduce_mean %x, %a\n}",
        &["ReduceMean"],
    ),
    (
        "graph @g(%q: f32[B,S,6], %k: f32[B,T,6], %v: f32[B,T,6], %m: f32[1,1,S,T]) -> (%y) {\n\
         %y: f32[B,S,6] = attention %q, %k, %v, %m {q_heads=2, kv_heads=2, blind_nan=true}\n}",
        &[
            "Reshape",
            "Transpose",
            "Reshape",
            "Transpose",
            "Reshape",
            "Transpose",
            "MatMul",
            "Mul",
            "Add",
            "Softmax",
            "MatMul",
            "Transpose",
            "Reshape",
        ],
    ),
    (
        "graph @g(%q: f32[B,4,S,4], %k: f32[B,2,T,4], %v: f32[B,2,T,3], %m: f32[1,1,S,T]) -> (%y) {\n\
         %y: f32[B,4,S,3] = attention %q, %k, %v, %m {scale=1.0, blind_nan=true}\n}",
        &[
            "Unsqueeze",
            "Expand",
            "Reshape",
            "Transpose",
            "Unsqueeze",
            "Expand",
            "Reshape",
            "MatMul",
            "Add",
            "Softmax",
            "MatMul",
        ],
    ),
    (
        "graph @g(%q: f32[1,2,S,4], %k: f32[1,2,T,4], %v: f32[1,2,T,4]) -> (%y) {\n\
         %y: f32[1,2,S,4] = attention %q, %k, %v {causal=true}\n}",
        &["Attention"],
    ),
    (
        "graph @g(%x: f32[N,4]) -> (%y) {\n%y: f32[N,4] = swish %x {alpha=1.702}\n}",
        &["Mul", "Sigmoid", "Mul"],
    ),
    (
        "graph @g(%x: f32[N,4]) -> (%x, %copy) {\n%c: f32[4] = const [1, 2, 3, 4]\n%copy: f32[N,4] = add %x, %c\n}",
        &["Add"],
    ),
    (
        "graph @g(%x: f32[2,3,4,4]) -> (%y) {\n%s: f32[4] = const [1.0, 1.0, 2.0, 2.0]\n\
         %y: f32[2,3,8,8] = resize %x, _, %s {coordinates=asymmetric, nearest=simple}\n}",
        &["Resize"],
    ),
];

#[test]
fn operators_are_the_ones_that_engines_know() {
    for (source, expected) in SPELLED {
        let g = graph(source);
        assert_eq!(operators(&written(&g)), *expected, "{source}");
        same_after(&g, 7).unwrap_or_else(|e| panic!("{e}\n{source}"));
    }
}

/// What a dynamic quantization, and products of integers, are read as.
const INTEGERS: &str = "graph @g(%x: f32[N,6]) -> (%f) {\n\
    %w: i8[6,3] = const [1, -2, 3, 4, -5, 6, 7, 8, -128, 127, 11, 12, 13, -14, 15, 16, 17, 18]\n\
    %wz: i8[] = const [2]\n%ws: f32[] = const [0.02]\n%zero: f32[] = const [0.0]\n%one: f32[] = const [1.0]\n\
    %steps: f32[] = const [255.0]\n%low: f32[] = reduce_min %x {keepdims=false}\n%min: f32[] = min %low, %zero\n\
    %high: f32[] = reduce_max %x {keepdims=false}\n%max: f32[] = max %high, %zero\n%range: f32[] = sub %max, %min\n\
    %scale: f32[] = div %range, %steps\n%both: f32[] = mul %scale, %ws\n%flat: bool[] = equal %scale, %zero\n\
    %by: f32[] = where %flat, %one, %scale\n%q: f32[] = div %min, %by\n%n: f32[] = neg %q\n%r: f32[] = round %n\n\
    %c: f32[] = clip %r, %zero, %steps\n%point: u8[] = cast %c {to=u8}\n%y: u8[N,6] = quantize %x, %by, %point\n\
    %wide: i32[N,6] = cast %y {to=i32}\n%pw: i32[] = cast %point {to=i32}\n%a: i32[N,6] = sub %wide, %pw\n\
    %ww: i32[6,3] = cast %w {to=i32}\n%zw: i32[] = cast %wz {to=i32}\n%b: i32[6,3] = sub %ww, %zw\n\
    %p: i32[N,3] = matmul %a, %b\n%pf: f32[N,3] = cast %p {to=f32}\n%f: f32[N,3] = mul %pf, %both\n}";

#[test]
fn what_fell_apart_is_put_together() {
    let g = graph(INTEGERS);
    let expected = ["DynamicQuantizeLinear", "Mul", "MatMulInteger", "Cast", "Mul"];
    assert_eq!(operators(&written(&g)), expected);
    let back = same_after(&g, 3).unwrap();
    assert_eq!(operators(&written(&back)), expected);
    // Folding turns weights into numbers of 32 bits; they are written as the 8 that they fit in.
    let mut folded = g.clone();
    Pipeline::by_name("default").unwrap().run(&mut folded, &OptOptions::default()).unwrap();
    let m = written(&folded);
    assert!(operators(&m).contains(&"DynamicQuantizeLinear"), "{:?}", operators(&m));
    let inputs = random_inputs(&g, &mut Draw::seeded(5, 4096));
    compare(&g, &again(&folded), &inputs, Numerics::Reassociates).unwrap();
}

#[test]
fn convolutions_of_integers_have_an_operator_of_their_own() {
    let g = graph(
        "graph @g(%x: u8[1,2,4,4], %xz: u8[]) -> (%y) {\n%w: i8[3,2,3,3] = const @\"any\"\n%wz: i8[3] = const [1, 0, 2]\n\
         %shape: i64[4] = const [-1, 1, 1, 1]\n%xw: i32[1,2,4,4] = cast %x {to=i32}\n%xzw: i32[] = cast %xz {to=i32}\n\
         %a: i32[1,2,4,4] = sub %xw, %xzw\n%ww: i32[3,2,3,3] = cast %w {to=i32}\n%zw: i32[3] = cast %wz {to=i32}\n\
         %z4: i32[3,1,1,1] = reshape %zw, %shape\n%b: i32[3,2,3,3] = sub %ww, %z4\n\
         %y: i32[1,3,4,4] = conv %a, %b {pads=[1,1,1,1]}\n}",
    );
    assert_eq!(operators(&written(&g)), ["ConvInteger"]);
    same_after(&g, 1).unwrap();
}

#[test]
fn quantized_weights_keep_their_bits() {
    let g = graph(
        "graph @g(%x: f32[N,4]) -> (%y, %z) {\n%w: i4[4,2] = const [1, -8, 7, 3, -2, 5, 0, -1]\n\
         %s: f32[2,2] = const [0.5, 0.25, 1.0, 2.0]\n%f: f32[4,2] = dequantize %w, %s {axis=0, block_size=2}\n\
         %y: f32[N,2] = matmul %x, %f\n%v: u4[4] = const [1, 15, 7, 3]\n%p: f32[] = const [0.5]\n%o: u4[] = const [8]\n\
         %h: f32[4] = dequantize %v, %p, %o\n%z: f32[N,4] = mul %x, %h\n}",
    );
    let m = written(&g);
    let types: Vec<i32> = m.graph.iter().flat_map(|g| g.initializer.iter().map(|t| t.data_type)).collect();
    assert_eq!(types, [22, 1, 21, 1, 21]);
    assert_eq!(m.opset_import[0].version, 21);
    assert!(same_after(&g, 1).unwrap().same_as(&again(&again(&g))));
}

#[test]
fn bodies_see_what_they_capture() {
    let g = graph(
        "graph @g(%c: bool[], %x: f32[3], %n: i64[]) -> (%y, %z, %rows) {\n%one: f32[3] = const [1, 2, 3]\n\
         %h: f32[3] = neg %x\n\
         %y: f32[3] = if %c, %h, %x {then_branch=graph @t(%a: f32[3]) -> (%a) {}, else_branch=graph @e(%b: f32[3]) -> (%0) {\n\
         %k: f32[3] = const [4, 5, 6]\n%0: f32[3] = add %b, %k\n}, then_inputs=1}\n\
         %z: f32[3], %rows: f32[?,3] = loop %n, %c, %one, %h {body=graph @b(%i: i64[], %go: bool[], %s: f32[3], %u: f32[3]) \
         -> (\"0\"=%go, \"1\"=%t, \"2\"=%t) {\n%t: f32[3] = add %s, %u\n}, carried=1}\n}",
    );
    same_after(&g, 1).unwrap();
}

#[test]
fn what_the_file_says_of_itself_is_kept() {
    let m = written(&graph("graph @net(%x: f32[batch,2]) -> (%y) {\n%y: f32[batch,2] = relu %x !\"act\"\n}"));
    assert_eq!((m.producer_name.as_str(), m.doc_string.as_str()), ("tensormill", "what it is"));
    assert_eq!(m.metadata_props.len(), 1);
    let g = m.graph.unwrap();
    assert_eq!((g.name.as_str(), g.node[0].name.as_str()), ("net", "act"));
}

#[test]
fn every_node_that_cannot_be_written_is_listed() {
    let g = graph(
        "graph @g(%t: f32[1,1,2,2], %s: f32[4], %k: str[2], %x: str[2]) -> (%a, %b, %c) {\n\
         %a: f32[1,1,?,?] = resize %t, _, %s {nearest=simple} !\"up\"\n%b: f32[1,1,2,2] = relu %t\n\
         %d: str[] = const [\"none\"]\n%c: str[2] = lookup %x, %k, %k, %d\n}",
    );
    let Err(WriteError::Unwritable(nodes)) = onnx::write(&g, &BTreeMap::new()) else { panic!("was written") };
    assert_eq!(nodes.iter().map(|n| n.op).collect::<Vec<_>>(), ["resize", "lookup"]);
    assert_eq!(nodes[0].node, "up");
}

#[test]
fn large_models_keep_their_weights_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let g = graph(
        "graph @g(%x: f32[N,64]) -> (%y) {\n%w: f32[64,64] = const @\"any\"\n%c: f32[64] = const @\"any\"\n\
         %p: f32[N,64] = matmul %x, %w\n%y: f32[N,64] = add %p, %c\n}",
    );
    let mut options = WriteOptions::default();
    options.max_bytes = 1000;
    onnx::write_file(&path, &g, &metadata(), &options).unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("m.onnx.data")).unwrap().len(), 64 * 64 * 4);
    assert!(std::fs::metadata(&path).unwrap().len() < 2000);
    let model = onnx::parse_file(&path, &ParseLimits::default()).unwrap();
    let back = onnx::lower(&model).unwrap().graph;
    let inputs = random_inputs(&g, &mut Draw::seeded(5, 4096));
    compare(&g, &back, &inputs, Numerics::Exact).unwrap();
    // What fails leaves both files alone.
    let other = dir.path().join("folder.onnx");
    std::fs::create_dir(&other).unwrap();
    assert!(onnx::write_file(&other, &g, &metadata(), &options).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

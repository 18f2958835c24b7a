//! Bodies on their way into the graph: what they capture, and from how far out.
#![cfg(feature = "onnx")]

use bytes::Bytes;
use prost::Message;
use tensormill_formats::{
    external::ExternalData,
    onnx::{LowerError, ParseLimits, lower, parse, proto::*},
};
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{Tensor, Value};

fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim =
        dims.iter().map(|&d| Dimension { value: Some(DimensionValue::Size(d)), ..Dimension::default() });
    let tensor = TensorType { elem_type, shape: Some(TensorShapeProto { dim: dim.collect() }) };
    let ty = TypeProto { value: Some(TypeValue::Tensor(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn node(op: &str, input: &[&str], output: &[&str], bodies: Vec<(&str, GraphProto)>) -> NodeProto {
    let attribute = |(name, g): (&str, GraphProto)| AttributeProto {
        name: name.into(),
        r#type: 5,
        g: Some(g.into()),
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: op.into(),
        input: input.iter().map(|s| (*s).into()).collect(),
        output: output.iter().map(|s| (*s).into()).collect(),
        attribute: bodies.into_iter().map(attribute).collect(),
        ..NodeProto::default()
    }
}

fn graph(input: Vec<ValueInfoProto>, node: Vec<NodeProto>, output: &[&str]) -> GraphProto {
    let bare = |name: &&str| ValueInfoProto { name: (*name).into(), ..ValueInfoProto::default() };
    GraphProto {
        name: "g".into(),
        input,
        node,
        output: output.iter().map(bare).collect(),
        ..GraphProto::default()
    }
}

fn i64s(name: &str, dims: &[i64], v: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 7,
        raw_data: Some(Bytes::from(v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())),
        ..TensorProto::default()
    }
}

fn run(graph: GraphProto, inputs: &[Value]) -> Result<Vec<Vec<i64>>, LowerError> {
    let model = ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 21 }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let model = parse(model.encode_to_vec().into(), &ParseLimits::default(), ExternalData::deny()).unwrap();
    let lowered = lower(&model)?;
    lowered.graph.verify().unwrap();
    let back = tensormill_ir::text::parse(&lowered.graph.to_string()).unwrap();
    assert!(back.same_as(&lowered.graph));
    let outputs = interpret(&lowered.graph, inputs, &EvalLimits::default()).unwrap();
    Ok(outputs.iter().map(|v| v.as_tensor().unwrap().to_i64_vec().unwrap()).collect())
}

fn scalar(v: i64) -> Value {
    Tensor::scalar(v).into()
}

/// A loop around a branch: the branch uses the main graph's input and constant two levels up, one of
/// the loop's own values, and both branches define the same name.
#[test]
fn captures_from_two_levels_up() {
    let branch = |op: &str| {
        graph(
            vec![],
            vec![node(op, &["v", "x"], &["t"], vec![]), node("Add", &["t", "ten"], &["u"], vec![])],
            &["u"],
        )
    };
    let body = graph(
        vec![value("i", 7, &[]), value("go", 9, &[]), value("v", 7, &[])],
        vec![
            node("Less", &["i", "two"], &["early"], vec![]),
            node(
                "If",
                &["early"],
                &["w"],
                vec![("then_branch", branch("Add")), ("else_branch", branch("Mul"))],
            ),
            node("Identity", &["go"], &["on"], vec![]),
        ],
        &["on", "w", "w"],
    );
    let mut main = graph(
        vec![value("x", 7, &[]), value("n", 7, &[])],
        vec![node("Loop", &["n", "", "x"], &["y", "all"], vec![("body", body)])],
        &["y", "all"],
    );
    main.initializer = vec![i64s("two", &[], &[2]), i64s("ten", &[], &[10])];
    let got = run(main, &[scalar(3), scalar(4)]).unwrap();
    let (mut v, mut all) = (3, vec![]);
    for i in 0..4 {
        v = if i < 2 { v + 3 } else { v * 3 } + 10;
        all.push(v);
    }
    assert_eq!(got, [vec![v], all]);
}

/// The file declares the sizes of the first trip; what the body does with them must not depend on that.
#[test]
fn sizes_that_a_body_declares_are_not_believed() {
    let body = graph(
        vec![value("i", 7, &[]), value("go", 9, &[]), value("v", 7, &[1])],
        vec![
            node("Shape", &["v"], &["s"], vec![]),
            node("Concat", &["v", "s"], &["w"], vec![]),
            node("Identity", &["go"], &["on"], vec![]),
        ],
        &["on", "w"],
    );
    let mut body = body;
    body.node[1].attribute.push(AttributeProto {
        name: "axis".into(),
        r#type: 2,
        i: Some(0),
        ..AttributeProto::default()
    });
    body.value_info = vec![value("w", 7, &[2])];
    let main = graph(
        vec![value("x", 7, &[1]), value("n", 7, &[])],
        vec![node("Loop", &["n", "", "x"], &["y"], vec![("body", body)])],
        &["y"],
    );
    let x = Tensor::from_vec([1], vec![7i64]).unwrap().into();
    assert_eq!(run(main, &[x, scalar(4)]).unwrap(), [vec![7, 1, 2, 3, 4]]);
}

/// Every level changes the rank of what it carries; reading all of them again at every level would take
/// three to the power of their number.
#[test]
fn deep_loops_that_change_sizes_end() {
    let mut inner: Option<GraphProto> = None;
    for level in 0..14 {
        let (v, w, u) = (format!("v{level}"), format!("w{level}"), format!("u{level}"));
        let (i, go, on) = (format!("i{level}"), format!("go{level}"), format!("on{level}"));
        let mut nodes = vec![node("Unsqueeze", &[&v, "axis"], &[&u], vec![])];
        match inner.take() {
            Some(g) => nodes.push(node("Loop", &["n", "", &u], &[&w], vec![("body", g)])),
            None => nodes.push(node("Identity", &[&u], &[&w], vec![])),
        }
        nodes.push(node("Identity", &[&go], &[&on], vec![]));
        let inputs = vec![value(&i, 7, &[]), value(&go, 9, &[]), value(&v, 7, &[1])];
        inner = Some(graph(inputs, nodes, &[&on, &w]));
    }
    let mut main = graph(
        vec![value("x", 7, &[1]), value("n", 7, &[])],
        vec![node("Loop", &["n", "", "x"], &["y"], vec![("body", inner.unwrap())])],
        &["y"],
    );
    main.initializer = vec![i64s("axis", &[1], &[0])];
    let x = Tensor::from_vec([1], vec![7i64]).unwrap().into();
    match run(main, &[x, scalar(1)]) {
        Ok(y) => assert_eq!(y, [vec![7]]),
        Err(e) => assert!(e.is_unsupported(), "{e}"),
    }
}

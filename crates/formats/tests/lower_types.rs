//! Types that a file declares, beside what follows from its nodes.
#![cfg(feature = "onnx")]

use prost::Message;
use tensormill_formats::{
    external::ExternalData,
    onnx::{ParseLimits, lower, parse, proto::*},
};

fn value(name: &str, sizes: &[&str]) -> ValueInfoProto {
    let dim = |s: &&str| Dimension {
        value: Some(s.parse().map_or_else(|_| DimensionValue::Name((*s).into()), DimensionValue::Size)),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: sizes.iter().map(dim).collect() };
    let tensor = TensorType { elem_type: 1, shape: Some(shape) };
    let ty = TypeProto { value: Some(TypeValue::Tensor(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// The type of `concat(a, b)`, of `[past, 4]` and `[new, 4]`, in a file that declares these sizes of it.
fn joined(declared: &[&str]) -> String {
    let axis = AttributeProto { name: "axis".into(), r#type: 2, i: Some(0), ..AttributeProto::default() };
    let concat = NodeProto {
        op_type: "Concat".into(),
        input: vec!["a".into(), "b".into()],
        output: vec!["y".into()],
        attribute: vec![axis],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: "g".into(),
        input: vec![
            value("a", &["past", "4"]),
            value("b", &["new", "4"]),
            value("c", &["all"]),
            value("mask", &["past + new", "more + new"]),
        ],
        node: vec![concat],
        output: vec![value("y", declared)],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: 18, ..OperatorSetIdProto::default() };
    let model =
        ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() };
    let model = parse(model.encode_to_vec().into(), &ParseLimits::default(), ExternalData::deny()).unwrap();
    let graph = lower(&model).unwrap().graph;
    let mask = graph.ty(graph.inputs()[3]);
    assert_eq!(mask.to_string(), "f32[new+past,\"more + new\"]", "`more` is no size of an input");
    graph.ty(graph.outputs()[0].value).to_string()
}

/// Exporters name what they do not know. Two values of one size would not be seen to be alike if such names took the
/// place of what their size is made of.
#[test]
fn a_name_that_no_input_has_tells_less_than_what_was_inferred() {
    assert_eq!(joined(&["total", "4"]), joined(&["past + new", "4"]));
    assert_eq!(joined(&["total", "unk__7"]), "f32[new+past,4]");
    assert_eq!(joined(&["past + new", "4"]), "f32[new+past,4]");
}

#[test]
fn what_tells_more_is_believed() {
    assert_eq!(joined(&["9", "4"]), "f32[9,4]");
    assert_eq!(joined(&["all", "4"]), "f32[all,4]");
}

//! Files made to hurt: each must give an error that says where, and cost next to nothing.
#![cfg(feature = "onnx")]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tensormill_formats::{
    external::ExternalData,
    onnx::{Model, OnnxError, ParseLimits, Warning, parse, parse_file, proto::*},
};

fn load(bytes: impl Into<Bytes>) -> Result<Model, OnnxError> {
    parse(bytes.into(), &ParseLimits::default(), ExternalData::deny())
}

fn load_proto(model: &ModelProto) -> Result<Model, OnnxError> {
    load(model.encode_to_vec())
}

fn tensor(name: &str) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![2, 2],
        data_type: 1,
        raw_data: Some(Bytes::from_static(&[7; 16])),
        ..TensorProto::default()
    }
}

fn node(op: &str, domain: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        domain: domain.into(),
        name: format!("a_{op}"),
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        attribute,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type, ..AttributeProto::default() }
}

fn graph_attribute(graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph.into()), ..attribute("body", 5) }
}

fn tensor_attribute(t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t.into()), ..attribute("value", 4) }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version }
}

fn function(name: &str, node: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "f".into(),
        node,
        opset_import: vec![opset("", 21), opset("f", 1)],
        ..FunctionProto::default()
    }
}

fn with_graph(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        opset_import: vec![opset("", 21), opset("f", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn valid() -> ModelProto {
    let shape = TensorShapeProto {
        dim: vec![
            Dimension { value: Some(DimensionValue::Size(2)), ..Dimension::default() },
            Dimension { value: Some(DimensionValue::Name("N".into())), ..Dimension::default() },
        ],
    };
    let r#type = TypeProto {
        value: Some(TypeValue::Tensor(TensorType { elem_type: 1, shape: Some(shape) })),
        ..TypeProto::default()
    };
    let value = |name: &str| ValueInfoProto {
        name: name.into(),
        r#type: Some(r#type.clone()),
        ..ValueInfoProto::default()
    };
    let body =
        GraphProto { node: vec![node("Relu", "", vec![])], name: "body".into(), ..GraphProto::default() };
    let ints = AttributeProto { ints: vec![-1, 1], ..attribute("axes", 7) };
    let mut model = with_graph(GraphProto {
        name: "main".into(),
        node: vec![
            node("MatMul", "", vec![]),
            node("Reduce", "", vec![ints, tensor_attribute(tensor(""))]),
            node("If", "", vec![graph_attribute(body)]),
            node("Twice", "f", vec![]),
        ],
        input: vec![value("x")],
        output: vec![value("y")],
        initializer: vec![tensor("w")],
        ..GraphProto::default()
    });
    model.functions = vec![function("Twice", vec![node("Add", "", vec![])])];
    model.training_info = vec![Bytes::from_static(b"\x0a\x00")];
    model
}

#[test]
fn a_valid_model_survives_a_round_trip() {
    let model = load_proto(&valid()).unwrap();
    assert_eq!(model.proto(), &valid());
    assert_eq!(
        (model.opsets().get("ai.onnx"), model.opsets().get("f"), model.opsets().get("g")),
        (Some(21), Some(1), None)
    );
    assert!(model.warnings().is_empty());
}

#[test]
fn weights_are_shared_with_the_file() {
    let bytes = Bytes::from(valid().encode_to_vec());
    let model = parse(bytes.clone(), &ParseLimits::default(), ExternalData::deny()).unwrap();
    let t = model.tensor(&model.graph().initializer[0], &"w").unwrap();
    assert!(bytes.as_ptr_range().contains(&t.bytes().as_ptr()));
}

#[test]
fn cut_off_models_are_refused() {
    let bytes = Bytes::from(with_graph(valid().graph.unwrap()).encode_to_vec());
    for length in (0..64).map(|i| i * bytes.len() / 64).chain(0..bytes.len().min(64)) {
        assert!(load(bytes.slice(..length)).is_err(), "the first {length} bytes");
    }
    // With functions and more after the operator sets, a cut between two fields leaves a smaller model.
    let bytes = Bytes::from(valid().encode_to_vec());
    let whole = (0..bytes.len()).filter(|&length| load(bytes.slice(..length)).is_ok()).count();
    assert!(whole <= 3, "{whole} lengths were taken for a whole model");
}

#[test]
fn no_byte_of_a_model_can_crash_the_reader() {
    let bytes = valid().encode_to_vec();
    for at in 0..bytes.len() {
        for value in
            [0, 1, 0x0a, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x80, bytes[at].wrapping_add(8)]
        {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let _ = load(bytes);
        }
    }
}

proptest! {
    #[test]
    fn noise_cannot_crash_the_reader(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0..400usize) {
        let _ = load(noise.clone());
        let mut bytes = valid().encode_to_vec();
        let at = at.min(bytes.len());
        bytes.splice(at..at, noise);
        let _ = load(bytes);
    }
}

fn wire_error(bytes: &[u8]) -> (String, usize, String) {
    match load(bytes.to_vec()) {
        Err(OnnxError::Wire { at, offset, what }) => (at, offset, what),
        other => panic!("expected a wire error, got {other:?}"),
    }
}

#[test]
fn malformed_fields_are_named() {
    let (at, offset, what) =
        wire_error(&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    assert_eq!((&at[..], offset), ("ModelProto.ir_version", 1));
    assert!(what.contains("64 bits"));
    // A node whose name claims 100 bytes: ModelProto.graph > node > name.
    let (at, _, what) = wire_error(&[0x3a, 4, 0x0a, 2, 0x1a, 100]);
    assert_eq!(at, "ModelProto.graph[0].node[0].name");
    assert!(what.contains("100 where 0"));
    assert!(
        wire_error(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])
            .2
            .contains("are left")
    );
    assert!(wire_error(&[0x3a, 3, 0x12, 1, 0xff]).2.contains("UTF-8"));
    assert!(wire_error(&[0x00]).2.contains("field number"));
    assert!(wire_error(&[0x0b]).2.contains("wire type 3"));
    assert!(wire_error(&[0x0d, 0, 0, 0, 0]).2.contains("does not fit"));
    assert!(wire_error(&[0x09, 0, 0]).2.contains("cuts off"));
}

#[test]
fn other_files_are_refused() {
    assert!(matches!(load(&b""[..]), Err(OnnxError::NoGraph)));
    for bytes in [&b"\x08"[..], b"{\"a\": 1}", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", &[0; 64], &[0xff; 64]] {
        assert!(load(bytes).is_err());
    }
    let dir = tempfile::tempdir().unwrap();
    let e = parse_file(dir.path(), &ParseLimits::default()).unwrap_err();
    assert!(e.to_string().contains(&dir.path().display().to_string()));
    assert!(parse_file(&dir.path().join("absent.onnx"), &ParseLimits::default()).is_err());
}

#[test]
fn unknown_fields_are_reported() {
    let mut bytes = valid().encode_to_vec();
    bytes.extend([0xf8, 0x01, 5, 0xf8, 0x01, 6]);
    assert_eq!(load(bytes).unwrap().warnings(), [Warning::UnknownField { message: "ModelProto", field: 31 }]);
}

#[test]
fn unknown_versions_are_refused() {
    for v in [-1, 0, 2, 15, i64::MAX] {
        let e = load_proto(&ModelProto { ir_version: v, ..valid() }).unwrap_err();
        assert!(matches!(e, OnnxError::IrVersion { found, .. } if found == v));
    }
    for v in [-1, 0, 29, 999, i64::MAX] {
        let e = load_proto(&ModelProto { opset_import: vec![opset("ai.onnx", v)], ..valid() }).unwrap_err();
        assert!(matches!(e, OnnxError::Opset { found, .. } if found == v));
    }
    for imports in [vec![], vec![opset("f", 1)]] {
        let e = load_proto(&ModelProto { opset_import: imports, ..valid() }).unwrap_err();
        assert!(matches!(e, OnnxError::NoOpset { .. }));
    }
    let twice = vec![opset("", 13), opset("ai.onnx", 14)];
    assert!(matches!(
        load_proto(&ModelProto { opset_import: twice, ..valid() }),
        Err(OnnxError::OpsetTwice { .. })
    ));
    assert!(matches!(load_proto(&ModelProto { graph: None, ..valid() }), Err(OnnxError::NoGraph)));
    let mut model = valid();
    model.functions[0].opset_import.clear();
    assert!(matches!(load_proto(&model), Err(OnnxError::NoOpset { at }) if at.contains("f::Twice")));
}

/// A model of `depth` bodies inside each other, encoded from the inside out.
fn nested(depth: usize) -> Vec<u8> {
    let wrap = |tag: u8, inner: Vec<u8>| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        [out, inner].concat()
    };
    let graph = (0..depth).fold(vec![], |inner, _| {
        // GraphProto.node, NodeProto.attribute, then name, type GRAPH and AttributeProto.g.
        let attribute = [b"\x0a\x01b\xa0\x01\x05".to_vec(), wrap(0x32, inner)].concat();
        wrap(0x0a, wrap(0x2a, attribute))
    });
    [b"\x08\x0a\x42\x02\x10\x15".to_vec(), wrap(0x3a, graph)].concat()
}

#[test]
fn nested_bodies_are_limited() {
    assert!(load(nested(16)).is_ok());
    assert!(matches!(load(nested(17)), Err(OnnxError::Limit { field: "max_nesting", limit: 16, .. })));
    assert!(matches!(load(nested(10_000)), Err(OnnxError::Limit { field: "max_nesting", .. })));
    let mut limits = ParseLimits::default();
    limits.max_nesting = u64::MAX;
    let load = |depth| parse(nested(depth).into(), &limits, ExternalData::deny());
    assert!(load(30).is_ok());
    assert!(matches!(load(10_000), Err(OnnxError::Wire { .. })));
}

#[test]
fn nested_types_are_limited() {
    let deep = (0..10_000).fold(vec![], |inner: Vec<u8>, _| {
        // TypeProto.sequence_type, TypeProto.Sequence.elem_type.
        let wrap = |tag: u8, inner: Vec<u8>| {
            let mut out = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            [out, inner].concat()
        };
        wrap(0x22, wrap(0x0a, inner))
    });
    let mut info = vec![0x12];
    prost::encoding::encode_varint(deep.len() as u64, &mut info);
    info.extend(deep);
    let mut graph = vec![0x5a];
    prost::encoding::encode_varint(info.len() as u64, &mut graph);
    graph.extend(info);
    let mut model = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut model);
    model.extend(graph);
    assert!(wire_error(&model).2.contains("deep"));
}

#[test]
fn many_tiny_messages_are_limited_before_they_are_decoded() {
    // Two bytes each, and two hundred and more once decoded.
    let mut graph = vec![0x3a];
    let count = 1_500_000;
    prost::encoding::encode_varint(2 * count, &mut graph);
    graph.extend([0x0a, 0].repeat(count as usize));
    assert!(matches!(load(graph.clone()), Err(OnnxError::Limit { field: "max_nodes", .. })));
    // The same as initializers.
    let at = graph.len() - 2 * count as usize;
    graph[at..].chunks_mut(2).for_each(|c| c[0] = 0x2a);
    let mut limits = ParseLimits::default();
    limits.max_decoded_bytes = 100 << 20;
    let e = parse(graph.into(), &limits, ExternalData::deny()).unwrap_err();
    assert!(matches!(e, OnnxError::Limit { field: "max_decoded_bytes", .. }));
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let call = |name: &str| node(name, "f", vec![]);
    let hidden = |name: &str| {
        let body = GraphProto { node: vec![call(name)], ..GraphProto::default() };
        node("If", "", vec![graph_attribute(body)])
    };
    for functions in [
        vec![function("A", vec![call("A")])],
        vec![function("A", vec![call("B")]), function("B", vec![call("A")])],
        vec![
            function("A", vec![hidden("B")]),
            function("B", vec![call("C")]),
            function("C", vec![hidden("A")]),
        ],
    ] {
        let e = load_proto(&ModelProto { functions, ..with_graph(GraphProto::default()) }).unwrap_err();
        assert!(matches!(e, OnnxError::Recursion { .. }) && e.to_string().contains("`f::A`"), "{e}");
    }
    let default = GraphProto { node: vec![call("A")], ..GraphProto::default() };
    let by_default =
        FunctionProto { attribute_proto: vec![graph_attribute(default)], ..function("A", vec![]) };
    let by_default = ModelProto { functions: vec![by_default], ..with_graph(GraphProto::default()) };
    assert!(matches!(load_proto(&by_default), Err(OnnxError::Recursion { .. })));
    let twice = ModelProto { functions: vec![function("A", vec![]); 2], ..valid() };
    assert!(matches!(load_proto(&twice), Err(OnnxError::FunctionTwice { .. })));
    // A long chain without a cycle is fine, and walked without recursion.
    let chain = (0..20_000).map(|i| function(&format!("F{i}"), vec![call(&format!("F{}", i + 1))])).collect();
    assert!(load_proto(&ModelProto { functions: chain, ..with_graph(GraphProto::default()) }).is_ok());
}

#[test]
fn functions_cannot_multiply_without_bound() {
    let call = |i: usize| node(&format!("F{i}"), "f", vec![]);
    let functions = (0..60).map(|i| function(&format!("F{i}"), vec![call(i + 1), call(i + 1)])).collect();
    let main = GraphProto { node: vec![call(0)], ..GraphProto::default() };
    let e = load_proto(&ModelProto { functions, ..with_graph(main) }).unwrap_err();
    assert!(matches!(e, OnnxError::Limit { field: "max_nodes", .. }), "{e}");
}

/// Models that hold `t` in each place that can hold a tensor.
fn everywhere(t: &TensorProto) -> Vec<(&'static str, ModelProto)> {
    let constant = || node("Constant", "", vec![tensor_attribute(t.clone())]);
    let indices = TensorProto { dims: vec![1], data_type: 7, int64_data: vec![0], ..TensorProto::default() };
    let sparse = SparseTensorProto { values: Some(t.clone()), indices: Some(indices), dims: vec![4] };
    let main = GraphProto::default;
    let initializer = GraphProto { initializer: vec![t.clone()], ..main() };
    let default =
        FunctionProto { attribute_proto: vec![tensor_attribute(t.clone())], ..function("A", vec![]) };
    let function = function("A", vec![constant()]);
    vec![
        ("sparse_initializer", with_graph(GraphProto { sparse_initializer: vec![sparse], ..main() })),
        ("attribute `value`", with_graph(GraphProto { node: vec![constant()], ..main() })),
        (
            "attribute `body`",
            with_graph(GraphProto {
                node: vec![node("If", "", vec![graph_attribute(initializer.clone())])],
                ..main()
            }),
        ),
        ("function `f::A`", ModelProto { functions: vec![function], ..with_graph(main()) }),
        ("function `f::A`, attribute", ModelProto { functions: vec![default], ..with_graph(main()) }),
        ("graph.initializer[0]", with_graph(initializer)),
    ]
}

#[test]
fn bad_tensors_are_found_wherever_they_are() {
    let good = TensorProto { dims: vec![4], ..tensor("w") };
    for bad in [
        TensorProto { raw_data: Some(Bytes::from_static(&[0; 15])), ..good.clone() },
        TensorProto { float_data: vec![0.0; 4], ..good.clone() },
        TensorProto { dims: vec![-4], ..good.clone() },
        TensorProto { dims: vec![i64::MAX, i64::MAX], ..good.clone() },
        TensorProto { data_type: 99, ..good.clone() },
    ] {
        for (place, model) in everywhere(&bad) {
            let e = load_proto(&model).unwrap_err();
            assert!(matches!(e, OnnxError::Tensor { .. }), "{place}: {e}");
            assert!(e.to_string().contains(place) && e.to_string().contains("`w`"), "{place}: {e}");
        }
    }
}

#[test]
fn external_paths_are_checked_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(dir.path().join("secret"), [0; 64]).unwrap();
    std::fs::write(folder.join("w.bin"), [0; 64]).unwrap();
    let secret = dir.path().join("secret").to_str().unwrap().to_owned();
    let mut attacks = vec![
        "",
        ".",
        "../secret",
        "/etc/hostname",
        &secret,
        "C:\\w.bin",
        "a\\..\\..\\secret",
        "w.bin\0",
        "absent",
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret", folder.join("soft")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("up")).unwrap();
        std::fs::hard_link(dir.path().join("secret"), folder.join("hard")).unwrap();
        attacks.extend(["soft", "up/secret", "hard"]);
    }
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let at = |location: &str, offset: &str| TensorProto {
        dims: vec![4],
        raw_data: None,
        data_location: 1,
        external_data: vec![entry("location", location), entry("offset", offset)],
        ..tensor("w")
    };
    let path = folder.join("m.onnx");
    let load = |model: &ModelProto| {
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        parse_file(&path, &ParseLimits::default())
    };
    let refused = |t: &TensorProto| {
        for (place, model) in everywhere(t) {
            let e = load(&model).expect_err(place);
            assert!(e.to_string().contains(place) && e.to_string().contains("m.onnx"), "{place}: {e}");
            let OnnxError::File { source, .. } = e else { panic!("{place}: the file is not named") };
            assert!(matches!(*source, OnnxError::External { .. }), "{place}: {source}");
        }
    };
    for attack in attacks {
        refused(&at(attack, "0"));
    }
    for offset in ["49", "64", "65", "18446744073709551615", "18446744073709551600"] {
        refused(&at("w.bin", offset));
    }
    for (place, model) in everywhere(&at("w.bin", "48")) {
        // A sparse tensor has one index here and four values, which only its reading finds.
        assert!(load(&model).is_ok(), "{place}");
        let e = load_proto(&model).unwrap_err();
        assert!(e.to_string().contains("ExternalPolicy"), "{e}");
    }
    let mut summed = at("w.bin", "0");
    summed.external_data.push(entry("checksum", "00"));
    let model = with_graph(GraphProto { initializer: vec![summed; 3], ..GraphProto::default() });
    assert_eq!(load(&model).unwrap().warnings(), [Warning::UncheckedChecksum { location: "`w.bin`".into() }]);
}

#[test]
fn attributes_must_hold_what_they_say() {
    let int = AttributeProto { i: Some(1), ..attribute("a", 2) };
    for bad in [
        attribute("a", 0),
        attribute("a", 15),
        attribute("a", -1),
        attribute("a", 4),
        attribute("a", 5),
        AttributeProto { r#type: 1, ..int.clone() },
        AttributeProto { floats: vec![1.0], ..int.clone() },
        AttributeProto { ref_attr_name: "b".into(), ..int.clone() },
        AttributeProto { r#type: 0, f: Some(1.0), ..int.clone() },
    ] {
        let model =
            with_graph(GraphProto { node: vec![node("Op", "", vec![bad.clone()])], ..GraphProto::default() });
        let e = load_proto(&model).expect_err("a wrong attribute");
        assert!(matches!(e, OnnxError::Attribute { .. }), "{e}");
        assert!(e.to_string().starts_with("graph.node[0] `a_Op` (Op), attribute `a`: "), "{e}");
    }
    let twice =
        with_graph(GraphProto { node: vec![node("Op", "", vec![int.clone(); 2])], ..GraphProto::default() });
    assert!(load_proto(&twice).is_err());
    let untyped = AttributeProto { r#type: 0, ..int };
    assert!(
        load_proto(&with_graph(GraphProto {
            node: vec![node("Op", "", vec![untyped])],
            ..GraphProto::default()
        }))
        .is_ok()
    );
}

#[test]
fn long_and_wild_names_stay_harmless() {
    let mut model = valid();
    let graph = model.graph.as_mut().unwrap();
    graph.node[0].name = "n".repeat(1 << 20);
    graph.initializer[0].name = "\x1b]0;owned\x07".repeat(1 << 16);
    assert!(load_proto(&model).is_ok());
    model.graph.as_mut().unwrap().initializer[0].raw_data = Some(Bytes::from_static(&[1]));
    let message = load_proto(&model).unwrap_err().to_string();
    assert!(message.len() < 1000 && !message.contains(char::is_control), "{message:?}");
    // A name that is no UTF-8, deep inside.
    let mut bytes = valid().encode_to_vec();
    let at = bytes.windows(8).position(|w| w == b"a_MatMul").unwrap();
    bytes[at] = 0xff;
    let e = load(bytes).unwrap_err().to_string();
    assert!(e.contains("ModelProto.graph[0].node[0].name") && e.contains("UTF-8"), "{e}");
}

#[test]
fn sparse_tensors_cannot_grow_without_bound() {
    let values = TensorProto { dims: vec![0], data_type: 1, ..TensorProto::default() };
    let indices = TensorProto { dims: vec![0], data_type: 7, ..TensorProto::default() };
    let sparse =
        |dims| SparseTensorProto { values: Some(values.clone()), indices: Some(indices.clone()), dims };
    let load = |sparse_initializer| {
        load_proto(&with_graph(GraphProto { sparse_initializer, ..GraphProto::default() }))
    };
    assert!(load(vec![sparse(vec![1 << 20])]).is_ok());
    assert!(matches!(
        load(vec![sparse(vec![1 << 40])]),
        Err(OnnxError::Limit { field: "max_dense_bytes", .. })
    ));
    assert!(matches!(load(vec![sparse(vec![1 << 20]); 300]), Err(OnnxError::Limit { .. })));
    assert!(matches!(load(vec![SparseTensorProto::default()]), Err(OnnxError::Tensor { .. })));
}

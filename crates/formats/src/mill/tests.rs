use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tensormill_ir::{Dim, Graph, GraphBuilder, Type, ops::BinaryKind};
use tensormill_tensor::{DType, Tensor};

/// A graph with a large constant of every type.
fn every_type() -> Graph {
    let mut b = GraphBuilder::new("every type");
    let x = b.input("x", Type::tensor(DType::F32, [Dim::symbol("N"), 33.into()])).unwrap();
    for &d in DType::ALL {
        let t = if d == DType::Str {
            Tensor::from_strings([33], (0..33).map(|i| format!("s\"{i}\n\u{1b}")).collect()).unwrap()
        } else {
            let n = d.bytes_for(33).unwrap();
            // Bools of 0 and 1; elsewhere every bit pattern is a value, and unused bits stay 0.
            let byte = |i: usize| if d == DType::Bool { (i % 2) as u8 } else { (i * 37 % 251) as u8 };
            let mut raw: Vec<u8> = (0..n).map(byte).collect();
            if d.bits() < 8 {
                *raw.last_mut().unwrap() &= (1 << d.bits()) - 1;
            }
            Tensor::from_bytes(d, [33], raw.into()).unwrap()
        };
        let c = b.constant(t).unwrap();
        b.name(c, &format!("w.{d}")).unwrap();
        b.output(&format!("out {d}"), c).unwrap();
    }
    let w = b.constant(Tensor::from_vec([33], vec![0.5f32; 33]).unwrap()).unwrap();
    b.name(w, "__metadata__").unwrap();
    b.set_origin(Some("node \u{202e}1"));
    let y = b.binary(BinaryKind::Add, x, w).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

fn bytes_of(g: &Graph, metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|&(k, v)| (k.to_string(), v.to_string())).collect();
    let mut out = vec![];
    write(&mut out, g, &metadata).unwrap();
    out
}

#[test]
fn every_type_comes_back_as_it_was() {
    let g = every_type();
    let raw = bytes_of(&g, &[("producer", "a \"test\"")]);
    assert!(is_mill(&raw));
    assert_eq!(raw, bytes_of(&g, &[("producer", "a \"test\"")]), "equal graphs give equal bytes");
    let back = parse(raw.into(), &MillLimits::default()).unwrap();
    assert!(back.graph.same_as(&g));
    assert_eq!(back.metadata.get("producer").map(String::as_str), Some("a \"test\""));
    assert_eq!(back.metadata.len(), 1);
}

#[test]
fn safetensors_reads_the_file_and_tensors_are_ranges_of_it() {
    let raw = Bytes::from(bytes_of(&every_type(), &[]));
    let st = safetensors::SafeTensors::deserialize(&raw).unwrap();
    assert_eq!(st.tensor("w.f32").unwrap().shape(), [33]);
    assert_eq!(st.tensor("w.i4").unwrap().shape(), [17], "packed bytes");
    let back = parse(raw.clone(), &MillLimits::default()).unwrap();
    let w = back.graph.value_by_name("w.f32").unwrap();
    let tensor = back.graph.constant(w).unwrap();
    assert!(tensor.is_borrowed() && raw.as_ptr_range().contains(&tensor.bytes().as_ptr()));
}

#[test]
fn files_appear_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.mill");
    write_file(&path, &every_type(), &BTreeMap::new()).unwrap();
    assert!(parse_file(&path, &MillLimits::default()).unwrap().graph.same_as(&every_type()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let e = parse_file(&dir.path().join("absent"), &MillLimits::default()).unwrap_err();
    assert!(e.to_string().contains("absent"), "{e}");
    assert!(write_file(dir.path(), &every_type(), &BTreeMap::new()).is_err());
}

/// A file with this header and data.
fn file(header: &str, data: &[u8]) -> Bytes {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat().into()
}

#[test]
fn damage_is_named() {
    let limits = MillLimits::default();
    let error = |b: Bytes| parse(b, &limits).unwrap_err().to_string();
    assert!(
        error(file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]))
            .contains("no graph")
    );
    let newer = r#"{"__metadata__":{"tensormill.version":"99","tensormill.graph":"x"}}"#;
    assert!(error(file(newer, &[])).contains("version 99"));
    let graph = |tensors: &str| {
        let text = r#"graph @m() -> (%w) { %w: f32[20] = const @\"w\" }"#;
        format!(r#"{{"__metadata__":{{"tensormill.version":"1","tensormill.graph":"{text}"}}{tensors}}}"#)
    };
    assert!(error(file(&graph(""), &[])).contains("not in the file"));
    let short = r#","w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#;
    assert!(error(file(&graph(short), &[0; 12])).contains("not f32[20]"));
    let gap = r#","w":{"dtype":"F32","shape":[20],"data_offsets":[8,88]}"#;
    assert!(error(file(&graph(gap), &[0; 88])).contains("not a valid"));
    let right = r#","w":{"dtype":"F32","shape":[20],"data_offsets":[0,80]}"#;
    assert!(parse(file(&graph(right), &[0; 80]), &limits).is_ok());
    assert!(error(file(&graph(right), &[0; 81])).contains("81 are there"));
    // Ends that add up past the address space.
    let huge: String = (0..10u64)
        .map(|i| {
            let n = 1u64 << 61;
            let (s, e) = (n.wrapping_mul(i), n.wrapping_mul(i + 1));
            format!(r#","t{i}":{{"dtype":"U8","shape":[{n}],"data_offsets":[{s},{e}]}}"#)
        })
        .collect();
    assert!(error(file(&graph(&huge), &[])).contains("not a valid"));
    let tight = MillLimits { max_header_bytes: 10, ..Default::default() };
    assert!(matches!(parse(file(&graph(right), &[0; 80]), &tight), Err(MillError::Limit { .. })));
    let tight = MillLimits { max_nodes: 0, ..Default::default() };
    assert!(matches!(parse(file(&graph(right), &[0; 80]), &tight), Err(MillError::Limit { .. })));
    for n in 0..9 {
        assert!(parse(Bytes::from(vec![0xff; n]), &limits).is_err());
    }
}

#[test]
fn truncation_is_an_error_everywhere() {
    let raw = Bytes::from(bytes_of(&every_type(), &[]));
    for i in 0..64 {
        assert!(parse(raw.slice(..raw.len() * i / 64), &MillLimits::default()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn altered_files_never_panic(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut raw = bytes_of(&every_type(), &[]);
        for (i, byte) in at {
            let i = i.index(raw.len());
            raw[i] = byte;
        }
        // Either result is right; a panic is not.
        let _ = parse(raw.into(), &MillLimits::default());
    }
}

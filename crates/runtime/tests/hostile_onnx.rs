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
    assert!(Model::load(write("model.png", &relu().encode_to_vec())).is_ok());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = write("secret.onnx", &relu().encode_to_vec());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
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
}

use crate::*;
use std::{sync::Barrier, time::Duration};

fn model(text: &str) -> Model {
    Model::from_graph(tensormill_ir::text::parse(text).unwrap())
}

/// `y = relu(x) + b` over a batch, with an inner value.
fn small() -> Model {
    model(
        "graph @main(%x: f32[N,3], %b: f32[3]) -> (%y, %z) {\n\
         %inner: f32[N,3] = relu %x\n\
         %y: f32[N,3] = add %inner, %b\n\
         %z: f32[N,3] = neg %y\n}",
    )
}

fn f32s(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_vec(shape, v.to_vec()).unwrap()
}

fn inputs() -> [(&'static str, Tensor); 2] {
    [("b", f32s(&[3], &[10.0, 20.0, 30.0])), ("x", f32s(&[1, 3], &[-1.0, 2.0, 3.0]))]
}

#[test]
fn inputs_by_name_position_and_order_are_the_same() {
    let s = small().session().unwrap();
    let [(_, b), (_, x)] = inputs();
    let expected = [10.0, 22.0, 33.0];
    let runs: [Inputs<'_>; 4] = [
        inputs().into(),
        [x.clone(), b.clone()].into(),
        vec![(1usize, b.clone()), (0, x.clone())].into(),
        vec![(Key::Index(0), x), (Key::from("b"), b)].into(),
    ];
    for run in runs {
        let out = s.run(run).unwrap();
        assert_eq!(*out.tensor("y").unwrap().to_slice::<f32>().unwrap(), expected);
        assert_eq!(*out.tensor(1).unwrap().to_slice::<f32>().unwrap(), expected.map(|v: f32| -v));
        assert_eq!(out.iter().map(|o| o.0).collect::<Vec<_>>(), ["y", "z"]);
    }
}

/// A mask of one key would broadcast where one of all keys is declared, and hide nothing.
#[test]
fn sizes_made_of_others_are_what_those_make() {
    let s = model(
        "graph @main(%past: f32[P], %new: f32[N], %mask: f32[P+N]) -> (%y) {\n\
         %all: f32[P+N] = concat %past, %new {axis=0}\n\
         %y: f32[P+N] = add %all, %mask\n}",
    )
    .session()
    .unwrap();
    let run =
        |mask: usize| s.run([f32s(&[2], &[1.0; 2]), f32s(&[1], &[2.0]), f32s(&[mask], &vec![1.0; mask])]);
    assert_eq!(*run(3).unwrap().tensor("y").unwrap().to_slice::<f32>().unwrap(), [2.0, 2.0, 3.0]);
    for mask in [0, 1, 4] {
        let e = run(mask).unwrap_err().to_string();
        assert!(e.contains("mask") && e.contains(&format!("axis 0 has {mask}, but `N+P` is 3")), "{e}");
    }
}

#[test]
fn inner_values_come_after_the_outputs() {
    for level in Optimization::ALL {
        let options = SessionOptions::new().output("inner").output("y").output("inner").optimization(*level);
        let s = small().session_with(&options).unwrap();
        let out = s.run(inputs()).unwrap();
        assert_eq!(out.iter().map(|o| o.0).collect::<Vec<_>>(), ["y", "z", "inner"]);
        assert_eq!(*out.tensor("inner").unwrap().to_slice::<f32>().unwrap(), [0.0, 2.0, 3.0]);
    }
    let e = small().session_with(&SessionOptions::new().output("iner")).unwrap_err().to_string();
    assert!(e.contains("\"iner\"") && e.contains("\"inner\""), "{e}");
}

#[test]
fn wrong_inputs_say_what_is_right() {
    let s = small().session().unwrap();
    let [(_, b), (_, x)] = inputs();
    let error = |i: Inputs<'_>| s.run(i).unwrap_err();
    let e = error([("X\u{1b}[2J", x.clone())].into());
    assert!(matches!(e, Error::Name { .. }));
    assert!(e.to_string().contains("\"x\" f32[N,3]") && !e.to_string().contains('\u{1b}'), "{e}");
    assert!(error([("x", x.clone())].into()).to_string().contains("\"b\" is not given"));
    assert!(error([("x", x.clone()), ("x", x.clone())].into()).to_string().contains("twice"));
    assert!(error(vec![(7usize, x.clone())].into()).to_string().contains("no input 7"));
    let cases = [
        (Tensor::from_vec([1, 3], vec![1i64; 3]).unwrap(), "cast it to f32"),
        (f32s(&[3], &[0.0; 3]), "rank 1 instead of 2"),
        (f32s(&[1, 4], &[0.0; 4]), "4 instead of 3 on axis 1"),
    ];
    for (wrong, says) in cases {
        let e = error([("x", wrong), ("b", b.clone())].into());
        assert!(matches!(e, Error::Input { .. }) && e.to_string().contains(says), "{e}");
    }
    let list = Value::Sequence(vec![Value::Tensor(x)]);
    assert!(error(vec![("x", list), ("b", b.into())].into()).to_string().contains("a sequence was given"));
    let out = s.run(inputs()).unwrap();
    assert!(out.get("w").unwrap_err().to_string().contains("the outputs are \"y\""));
}

#[test]
fn one_name_is_one_size() {
    let s =
        model("graph @m(%a: f32[N], %b: f32[N]) -> (%y) {\n%y: f32[N] = add %a, %b\n}").session().unwrap();
    let e = s.run([f32s(&[2], &[0.0; 2]), f32s(&[1], &[0.0])]).unwrap_err();
    assert!(e.to_string().contains("`N` is 2 in input \"a\""), "{e}");
}

#[test]
fn batches_vary_and_states_are_kept_for_the_latest() {
    let s = small().session_with(&SessionOptions::new().cached_sizes(2)).unwrap();
    let b = f32s(&[3], &[1.0; 3]);
    for n in [1usize, 0, 5, 1, 2] {
        let x = f32s(&[n, 3], &vec![1.0; n * 3]);
        let out = s.run([x, b.clone()]).unwrap();
        assert_eq!(*out.tensor("y").unwrap().to_slice::<f32>().unwrap(), vec![2.0; n * 3]);
        assert_eq!(out.tensor("y").unwrap().shape().dims(), [n, 3]);
    }
    assert_eq!(s.idle_states(), [1, 1]);
    let none = small().session_with(&SessionOptions::new().cached_sizes(0)).unwrap();
    none.run(inputs()).unwrap();
    assert!(none.idle_states().is_empty());
}

#[test]
fn inputs_may_lie_anywhere_in_memory() {
    let raw: Vec<u8> =
        std::iter::once(0).chain([-1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes())).collect();
    for backend in Backend::ALL {
        let s = small().session_with(&SessionOptions::new().backend(*backend)).unwrap();
        for start in 0..2 {
            let raw = bytes::Bytes::from(raw.clone()).slice(start..start + 12);
            let x = Tensor::from_bytes(DType::F32, [1, 3], raw).unwrap();
            let expected: Vec<f32> = x.to_f32_vec().unwrap().iter().map(|v| v.max(0.0) + 1.0).collect();
            let y = s.run([x, f32s(&[3], &[1.0; 3])]).unwrap();
            assert_eq!(y.tensor("y").unwrap().to_f32_vec().unwrap(), expected, "{backend:?} from {start}");
        }
    }
}

#[test]
fn dims_are_bound_by_name() {
    let s = small().session_with(&SessionOptions::new().dim("N", 2)).unwrap();
    assert_eq!(s.inputs()[0].to_string(), "x: f32[2,3]");
    assert_eq!(s.outputs()[0].to_string(), "y: f32[2,3]");
    assert!(s.run(inputs()).unwrap_err().to_string().contains("1 instead of 2"));
    let e = small().session_with(&SessionOptions::new().dim("batch", 2)).unwrap_err();
    assert!(e.to_string().contains("the open sizes are \"N\""), "{e}");
}

#[test]
fn a_hundred_threads_share_a_session() {
    let s = small().session_with(&SessionOptions::new().threads(2)).unwrap();
    let gate = Barrier::new(100);
    std::thread::scope(|scope| {
        for i in 0..100usize {
            let (s, gate) = (&s, &gate);
            scope.spawn(move || {
                gate.wait();
                for round in 0..20 {
                    let (n, v) = (1 + (i + round) % 3, i as f32);
                    let x = f32s(&[n, 3], &vec![v; n * 3]);
                    let y = s.run([x, f32s(&[3], &[round as f32; 3])]).unwrap();
                    let y = y.tensor("y").unwrap().to_slice::<f32>().unwrap().into_owned();
                    assert_eq!(y, vec![v + round as f32; n * 3]);
                }
            });
        }
    });
    assert_eq!(s.idle_states().len(), 3);
}

#[test]
fn runs_are_cancelled_and_time_out() {
    let s = small().session().unwrap();
    let token = CancelToken::new();
    let options = RunOptions::new().cancel(&token);
    assert!(s.run_with(inputs(), &options).is_ok());
    token.cancel();
    assert!(matches!(s.run_with(inputs(), &options), Err(Error::Cancelled)));
    let both = options.max_time(Duration::from_secs(60));
    assert!(matches!(s.run_with(inputs(), &both), Err(Error::Cancelled)));
    let now = RunOptions::new().max_time(Duration::ZERO);
    assert!(matches!(s.run_with(inputs(), &now), Err(Error::TimedOut { .. })));
    let never = RunOptions::new().max_time(Duration::MAX);
    assert!(s.run_with(inputs(), &never).is_ok());
    // The session is none the worse.
    assert!(s.run(inputs()).is_ok());
}

/// A run that takes long is stopped from outside, within the run.
#[test]
fn a_running_run_stops() {
    let body: String = (1..400).map(|i| format!("%v{i}: f32[N] = sin %v{}\n", i - 1)).collect();
    let text = format!("graph @m(%x: f32[N]) -> (%v399) {{\n%v0: f32[N] = sin %x\n{body}}}");
    let s = model(&text)
        .session_with(&SessionOptions::new().backend(Backend::Reference).optimization(Optimization::None))
        .unwrap();
    let x = f32s(&[400_000], &vec![0.5; 400_000]);
    let e = s.run_with(x.clone(), &RunOptions::new().max_time(Duration::from_millis(20)));
    assert!(matches!(e, Err(Error::TimedOut { .. })), "{e:?}");
    let token = CancelToken::new();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| s.run_with(x, &RunOptions::new().cancel(&token)));
        std::thread::sleep(Duration::from_millis(20));
        token.cancel();
        assert!(matches!(run.join().unwrap(), Err(Error::Cancelled)));
    });
}

#[test]
fn limits_hold() {
    let grow = "graph @m(%n: i64[1]) -> (%y) {\n%v: f32[] = const [1.0]\n%y: f32[?] = expand %v, %n\n}";
    let limits = Limits { max_elements: 1000, ..Limits::default() };
    for backend in Backend::ALL {
        let options = SessionOptions::new().limits(limits.clone()).backend(*backend);
        let s = model(grow).session_with(&options).unwrap();
        assert!(s.run(Tensor::from_vec([1], vec![1000i64]).unwrap()).is_ok());
        for n in [1001i64, i64::MAX, -1] {
            assert!(s.run(Tensor::from_vec([1], vec![n]).unwrap()).is_err(), "{n} on {backend:?}");
        }
    }
    for threads in [0, 1 << 20] {
        let e = small().session_with(&SessionOptions::new().threads(threads)).unwrap_err();
        assert!(matches!(e, Error::Option(_)));
    }
}

#[test]
fn public_types_cross_threads() {
    fn both<T: Send + Sync + Clone>() {}
    both::<Model>();
    both::<Session>();
    both::<Outputs>();
    both::<CancelToken>();
    fn error<T: Send + Sync + 'static>() {}
    error::<Error>();
}

#[cfg(feature = "mill")]
#[test]
fn saved_models_load_again() {
    let dir = tempfile::tempdir().unwrap();
    let (saved, path) = (dir.path().join("m.mill"), dir.path().join("m.onnx"));
    small().save(&saved).unwrap();
    std::fs::rename(saved, &path).unwrap();
    let back = Model::load(&path).unwrap();
    assert_eq!(back.kind(), FileKind::Mill, "content decides, not the extension");
    assert!(back.graph().same_as(small().graph()));
    let out = back.session().unwrap().run(inputs()).unwrap();
    assert_eq!(*out.tensor("y").unwrap().to_slice::<f32>().unwrap(), [10.0, 22.0, 33.0]);
    let limits = Limits { max_nodes: 2, ..Limits::default() };
    assert!(matches!(Model::load_with(&path, &limits), Err(Error::Limit { field: "max_nodes", .. })));
}

#[test]
fn files_that_are_no_models_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let e = Model::load(dir.path()).unwrap_err().to_string();
    assert!(e.contains("is a folder"), "{e}");
    let e = Model::load(dir.path().join("absent.onnx")).unwrap_err().to_string();
    assert!(e.contains("absent.onnx"), "{e}");
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
        (b"\x80\x04\x95K", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text"),
        (b"\x08\x0a", "graph"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "safetensors"),
    ];
    for (bytes, says) in cases {
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, bytes).unwrap();
        let e = Model::load(&path).unwrap_err().to_string();
        assert!(e.contains(says) && e.contains("model.onnx"), "{e}");
        let e = Model::load(bytes.to_vec()).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
    #[cfg(unix)]
    {
        let e = Model::load("/dev/zero").unwrap_err().to_string();
        assert!(e.contains("not a regular file"), "{e}");
    }
}

#[test]
fn runners_run_beside_what_others_hold() {
    let s = small().session().unwrap();
    let mut runner = s.runner();
    let before = runner.run(inputs()).unwrap().tensor("y").unwrap().clone();
    // A run of a runner waits for nobody: not even while the states of other callers are taken.
    let held = s.hold_states();
    let [(_, b), (_, x)] = inputs();
    let other = f32s(&[2, 3], &[1.0; 6]);
    for x in [x, other.clone(), other] {
        let rows = x.shape()[0];
        let out = runner.run([("b", b.clone()), ("x", x)]).unwrap();
        assert_eq!(out.tensor("y").unwrap().shape().dims(), [rows, 3]);
    }
    drop(held);
    assert_eq!(*before.to_slice::<f32>().unwrap(), [10.0, 22.0, 33.0], "a clone is the caller's");
    assert!(runner.run([("b", b)]).is_err());
    let profile = runner.run_with(inputs(), &RunOptions::new().profile()).unwrap().profile().unwrap();
    assert!(!profile.samples.is_empty());
    assert!(s.idle_states().is_empty());
}

//! The program as its users meet it: exit codes, files in and out, errors.

#[path = "../../../crates/formats/tests/tflite/writer.rs"]
mod writer;

use serde_json::Value as Json;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;
use tensormill::{DType, Tensor, files};

fn digits() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx")
}

fn samples() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.npz")
}

fn tensormill(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tensormill")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The output of a command that succeeds.
fn good(args: &[&str]) -> String {
    let o = tensormill(args);
    assert_eq!(o.status.code(), Some(0), "{args:?}: {}", text(&o.stderr));
    text(&o.stdout)
}

/// The error of a command that fails with this code.
fn bad(code: i32, args: &[&str]) -> String {
    let o = tensormill(args);
    let e = text(&o.stderr);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {e}");
    assert!(!e.contains('\u{1b}') && !e.contains("panicked"), "{e}");
    e
}

fn json(args: &[&str]) -> Json {
    serde_json::from_str(&good(args)).unwrap()
}

/// A model in the text form, saved, as `.mill`.
fn model(dir: &TempDir, name: &str, graph: &str) -> String {
    let path = dir.path().join(name);
    tensormill::Model::from_graph(tensormill_ir::text::parse(graph).unwrap()).save(&path).unwrap();
    path.display().to_string()
}

fn npz(dir: &TempDir, name: &str, arrays: &[(&str, Tensor)]) -> String {
    let path = dir.path().join(name);
    let arrays: Vec<_> = arrays.iter().map(|(n, t)| (*n, t)).collect();
    files::write_npz(&path, &arrays).unwrap();
    path.display().to_string()
}

fn f32s(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_vec(shape, v.to_vec()).unwrap()
}

const TWO: &str = "graph @two(%x: f32[N,2], %b: f32[2]) -> (%z, %y) {\n\
    %h: f32[N,2] = neg %x\n%y: f32[N,2] = add %h, %b\n%z: f32[N,2] = mul %y, %y\n}";

#[test]
fn the_default_run_reads_the_digits() {
    let out = good(&[]);
    assert_eq!(out.matches(": right").count(), 12, "{out}");
    for said in ["12 of 12 read right", "images a second", "tensormill run", "tensormill bench"] {
        assert!(out.contains(said), "{out}");
    }
}

#[test]
fn outputs_are_saved_in_the_order_of_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let m = model(&dir, "two.mill", TWO);
    let i = npz(&dir, "in.npz", &[("b", f32s(&[2], &[1.0, 2.0])), ("x", f32s(&[1, 2], &[3.0, 4.0]))]);
    let out = dir.path().join("out.npz");
    let o = out.display().to_string();
    good(&["run", &m, "--inputs", &i, "--save", &o, "--threads", "1", "--output", "h"]);
    let read = files::read_npz(&out).unwrap();
    assert_eq!(read.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["z", "y", "h"]);
    assert_eq!(read[1].1.to_f32_vec().unwrap(), [-2.0, -2.0]);
    let j = json(&["run", &m, "--inputs", &i, "--json", "--backend", "reference", "--opt", "none"]);
    assert_eq!(j["outputs"][0]["name"], "z");
    assert_eq!(j["outputs"][0]["data"], serde_json::json!([4.0, 4.0]));
    assert!(good(&["run", &m, "--inputs", &i]).contains("f32[1,2] [4, 4]"));
}

#[test]
fn a_single_array_feeds_the_single_input() {
    let dir = tempfile::tempdir().unwrap();
    let image = f32s(&[1, 1, 8, 8], &[0.25; 64]);
    let named = npz(&dir, "other name.npz", &[("whatever", image.clone())]);
    let npy = dir.path().join("a.npy");
    files::write_npy(&npy, &image).unwrap();
    let npy = npy.display().to_string();
    let a = json(&["run", digits(), "--inputs", &named, "--json"]);
    assert_eq!(a, json(&["run", digits(), "--inputs", &npy, "--json"]));
    assert_eq!(a, json(&["run", digits(), "--inputs", &format!("image={npy}"), "--json"]));
    assert_eq!(a["outputs"][0]["shape"], serde_json::json!([1, 10]));
    // Two inputs open: a nameless array must say which it is, until the other one is given.
    let m = model(&dir, "two.mill", TWO);
    let b = dir.path().join("b.npy");
    files::write_npy(&b, &f32s(&[2], &[0.0; 2])).unwrap();
    let x = dir.path().join("x.npy");
    files::write_npy(&x, &f32s(&[1, 2], &[0.0; 2])).unwrap();
    let (b, x) = (b.display().to_string(), x.display().to_string());
    assert!(bad(1, &["run", &m, "--inputs", &b]).contains("several inputs are open"));
    good(&["run", &m, "--inputs", &format!("b={b}"), "--inputs", &x]);
}

#[test]
fn images_and_tables_are_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let png = dir.path().join("i.png");
    image::GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { 0 } else { 255 }])).save(&png).unwrap();
    let j = json(&["run", digits(), "--inputs", &png.display().to_string(), "--json"]);
    assert_eq!(j["outputs"][0]["shape"], serde_json::json!([1, 10]));
    let m = model(&dir, "neg.mill", "graph @n(%x: f32[N,2]) -> (%y) {\n%y: f32[N,2] = neg %x\n}");
    let csv = dir.path().join("t.csv");
    std::fs::write(&csv, "a,b\n1,2\n3,4.5\n").unwrap();
    let j = json(&["run", &m, "--inputs", &csv.display().to_string(), "--json"]);
    assert_eq!(j["outputs"][0]["data"], serde_json::json!([-1.0, -2.0, -3.0, -4.5]));
    let columns = "graph @c(%a: f32[N,1], %b: i64[N,1]) -> (%y, %z) {\n\
        %y: f32[N,1] = neg %a\n%z: i64[N,1] = neg %b\n}";
    let m = model(&dir, "columns.mill", columns);
    std::fs::write(&csv, "b,a\n1,2.5\n3,\n").unwrap();
    let j = json(&["run", &m, "--inputs", &csv.display().to_string(), "--json"]);
    assert_eq!(j["outputs"][0]["data"], serde_json::json!([-2.5, "NaN"]));
    assert_eq!(j["outputs"][1]["data"], serde_json::json!([-1, -3]));
    std::fs::write(&csv, "b,a\n1,2.5\n3\n").unwrap();
    assert!(bad(1, &["run", &m, "--inputs", &csv.display().to_string()]).contains("t.csv"));
    std::fs::write(&png, b"\x89PNG\r\n\x1a\n broken").unwrap();
    assert!(bad(1, &["run", digits(), "--inputs", &png.display().to_string()]).contains("i.png"));
}

#[test]
fn bench_keeps_its_contract() {
    let args = ["bench", digits(), "--inputs", samples(), "--threads", "1", "--duration", "0.1", "--json"];
    let j = json(&args);
    for key in ["load_ms", "first_ms", "runs", "p10_ms", "p50_ms", "p90_ms", "peak_rss_mb"] {
        assert!(j[key].as_f64().is_some_and(|v| v > 0.0), "{key}: {j}");
    }
    assert!(j["p10_ms"].as_f64() <= j["p90_ms"].as_f64());
    let j = json(&["bench", digits(), "--batch", "3", "--iterations", "2", "--json"]);
    assert_eq!((&j["runs"], &j["batch"]), (&2.into(), &3.into()));
}

#[test]
fn a_cache_changes_nothing_but_the_start() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("new").join("cache");
    let run = ["run", digits(), "--inputs", samples(), "--json"];
    let want = good(&run);
    let named = folder.display().to_string();
    for _ in 0..2 {
        assert_eq!(good(&[&run[..], &["--cache", &named]].concat()), want);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }
    // The environment names another.
    let other = dir.path().join("other");
    let o = Command::new(env!("CARGO_BIN_EXE_tensormill"))
        .args(run)
        .env("TENSORMILL_CACHE", &other)
        .output()
        .unwrap();
    assert_eq!(text(&o.stdout), want);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn inspect_check_profile_doctor_and_completions_answer() {
    assert!(good(&["inspect", digits()]).contains("f32[batch,1,8,8]"));
    assert_eq!(json(&["inspect", digits(), "--json"])["inputs"][0]["name"], "image");
    let shown = good(&["inspect", digits(), "--text"]);
    assert!(shown.starts_with("graph @digits"));
    assert!(good(&["inspect", digits(), "--text", "--opt", "default"]).len() <= shown.len());
    assert!(good(&["inspect", digits(), "--dot"]).starts_with("digraph"));
    assert!(good(&["check", digits()]).starts_with("runs"));
    assert_eq!(json(&["check", digits(), "--json", "--dim", "batch=2"])["runs"], true);
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("t.json");
    let j =
        json(&["profile", digits(), "--iterations", "2", "--json", "--trace", &trace.display().to_string()]);
    assert!(!j["nodes"].as_array().unwrap().is_empty());
    let trace: Json = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len(), j["nodes"].as_array().unwrap().len());
    assert!(good(&["profile", digits()]).contains("GFLOP/s"));
    assert_eq!(json(&["doctor", "--json"])["cuda"], "not built in");
    assert!(good(&["doctor"]).contains("threads"));
    assert!(good(&["completions", "bash"]).contains("tensormill"));
    assert!(good(&["run", "--help"]).contains("Examples:"));
}

#[test]
fn converted_models_compute_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for opt in ["none", "default"] {
        let m = dir.path().join(format!("{opt}.mill")).display().to_string();
        good(&["convert", digits(), &m, "--opt", opt]);
        good(&["compare", digits(), &m, "--inputs", samples()]);
        assert_eq!(json(&["inspect", &m, "--json"])["format"], "mill");
        let onnx = dir.path().join(format!("{opt}.onnx")).display().to_string();
        good(&["convert", &m, &onnx]);
        good(&["compare", digits(), &onnx, "--inputs", samples()]);
        assert_eq!(json(&["inspect", &onnx, "--json"])["format"], "onnx");
    }
    bad(2, &["convert", digits(), "out.tflite"]);
}

#[test]
fn tensorflow_lite_files_are_models_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let (net, y) = writer::network();
    // Content decides, not the name.
    let m = dir.path().join("model.bin").display().to_string();
    std::fs::write(&m, net.file(&[y])).unwrap();
    assert_eq!(json(&["inspect", &m, "--json"])["format"], "tflite");
    let x = npz(&dir, "in.npz", &[("x", Tensor::from_vec([1, 4, 4, 2], vec![1i8; 32]).unwrap())]);
    assert!(good(&["run", &m, "--inputs", &x]).contains("f32[1,3]"));
    good(&["bench", &m, "--iterations", "3"]);
    let onnx = dir.path().join("model.onnx").display().to_string();
    good(&["convert", &m, &onnx]);
    good(&["compare", &m, &onnx, "--inputs", &x]);
    let small = dir.path().join("small.mill").display().to_string();
    good(&["optimize", &m, "-o", &small, "--measure", "0"]);
    good(&["compare", &m, &small, "--inputs", &x]);
}

#[test]
fn comparisons_name_the_first_difference() {
    assert!(good(&["compare", digits(), "--inputs", samples()]).contains("same"));
    let dir = tempfile::tempdir().unwrap();
    let a = model(&dir, "a.mill", TWO);
    let b = model(&dir, "b.mill", &TWO.replace("add %h, %b", "sub %h, %b"));
    let i = npz(&dir, "in.npz", &[("b", f32s(&[2], &[1.0, 2.0])), ("x", f32s(&[1, 2], &[3.0, 4.0]))]);
    let o = tensormill(&["compare", &a, &b, "--inputs", &i, "--json"]);
    assert_eq!(o.status.code(), Some(4), "{}", text(&o.stderr));
    let j: Json = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(j["same"], false);
    assert_eq!(j["first_difference"]["name"], "y", "h is the same");
    let o = tensormill(&["compare", &a, &b, "--inputs", &i]);
    assert!(text(&o.stdout).contains("first difference: value \"y\""));
}

#[test]
fn wrong_inputs_say_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let m = model(&dir, "two.mill", TWO);
    let x = f32s(&[1, 2], &[0.0; 2]);
    let run = |arrays: &[(&str, Tensor)]| bad(1, &["run", &m, "--inputs", &npz(&dir, "in.npz", arrays)]);
    let e = run(&[("x", x.clone()), ("a\u{1b}[2Jb", x.clone())]);
    assert!(e.contains("\"b\" is not given") && e.contains("a\\u{1b}"), "{e}");
    let b = f32s(&[2], &[0.0; 2]);
    assert!(run(&[("b", b.clone()), ("x", b.clone())]).contains("rank 1 instead of 2"));
    assert!(run(&[("b", b.clone()), ("x", f32s(&[1, 3], &[0.0; 3]))]).contains("3 instead of 2"));
    let wide = Tensor::zeros(DType::F64, [1, 2]).unwrap();
    assert!(run(&[("b", b.clone()), ("x", wide.clone())]).contains("cast it to f32"));
    let i = npz(&dir, "in.npz", &[("b", b), ("x", wide)]);
    good(&["run", &m, "--inputs", &i, "--cast"]);
    bad(1, &["run", &m, "--inputs", &format!("nobody={i}")]);
    assert!(bad(1, &["run", &m, "--inputs", &i, "--dim", "M=2"]).contains("\"N\""));
    assert!(bad(1, &["run", &m, "--inputs", &i, "--output", "hh"]).contains("\"h\""));
    bad(1, &["run", &m, "--inputs", &i, "--cast", "--timeout", "0"]);
    assert!(bad(2, &["run", &m]).contains("x: f32[N,2]"));
    bad(2, &["run", &m, "--inputs", &i, "--cast", "--save", "out.txt"]);
    bad(1, &["run", &m, "--inputs", &i, "--cast", "--save", "/nowhere/at/all/out.npz"]);
    bad(2, &["run"]);
    bad(2, &["bench", &m, "--duration", "-1"]);
    bad(2, &["unknown"]);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let shown = |p: &Path| p.display().to_string();
    let whole = std::fs::read(digits()).unwrap();
    for (i, cut) in [0, 1, 100, whole.len() / 2, whole.len() - 1].into_iter().enumerate() {
        let p = at(&format!("cut{i}.onnx"));
        std::fs::write(&p, &whole[..cut]).unwrap();
        bad(1, &["inspect", &shown(&p)]);
    }
    std::fs::write(at("m.h5"), b"\x89HDF\r\n\x1a\n").unwrap();
    assert!(bad(1, &["run", &shown(&at("m.h5"))]).contains("HDF5"));
    assert!(bad(1, &["run", &shown(&at("absent"))]).contains("absent"));
    assert!(bad(1, &["run", &shown(dir.path())]).contains("folder"));
    bad(1, &["run", digits(), "--inputs", &shown(&at("absent.npz"))]);
    bad(1, &["run", digits(), "--inputs", &shown(dir.path())]);
    #[cfg(unix)]
    {
        let fifo = at("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(bad(1, &["inspect", &shown(&fifo)]).contains("regular"));
        assert!(bad(1, &["run", digits(), "--inputs", &shown(&fifo)]).contains("regular"));
    }
}

/// A model of one operator that nobody has: a node in a graph, field by field.
#[test]
fn unsupported_models_exit_with_3_and_list_the_operators() {
    fn field(tag: u8, data: &[u8]) -> Vec<u8> {
        [&[tag, data.len() as u8], data].concat()
    }
    let info = |name: &str| {
        let ty = field(0x0a, &[&[0x08, 1][..], &field(0x12, &field(0x0a, &[0x08, 2]))].concat());
        [field(0x0a, name.as_bytes()), field(0x12, &ty)].concat()
    };
    let node = [field(0x0a, b"x"), field(0x12, b"y"), field(0x22, b"NoSuchOperator")].concat();
    let graph =
        [field(0x0a, &node), field(0x12, b"g"), field(0x5a, &info("x")), field(0x62, &info("y"))].concat();
    let file = [&[0x08, 8][..], &field(0x3a, &graph), &field(0x42, &[0x10, 17])].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, file).unwrap();
    for command in ["check", "run", "inspect", "bench"] {
        let e = bad(3, &[command, &path.display().to_string()]);
        assert!(e.contains("NoSuchOperator"), "{e}");
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tensormill"))
        .args(["inspect", digits(), "--text"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let o = child.wait_with_output().unwrap();
    assert_eq!((o.status.code(), text(&o.stderr).as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let o = Command::new(env!("CARGO_BIN_EXE_tensormill"))
        .args(["inspect", digits()])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(1));
}

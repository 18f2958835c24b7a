//! `tensormill optimize` as its users meet it.

use serde_json::Value as Json;
use std::{
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;
use tensormill::{Tensor, files};

fn digits() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx")
}

fn samples() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.npz")
}

fn optimize(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_tensormill");
    Command::new(program).arg("optimize").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(args: &[&str]) -> Json {
    let o = optimize(&[args, &["--json", "--measure", "0"]].concat());
    assert_eq!(o.status.code(), Some(0), "{args:?}: {}", text(&o.stderr));
    // Nothing is drawn where there is no terminal.
    assert_eq!(text(&o.stderr), "", "{args:?}");
    serde_json::from_slice(&o.stdout).unwrap()
}

fn bad(code: i32, args: &[&str]) -> String {
    let o = optimize(args);
    let e = text(&o.stderr) + &text(&o.stdout);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {e}");
    assert!(!e.contains("panicked"), "{e}");
    e
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

/// Images and what they show, which the float model reads right.
fn labelled(dir: &TempDir) -> String {
    let arrays = files::read_npz(Path::new(samples())).unwrap();
    let image = &arrays.iter().find(|(n, _)| n == "image").unwrap().1;
    let model = tensormill::Model::load(Path::new(digits())).unwrap();
    let outputs = model.session().unwrap().run([("image", image.clone())]).unwrap();
    let p = outputs.tensor("probabilities").unwrap().to_f32_vec().unwrap();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as i64;
    let labels: Vec<i64> = p.chunks(10).map(best).collect();
    let labels = Tensor::from_vec([labels.len()], labels).unwrap();
    let file = dir.path().join("labelled.npz");
    files::write_npz(&file, &[("image", image), ("labels", &labels)]).unwrap();
    file.display().to_string()
}

#[test]
fn every_scheme_writes_a_model_that_reads_digits() {
    let dir = tempfile::tempdir().unwrap();
    let eval = labelled(&dir);
    for (scheme, smaller) in
        [("int8", 0.5), ("int8-dynamic", 0.7), ("int8-weights", 0.5), ("int4-weights", 0.5), ("f16", 0.7)]
    {
        for ending in ["onnx", "mill"] {
            let out = path(&dir, &format!("{scheme}.{ending}"));
            let args = [digits(), "-o", &out, "--quantize", scheme, "--calib", samples(), "--eval", &eval];
            let j = json(&args);
            let (before, after) = (&j["before"], &j["after"]);
            let ratio =
                after["constant_bytes"].as_f64().unwrap() / before["constant_bytes"].as_f64().unwrap();
            assert!(ratio < smaller, "{scheme}: {ratio}");
            assert_eq!((before["metric"].as_str(), before["score"].as_f64()), (Some("accuracy"), Some(1.0)));
            assert!(after["score"].as_f64().unwrap() >= 0.75, "{scheme}: {after}");
            assert!(j["outputs"][0]["relative"].as_f64().unwrap() < 0.3, "{scheme}: {j}");
            assert!(j["layers"].as_array().unwrap().iter().any(|l| l["kept"].is_null()), "{scheme}: {j}");
            // The same in, the same out.
            let first = std::fs::read(&out).unwrap();
            json(&args);
            assert!(first == std::fs::read(&out).unwrap(), "{scheme}.{ending} differs");
        }
    }
}

#[test]
fn without_options_it_fuses() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(&dir, "fused.onnx");
    let j = json(&[digits(), "-o", &out]);
    assert!(!j["fused"].as_array().unwrap().is_empty(), "{j}");
    assert!(j["outputs"][0]["relative"].as_f64().unwrap() < 1e-5, "{j}");
    let fixed = path(&dir, "fixed.onnx");
    json(&[digits(), "-o", &fixed, "--dim", "batch=2"]);
    let model = tensormill::Model::load(Path::new(&fixed)).unwrap();
    assert_eq!(model.inputs()[0].to_string(), "image: f32[2,1,8,8]");
}

#[test]
fn reports_are_written_in_three_forms() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["r.json", "r.html", "r.md"].map(|n| path(&dir, n));
    let mut args =
        vec![digits(), "--dry-run", "--quantize", "int8", "--calib", samples(), "--measure", "0.05"];
    for n in &names {
        args.extend(["--report", n]);
    }
    let o = optimize(&args);
    assert_eq!(o.status.code(), Some(0), "{}", text(&o.stderr));
    let shown = text(&o.stdout);
    for said in ["in total", "weights", "latency", "error by output", "probabilities", "by layer"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let [j, html, md] = names.map(|n| std::fs::read_to_string(n).unwrap());
    let j: Json = serde_json::from_str(&j).unwrap();
    assert!(j["after"]["latency_ms"].as_f64().unwrap() > 0.0);
    assert!(j["out"].is_null());
    assert!(html.contains("<svg") && html.ends_with("</body></html>\n") && !html.contains("http"));
    assert!(md.contains("## by layer") && md.contains("| --- |"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "a dry run writes no model");
}

#[test]
fn a_sweep_compares_settings() {
    let dir = tempfile::tempdir().unwrap();
    let html = path(&dir, "s.html");
    let args = [digits(), "--sweep", "--calib", samples(), "--eval", &labelled(&dir), "--report", &html];
    let j = json(&args);
    let trials = j["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 9, "{j}");
    assert!(trials.iter().all(|t| t["failed"].is_null() && t["score"].is_number()), "{j}");
    assert!(std::fs::read_to_string(html).unwrap().contains("int8 entropy"));
    // Without samples, what needs them is left out.
    assert_eq!(json(&[digits(), "--sweep"])["trials"].as_array().unwrap().len(), 5);
}

#[test]
fn a_budget_is_kept_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let eval = labelled(&dir);
    let out = path(&dir, "b.onnx");
    let args = [
        digits(),
        "-o",
        &out,
        "--quantize",
        "int8",
        "--calib",
        samples(),
        "--eval",
        &eval,
        "--max-drop",
        "0",
    ];
    let j = json(&args);
    assert_eq!(j["after"]["score"], 1.0);
    // Nothing reaches more than all.
    let args = [&args[..9], &["--max-drop=-1"]].concat();
    std::fs::remove_file(&out).unwrap();
    assert!(bad(4, &args).contains("metric"));
    assert!(!Path::new(&out).exists());
}

#[test]
fn tables_with_labels_score_regressors() {
    let dir = tempfile::tempdir().unwrap();
    let g = tensormill_ir::text::parse(
        "graph @g(%x: f32[N,2]) -> (%y) {\n%w: f32[2,1] = const [0.5, -1.5]\n%y: f32[N,1] = matmul %x, %w\n}",
    )
    .unwrap();
    let (model, csv, out) = (path(&dir, "m.mill"), path(&dir, "t.csv"), path(&dir, "o.mill"));
    tensormill::Model::from_graph(g).save(&model).unwrap();
    std::fs::write(&csv, "a,y,b\n1,-1.0,1\n2,-0.5,1\n3,1.5,0\n").unwrap();
    let j = json(&[&model, "-o", &out, "--eval", &csv]);
    assert_eq!(j["before"]["metric"], "R2");
    assert_eq!((&j["before"]["score"], &j["before"]["mse"]), (&1.0.into(), &0.0.into()));
}

#[test]
fn pruning_takes_out_weights_or_channels() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(&dir, "p.onnx");
    let j = json(&[digits(), "-o", &out, "--prune", "0.5"]);
    let layers = j["pruned"].as_array().unwrap();
    assert!(!layers.is_empty() && layers.iter().all(|l| l["after"].as_u64() <= l["before"].as_u64()), "{j}");
    assert_eq!(
        j["before"]["constant_bytes"].as_u64().unwrap().div_ceil(4096),
        j["after"]["constant_bytes"].as_u64().unwrap().div_ceil(4096)
    );
    assert!(j["notes"][0].as_str().unwrap().contains("as large as before"), "{j}");
    assert!(layers.iter().all(|l| l["what"] == "weights"), "{j}");
    let j = json(&[digits(), "-o", &out, "--prune", "0.5", "--2of4"]);
    assert_eq!(j["notes"].as_array().unwrap().len(), 1, "{j}");
    for ending in ["md", "html"] {
        let report = path(&dir, &format!("zeros.{ending}"));
        json(&[digits(), "--dry-run", "--prune", "0.5", "--report", &report]);
        assert!(std::fs::read_to_string(report).unwrap().contains("as large as before"));
    }
    let j = json(&[digits(), "-o", &out, "--prune", "0.25", "--structured"]);
    assert!(
        j["after"]["constant_bytes"].as_f64().unwrap()
            < 0.9 * j["before"]["constant_bytes"].as_f64().unwrap(),
        "{j}"
    );
    assert!(j["notes"].as_array().unwrap().is_empty(), "{j}");
    let both =
        [digits(), "-o", &out, "--prune", "0.25", "--structured", "--quantize", "int8", "--calib", samples()];
    assert!(json(&both)["layers"].as_array().unwrap().iter().any(|l| l["kept"].is_null()));
    bad(2, &[digits(), "-o", &out, "--structured"]);
    bad(2, &[digits(), "-o", &out, "--prune", "0.4", "--2of4"]);
    assert!(bad(1, &[digits(), "-o", &out, "--prune", "1.5"]).contains("ratio"));
}

#[test]
fn heads_are_taken_out_or_the_report_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let [free, cached] = ["free.mill", "cached.mill"].map(|n| path(&dir, n));
    let attention = |past: &str, present: &str, operands: &str, outputs: &str, attributes: &str| {
        let text = format!(
            "graph @g(%x: f32[N,S,4]{past}) -> (%y{outputs}) {{\n\
             %w: f32[4,4] = const [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]\n\
             %o: f32[4,4] = const [1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1]\n\
             %q: f32[N,S,4] = matmul %x, %w !\"query\"\n%k: f32[N,S,4] = tanh %q\n\
             %m: f32[N,S,4]{present} = attention %q, %k, %k{operands} {{q_heads=2, kv_heads=2{attributes}}} !\"mix\"\n\
             %y: f32[N,S,4] = matmul %m, %o !\"last\"\n}}"
        );
        tensormill::Model::from_graph(tensormill_ir::text::parse(&text).unwrap())
    };
    attention("", "", "", "", "").save(&free).unwrap();
    let (past, all) =
        (", %pk: f32[N,2,P,2], %pv: f32[N,2,P,2]", ", %ak: f32[N,2,P+S,2], %av: f32[N,2,P+S,2]");
    attention(past, all, ", _, %pk, %pv", ", %ak, %av", ", present=true").save(&cached).unwrap();
    let out = path(&dir, "o.onnx");
    let j = json(&[&free, "-o", &out, "--prune", "0.5", "--structured"]);
    let heads = &j["pruned"][0];
    assert_eq!(
        (&heads["what"], &heads["before"], &heads["after"]),
        (&"heads".into(), &2.into(), &1.into()),
        "{j}"
    );
    assert!(heads["kept"].is_null());
    let o = optimize(&[&cached, "--dry-run", "--prune", "0.5", "--structured", "--measure", "0"]);
    let said = text(&o.stdout);
    assert!(said.contains("pruning of heads") && said.contains("has a size for each head"), "{said}");
}

#[test]
fn what_makes_no_sense_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(&dir, "o.onnx");
    bad(2, &[digits()]);
    assert!(bad(2, &[digits(), "-o", &out, "--quantize", "int8"]).contains("--calib"));
    assert!(bad(2, &[digits(), "-o", "x.tflite"]).contains(".onnx or .mill"));
    assert!(bad(2, &[digits(), "-o", &out, "--report", "r.txt"]).contains(".html"));
    assert!(bad(2, &[digits(), "-o", &out, "--exclude", "a"]).contains("--quantize"));
    bad(2, &[digits(), "-o", &out, "--quantize", "f16", "--max-drop", "1"]);
    bad(2, &[digits(), "-o", &out, "--sweep"]);
    let named = bad(1, &[digits(), "-o", &out, "--quantize", "f16", "--exclude", "no such node"]);
    assert!(named.contains("no such node"));
    assert!(bad(1, &[digits(), "-o", &out, "--calib", "missing.npz"]).contains("missing.npz"));
    let wrong = path(&dir, "w.npz");
    files::write_npz(Path::new(&wrong), &[("a", &Tensor::scalar(1f32)), ("b", &Tensor::scalar(1f32))])
        .unwrap();
    assert!(bad(1, &[digits(), "-o", &out, "--calib", &wrong]).contains("no array is named after input"));
    assert!(!Path::new(&out).exists());
    let help = text(&optimize(&["--help"]).stdout);
    assert!(help.contains("Examples:") && help.contains("int4-weights"));
}

#[test]
fn folders_of_images_and_files_are_samples() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("samples");
    std::fs::create_dir(&folder).unwrap();
    for i in 0..3u8 {
        let image =
            image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(x as u8 * 20 + y as u8 * 7) ^ (i * 31)]));
        image.save(folder.join(format!("{i}.png"))).unwrap();
    }
    let one = Tensor::from_vec([1, 1, 8, 8], vec![0.5f32; 64]).unwrap();
    files::write_npz(folder.join("z.npz"), &[("image", &one)]).unwrap();
    let folder = folder.display().to_string();
    let j = json(&[digits(), "--dry-run", "--quantize", "int8", "--calib", &folder]);
    assert_eq!(j["samples"], 4);
    let j = json(&[
        digits(),
        "--dry-run",
        "--quantize",
        "int8",
        "--calib",
        &folder,
        "--samples",
        "2",
        "--seed",
        "7",
    ]);
    assert_eq!(j["samples"], 2);
    let empty = path(&dir, "none");
    std::fs::create_dir(&empty).unwrap();
    assert!(bad(1, &[digits(), "--dry-run", "--quantize", "int8", "--calib", &empty]).contains("no files"));
}

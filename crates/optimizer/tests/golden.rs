//! Golden files: a header that names the passes, a graph before, the graph after. Bless them with
//! `TENSORMILL_BLESS=1`. Every file is an equivalence test, too: both graphs are evaluated.

use std::{fmt::Write, fs, path::Path};
use tensormill_ir::{Graph, text};
use tensormill_optimizer::{
    Numerics, OptOptions, Pipeline,
    testing::{Bytes, compare, random_inputs},
};
use tensormill_tensor::{DType, Shape, Tensor};

const BEFORE: &str = "--- before\n";
const AFTER: &str = "--- after\n";
const SEEDS: u64 = 6;

/// What the header of a file says.
struct Header {
    passes: String,
    numerics: Numerics,
    declines: Vec<String>,
    text: String,
}

fn header(text: &str) -> Result<Header, String> {
    let mut h =
        Header { passes: String::new(), numerics: Numerics::Exact, declines: vec![], text: text.to_owned() };
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("`{line}` has no colon"))?;
        let value = value.trim();
        match key {
            "passes" => h.passes = value.into(),
            "numerics" => {
                h.numerics = Numerics::from_word(value).ok_or_else(|| format!("numerics `{value}`"))?;
            }
            "declines" => h.declines.push(value.into()),
            _ => return Err(format!("unknown key `{key}`")),
        }
    }
    Ok(h)
}

/// Tensors beside the text are drawn from their names.
fn resolve(name: &str, dtype: DType, shape: &Shape) -> Result<Tensor, String> {
    let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    Ok(Bytes::seeded(seed, 4096).tensor(dtype, shape))
}

fn parse(text: &str) -> Result<Graph, String> {
    text::parse_with(text, &resolve).map_err(|e| e.to_string())
}

fn check(path: &Path, bless: bool) -> Result<(), String> {
    let file = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (head, rest) = file.split_once(BEFORE).ok_or("no `--- before`")?;
    let (before_text, after_text) = rest.split_once(AFTER).unwrap_or((rest, ""));
    let h = header(head)?;
    let before = parse(before_text).map_err(|e| format!("before: {e}"))?;
    let pipeline = match Pipeline::by_name(&h.passes) {
        Some(p) => p,
        None => Pipeline::new(
            "golden",
            h.passes
                .split(',')
                .map(|n| Pipeline::pass_by_name(n.trim()).ok_or_else(|| format!("no pass `{n}`")))
                .collect::<Result<_, _>>()?,
        ),
    };
    let options = OptOptions { numerics: h.numerics, verify: true, ..Default::default() };
    let mut after = before.clone();
    let log = pipeline.run(&mut after, &options).map_err(|e| e.to_string())?;
    for want in &h.declines {
        let (rule, reason) = want.split_once('/').ok_or_else(|| format!("`{want}` is not rule/reason"))?;
        if !log.declines().any(|(r, d)| r == rule.trim() && d.reason == reason.trim()) {
            return Err(format!("`{rule}` did not decline with `{}`; the log:\n{log}", reason.trim()));
        }
    }
    for seed in 0..SEEDS {
        let inputs = random_inputs(&before, &mut Bytes::seeded(seed, 1 << 14));
        compare(&before, &after, &inputs, h.numerics).map_err(|e| format!("seed {seed}: {e}\n{after}"))?;
    }
    let again =
        parse(&text::print(&after).text).map_err(|e| format!("the result does not parse: {e}\n{after}"))?;
    if text::print(&again).text != text::print(&after).text {
        return Err(format!("the result prints differently once parsed:\n{after}\n{again}"));
    }
    let got = text::print(&after).text;
    if bless {
        let mut out = h.text;
        let before_text = before_text.trim_end();
        write!(out, "{BEFORE}{before_text}\n\n{AFTER}{got}").map_err(|e| e.to_string())?;
        return fs::write(path, out).map_err(|e| e.to_string());
    }
    if got.trim() != after_text.trim() {
        return Err(format!("expected\n{}\ngot\n{got}\nthe log:\n{log}", after_text.trim()));
    }
    Ok(())
}

#[test]
fn golden_files_hold() {
    let bless = std::env::var_os("TENSORMILL_BLESS").is_some_and(|v| v == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|e| e.expect("readable").path())
        .filter(|p| p.extension().is_some_and(|e| e == "golden"))
        .collect();
    files.sort();
    assert!(files.len() >= 15, "only {} golden files were found", files.len());
    let mut failed = String::new();
    for f in &files {
        if let Err(e) = check(f, bless) {
            let name = f.file_name().expect("a file has a name").to_string_lossy();
            write!(failed, "\n== {name}\n{e}\n").expect("a String takes every write");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

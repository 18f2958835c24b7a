//! Models written in a few words, and the check that each meets its fate without harm.
#![allow(dead_code, reason = "no test program uses all of it")]

use bytes::Bytes;
use prost::Message;
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use tensormill::{
    Backend, DType, Dim, Error, Limits, Model, Optimization, Session, SessionOptions, Source, Tensor, Value,
};
use tensormill_formats::onnx::{dtype_code, proto::*, write_tensor};

/// Where a model fails, and words that its error must have.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// When it is read.
    Load(&'static [&'static str]),
    /// When it is compiled or, at the latest, when it runs.
    Run(&'static [&'static str]),
    /// At any of the three: what is known earlier may be refused earlier.
    Refused(&'static [&'static str]),
    /// Nowhere.
    Fine,
    /// It runs or is refused; either is right as long as nothing breaks.
    Harmless,
}

pub struct Case {
    pub name: String,
    pub model: ModelProto,
    pub fate: Fate,
    inputs: Vec<(String, Value)>,
}

impl Case {
    /// Runs with this input rather than zeros.
    pub fn with(mut self, name: &str, t: Tensor) -> Self {
        self.inputs.push((name.into(), t.into()));
        self
    }
}

pub fn case(name: impl Into<String>, fate: Fate, graph: GraphProto) -> Case {
    Case { name: name.into(), model: model(graph), fate, inputs: vec![] }
}

pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        opset_import: vec![opset("", 21), opset("f", 1), opset("ai.onnx.ml", 5)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub fn graph(input: Vec<ValueInfoProto>, initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> GraphProto {
    let y = ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() };
    GraphProto { name: "main".into(), input, initializer, node, output: vec![y], ..GraphProto::default() }
}

/// An input; negative sizes are names.
pub fn input(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| {
        let size = if d < 0 { DimensionValue::Name(format!("n{}", -d)) } else { DimensionValue::Size(d) };
        Dimension { value: Some(size), ..Dimension::default() }
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = TensorType { elem_type: dtype_code(dtype).unwrap(), shape: Some(shape) };
    let ty = TypeProto { value: Some(TypeValue::Tensor(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// The input `x` of floats.
pub fn x(dims: &[i64]) -> ValueInfoProto {
    input("x", DType::F32, dims)
}

pub fn ints(dtype: DType, dims: &[usize], v: &[i64]) -> Tensor {
    Tensor::from_i64s(dtype, dims, v.iter().copied()).unwrap()
}

pub fn floats(dims: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_vec(dims, v.to_vec()).unwrap()
}

pub fn constant(name: &str, t: Tensor) -> TensorProto {
    write_tensor(name, &t).unwrap()
}

/// A vector of int64, as most sizes, axes and indices are.
pub fn sizes(name: &str, v: &[i64]) -> TensorProto {
    constant(name, ints(DType::I64, &[v.len()], v))
}

/// A single int64.
pub fn number(name: &str, v: i64) -> TensorProto {
    constant(name, ints(DType::I64, &[], &[v]))
}

/// A node `the_<op>` with one result `y`; operands are words.
pub fn node(op: &str, operands: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("the_{op}"),
        input: operands.split(' ').filter(|s| !s.is_empty()).map(|s| s.trim_matches('_').into()).collect(),
        output: vec!["y".into()],
        attribute,
        ..NodeProto::default()
    }
}

pub fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type, ..AttributeProto::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, 2) }
}

pub fn list(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, 7) }
}

pub fn word(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(Bytes::copy_from_slice(s.as_bytes())), ..attribute(name, 3) }
}

pub fn body(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g.into()), ..attribute(name, 5) }
}

pub fn held(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t.into()), ..attribute(name, 4) }
}

/// Limits that a small machine could afford, so that what ignores them shows.
pub fn limits() -> Limits {
    Limits {
        max_memory: 64 << 20,
        max_elements: 1 << 20,
        max_trips: 10_000,
        max_folded: 1 << 20,
        max_time: Some(Duration::from_secs(2)),
        ..Limits::default()
    }
}

/// Zeros for every input, sizes left open being 2.
fn zeros(session: &Session) -> Vec<(String, Value)> {
    let tensor = |p: &tensormill::Port| {
        let ty = p.ty.as_tensor()?;
        let size = |d: &Dim| d.known().unwrap_or(2);
        let dims: Vec<usize> = ty.dims.iter().flatten().map(size).collect();
        Some((p.name.clone(), Tensor::zeros(ty.dtype, dims).ok()?.into()))
    };
    session.inputs().iter().filter_map(tensor).collect()
}

/// Panics of this process so far; sessions turn those of kernels into errors, and here they count.
pub static PANICS: Mutex<Vec<String>> = Mutex::new(vec![]);

/// Counts panics on threads that are not a test's own.
pub fn watch() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // An assertion of a test is no panic of what it tests.
            if info.location().is_none_or(|l| !l.file().contains("tests")) {
                PANICS.lock().unwrap_or_else(|e| e.into_inner()).push(info.to_string());
            }
            before(info);
        }));
    });
}

/// Loads, compiles and runs a model; the stage (0, 1, 2) at which it failed.
pub fn attempt(
    source: impl Into<Source>,
    options: &SessionOptions,
    inputs: &[(String, Value)],
) -> Result<(), (usize, Error)> {
    let model = Model::load_with(source, &limits()).map_err(|e| (0, e))?;
    let session = model.session_with(options).map_err(|e| (1, e))?;
    let mut all = zeros(&session);
    for (name, value) in inputs {
        all.retain(|(n, _)| n != name);
        all.push((name.clone(), value.clone()));
    }
    let outputs = session.run(all.clone()).map_err(|e| (2, e))?;
    drop(outputs);
    // Memory that is kept must not change what a second run does.
    session.run(all).map(drop).map_err(|e| (2, e))
}

/// A message that says where, in a size that a person can read, and leaves a terminal alone.
pub fn presentable(name: &str, message: &str) -> Result<(), String> {
    if message.is_empty() || message.len() > 4000 {
        return Err(format!("{name}: a message of {} bytes", message.len()));
    }
    if message.chars().any(|c| c.is_control() && c != '\n') {
        return Err(format!("{name}: control characters in {message:?}"));
    }
    Ok(())
}

fn judge(case: &Case, how: &str, bytes: &Bytes, options: &SessionOptions) -> Result<(), String> {
    let name = format!("{} ({how})", case.name);
    let before = PANICS.lock().unwrap_or_else(|e| e.into_inner()).len();
    let began = Instant::now();
    let outcome = attempt(bytes.to_vec(), options, &case.inputs);
    let took = began.elapsed();
    if let Some(p) = PANICS.lock().unwrap_or_else(|e| e.into_inner()).get(before) {
        return Err(format!("{name}: panicked: {p}"));
    }
    if took > Duration::from_secs(8) {
        return Err(format!("{name}: took {took:?}"));
    }
    let stages: (std::ops::RangeInclusive<usize>, &[&str]) = match case.fate {
        Fate::Load(words) => (0..=0, words),
        Fate::Run(words) => (1..=2, words),
        Fate::Refused(words) => (0..=2, words),
        Fate::Harmless => {
            return outcome.or_else(|(_, e)| presentable(&name, &e.to_string()));
        }
        Fate::Fine => return outcome.map_err(|(stage, e)| format!("{name}: refused at stage {stage}: {e}")),
    };
    let Err((stage, e)) = outcome else { return Err(format!("{name}: was accepted")) };
    let message = e.to_string();
    presentable(&name, &message)?;
    if !stages.0.contains(&stage) {
        return Err(format!("{name}: refused at stage {stage}, not {:?}: {message}", stages.0));
    }
    match stages.1.iter().find(|w| !message.contains(**w)) {
        Some(w) => Err(format!("{name}: does not say `{w}`: {message}")),
        None => Ok(()),
    }
}

/// Every case on every way to run it; all that went wrong at once.
pub fn check(cases: Vec<Case>) {
    watch();
    let base = || SessionOptions::new().threads(2);
    let ways = [
        ("cpu", base()),
        ("cpu, not optimized", base().optimization(Optimization::None)),
        ("reference", base().backend(Backend::Reference).optimization(Optimization::None)),
    ];
    let mut wrong = vec![];
    for case in &cases {
        let bytes = Bytes::from(case.model.encode_to_vec());
        wrong.extend(ways.iter().filter_map(|(how, options)| judge(case, how, &bytes, options).err()));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // Peak memory of all tests of this process so far: the limits times the threads that run tests.
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let kib: usize = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
        assert!(kib < 1 << 20, "{kib} KiB at the peak");
    }
}

//! Runs of plans beside the reference's.
#![allow(dead_code)]

use tensormill_backend::{Backend, CompileOptions, Io, Plan};
use tensormill_cpu::{CpuBackend, Pool, ReferenceBackend};
use tensormill_ir::{Graph, Type, infer::Inferred, text};
use tensormill_tensor::{DType, Tensor, Value};

pub fn types(inputs: &[Value]) -> Vec<Inferred> {
    inputs.iter().map(|v| Inferred { ty: Type::of(v).unwrap(), elements: None }).collect()
}

pub fn run(plan: &dyn Plan, inputs: &[Value]) -> Result<Vec<Value>, String> {
    let mut state = plan.state(&types(inputs)).map_err(|e| e.to_string())?;
    let mut first = vec![];
    for again in 0..2 {
        let mut outputs = vec![];
        let mut io = Io { inputs, outputs: &mut outputs, profile: None, cancel: None };
        state.run(&mut io).map_err(|e| e.to_string())?;
        if again == 0 {
            first = outputs;
        } else {
            // A second run of one state starts from nothing that the first left.
            for (a, b) in first.iter().zip(&outputs) {
                assert!(a.same_bits(b), "a second run differs");
            }
        }
    }
    Ok(first)
}

pub fn near(a: &Value, b: &Value) -> Result<(), String> {
    nearer_than(a, b, 2e-5)
}

/// Fails where numbers differ by more than `bound` of the largest.
pub fn nearer_than(a: &Value, b: &Value, bound: f64) -> Result<(), String> {
    let (Value::Tensor(a), Value::Tensor(b)) = (a, b) else {
        return if a.same_bits(b) { Ok(()) } else { Err("values differ".into()) };
    };
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Err(format!("{a:?} and {b:?}"));
    }
    if a.dtype() != DType::F32 {
        return if a.same_bits(b) { Ok(()) } else { Err(format!("{a:?} differ")) };
    }
    let (p, q) = (a.to_f64_vec().unwrap(), b.to_f64_vec().unwrap());
    let largest = p.iter().filter(|v| v.is_finite()).fold(1f64, |m, v| m.max(v.abs()));
    for (i, (x, y)) in p.iter().zip(&q).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= bound * largest;
        if !same {
            return Err(format!("element {i}: {x:e} and {y:e}"));
        }
    }
    Ok(())
}

pub fn same(g: &Graph, inputs: &[Value], threads: usize) -> Result<(), String> {
    // With and without the convolutions that round more.
    for (fewer, bound) in [(true, 1e-3), (false, 2e-5)] {
        let mut options = CompileOptions::default();
        options.fewer_multiplications = fewer;
        same_within(g, inputs, threads, &options, bound)?;
    }
    Ok(())
}

fn same_within(
    g: &Graph,
    inputs: &[Value],
    threads: usize,
    options: &CompileOptions,
    bound: f64,
) -> Result<(), String> {
    let expected = run(&*ReferenceBackend.compile(g.clone(), options).unwrap(), inputs);
    let Ok(expected) = expected else { return Ok(()) };
    let plan = CpuBackend::new(Pool::new(threads).unwrap()).compile(g.clone(), options).unwrap();
    let got = run(&*plan, inputs)?;
    assert_eq!(expected.len(), got.len());
    expected.iter().zip(&got).try_for_each(|(a, b)| nearer_than(a, b, bound))
}

pub fn f32s(shape: &[usize], seed: usize) -> Value {
    let n: usize = shape.iter().product();
    let v = (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 0.9).collect();
    Tensor::from_vec(shape, v).unwrap().into()
}

pub fn graph(source: &str) -> Graph {
    text::parse(source).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

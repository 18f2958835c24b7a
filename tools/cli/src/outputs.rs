//! Outputs to files, JSON and tables.

use crate::{
    failure::Failure,
    text::{safe, table},
};
use serde_json::{Value as Json, json};
use std::path::Path;
use tensormill::{Complex, DType, Tensor, Value, files};

/// Tensors under names of their own: items of lists are `name.0`, `name.1`; what is absent is left out.
pub fn flatten<'a>(outputs: impl Iterator<Item = (&'a str, &'a Value)>) -> Vec<(String, Tensor)> {
    let mut out = vec![];
    // The last in is the first out: items are pushed in reverse.
    for (name, value) in outputs {
        let mut stack = vec![(name.to_string(), value)];
        while let Some((name, value)) = stack.pop() {
            match value {
                Value::Tensor(t) => out.push((name, t.clone())),
                Value::Sequence(items) => {
                    stack.extend(items.iter().enumerate().rev().map(|(i, v)| (format!("{name}.{i}"), v)));
                }
                Value::Optional(Some(v)) => stack.push((name, v)),
                _ => {}
            }
        }
    }
    out
}

/// Writes tensors to `.npz`, or a single one to `.npy`.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), Failure> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match (extension.as_str(), tensors) {
        ("npz", _) => {
            let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
            Ok(files::write_npz(path, &named)?)
        }
        ("npy", [(_, t)]) => Ok(files::write_npy(path, t)?),
        ("npy", _) => Err(Failure::Usage(format!(
            "a .npy file holds one array, and there are {} outputs: use .npz",
            tensors.len()
        ))),
        _ => Err(Failure::Usage(format!(
            "outputs are written to .npz or .npy, not to {}",
            safe(&path.display().to_string())
        ))),
    }
}

/// A tensor as JSON: type, shape and the elements in a flat list.
pub fn to_json(name: &str, t: &Tensor) -> Result<Json, Failure> {
    let data: Vec<Json> = if let Ok(strings) = t.strings() {
        strings.iter().map(|s| json!(s)).collect()
    } else if t.dtype() == DType::Bool {
        t.bytes().iter().map(|&b| json!(b != 0)).collect()
    } else if t.dtype() == DType::U64 {
        t.to_slice::<u64>()?.iter().map(|v| json!(v)).collect()
    } else if t.dtype().is_int() {
        t.to_i64_vec()?.into_iter().map(|v| json!(v)).collect()
    } else if t.dtype() == DType::C64 {
        let parts = t.to_slice::<Complex<f32>>()?;
        parts.iter().map(|c| json!([single(c.re.into()), single(c.im.into())])).collect()
    } else if t.dtype() == DType::C128 {
        t.to_slice::<Complex<f64>>()?.iter().map(|c| json!([number(c.re), number(c.im)])).collect()
    } else {
        let double = t.dtype() == DType::F64;
        t.to_f64_vec()?.into_iter().map(|v| if double { number(v) } else { single(v) }).collect()
    };
    Ok(json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape().dims(), "data": data}))
}

/// JSON has no NaN and no infinities: those are words.
fn number(v: f64) -> Json {
    if v.is_finite() { json!(v) } else { json!(v.to_string()) }
}

/// With no more digits than single precision has.
fn single(v: f64) -> Json {
    (v as f32).to_string().parse().map_or(Json::Null, number)
}

/// Name, type, and the first values of each tensor.
pub fn show(tensors: &[(String, Tensor)]) -> String {
    let rows: Vec<Vec<String>> = tensors.iter().map(|(n, t)| vec![safe(n), t.preview(8)]).collect();
    table(&["output", "values"], &[], &rows)
}

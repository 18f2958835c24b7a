//! Real models with the outputs that their own runtime computed.

use crate::conformance::{Engine, difference};
use std::{collections::HashMap, fs, path::Path};
use tensormill_tensor::{DType, Tensor, Value, map_file, read_npz};

/// Largest relative error, and the absolute one for values near zero.
const TOLERANCE: f64 = 1e-4;

/// The same for models of floats that are small enough to stay closer.
const CLOSE: f64 = 1e-5;

/// Most steps between bytes that a model of integers computes and those of the runtime of its format. That runtime
/// rounds in integers after every layer, halves away from zero, where the file's meaning here is rounded from
/// floats, halves to even: a number between two steps may go either way, and layers after it add to that.
const STEPS: i64 = 2;

/// Models whose outputs come from a runtime that rounds more, with the error that this makes. The weights of
/// four fifths of this one are bytes and its activations are floats, which that runtime rounds to bytes of a range
/// of their own at every run; here, as in OpenVINO, which is as far from it, they stay floats.
const ROUNDED: [(&str, f64); 1] = [("kws_dscnn_float", 2e-3)];

/// The formats that are read here.
const FORMATS: [&str; 2] = ["onnx", "tflite"];

/// Runs every NAME.onnx and NAME.tflite of a folder that has its NAME_onnx.npz or NAME_tflite.npz.
pub fn run(dir: &Path) -> Result<(), String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| FORMATS.iter().any(|f| e == *f)))
        .collect();
    names.sort();
    let mut failed = vec![];
    let mut ran = 0;
    for model in names {
        let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let format = model.extension().unwrap_or_default().to_string_lossy().into_owned();
        let npz = dir.join(format!("{stem}_{format}.npz"));
        if !npz.exists() {
            continue;
        }
        ran += 1;
        for on in Engine::ALL {
            let tolerance = match ROUNDED.iter().find(|(name, _)| *name == stem) {
                Some((_, error)) => *error,
                None if format == "tflite" => CLOSE,
                None => TOLERANCE,
            };
            match one(&model, &npz, *on, tolerance) {
                Ok(()) => println!("model {stem}.{format} on {}: passed", on.name()),
                Err(e) => failed.push(format!("{stem}.{format} on {}: {e}", on.name())),
            }
        }
    }
    if ran == 0 {
        return Err(format!("{}: no model with its .npz", dir.display()));
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("models failed:\n  {}", failed.join("\n  "))) }
}

fn one(model: &Path, npz: &Path, on: Engine, tolerance: f64) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let bytes = map_file(model).map_err(|e| text(&e))?;
    let arrays: HashMap<String, Tensor> = read_npz(npz).map_err(|e| text(&e))?.into_iter().collect();
    let loaded = on.load(&bytes).map_err(|o| format!("{o:?}"))?;
    let inputs = loaded
        .input_names()
        .into_iter()
        .map(|n| arrays.get(&format!("in_{n}")).cloned().map(Value::Tensor).ok_or(format!("no array in_{n}")))
        .collect::<Result<Vec<_>, _>>()?;
    let outputs = loaded.run(&inputs).map_err(|o| format!("{o:?}"))?;
    for (i, got) in outputs.iter().enumerate() {
        let want = arrays.get(&format!("out_{i}")).ok_or(format!("no array out_{i}"))?;
        if let Ok(got) = got.as_tensor()
            && matches!(want.dtype(), DType::I8 | DType::U8)
        {
            steps(got, want).map_err(|e| format!("output {i}: {e}"))?;
            continue;
        }
        if let Some(what) = difference(got, &Value::Tensor(want.clone()), tolerance, tolerance) {
            return Err(format!("output {i}: {what}"));
        }
    }
    Ok(())
}

/// Checks bytes that stand for numbers: near those wanted, and the same one the largest.
fn steps(got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("{}{:?}, not {}{:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let read = |t: &Tensor| t.to_i64_vec().map_err(|e| e.to_string());
    let (got, want) = (read(got)?, read(want)?);
    let most = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).max().unwrap_or(0);
    let first = |v: &[i64]| v.iter().enumerate().max_by_key(|(i, x)| (**x, usize::MAX - i)).map(|(i, _)| i);
    if most > STEPS {
        return Err(format!("{most} steps from what was wanted, more than {STEPS}: {got:?}, not {want:?}"));
    }
    match first(&got) == first(&want) {
        true => Ok(()),
        false => Err(format!("another number is the largest: {got:?}, not {want:?}")),
    }
}

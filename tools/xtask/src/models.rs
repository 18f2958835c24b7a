//! Real models with the outputs that their own runtime computed.

use crate::conformance::{Engine, difference};
use std::{collections::HashMap, fs, path::Path};
use tensormill_tensor::{Tensor, Value, map_file, read_npz};

/// Largest relative error, and the absolute one for values near zero.
const TOLERANCE: f64 = 1e-4;

/// Runs every NAME.onnx of a folder that has its NAME_onnx.npz.
pub fn run(dir: &Path) -> Result<(), String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    names.sort();
    let mut failed = vec![];
    let mut ran = 0;
    for model in names {
        let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let npz = dir.join(format!("{stem}_onnx.npz"));
        if !npz.exists() {
            continue;
        }
        ran += 1;
        for on in Engine::ALL {
            match one(&model, &npz, *on) {
                Ok(()) => println!("model {stem} on {}: passed", on.name()),
                Err(e) => failed.push(format!("{stem} on {}: {e}", on.name())),
            }
        }
    }
    if ran == 0 {
        return Err(format!("{}: no model with its .npz", dir.display()));
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("models failed:\n  {}", failed.join("\n  "))) }
}

fn one(model: &Path, npz: &Path, on: Engine) -> Result<(), String> {
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
        if let Some(what) = difference(got, &Value::Tensor(want.clone()), TOLERANCE, TOLERANCE) {
            return Err(format!("output {i}: {what}"));
        }
    }
    Ok(())
}

//! What needs Python: a private environment below the target folder, with everything pinned.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const REQUIREMENTS: &[&str] =
    &["onnx==1.23.2", "numpy==2.4.6", "ml_dtypes==0.6.0", "protobuf==7.36.2", "typing_extensions==4.16.0"];

/// Whether there is a Python to use.
pub fn available() -> bool {
    Command::new("python3").args(["-c", "import venv"]).output().is_ok_and(|o| o.status.success())
}

/// Generates the ONNX node cases, once for a set of requirements; returns their folder.
pub fn generate_cases() -> Result<PathBuf, String> {
    if !available() {
        return Err(
            "generating the ONNX cases needs python3 with venv; or give a ready archive with --cases".into(),
        );
    }
    let root = target_dir().join("conformance");
    let (venv, out, stamp) = (root.join("venv"), root.join("cases"), root.join("requirements"));
    let wanted = REQUIREMENTS.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(out);
    }
    fs::create_dir_all(&root).map_err(|e| format!("{}: {e}", root.display()))?;
    call(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let python = venv.join("bin/python");
    call(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(REQUIREMENTS),
    )?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/onnx_cases.py");
    call(Command::new(&python).arg(script).arg(&out))?;
    fs::write(&stamp, wanted).map_err(|e| format!("{}: {e}", stamp.display()))?;
    Ok(out)
}

fn target_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}

fn call(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    match command.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("{shown}: {s}")),
        Err(e) => Err(format!("{shown}: {e}")),
    }
}

//! `tensormill convert`

use crate::{
    args::ConvertArgs,
    failure::Failure,
    session,
    text::{bytes, safe},
};
use tensormill::{Optimization, SessionOptions};

pub fn run(args: &ConvertArgs) -> Result<String, Failure> {
    let extension = args.out.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    if !matches!(extension.as_str(), "mill" | "onnx") {
        return Err(Failure::Usage(format!(
            "only .mill and .onnx files are written: name the output {}",
            safe(&args.out.with_extension("mill").display().to_string())
        )));
    }
    let model = session::load(&args.model, None)?;
    let mut options = SessionOptions::new().optimization(args.opt.into());
    for (name, size) in &args.dims {
        options = options.dim(name, *size);
    }
    let changed = Optimization::from(args.opt) != Optimization::None || !args.dims.is_empty();
    let model = if changed { model.prepared(&options)? } else { model };
    model.save(&args.out)?;
    let size = std::fs::metadata(&args.out).map(|m| m.len()).unwrap_or(0);
    Ok(format!(
        "{}: {} nodes, {}\n",
        safe(&args.out.display().to_string()),
        model.graph().nodes().count(),
        bytes(size)
    ))
}

//! `tensormill run`

use crate::{args::RunArgs, failure::Failure, inputs, outputs, session};
use serde_json::json;
use std::time::Duration;
use tensormill::{Inputs, RunOptions};

pub fn run(args: &RunArgs) -> Result<String, Failure> {
    let model = session::load(&args.model, Some(&args.session))?;
    if args.input.inputs.is_empty() && !model.inputs().is_empty() {
        let list: Vec<String> = model.inputs().iter().map(|p| format!("  {p}")).collect();
        return Err(Failure::Usage(format!(
            "the model needs inputs: give files with --inputs; it takes\n{}",
            list.join("\n")
        )));
    }
    let session = session::compile(&model, &args.session, &args.outputs)?;
    let given = inputs::from_files(&args.input, session.inputs())?;
    let mut options = RunOptions::new();
    if let Some(seconds) = args.timeout {
        options = options.max_time(Duration::from_secs_f64(seconds));
    }
    let result = session.run_with(given.into_iter().collect::<Inputs<'_>>(), &options)?;
    let tensors = outputs::flatten(result.iter());
    if let Some(path) = &args.save {
        outputs::save(path, &tensors)?;
    }
    if args.json {
        let list = tensors.iter().map(|(n, t)| outputs::to_json(n, t)).collect::<Result<Vec<_>, _>>()?;
        return Ok(format!("{}\n", json!({"outputs": list})));
    }
    Ok(if args.save.is_some() { String::new() } else { outputs::show(&tensors) })
}

use super::Outcome;
use bytes::Bytes;
use clap::ValueEnum;
use tensormill_formats::{external::ExternalData, onnx};
use tensormill_ir::Graph;
use tensormill_reference::{EvalError, EvalLimits, interpret};
use tensormill_tensor::Value;

/// What runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The scalar reference, unoptimized.
    Reference,
}

/// A model ready to run.
pub struct Loaded {
    graph: Graph,
}

impl Engine {
    /// Every engine.
    pub const ALL: &[Engine] = &[Engine::Reference];

    /// Reads and prepares a model.
    pub fn load(self, bytes: &Bytes) -> Result<Loaded, Outcome> {
        let failed = |e: &dyn std::fmt::Display| Outcome::Failed(first_line(e));
        let model = onnx::parse(bytes.clone(), &onnx::ParseLimits::default(), ExternalData::deny())
            .map_err(|e| failed(&e))?;
        let lowered = onnx::lower(&model).map_err(|e| match e.is_unsupported() {
            true => Outcome::Unsupported(first_line(&e)),
            false => failed(&e),
        })?;
        lowered.graph.verify().map_err(|e| failed(&e))?;
        Ok(Loaded { graph: lowered.graph })
    }
}

impl Loaded {
    /// Names of the inputs, in order.
    pub fn input_names(&self) -> Vec<String> {
        let name = |v| self.graph.value(v).name.as_deref().unwrap_or_default().to_owned();
        self.graph.inputs().iter().map(|&v| name(v)).collect()
    }

    /// Runs once.
    pub fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, Outcome> {
        interpret(&self.graph, inputs, &EvalLimits::default()).map_err(|e| match unsupported(&e) {
            true => Outcome::Unsupported(first_line(&e)),
            false => Outcome::Failed(first_line(&e)),
        })
    }
}

fn unsupported(e: &EvalError) -> bool {
    match e {
        EvalError::Unsupported(_) => true,
        EvalError::Node { source, .. } => unsupported(source),
        _ => false,
    }
}

fn first_line(e: &dyn std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

use super::Outcome;
use bytes::Bytes;
use clap::ValueEnum;
use tensormill::{Backend, Error, Inputs, Model, Optimization, Session, SessionOptions, Value};
use tensormill_formats::onnx::{self, WriteError};

/// What runs the models: all through the runtime's public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The scalar reference, unoptimized.
    Reference,
    /// The CPU backend, unoptimized.
    Cpu,
    /// The CPU backend behind the default pipeline.
    CpuOptimized,
    /// The reference, on the model written as ONNX and read again.
    Written,
    /// The same, written after the default pipeline: what fused forms stand for.
    WrittenOptimized,
}

/// A model ready to run.
pub struct Loaded {
    session: Session,
}

impl Engine {
    /// Every engine.
    pub const ALL: &[Engine] =
        &[Engine::Reference, Engine::Cpu, Engine::CpuOptimized, Engine::Written, Engine::WrittenOptimized];

    /// Reads and prepares a model.
    pub fn load(self, bytes: &Bytes) -> Result<Loaded, Outcome> {
        let (backend, level) = match self {
            Engine::Reference => (Backend::Reference, Optimization::None),
            Engine::Cpu => (Backend::Cpu, Optimization::None),
            Engine::CpuOptimized => (Backend::Cpu, Optimization::Default),
            Engine::Written | Engine::WrittenOptimized => (Backend::Reference, Optimization::None),
        };
        let options = SessionOptions::new().backend(backend).optimization(level).threads(1);
        let mut model = Model::load(bytes.to_vec()).map_err(outcome)?;
        if self == Engine::WrittenOptimized {
            let options = SessionOptions::new().optimization(Optimization::Default);
            model = model.prepared(&options).map_err(outcome)?;
        }
        if matches!(self, Engine::Written | Engine::WrittenOptimized) {
            model = written(&model)?;
        }
        model.graph().verify().map_err(|e| Outcome::Failed(one_line(&e)))?;
        Ok(Loaded { session: model.session_with(&options).map_err(outcome)? })
    }
}

impl Loaded {
    /// Names of the inputs, in order.
    pub fn input_names(&self) -> Vec<String> {
        self.session.inputs().iter().map(|p| p.name.clone()).collect()
    }

    /// Runs once.
    pub fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, Outcome> {
        self.session.run(Inputs::from(inputs.to_vec())).map(|o| o.into_values()).map_err(outcome)
    }
}

/// The model after a way through a file; what is written is the same the second time.
fn written(model: &Model) -> Result<Model, Outcome> {
    let bytes = |m: &Model| {
        onnx::to_bytes(m.graph(), m.metadata()).map_err(|e| match e {
            WriteError::Unwritable(_) => Outcome::Unsupported(one_line(&e)),
            e => Outcome::Failed(one_line(&e)),
        })
    };
    let first = bytes(model)?;
    if bytes(model)? != first {
        return Err(Outcome::Failed("the same graph is written in two ways".into()));
    }
    Model::load(first).map_err(|e| Outcome::Failed(format!("written, it is refused: {}", one_line(&e))))
}

fn outcome(e: Error) -> Outcome {
    if e.is_unsupported() { Outcome::Unsupported(one_line(&e)) } else { Outcome::Failed(one_line(&e)) }
}

fn one_line(e: &dyn std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

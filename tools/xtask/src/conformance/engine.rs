use super::Outcome;
use bytes::Bytes;
use clap::ValueEnum;
use tensormill::{Backend, Error, Inputs, Model, Optimization, Session, SessionOptions, Value};

/// What runs the models: all through the runtime's public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The scalar reference, unoptimized.
    Reference,
    /// The CPU backend, unoptimized.
    Cpu,
    /// The CPU backend behind the default pipeline.
    CpuOptimized,
}

/// A model ready to run.
pub struct Loaded {
    session: Session,
}

impl Engine {
    /// Every engine.
    pub const ALL: &[Engine] = &[Engine::Reference, Engine::Cpu, Engine::CpuOptimized];

    /// Reads and prepares a model.
    pub fn load(self, bytes: &Bytes) -> Result<Loaded, Outcome> {
        let (backend, level) = match self {
            Engine::Reference => (Backend::Reference, Optimization::None),
            Engine::Cpu => (Backend::Cpu, Optimization::None),
            Engine::CpuOptimized => (Backend::Cpu, Optimization::Default),
        };
        let options = SessionOptions::new().backend(backend).optimization(level).threads(1);
        let model = Model::load(bytes.to_vec()).map_err(outcome)?;
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

fn outcome(e: Error) -> Outcome {
    if e.is_unsupported() { Outcome::Unsupported(one_line(&e)) } else { Outcome::Failed(one_line(&e)) }
}

fn one_line(e: &dyn std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

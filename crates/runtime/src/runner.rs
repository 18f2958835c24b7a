use crate::{Error, Inputs, Outputs, RunOptions, Session, states::Kept};
use std::fmt;

/// Runs a session again and again with memory of its own: arenas, and the outputs of the last run, which the
/// next one writes over. Once a run of the same sizes has been, a run allocates nothing and waits for no lock of the session,
/// but for what the model leaves to run time: control flow, and sizes that depend on values.
///
/// Up to four inputs cost nothing to hand over; more take one list. A tensor that the caller keeps a clone of
/// is left to it, and the next run makes a new one.
///
/// ```
/// use tensormill::{Model, SessionOptions, Tensor};
/// # let bytes: &'static [u8] = include_bytes!("../../../tools/cli/assets/digits.onnx");
/// let session = Model::load(bytes)?.session_with(&SessionOptions::new().threads(1))?;
/// let mut runner = session.runner();
/// let image = Tensor::from_vec([1, 1, 8, 8], vec![0.5f32; 64])?;
/// for _ in 0..3 {
///     let outputs = runner.run([("image", image.clone())])?;
///     assert_eq!(outputs.tensor(0)?.shape().dims(), [1, 10]);
/// }
/// # Ok::<(), tensormill::Error>(())
/// ```
pub struct Runner {
    session: Session,
    states: Kept,
    outputs: Outputs,
}

impl Runner {
    pub(crate) fn new(session: Session) -> Runner {
        let outputs = Outputs { ports: session.ports(), values: vec![], profile: None };
        Runner { states: session.own_states(), session, outputs }
    }

    /// The session that runs.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// As [`Session::run`]; the outputs are this runner's until its next run.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run<'a>(&mut self, inputs: impl Into<Inputs<'a>>) -> Result<&Outputs, Error> {
        self.run_with(inputs, &RunOptions::default())
    }

    /// As [`Session::run_with`]; the outputs are this runner's until its next run.
    ///
    /// # Errors
    /// As [`Session::run_with`].
    pub fn run_with<'a>(
        &mut self,
        inputs: impl Into<Inputs<'a>>,
        options: &RunOptions,
    ) -> Result<&Outputs, Error> {
        // The state writes over outputs that nobody holds.
        self.outputs.values.clear();
        self.outputs.profile = None;
        let values = &mut self.outputs.values;
        self.outputs.profile = self.session.once(inputs.into(), options, values, Some(&mut self.states))?;
        Ok(&self.outputs)
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("session", &self.session).finish_non_exhaustive()
    }
}

use std::{path::PathBuf, time::Duration};
use tensormill_backend::{BackendError, RunError};
use tensormill_ir::shown;
use tensormill_tensor::TensorError;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// Why a model could not be loaded, compiled or run. Each says what, where, and the way out; names from
/// files are escaped, so that messages are safe to show on a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {what}", path.display().to_string().escape_debug())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The bytes are no model of a format that is read here.
    #[error("{origin}: {what}")]
    Format {
        /// The file, or `the model` for bytes.
        origin: String,
        /// What they look like, and what to do.
        what: String,
    },
    /// A model that is damaged, inconsistent, or asks for more than the limits allow.
    #[error("{source}")]
    Invalid {
        /// What the reader says: file, node and field.
        source: Boxed,
    },
    /// A valid model that asks for something that is not implemented.
    #[error("the model is not supported: {what}")]
    Unsupported {
        /// Every operator or node, with the reason.
        what: String,
    },
    /// A graph that cannot be compiled.
    #[error("{what}")]
    Compile {
        /// What is wrong, naming the node.
        what: String,
    },
    /// An option that makes no sense for the model.
    #[error("{0}")]
    Option(String),
    /// An input, output or dim that does not exist, is missing, or is given twice.
    #[error("{what}; {known}")]
    Name {
        /// What was asked for.
        what: String,
        /// What there is.
        known: String,
    },
    /// An input of another type or shape than the model takes.
    #[error("input \"{}\" takes {}: {what}", shown(name), cut(expected))]
    Input {
        /// The input.
        name: String,
        /// The type that it takes.
        expected: String,
        /// What was given.
        what: String,
    },
    /// A node that failed on the values of this run.
    #[error("{what}")]
    Run {
        /// The node, its op and what is wrong.
        what: String,
    },
    /// A run that needs more than [`Limits`](crate::Limits) allow.
    #[error("{what}; if the model is trusted, raise `Limits::{field}`")]
    Limit {
        /// What was exceeded, and by how much.
        what: String,
        /// The field of [`Limits`](crate::Limits) that holds it.
        field: &'static str,
    },
    /// The caller's [`CancelToken`](crate::CancelToken) was used.
    #[error("the run was cancelled")]
    Cancelled,
    /// The run took longer than it may.
    #[error("the run took longer than {limit:?}; if the model is trusted, raise `Limits::max_time`")]
    TimedOut {
        /// The limit in force.
        limit: Duration,
    },
    /// A model that cannot be quantized as asked.
    #[error("the model cannot be quantized as asked: {what}")]
    Quantize {
        /// What is wrong.
        what: String,
    },
    /// A quantized model that misses its budget of accuracy, with every node in float that could be.
    #[error(
        "the metric is {reached} where {target} is the least allowed; allow a larger drop, give more samples, or take \
         the model anyway"
    )]
    Budget {
        /// The metric of the nearest model.
        reached: f64,
        /// The least that the budget allows.
        target: f64,
    },
    /// A tensor that cannot be made or seen as asked.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Error {
    /// Whether the model is valid but asks for something that is not implemented.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Error::Unsupported { .. })
    }

    pub(crate) fn invalid(source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Invalid { source: Box::new(source) }
    }
}

impl From<BackendError> for Error {
    fn from(e: BackendError) -> Error {
        match e {
            BackendError::Unsupported { .. } => Error::Unsupported { what: e.to_string() },
            BackendError::TooLarge { bytes, limit } => Error::Limit {
                what: format!("a run would need {bytes} bytes for its values, and may use {limit}"),
                field: "max_memory",
            },
            e => Error::Compile { what: e.to_string() },
        }
    }
}

impl From<RunError> for Error {
    fn from(e: RunError) -> Error {
        match e {
            RunError::Cancelled => Error::Cancelled,
            RunError::TooLarge { limit } => Error::Limit {
                what: format!("the run needs more than {limit} bytes for its values"),
                field: "max_memory",
            },
            e => Error::Run { what: e.to_string() },
        }
    }
}

/// A type whose names of sizes may be of any length; they are escaped where they need it.
fn cut(ty: &str) -> String {
    ty.chars().take(200).collect()
}

/// `"a" f32[N,3], "b" i64[]`, cut off where it grows long.
pub(crate) fn list<'a>(items: impl ExactSizeIterator<Item = (&'a str, String)>) -> String {
    const SHOWN: usize = 12;
    let total = items.len();
    let mut out: Vec<String> = items
        .take(SHOWN)
        .map(|(name, more)| {
            let name: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            if more.is_empty() { format!("\"{name}\"") } else { format!("\"{name}\" {}", cut(&more)) }
        })
        .collect();
    if total > SHOWN {
        out.push(format!("and {} more", total - SHOWN));
    }
    out.join(", ")
}

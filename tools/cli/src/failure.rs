use std::fmt;
use tensormill::{Error, TensorError};

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    General(String),
    /// Exit code 2.
    Usage(String),
    /// Exit code 3: a valid model that cannot run.
    Unsupported(String),
    /// Exit code 4: the comparison was made, and its report is for the output.
    Differs(String),
}

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Failure::General(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unsupported(_) => 3,
            Failure::Differs(_) => 4,
        }
    }

    pub fn new(what: impl fmt::Display) -> Failure {
        Failure::General(what.to_string())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        if e.is_unsupported() { Failure::Unsupported(e.to_string()) } else { Failure::General(e.to_string()) }
    }
}

impl From<TensorError> for Failure {
    fn from(e: TensorError) -> Failure {
        Failure::General(e.to_string())
    }
}

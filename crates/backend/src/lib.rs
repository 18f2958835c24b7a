//! What a backend is.
//!
//! A [`Backend`] compiles a graph into a [`Plan`]: immutable, shared, with weights prepared once. A plan
//! makes [`State`]s: one caller's arena for one set of input sizes, which runs without allocating where
//! every size is known. Nothing falls back silently: a [`PlanReport`] names what runs each node and why.

mod backend;
mod error;
mod planner;
mod profile;
mod report;

pub use backend::{Backend, CompileOptions, Io, Plan, State, Support};
pub use error::{BackendError, RunError};
pub use planner::{ARENA_ALIGNMENT, Lifetime, MemoryPlan, plan_memory};
pub use profile::{Profile, Sample};
pub use report::{NodeReport, PlanReport};

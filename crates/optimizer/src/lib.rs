//! Passes over graphs: simplify, fuse; the pass manager and the named pipelines.
//!
//! A [`Rule`] matches one node and answers with a patch, or says why it declines; a [`RuleSet`] drives
//! rules to a fixed point; a [`Pass`] sees the whole graph; a [`Pipeline`] runs passes in order and
//! fills an [`OptLog`].
//!
//! ```
//! use tensormill_optimizer::{OptOptions, Pipeline};
//! let mut g = tensormill_ir::text::parse(
//!     "graph @main(%x: f32[N,3]) -> (%y) {\n  %0: f32[N,3] = relu %x\n  %y: f32[N,3] = relu %0\n}",
//! )?;
//! let log = Pipeline::by_name("default").expect("a named pipeline").run(&mut g, &OptOptions::default())?;
//! assert_eq!(g.nodes().count(), 1);
//! assert_eq!(log.rewrites(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bodies;
mod driver;
pub mod fuse;
mod log;
mod pass;
mod pattern;
mod pipeline;
pub mod prune;
pub mod quantize;
mod rule;
pub mod simplify;
#[cfg(feature = "testing")]
pub mod testing;

pub use bodies::map_bodies;
pub use driver::RuleSet;
pub use log::{Decline, LogEntry, OptLog};
pub use pass::{Budget, Changed, Numerics, OptOptions, Pass, PassCx, PassError};
pub use pipeline::Pipeline;
pub use rule::{Outcome, Rule, RuleCx};

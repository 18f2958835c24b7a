//! Passes over graphs: simplify, fuse; the pass manager and the named pipelines.

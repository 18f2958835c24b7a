//! Criterion benchmarks across backends.

//! Any bytes as an ONNX file: an error or a graph that verifies, within the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensormill_formats::{external::ExternalData, onnx};

fuzz_target!(|data: &[u8]| {
    let mut limits = onnx::ParseLimits::default();
    limits.max_nodes = 2_000;
    limits.max_dense_bytes = 1 << 20;
    limits.max_decoded_bytes = 64 << 20;
    let Ok(model) = onnx::parse(bytes::Bytes::copy_from_slice(data), &limits, ExternalData::deny()) else { return };
    if let Ok(lowered) = onnx::lower(&model) {
        lowered.graph.verify().expect("what the reader makes is a valid graph");
    }
});

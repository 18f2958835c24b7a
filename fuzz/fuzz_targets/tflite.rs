//! Any bytes as a TensorFlow Lite file: an error or a graph that verifies, within the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensormill_formats::tflite;

fuzz_target!(|data: &[u8]| {
    let mut limits = tflite::ParseLimits::default();
    limits.max_nodes = 2_000;
    limits.max_decoded_bytes = 64 << 20;
    // The identifier is not what there is to find out.
    let mut data = data.to_vec();
    if let Some(identifier) = data.get_mut(4..8) {
        identifier.copy_from_slice(b"TFL3");
    }
    let Ok(model) = tflite::parse(data.into(), &limits) else { return };
    if let Ok(lowered) = tflite::lower(&model) {
        lowered.graph.verify().expect("what the reader makes is a valid graph");
    }
});

use tensormill_ir::NodeId;
use tensormill_optimizer::quantize::{NodeEntry, Treatment};

/// A node in a report.
#[derive(Debug, Clone)]
pub struct QuantNode {
    pub(super) node: NodeId,
    /// Its name in the source file, its result's name, or its op.
    pub name: String,
    /// Its op.
    pub op: &'static str,
    /// What became of it, or why it stays in float.
    pub treatment: Treatment,
    /// Signal to quantization noise, in decibels, of what its readers read: the quantized model's against the float
    /// model's. Infinite where both are equal; none where nothing was measured.
    pub snr: Option<f64>,
    /// By how much the noise of its result, as a part of the signal, exceeds that of its input: what it adds itself.
    pub added: Option<f64>,
}

impl QuantNode {
    pub(super) fn new(n: &NodeEntry, (input, output): (Option<f64>, Option<f64>)) -> QuantNode {
        QuantNode {
            node: n.node,
            name: n.name.clone(),
            op: n.op,
            treatment: n.treatment.clone(),
            snr: output.map(decibels),
            added: output.map(|o| o - input.unwrap_or(0.0)),
        }
    }

    /// Whether it was quantized.
    pub fn is_quantized(&self) -> bool {
        matches!(self.treatment, Treatment::Quantized { .. })
    }
}

/// What a quantization did.
#[derive(Debug, Clone)]
pub struct QuantReport {
    /// The nodes that quantization is for, in order.
    pub nodes: Vec<QuantNode>,
    /// The outputs with their signal to quantization noise in decibels, where it was measured.
    pub outputs: Vec<(String, Option<f64>)>,
    /// Nodes whose channels could not be scaled as [`equalize`](super::Quantizer::equalize) or
    /// [`smooth`](super::Quantizer::smooth) asks, and why.
    pub not_scaled: Vec<(String, &'static str)>,
    /// Samples that ranges come from.
    pub samples: usize,
    /// Bytes of constants before.
    pub float_bytes: usize,
    /// Bytes of constants after.
    pub quantized_bytes: usize,
}

/// From noise as a part of the signal.
pub(super) fn decibels(noise: f64) -> f64 {
    -10.0 * noise.log10()
}

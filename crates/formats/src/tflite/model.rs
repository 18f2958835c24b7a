use super::{flat::Table, operators};
use bytes::Bytes;
use std::ops::Range;

/// A model as its file says, every number in it checked to name something.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) bytes: Bytes,
    pub(super) description: String,
    pub(super) codes: Vec<OperatorCode>,
    pub(super) subgraphs: Vec<SubGraph>,
    pub(super) buffers: Vec<Range<usize>>,
    pub(super) max_tensor_bytes: u64,
}

/// An operator that a model uses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorCode {
    /// Its number among the builtin operators.
    pub builtin: i32,
    /// Its name where it is no builtin operator.
    pub custom: String,
    /// The version of its meaning.
    pub version: i32,
}

impl OperatorCode {
    /// The name: `CONV_2D`, `CUSTOM TFLite_Detection_PostProcess`, `operator 300`.
    pub fn name(&self) -> String {
        match operators::name(self.builtin) {
            Some("CUSTOM") => format!("CUSTOM {}", self.custom),
            Some(name) => name.into(),
            None => format!("operator {}", self.builtin),
        }
    }
}

/// Tensors, and the operators on them in the order they run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SubGraph {
    /// Its name; often empty.
    pub name: String,
    /// Its tensors.
    pub tensors: Vec<TensorInfo>,
    /// Indices of the inputs.
    pub inputs: Vec<usize>,
    /// Indices of the outputs.
    pub outputs: Vec<usize>,
    /// What runs.
    pub operators: Vec<Operator>,
}

/// A tensor: its name, type and where its numbers are.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The element type by the file's number.
    pub dtype: u8,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// Sizes of the axes where the file says which are open.
    pub signature: Option<Vec<Option<usize>>>,
    /// Which buffer holds its numbers; an empty one where it is computed.
    pub buffer: usize,
    /// What its integers stand for.
    pub quantization: Option<Quantization>,
    /// Whether it keeps its numbers from run to run.
    pub variable: bool,
    /// Whether the buffer holds only some of its numbers.
    pub sparse: bool,
}

/// Real numbers as `scale * (integer - zero)`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Quantization {
    /// One scale, or one for each place of the axis.
    pub scale: Vec<f32>,
    /// As many zero points.
    pub zero: Vec<i64>,
    /// The axis that scales differ along.
    pub axis: usize,
}

/// One step.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Operator {
    /// Which of the model's operators.
    pub code: usize,
    /// Indices of the operands; none where one is left out.
    pub inputs: Vec<Option<usize>>,
    /// Indices of the results.
    pub outputs: Vec<usize>,
    /// Which kind of options it has; 0: none.
    pub options_type: u8,
    /// Where in the file they are.
    pub(super) options: Option<usize>,
    /// Whether it has options of a kind that only newer operators have.
    pub(super) newer_options: bool,
}

impl Model {
    /// What the file says of itself.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The operators that the model uses.
    pub fn codes(&self) -> &[OperatorCode] {
        &self.codes
    }

    /// The subgraphs; the first one is the model.
    pub fn subgraphs(&self) -> &[SubGraph] {
        &self.subgraphs
    }

    /// The options of an operator.
    pub(super) fn options(&self, op: &Operator) -> Option<Table<'_>> {
        // Parsing has seen that it is a table.
        super::flat::Flat(&self.bytes).table(op.options?).ok()
    }

    /// The bytes of a tensor's buffer; none where the tensor is computed.
    pub(super) fn data(&self, t: &TensorInfo) -> Option<Bytes> {
        let range = self.buffers.get(t.buffer)?;
        (!range.is_empty()).then(|| self.bytes.slice(range.clone()))
    }
}

use std::collections::BTreeSet;
use tensormill_ir::{Graph, IrError, NodeId};
use tensormill_tensor::{DType, TensorError};

/// What becomes of a model's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// Weights and activations as 8-bit integers, ranges of activations measured ahead on samples.
    StaticInt8,
    /// Weights as 8-bit integers, activations before each product by their range in the run.
    DynamicInt8,
    /// Weights as 8-bit integers, computed with as floats.
    Int8Weights,
    /// Weights as 4-bit integers in groups, computed with as floats.
    Int4Weights {
        /// Elements along the inner axis that share a scale: a power of two from 16 on.
        group: usize,
    },
    /// Weights in IEEE half precision, computed with as f32.
    F16Weights,
    /// Weights in bfloat16, computed with as f32.
    Bf16Weights,
}

impl Scheme {
    /// Whether it needs the ranges of activations, and so samples.
    pub fn needs_samples(self) -> bool {
        self == Scheme::StaticInt8
    }
}

/// How a range is chosen from what was observed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// All that was seen.
    MinMax,
    /// The range whose quantized histogram loses the least information (Kullback-Leibler divergence).
    Entropy,
    /// The range that holds this many percent of the elements.
    Percentile(f64),
    /// The range of the least squared error.
    Mse,
}

/// What to quantize, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantOptions {
    /// What becomes of the numbers.
    pub scheme: Scheme,
    /// How ranges of activations are chosen.
    pub method: Method,
    /// Whether each output channel of weights has a scale of its own.
    pub per_channel: bool,
    /// Whether scales of weights are those of the least squared error, rather than those that reach the
    /// largest weight.
    pub search_weights: bool,
    /// Whether 8-bit weights that multiply integers keep to -64..=64: two products with u8 then fit 16 bits, in
    /// which engines for processors without VNNI add them.
    pub seven_bit_weights: bool,
    /// Whether the range of activations reaches as far below zero as above it.
    pub symmetric_activations: bool,
    /// The type of activations, [`DType::U8`] or [`DType::I8`].
    pub activations: DType,
    /// Elements along the inner axis that share a scale in [`Scheme::Int8Weights`]; none: a whole output channel.
    pub group: Option<usize>,
    /// Whether 4-bit weights have zero points.
    pub zero_points: bool,
    /// Whether the shift of each channel's mean by rounded weights is taken off its bias.
    pub correct_bias: bool,
    /// Whether roundings of a product's weights compensate each other, where its inputs were observed.
    pub compensate: bool,
    /// Whether channels of consecutive convolutions are scaled to alike ranges first.
    pub equalize: bool,
    /// How much of an activation's range, from 0 to 1, moves into the weights after a layer norm; none: no
    /// such smoothing.
    pub smooth: Option<f32>,
    /// Nodes that stay in float, by the name that the log calls them by.
    pub exclude: BTreeSet<String>,
    /// Further nodes that stay in float, of the prepared graph.
    pub exclude_nodes: BTreeSet<NodeId>,
}

impl QuantOptions {
    /// The defaults of a scheme.
    pub fn new(scheme: Scheme) -> Self {
        QuantOptions {
            scheme,
            method: Method::Mse,
            per_channel: true,
            search_weights: true,
            seven_bit_weights: false,
            symmetric_activations: false,
            activations: DType::U8,
            // A scale for a whole channel of a wide product has one large weight decide how all others are rounded.
            group: (scheme == Scheme::Int8Weights).then_some(128),
            zero_points: true,
            correct_bias: true,
            // The roundings of 8-bit weights are not worth the time.
            compensate: matches!(scheme, Scheme::Int4Weights { .. }),
            equalize: false,
            smooth: None,
            exclude: BTreeSet::new(),
            exclude_nodes: BTreeSet::new(),
        }
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`QuantError::Option`].
    pub fn check(&self) -> Result<(), QuantError> {
        let bad = |what: String| Err(QuantError::Option(what));
        if !matches!(self.activations, DType::U8 | DType::I8) {
            return bad(format!("activations cannot be {}: ask for u8 or i8", self.activations));
        }
        let group = match self.scheme {
            Scheme::Int4Weights { group } => Some(group),
            _ => self.group,
        };
        if let Some(group) = group.filter(|g| !(g.is_power_of_two() && (16..=4096).contains(g))) {
            return bad(format!("groups of {group}: ask for a power of two from 16 to 4096"));
        }
        if let Method::Percentile(p) = self.method
            && !(p > 50.0 && p <= 100.0)
        {
            return bad(format!("a percentile of {p}: ask for more than 50 and at most 100"));
        }
        if let Some(a) = self.smooth
            && !(0.0..=1.0).contains(&a)
        {
            return bad(format!("a smoothing of {a}: ask for 0 to 1"));
        }
        Ok(())
    }

    pub(super) fn excludes(&self, g: &Graph, id: NodeId) -> bool {
        let named = |n: &str| self.exclude.contains(n);
        let node = g.node(id);
        self.exclude_nodes.contains(&id)
            || !self.exclude.is_empty()
                && (node.origin.as_deref().is_some_and(named)
                    || node.outputs.iter().any(|v| g.value(*v).name.as_deref().is_some_and(named)))
    }
}

/// Why a graph could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// An option that makes no sense.
    #[error("{0}")]
    Option(String),
    /// A name to exclude that no node has.
    #[error("no node is named \"{}\"", .0.escape_debug())]
    NoNode(String),
    /// A value whose range is needed and was not observed.
    #[error("the range of \"{}\" was not observed", .0.escape_debug())]
    NotObserved(String),
    /// The graph refuses a change: a defect of the quantizer.
    #[error(transparent)]
    Graph(#[from] IrError),
    /// A tensor that cannot be made: a defect of the quantizer.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

//! Fewer bits for weights and activations: calibration by running the model, the rewrite, and what it cost.

mod budget;
mod measure;
mod report;

pub use report::{QuantNode, QuantReport};
pub use tensormill_optimizer::quantize::{Method, Scheme, Treatment};

use crate::{Error, Limits, Model, Outputs, Session, SessionOptions};
use tensormill_ir::Graph;
use tensormill_optimizer::{
    OptOptions, PassError,
    quantize::{self, Observer, QuantError, QuantOptions, Statistics, Wanted},
};
use tensormill_tensor::{DType, Tensor};

/// Bytes of observed values in one run; more are observed in several.
const OBSERVED: usize = 512 << 20;
/// Samples that the report's figures are measured on.
const MEASURED: usize = 4;

/// One sample: a tensor for each input of the model, by name.
pub type Inputs = Vec<(String, Tensor)>;

/// Quantizes models.
///
/// ```
/// use tensormill::{Model, Tensor, quantize::{Quantizer, Scheme}};
/// let bytes: &'static [u8] = include_bytes!("../../../tools/cli/assets/digits.onnx");
/// let model = Model::load(bytes)?;
/// // Samples are as the model's inputs will be; here, gradients of grey.
/// let samples = (0..8).map(|i| {
///     let pixels = (0..64).map(|p| ((p * (i + 1)) % 17) as f32 / 17.0).collect();
///     Ok(vec![("image".to_string(), Tensor::from_vec([1, 1, 8, 8], pixels)?)])
/// });
/// let quantized = Quantizer::new(Scheme::StaticInt8).run(&model, samples)?;
/// assert!(quantized.report.quantized_bytes < quantized.report.float_bytes);
/// assert!(quantized.report.nodes.iter().any(|n| n.is_quantized()));
/// let session = quantized.model.session()?;
/// # let _ = session;
/// # Ok::<(), tensormill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Quantizer {
    options: QuantOptions,
    threads: Option<usize>,
    measured: usize,
    anyway: bool,
}

/// A quantized model, and what became of its nodes.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The model.
    pub model: Model,
    /// What became of the nodes, and what it cost.
    pub report: QuantReport,
}

impl Quantizer {
    /// A quantizer with the defaults of a scheme.
    pub fn new(scheme: Scheme) -> Self {
        Quantizer { options: QuantOptions::new(scheme), threads: None, measured: MEASURED, anyway: false }
    }

    /// How ranges of activations are chosen; by the least squared error, unless set.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.options.method = method;
        self
    }

    /// Leaves the node of this name in float: its name in the source file, or that of its result.
    #[must_use]
    pub fn exclude(mut self, node: impl Into<String>) -> Self {
        self.options.exclude.insert(node.into());
        self
    }

    /// Whether each output channel of weights has a scale of its own. It has, unless set.
    #[must_use]
    pub fn per_channel(mut self, yes: bool) -> Self {
        self.options.per_channel = yes;
        self
    }

    /// Whether scales of weights are those of the least squared error, rather than those that reach the largest
    /// weight. They are, unless set.
    #[must_use]
    pub fn search_weights(mut self, yes: bool) -> Self {
        self.options.search_weights = yes;
        self
    }

    /// Whether 8-bit weights that multiply integers keep to -64..=64. Other engines add two of their products with
    /// u8 in 16 bits on processors without VNNI, and larger sums saturate there; this one never does. They do not,
    /// unless set.
    #[must_use]
    pub fn seven_bit_weights(mut self, yes: bool) -> Self {
        self.options.seven_bit_weights = yes;
        self
    }

    /// Whether activations are i8 rather than u8. They are u8, unless set.
    #[must_use]
    pub fn signed_activations(mut self, yes: bool) -> Self {
        self.options.activations = if yes { DType::I8 } else { DType::U8 };
        self
    }

    /// Whether ranges of activations reach as far below zero as above it. They do not, unless set.
    #[must_use]
    pub fn symmetric_activations(mut self, yes: bool) -> Self {
        self.options.symmetric_activations = yes;
        self
    }

    /// Elements along the inner axis that share a scale in [`Scheme::Int8Weights`], a power of two from 16 on; none: all
    /// of an output channel. 128, unless set.
    #[must_use]
    pub fn group(mut self, elements: impl Into<Option<usize>>) -> Self {
        self.options.group = elements.into();
        self
    }

    /// Whether 4-bit weights have zero points, for four more bits a group. They do, unless set.
    #[must_use]
    pub fn zero_points(mut self, yes: bool) -> Self {
        self.options.zero_points = yes;
        self
    }

    /// Whether the shift that rounded weights cause in a channel's mean is taken off its bias, where samples are
    /// given. It is, unless set.
    #[must_use]
    pub fn correct_bias(mut self, yes: bool) -> Self {
        self.options.correct_bias = yes;
        self
    }

    /// Whether roundings of weights compensate each other on the given samples. They do, unless set, in
    /// [`Scheme::Int4Weights`]; those of 8 bits gain little by it.
    #[must_use]
    pub fn compensate(mut self, yes: bool) -> Self {
        self.options.compensate = yes;
        self
    }

    /// Whether channels of consecutive convolutions are scaled to alike ranges first. They are not, unless set.
    #[must_use]
    pub fn equalize(mut self, yes: bool) -> Self {
        self.options.equalize = yes;
        self
    }

    /// Moves a part, from 0 to 1, of the activations' ranges after layer norms into the weights that follow. None,
    /// unless set.
    #[must_use]
    pub fn smooth(mut self, part: impl Into<Option<f32>>) -> Self {
        self.options.smooth = part.into();
        self
    }

    /// Threads that calibration uses; as many as there are processors, unless set. They do not change the result.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Samples, the first ones, that the report's figures are measured on. 4, unless set; none: no figures.
    #[must_use]
    pub fn measured_samples(mut self, samples: usize) -> Self {
        self.measured = samples;
        self
    }

    /// Whether [`run_within`](Self::run_within) returns a model that misses its budget. It refuses to, unless set.
    #[must_use]
    pub fn anyway(mut self, yes: bool) -> Self {
        self.anyway = yes;
        self
    }

    /// Quantizes a model. Ranges come from the samples; schemes other than [`Scheme::StaticInt8`] do without, but
    /// [`Scheme::Int4Weights`] rounds better with some, and every report has figures only with some.
    ///
    /// # Errors
    /// [`Error::Quantize`] for options that make no sense, a name to exclude that no node has, and a static
    /// quantization without samples; whatever a sample is; and as [`Model::session_with`] and
    /// [`Session::run`](crate::Session::run).
    pub fn run<I>(&self, model: &Model, samples: I) -> Result<Quantized, Error>
    where
        I: IntoIterator<Item = Result<Inputs, Error>>,
    {
        let float = self.observe(model, samples)?;
        float.quantize(self, &self.options)
    }

    /// Runs the model on the samples.
    fn observe<I>(&self, model: &Model, samples: I) -> Result<Observed, Error>
    where
        I: IntoIterator<Item = Result<Inputs, Error>>,
    {
        self.options.check()?;
        let mut graph = model.graph().clone();
        quantize::prepare(&mut graph, &limited(model.limits()))?;
        // Scales move by what a first pass over the samples has seen; that takes them all into memory.
        if self.options.equalize || self.options.smooth.is_some() {
            let first = quantize::wanted_to_equalize(&graph, &self.options);
            let all = samples.into_iter().collect::<Result<Vec<_>, _>>()?;
            let (stats, ..) = self.pass(model, &graph, &first, all.iter().cloned().map(Ok))?;
            let (scaled, declined) = quantize::equalize(&graph, &self.options, &stats)?;
            let mut observed = self.finish(model, scaled, all.into_iter().map(Ok))?;
            for n in declined {
                if let Treatment::Float(why) = n.treatment {
                    observed.not_scaled.push((n.name, why));
                }
            }
            return Ok(observed);
        }
        self.finish(model, graph, samples)
    }

    fn finish<I>(&self, model: &Model, graph: Graph, samples: I) -> Result<Observed, Error>
    where
        I: IntoIterator<Item = Result<Inputs, Error>>,
    {
        let wanted = quantize::wanted(&graph, &self.options);
        let (stats, samples, count) = self.pass(model, &graph, &wanted, samples)?;
        if count == 0 && self.options.scheme.needs_samples() {
            let what = "ranges of activations come from samples, and there are none".into();
            return Err(Error::Quantize { what });
        }
        Ok(Observed { model: model.clone(), graph, stats, samples, count, not_scaled: vec![] })
    }

    /// Runs a graph on samples. Returns what was seen, the first samples, and how many there were.
    fn pass<I>(
        &self,
        model: &Model,
        graph: &Graph,
        wanted: &Wanted,
        samples: I,
    ) -> Result<(Statistics, Vec<Inputs>, usize), Error>
    where
        I: IntoIterator<Item = Result<Inputs, Error>>,
    {
        let observers = Observer::all(graph, wanted, OBSERVED).map_err(QuantError::from)?;
        let mut sessions = vec![];
        let mut stats = Statistics::default();
        let (mut kept, mut count) = (vec![], 0);
        for sample in samples {
            let sample = sample?;
            if sessions.is_empty() {
                let made = observers.iter().map(|o| self.session(model, o.graph.clone()));
                sessions = made.collect::<Result<Vec<_>, _>>()?;
            }
            for (observer, session) in observers.iter().zip(&sessions) {
                let outputs = tensors(run(session, &sample)?)?;
                observer.count(&outputs, &mut stats)?;
            }
            count += 1;
            if kept.len() < self.measured {
                kept.push(sample);
            }
        }
        Ok((stats, kept, count))
    }

    fn session(&self, model: &Model, graph: Graph) -> Result<Session, Error> {
        let mut options = SessionOptions::new().limits(model.limits().clone());
        if let Some(n) = self.threads {
            options = options.threads(n);
        }
        Model::from_graph(graph).session_with(&options)
    }
}

/// A float graph and what was seen of it.
struct Observed {
    model: Model,
    graph: Graph,
    stats: Statistics,
    samples: Vec<Inputs>,
    count: usize,
    not_scaled: Vec<(String, &'static str)>,
}

impl Observed {
    fn quantize(&self, q: &Quantizer, options: &QuantOptions) -> Result<Quantized, Error> {
        let done = quantize::quantize(&self.graph, options, &self.stats)?;
        let model = self.model.with_graph(done.graph.clone());
        let noise = measure::noise(q, self, &done)?;
        let report = QuantReport {
            nodes: done.nodes.iter().zip(&noise.nodes).map(|(n, db)| QuantNode::new(n, *db)).collect(),
            outputs: self.model.outputs().iter().map(|p| p.name.clone()).zip(noise.outputs).collect(),
            not_scaled: self.not_scaled.clone(),
            samples: self.count,
            float_bytes: self.graph.constant_bytes(),
            quantized_bytes: done.graph.constant_bytes(),
        };
        Ok(Quantized { model, report })
    }
}

fn limited(limits: &Limits) -> OptOptions {
    let mut options = OptOptions::default();
    options.fold_growth = limits.max_folded;
    options.fold_bytes = options.fold_bytes.min(limits.max_folded);
    options
}

fn run(session: &Session, sample: &[(String, Tensor)]) -> Result<Outputs, Error> {
    session.run(sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect::<crate::Inputs<'_>>())
}

fn tensors(outputs: Outputs) -> Result<Vec<Tensor>, Error> {
    (0..outputs.len()).map(|i| outputs.tensor(i).cloned()).collect()
}

impl From<QuantError> for Error {
    fn from(e: QuantError) -> Error {
        Error::Quantize { what: e.to_string() }
    }
}

impl From<PassError> for Error {
    fn from(e: PassError) -> Error {
        Error::Compile { what: format!("a defect of the optimizer, worth reporting: {e}") }
    }
}

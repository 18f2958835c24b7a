use crate::{
    Error, FileKind, Limits, Session, SessionOptions,
    error::list,
    source::{Origin, Source, map},
};
#[cfg(any(feature = "onnx", feature = "mill"))]
use std::path::Path;
use std::{collections::BTreeMap, fmt, sync::Arc};
use tensormill_ir::{Graph, Type};

/// An input or an output: its name and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type; sizes that a run decides are symbols.
    pub ty: Type,
}

impl fmt::Display for Port {
    /// `image: f32[batch,1,8,8]`, safe to show on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_debug(), self.ty)
    }
}

pub(crate) fn known(ports: &[Port]) -> String {
    list(ports.iter().map(|p| (p.name.as_str(), p.ty.to_string())))
}

/// A model: read, checked and understood, not yet compiled. Clones share everything.
#[derive(Debug, Clone)]
pub struct Model(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    graph: Graph,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    kind: FileKind,
    metadata: BTreeMap<String, String>,
    warnings: Vec<String>,
    limits: Limits,
}

impl Model {
    /// Reads a model from a path, or from bytes. Its format is found from its content. A file is mapped,
    /// not copied, and must not be changed while the model lives.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Format`], [`Error::Invalid`] and [`Error::Unsupported`].
    pub fn load(source: impl Into<Source>) -> Result<Model, Error> {
        Model::load_with(source, &Limits::default())
    }

    /// As [`Model::load`], under limits of the caller's, which sessions inherit.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_with(source: impl Into<Source>, limits: &Limits) -> Result<Model, Error> {
        let (path, bytes) = match source.into().0 {
            Origin::Path(path) => {
                let bytes = map(&path)?;
                (Some(path), bytes)
            }
            Origin::Bytes(bytes) => (None, bytes),
        };
        let kind = FileKind::of(&bytes);
        let result = match kind {
            #[cfg(feature = "onnx")]
            FileKind::Onnx => load_onnx(path.as_deref(), bytes, limits),
            #[cfg(feature = "mill")]
            FileKind::Mill => load_mill(bytes, limits),
            #[cfg(feature = "tflite")]
            FileKind::Tflite => load_tflite(bytes, limits),
            _ => {
                let origin = path.as_deref().map_or_else(
                    || "the model".into(),
                    |p| p.display().to_string().escape_debug().to_string(),
                );
                return Err(Error::Format { origin, what: format!("this is {}", kind.advice()) });
            }
        };
        let (graph, metadata, warnings) = result.map_err(|e| match (e, &path) {
            (Error::Invalid { source }, Some(path)) => {
                Error::File { path: path.clone(), what: source.to_string() }
            }
            (e, _) => e,
        })?;
        Ok(Model::new(graph, kind, metadata, warnings, limits.clone()))
    }

    fn new(
        graph: Graph,
        kind: FileKind,
        metadata: BTreeMap<String, String>,
        warnings: Vec<String>,
        limits: Limits,
    ) -> Model {
        let (inputs, outputs) = ports(&graph);
        Model(Arc::new(Inner { graph, inputs, outputs, kind, metadata, warnings, limits }))
    }

    /// A model of a graph that a program built.
    pub fn from_graph(graph: Graph) -> Model {
        Model::new(graph, FileKind::Unknown, BTreeMap::new(), vec![], Limits::default())
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    /// The format that the model was read from.
    pub fn kind(&self) -> FileKind {
        self.0.kind
    }

    /// What the file says of itself: its producer, versions, and free entries.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// What was odd about the file, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// The limits that the model was loaded under.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The graph: for tools. It prints as text.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// Names of the sizes that the inputs leave open, in order of appearance.
    pub fn dims(&self) -> Vec<String> {
        let mut out: Vec<String> = vec![];
        for p in self.inputs() {
            for d in p.ty.as_tensor().and_then(|t| t.dims.as_ref()).into_iter().flatten() {
                if let tensormill_ir::Dim::Sym(e) = d {
                    e.for_each_symbol(&mut |s| {
                        if !out.iter().any(|o| **o == **s) {
                            out.push(s.to_string());
                        }
                    });
                }
            }
        }
        out
    }

    /// Compiles the model with default options.
    ///
    /// # Errors
    /// As [`Model::session_with`].
    pub fn session(&self) -> Result<Session, Error> {
        self.session_with(&SessionOptions::default())
    }

    /// Compiles the model.
    ///
    /// # Errors
    /// [`Error::Name`] for a dim or output that the model does not have, [`Error::Unsupported`] when the
    /// backend does not run it, [`Error::Compile`] and [`Error::Limit`].
    pub fn session_with(&self, options: &SessionOptions) -> Result<Session, Error> {
        Session::new(self, options)
    }

    /// The model after the rewriting that a session of these options would do.
    ///
    /// # Errors
    /// As [`Model::session_with`].
    pub fn prepared(&self, options: &SessionOptions) -> Result<Model, Error> {
        let graph = crate::session::prepare(self, options)?;
        Ok(Model::new(
            graph,
            self.kind(),
            self.metadata().clone(),
            self.warnings().to_vec(),
            self.limits().clone(),
        ))
    }

    /// The same model over another graph.
    #[cfg(feature = "optimizer")]
    pub(crate) fn with_graph(&self, graph: Graph) -> Model {
        let (metadata, warnings) = (self.metadata().clone(), self.warnings().to_vec());
        Model::new(graph, self.kind(), metadata, warnings, self.limits().clone())
    }

    /// The model after the rewriting of a level, and what was done and declined.
    ///
    /// # Errors
    /// [`Error::Compile`] for a defect of the optimizer.
    #[cfg(feature = "optimizer")]
    pub fn optimized(
        &self,
        level: crate::Optimization,
    ) -> Result<(Model, tensormill_optimizer::OptLog), Error> {
        let mut graph = self.graph().clone();
        let log = crate::optimize::logged(&mut graph, level, self.limits())?;
        Ok((self.with_graph(graph), log))
    }

    /// Writes the model into a file, which appears under its name only once it is whole: as ONNX where the
    /// name ends in `.onnx`, as `.mill` where it ends so or in nothing. Weights of more than 2 GiB lie beside
    /// an ONNX model, in `NAME.onnx.data`.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written, [`Error::Unsupported`] with every node that the format
    /// has no form for, [`Error::Option`] for another ending.
    #[cfg(any(feature = "onnx", feature = "mill"))]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            #[cfg(feature = "onnx")]
            Some("onnx") => self.save_onnx(path),
            #[cfg(feature = "mill")]
            Some("mill") | None => self.save_mill(path),
            _ => Err(Error::Option(format!(
                "{}: models are written as {}, and the name says which",
                path.display().to_string().escape_debug(),
                WRITTEN.join(" or ")
            ))),
        }
    }

    #[cfg(feature = "mill")]
    fn save_mill(&self, path: &Path) -> Result<(), Error> {
        tensormill_formats::mill::write_file(path, self.graph(), self.metadata()).map_err(|e| {
            let what = match e {
                tensormill_formats::mill::MillError::File { source, .. } => source.to_string(),
                e => e.to_string(),
            };
            Error::File { path: path.to_owned(), what }
        })
    }

    #[cfg(feature = "onnx")]
    fn save_onnx(&self, path: &Path) -> Result<(), Error> {
        use tensormill_formats::onnx::{WriteError, WriteOptions, write_file};
        write_file(path, self.graph(), self.metadata(), &WriteOptions::default()).map_err(|e| {
            let what = match e {
                WriteError::File { source, .. } => source.to_string(),
                WriteError::Unwritable(_) => return Error::Unsupported { what: e.to_string() },
                e => e.to_string(),
            };
            Error::File { path: path.to_owned(), what }
        })
    }
}

/// The endings of the formats that are written.
#[cfg(any(feature = "onnx", feature = "mill"))]
const WRITTEN: &[&str] = &[
    #[cfg(feature = "onnx")]
    ".onnx",
    #[cfg(feature = "mill")]
    ".mill",
];

pub(crate) fn ports(g: &Graph) -> (Vec<Port>, Vec<Port>) {
    let input = |(i, &v): (usize, &tensormill_ir::ValueId)| {
        let info = g.value(v);
        let name = info.name.as_deref().map_or_else(|| i.to_string(), str::to_owned);
        Port { name, ty: info.ty.clone() }
    };
    let inputs = g.inputs().iter().enumerate().map(input).collect();
    let outputs =
        g.outputs().iter().map(|o| Port { name: o.name.to_string(), ty: g.ty(o.value).clone() }).collect();
    (inputs, outputs)
}

type Loaded = (Graph, BTreeMap<String, String>, Vec<String>);

#[cfg(feature = "onnx")]
fn load_onnx(path: Option<&Path>, bytes: bytes::Bytes, limits: &Limits) -> Result<Loaded, Error> {
    use tensormill_formats::{external::ExternalData, onnx};
    let mut parse = onnx::ParseLimits::default();
    parse.max_nodes = limits.max_nodes as u64;
    parse.max_nesting = limits.max_nesting as u64;
    let external = path.map_or_else(ExternalData::deny, ExternalData::beside);
    let model = onnx::parse(bytes, &parse, external).map_err(|e| match e {
        onnx::OnnxError::Unsupported { .. } => Error::Unsupported { what: e.to_string() },
        onnx::OnnxError::Limit { field: "max_nodes", .. } => {
            Error::Limit { what: e.to_string(), field: "max_nodes" }
        }
        onnx::OnnxError::Limit { field: "max_nesting", .. } => {
            Error::Limit { what: e.to_string(), field: "max_nesting" }
        }
        e => Error::invalid(e),
    })?;
    let lowered = onnx::lower(&model).map_err(|e| match e.is_unsupported() {
        true => Error::Unsupported { what: e.to_string() },
        false => Error::invalid(e),
    })?;
    let proto = model.proto();
    let mut metadata = BTreeMap::new();
    for entry in &proto.metadata_props {
        metadata.insert(entry.key.clone(), entry.value.clone());
    }
    let text = [
        ("onnx.producer", &proto.producer_name),
        ("onnx.producer_version", &proto.producer_version),
        ("onnx.domain", &proto.domain),
        ("onnx.doc", &proto.doc_string),
    ];
    for (key, value) in text {
        if !value.is_empty() {
            metadata.insert(key.into(), value.clone());
        }
    }
    metadata.insert("onnx.ir_version".into(), proto.ir_version.to_string());
    let opsets: Vec<String> = model
        .opsets()
        .iter()
        .map(|(d, v)| format!("{} {v}", if d.is_empty() { "ai.onnx" } else { d }))
        .collect();
    metadata.insert("onnx.opsets".into(), opsets.join(", "));
    let mut warnings: Vec<String> = model.warnings().iter().map(ToString::to_string).collect();
    warnings.extend(lowered.warnings.iter().map(ToString::to_string));
    Ok((lowered.graph, metadata, warnings))
}

#[cfg(feature = "mill")]
fn load_mill(bytes: bytes::Bytes, limits: &Limits) -> Result<Loaded, Error> {
    use tensormill_formats::mill;
    let mut parse = mill::MillLimits::default();
    parse.max_nodes = limits.max_nodes;
    let model = mill::parse(bytes, &parse).map_err(|e| match e {
        mill::MillError::Limit { field: "max_nodes", .. } => {
            Error::Limit { what: e.to_string(), field: "max_nodes" }
        }
        e => Error::invalid(e),
    })?;
    Ok((model.graph, model.metadata, vec![]))
}

#[cfg(feature = "tflite")]
fn load_tflite(bytes: bytes::Bytes, limits: &Limits) -> Result<Loaded, Error> {
    use tensormill_formats::tflite;
    let mut parse = tflite::ParseLimits::default();
    parse.max_nodes = limits.max_nodes as u64;
    let model = tflite::parse(bytes, &parse).map_err(|e| match e {
        tflite::TfliteError::Unsupported { .. } => Error::Unsupported { what: e.to_string() },
        tflite::TfliteError::Limit { field: "max_nodes", .. } => {
            Error::Limit { what: e.to_string(), field: "max_nodes" }
        }
        e => Error::invalid(e),
    })?;
    let lowered = tflite::lower(&model).map_err(|e| match e.is_unsupported() {
        true => Error::Unsupported { what: e.to_string() },
        false => Error::invalid(e),
    })?;
    let mut metadata = BTreeMap::new();
    if !model.description().is_empty() {
        metadata.insert("tflite.description".into(), model.description().to_owned());
    }
    let warnings = lowered.warnings.iter().map(ToString::to_string).collect();
    Ok((lowered.graph, metadata, warnings))
}

use super::{
    OnnxError, ParseLimits, Warning,
    function::{self, FunctionId, plain_domain},
    proto::{FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, SparseTensorProto, TensorProto},
    schema::Kind,
    sparse::{dense_bytes, read_sparse, too_dense},
    tensor::{check_tensor, read_tensor},
    walk::{Body, Item, attributes, walk},
    wire,
};
use crate::{external::ExternalData, text::quoted};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    path::Path,
};
use tensormill_tensor::Tensor;

/// The versions of the file format that are read: before 3, nodes had other meanings of their own.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// The newest version of ONNX's own operator set that is known.
pub const NEWEST_OPSET: i64 = 28;

/// The newest versions of the operator sets that ONNX defines beside its main one.
const OTHER_OPSETS: [(&str, i64); 2] = [("ai.onnx.ml", 5), ("ai.onnx.preview.training", 1)];

/// The versions of operator sets that a model or a function imports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opsets(BTreeMap<String, i64>);

impl Opsets {
    /// The version of an operator set; ONNX's own is `""` or `ai.onnx`.
    pub fn get(&self, domain: &str) -> Option<i64> {
        self.0.get(plain_domain(domain)).copied()
    }

    /// All of them, by domain.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(d, v)| (d.as_str(), *v))
    }

    fn read(imports: &[OperatorSetIdProto], at: &dyn Display) -> Result<Self, OnnxError> {
        let mut all: BTreeMap<String, i64> = BTreeMap::new();
        for import in imports {
            let domain = plain_domain(&import.domain);
            let found = import.version;
            let max = match domain {
                "" => NEWEST_OPSET,
                other => OTHER_OPSETS.iter().find(|(d, _)| *d == other).map_or(i64::MAX, |(_, v)| *v),
            };
            if !(1..=max).contains(&found) {
                let domain = quoted(if domain.is_empty() { "ai.onnx" } else { domain });
                return Err(OnnxError::Opset { at: at.to_string(), domain, found, max });
            }
            if let Some(first) = all.insert(domain.to_owned(), found).filter(|&v| v != found) {
                let domain = quoted(domain);
                return Err(OnnxError::OpsetTwice { at: at.to_string(), domain, first, second: found });
            }
        }
        Ok(Opsets(all))
    }
}

/// A model file, decoded and checked as far as that needs no knowledge of operators.
///
/// Versions, limits, calls of functions, attributes, and the type, shape and length of every tensor
/// are right. Names of values, types of operands and the order of nodes have not been looked at.
#[derive(Debug)]
pub struct Model {
    proto: ModelProto,
    opsets: Opsets,
    functions: HashMap<FunctionId, usize>,
    function_opsets: Vec<Opsets>,
    warnings: Vec<Warning>,
    limits: ParseLimits,
    external: ExternalData,
}

/// Reads a model from a file, which is mapped; data beside it may be mapped too. The map lives as
/// long as any tensor made from it: see [`map_file`](tensormill_tensor::map_file) on files that change.
///
/// # Errors
/// As [`parse`], naming the file.
pub fn parse_file(path: &Path, limits: &ParseLimits) -> Result<Model, OnnxError> {
    let bytes = tensormill_tensor::map_file(path).map_err(|e| OnnxError::Io(e).in_file(path))?;
    parse(bytes, limits, ExternalData::beside(path)).map_err(|e| e.in_file(path))
}

/// Reads a model. Weights stay ranges of `bytes` and of the files that `external` lets them name.
///
/// # Errors
/// [`OnnxError`], which says where and what.
pub fn parse(bytes: Bytes, limits: &ParseLimits, external: ExternalData) -> Result<Model, OnnxError> {
    let (proto, warnings) = wire::decode::<ModelProto>(Kind::Model, bytes, limits)?;
    if proto.graph.is_none() {
        return Err(OnnxError::NoGraph);
    }
    if !IR_VERSIONS.contains(&proto.ir_version) {
        let (min, max) = IR_VERSIONS.into_inner();
        return Err(OnnxError::IrVersion { found: proto.ir_version, min, max });
    }
    if proto.opset_import.is_empty() {
        return Err(OnnxError::NoOpset { at: "the model".into() });
    }
    let opsets = Opsets::read(&proto.opset_import, &"the model")?;
    let functions = function::index(&proto.functions)?;
    let function_opsets = proto
        .functions
        .iter()
        .map(|f| Opsets::read(&f.opset_import, &format_args!("function {}", FunctionId::of(f))))
        .collect::<Result<_, _>>()?;
    let mut model =
        Model { proto, opsets, functions, function_opsets, warnings, limits: limits.clone(), external };
    function::check_calls(model.graph(), &model.proto.functions, &model.functions, limits)?;
    let more = check_contents(&model)?;
    model.warnings.extend(more);
    Ok(model)
}

fn check_contents(model: &Model) -> Result<Vec<Warning>, OnnxError> {
    let mut warnings = Vec::new();
    let mut dense = 0u64;
    let limits = &model.limits;
    let mut tensor = |at: &dyn Display, t: &TensorProto| -> Result<(), OnnxError> {
        if let Some(location) = check_tensor(t, at, limits, &model.external)? {
            let warning = Warning::UncheckedChecksum { location: quoted(location) };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Ok(())
    };
    let mut check = |opsets: &Opsets, owner: &dyn Display, at: &dyn Display, item: Item<'_>| match item {
        Item::Tensor(t) => tensor(at, t),
        Item::Sparse(s) => {
            dense = dense.saturating_add(dense_bytes(s, at)?);
            if dense > limits.max_dense_bytes {
                return Err(too_dense(at, limits));
            }
            s.values.iter().chain(&s.indices).try_for_each(|t| tensor(at, t))
        }
        Item::Node(n) if plain_domain(&n.domain).is_empty() && opsets.get("").is_none() => {
            match model.functions.contains_key(&FunctionId::called_by(n)) {
                true => Ok(()),
                false => Err(OnnxError::NoOpset { at: owner.to_string() }),
            }
        }
        Item::Node(_) => Ok(()),
    };
    walk(Body::graph("graph".into(), model.graph()), &mut |at, item| {
        check(&model.opsets, &"the model", at, item)
    })?;
    for (f, opsets) in model.proto.functions.iter().zip(&model.function_opsets) {
        let body = Body::function(f);
        let owner = body.path.clone();
        let mut bodies = vec![body];
        let mut visit = |at: &dyn Display, item: Item<'_>| check(opsets, &owner, at, item);
        attributes(&owner, &f.attribute_proto, &mut bodies, &mut visit)?;
        for body in bodies {
            walk(body, &mut visit)?;
        }
    }
    Ok(warnings)
}

impl Model {
    /// The whole message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("parse refuses models without a graph")
    }

    /// The operator sets of the main graph.
    pub fn opsets(&self) -> &Opsets {
        &self.opsets
    }

    /// The function of this identity, and the operator sets of its body.
    pub fn function(&self, id: &FunctionId) -> Option<(&FunctionProto, &Opsets)> {
        let &i = self.functions.get(id)?;
        Some((&self.proto.functions[i], &self.function_opsets[i]))
    }

    /// What was odd about the file.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The limits that the file was read under.
    pub fn limits(&self) -> &ParseLimits {
        &self.limits
    }

    /// The tensor of a message of this model; raw and external elements are shared with the file.
    ///
    /// # Errors
    /// As [`read_tensor`]; of what [`parse`] has not checked, elements out of their type's range.
    pub fn tensor(&self, proto: &TensorProto, at: &dyn Display) -> Result<Tensor, OnnxError> {
        read_tensor(proto, at, &self.limits, &self.external)
    }

    /// The dense form of a sparse tensor of this model.
    ///
    /// # Errors
    /// As [`read_sparse`].
    pub fn sparse(&self, proto: &SparseTensorProto, at: &dyn Display) -> Result<Tensor, OnnxError> {
        read_sparse(proto, at, &self.limits, &self.external)
    }
}

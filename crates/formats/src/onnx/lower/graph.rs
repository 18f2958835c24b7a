use super::{LowerError, UnsupportedOp, body, cx::NodeCx, find, scope::Scopes, types::read_type};
use crate::{
    onnx::{
        FunctionId, Model,
        function::plain_domain,
        proto::{GraphProto, NodeProto, ValueInfoProto},
        sizes,
        walk::{self, Item},
    },
    text::quoted,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use tensormill_ir::{Dim, Graph, TensorType, Type, dim::Symbol};

/// Something odd that did not keep a model from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowerWarning {
    /// A file declares a type that inference contradicts; inference is believed.
    DeclaredType {
        /// The value.
        name: String,
        /// What the file says.
        declared: String,
        /// What inference says.
        inferred: String,
    },
    /// The result differs from what the operator's definition asks for.
    Approximation {
        /// The node.
        at: String,
        /// In what way.
        what: String,
    },
}

impl std::fmt::Display for LowerWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LowerWarning::DeclaredType { name, declared, inferred } => {
                write!(f, "{name} is declared {declared}, but is {inferred}")
            }
            LowerWarning::Approximation { at, what } => write!(f, "{at}: {what}"),
        }
    }
}

/// A model as a graph.
#[derive(Debug)]
pub struct Lowered {
    /// The graph; its inputs and outputs are those of the model, in order.
    pub graph: Graph,
    /// What was odd.
    pub warnings: Vec<LowerWarning>,
}

/// What every function that lowers a node works on.
pub(super) struct Lowerer<'m> {
    pub(super) model: &'m Model,
    pub(super) scopes: Scopes<'m>,
    pub(super) warnings: Vec<LowerWarning>,
    /// Bodies that were lowered before.
    pub(super) bodies_read: HashSet<*const GraphProto>,
    /// Nodes of bodies that were lowered more than once.
    pub(super) reread: usize,
    /// Names of sizes that inputs give a number to.
    named: HashSet<Symbol>,
}

/// Translates a checked model.
///
/// # Errors
/// [`LowerError::Unsupported`] lists every operator that is not translated; the others name the node.
pub fn lower(model: &Model) -> Result<Lowered, LowerError> {
    check_operators(model)?;
    let proto = model.graph();
    let name = if proto.name.is_empty() { "main" } else { &proto.name };
    let mut l = Lowerer {
        model,
        scopes: Scopes::new(name, model.opsets()),
        warnings: vec![],
        bodies_read: HashSet::new(),
        reread: 0,
        named: HashSet::new(),
    };
    l.main_graph(proto)?;
    Ok(Lowered { graph: l.scopes.finish().finish()?, warnings: l.warnings })
}

/// Finds every operator that has neither a function in the file nor a translation here.
fn check_operators(model: &Model) -> Result<(), LowerError> {
    let mut missing: BTreeMap<(String, i64), Vec<String>> = BTreeMap::new();
    let mut seen: HashSet<FunctionId> = HashSet::new();
    let mut bodies = vec![(walk::Body::graph("graph".into(), model.graph()), model.opsets())];
    while let Some((body, opsets)) = bodies.pop() {
        walk::walk(body, &mut |at, item| {
            let Item::Node(n) = item else { return Ok(()) };
            let id = FunctionId::called_by(n);
            if let Some((f, opsets)) = model.function(&id) {
                if !seen.contains(&id) {
                    bodies.push((
                        walk::Body { path: format!("function {id}"), nodes: &f.node, graph: None },
                        opsets,
                    ));
                    seen.insert(id);
                }
                return Ok(());
            }
            let domain = plain_domain(&n.domain);
            if find(domain, &n.op_type).is_none() {
                let op =
                    if domain.is_empty() { n.op_type.clone() } else { format!("{domain}::{}", n.op_type) };
                let op = op.chars().take(200).flat_map(char::escape_debug).collect();
                let place = if n.name.is_empty() { at.to_string() } else { quoted(&n.name) };
                missing.entry((op, opsets.get(domain).unwrap_or(0))).or_default().push(place);
            }
            Ok(())
        })?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.into_iter().map(|((op, opset), nodes)| UnsupportedOp { op, opset, nodes });
    Err(LowerError::Unsupported(list.collect()))
}

impl<'m> Lowerer<'m> {
    fn main_graph(&mut self, g: &'m GraphProto) -> Result<(), LowerError> {
        let constants = initializer_names(g);
        let mut inputs = vec![];
        // Before IR version 4 initializers were listed as inputs too: as defaults, which we take.
        for input in g.input.iter().filter(|i| !constants.contains(i.name.as_str())) {
            let Some(ty) = declared(input)? else {
                return Err(LowerError::Name(format!("input {} has no element type", quoted(&input.name))));
            };
            for d in dims(&ty) {
                if let Dim::Sym(e) = d {
                    self.named.extend(e.as_symbol().cloned());
                }
            }
            inputs.push((&input.name, ty));
        }
        // Two sizes that are the same must not hide behind two names, one of which says that they are.
        let made_of_others = |d: &Dim| match d {
            Dim::Sym(e) => sizes::sum(e.as_symbol()?).filter(|e| sizes::made_of(e, &self.named)),
            _ => None,
        };
        for (_, ty) in &mut inputs {
            if let Type::Tensor(TensorType { dims: Some(dims), .. }) = ty {
                for d in dims.iter_mut() {
                    *d = made_of_others(d).map_or_else(|| d.clone(), Dim::from);
                }
            }
        }
        let named = self.named.clone();
        self.named.retain(|s| sizes::sum(s).is_none_or(|e| !sizes::made_of(&e, &named)));
        for (name, ty) in inputs {
            let v = self.scopes.builder().input(name, ty)?;
            self.scopes.define(name, v)?;
        }
        self.contents(g)?;
        for out in &g.output {
            let v = self.scopes.resolve(&out.name)?;
            if let Some(ty) = declared(out)? {
                self.refine(v, &out.name, &ty);
            }
            self.scopes.builder().output(&out.name, v)?;
        }
        Ok(())
    }

    /// Initializers and nodes.
    pub(super) fn contents(&mut self, g: &'m GraphProto) -> Result<(), LowerError> {
        for t in &g.initializer {
            let tensor = self.model.tensor(t, &format_args!("initializer {}", quoted(&t.name)))?;
            self.initializer(&t.name, tensor)?;
        }
        for s in &g.sparse_initializer {
            let name = s.values.as_ref().map_or("", |v| &v.name);
            let tensor = self.model.sparse(s, &format_args!("sparse initializer {}", quoted(name)))?;
            self.initializer(name, tensor)?;
        }
        // In a body, what is declared may be the first iteration's alone.
        let infos = if self.scopes.in_body() { &[] } else { &g.value_info[..] };
        let types: HashMap<&str, &ValueInfoProto> = infos.iter().map(|v| (v.name.as_str(), v)).collect();
        self.nodes(&g.node, &types)
    }

    fn initializer(&mut self, name: &str, tensor: tensormill_tensor::Tensor) -> Result<(), LowerError> {
        let v = self.scopes.builder().constant(tensor)?;
        self.scopes.define(name, v)?;
        self.label(v, name);
        Ok(())
    }

    pub(super) fn nodes(
        &mut self,
        nodes: &'m [NodeProto],
        types: &HashMap<&str, &'m ValueInfoProto>,
    ) -> Result<(), LowerError> {
        for (index, node) in nodes.iter().enumerate() {
            let place = |l: &Self| {
                let body = l.scopes.current().path.clone();
                walk::Place { body: &body, index, node }.to_string()
            };
            self.scopes.builder().set_origin(Some(&node.name));
            let done = self.node(node);
            if let Err(e) = done {
                // The innermost node is the one that says most.
                let at = place(self);
                return Err(match e {
                    e @ LowerError::Node { .. } => e,
                    e => LowerError::Node { at, source: Box::new(e) },
                });
            }
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                if let Some(info) = types.get(name.as_str())
                    && let Some(ty) = declared(info)?
                {
                    let v = self.scopes.resolve(name)?;
                    self.refine(v, name, &ty);
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'m NodeProto) -> Result<(), LowerError> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(self.scopes.operand(name)?);
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let id = FunctionId::called_by(node);
        if let Some((f, opsets)) = self.model.function(&id) {
            return body::call(self, node, &inputs, f, opsets);
        }
        let domain = plain_domain(&node.domain);
        let Some(lower) = find(domain, &node.op_type) else {
            return LowerError::feature(format!("operator {}", quoted(&node.op_type)));
        };
        let opset = self.scopes.current().opsets.get(domain).unwrap_or(1);
        let mut cx = NodeCx::new(self, node, inputs, opset);
        lower(&mut cx)?;
        let results = cx.finish()?;
        for (name, v) in results {
            self.scopes.define(&name, v)?;
            self.label(v, &name);
        }
        Ok(())
    }

    /// Gives a value its name in the file, when both are free: a value may have two names through an
    /// identity, and bodies may reuse names.
    pub(super) fn label(&mut self, v: tensormill_ir::ValueId, name: &str) {
        let b = self.scopes.builder();
        let info = b.graph().value(v);
        if info.name.is_none() && b.graph().value_by_name(name).is_none() && b.name(v, name).is_err() {
            unreachable!("both were free");
        }
    }

    fn refine(&mut self, v: tensormill_ir::ValueId, name: &str, declared: &Type) {
        // Shapes declared of a sequence's elements are often those of one of them.
        if declared.as_tensor().is_none() {
            return;
        }
        let b = self.scopes.builder();
        let inferred = b.ty(v).to_string();
        if b.refine(v, &telling(&self.named, declared, b.ty(v))).is_err() {
            let (name, declared) = (quoted(name), declared.to_string());
            self.warnings.push(LowerWarning::DeclaredType { name, declared, inferred });
        }
    }
}

/// The sizes of a tensor's type.
fn dims(ty: &Type) -> &[Dim] {
    ty.as_tensor().and_then(|t| t.dims.as_deref()).unwrap_or_default()
}

/// What a declared type tells beyond an inferred one. A name that no input gives a number to, as exporters make up for
/// each output and each value in between, tells less than what inference found of the size.
fn telling(named: &HashSet<Symbol>, declared: &Type, inferred: &Type) -> Type {
    let mut ty = declared.clone();
    if let Type::Tensor(TensorType { dims: Some(declared), .. }) = &mut ty {
        for (d, found) in declared.iter_mut().zip(dims(inferred)) {
            let made_up = matches!(d, Dim::Sym(e) if e.as_symbol().is_some_and(|s| !named.contains(s)));
            if made_up && *found != Dim::Unknown {
                *d = Dim::Unknown;
            }
        }
    }
    ty
}

fn initializer_names(g: &GraphProto) -> HashSet<&str> {
    let dense = g.initializer.iter().map(|t| t.name.as_str());
    let sparse = g.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|v| v.name.as_str());
    dense.chain(sparse).collect()
}

/// The type that a file declares of a value, where it declares one.
pub(super) fn declared(v: &ValueInfoProto) -> Result<Option<Type>, LowerError> {
    v.r#type.as_ref().map_or(Ok(None), read_type).map_err(|source| LowerError::Node {
        at: format!("type of {}", quoted(&v.name)),
        source: source.into(),
    })
}

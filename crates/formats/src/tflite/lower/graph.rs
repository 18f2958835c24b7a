use super::{LowerError, Order, UnsupportedOp, cx::NodeCx, find, held::Held};
use crate::{
    text::quoted,
    tflite::{
        model::{Model, SubGraph, TensorInfo},
        tensor::dtype,
    },
};
use std::collections::BTreeMap;
use tensormill_ir::{Dim, Graph, GraphBuilder, Type, ValueId};

type Result<T> = std::result::Result<T, LowerError>;

/// Something odd that did not keep a model from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowerWarning {
    /// A file declares sizes that inference contradicts; inference is believed.
    DeclaredType {
        /// The tensor.
        name: String,
        /// What the file says.
        declared: String,
        /// What inference says.
        inferred: String,
    },
    /// Subgraphs besides the first, which no operator reaches.
    Unreached {
        /// How many.
        subgraphs: usize,
    },
    /// Sizes that the file leaves open but its operators do not: those of the file are taken.
    FixedSizes {
        /// Why they cannot stay open.
        why: String,
    },
}

impl std::fmt::Display for LowerWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LowerWarning::DeclaredType { name, declared, inferred } => {
                write!(f, "{name} is declared {declared}, but is {inferred}")
            }
            LowerWarning::Unreached { subgraphs } => {
                write!(f, "the first subgraph is the model; {subgraphs} others are not used")
            }
            LowerWarning::FixedSizes { why } => {
                write!(
                    f,
                    "inputs have the sizes of the file, since open ones do not fit its operators: {why}"
                )
            }
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

/// What every function that lowers an operator works on.
pub(super) struct Lowerer<'m> {
    pub(super) model: &'m Model,
    pub(super) graph: &'m SubGraph,
    pub(super) builder: GraphBuilder,
    /// What holds each tensor.
    pub(super) held: Vec<Option<Held>>,
    /// Whether sizes that the file leaves open are symbols.
    open: bool,
    warnings: Vec<LowerWarning>,
}

/// Translates a checked model: its first subgraph.
///
/// # Errors
/// [`LowerError::Unsupported`] lists every operator that is not translated; the others name the operator.
pub fn lower(model: &Model) -> Result<Lowered> {
    let graph = &model.subgraphs()[0];
    check_operators(model, graph)?;
    let is_open = |t: &usize| graph.tensors[*t].signature.iter().flatten().any(Option::is_none);
    if !graph.inputs.iter().any(is_open) {
        return lower_with(model, false);
    }
    match lower_with(model, true) {
        Err(open) if !open.is_unsupported() => match lower_with(model, false) {
            Ok(mut fixed) => {
                fixed.warnings.push(LowerWarning::FixedSizes { why: open.to_string() });
                Ok(fixed)
            }
            // What is wrong with open sizes says as much.
            Err(_) => Err(open),
        },
        done => done,
    }
}

fn lower_with(model: &Model, open: bool) -> Result<Lowered> {
    let graph = &model.subgraphs()[0];
    let name = if graph.name.is_empty() { "main" } else { &graph.name };
    let mut l = Lowerer {
        model,
        graph,
        builder: GraphBuilder::new(name),
        held: vec![None; graph.tensors.len()],
        open,
        warnings: vec![],
    };
    if model.subgraphs().len() > 1 {
        l.warnings.push(LowerWarning::Unreached { subgraphs: model.subgraphs().len() - 1 });
    }
    l.inputs()?;
    l.operators()?;
    l.outputs()?;
    Ok(Lowered { graph: l.builder.finish()?, warnings: l.warnings })
}

/// Finds every operator that has no translation here.
fn check_operators(model: &Model, graph: &SubGraph) -> Result<()> {
    let mut missing: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let known: Vec<bool> = model.codes().iter().map(|c| find(&c.name()).is_some()).collect();
    for (i, op) in graph.operators.iter().enumerate() {
        if !known[op.code] {
            missing.entry(op.code).or_default().push(i);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let unsupported = |(code, nodes): (usize, Vec<usize>)| {
        let code = &model.codes()[code];
        let op = code.name().chars().take(200).flat_map(char::escape_debug).collect();
        UnsupportedOp { op, version: code.version, nodes }
    };
    Err(LowerError::Unsupported(missing.into_iter().map(unsupported).collect()))
}

impl Lowerer<'_> {
    fn inputs(&mut self) -> Result<()> {
        let graph = self.graph;
        for (i, &t) in graph.inputs.iter().enumerate() {
            if self.held[t].is_some() {
                return LowerError::operand(format!("{} is an input twice", self.place(t)));
            }
            let ty = self.declared(t, i)?;
            let name = self.free(&graph.tensors[t].name, "input", i);
            let v = self.builder.input(&name, ty)?;
            self.held[t] = Some(Held::new(v, Order::Plain));
        }
        Ok(())
    }

    /// The name of a tensor, or another where it has none or one that is taken.
    fn free(&self, name: &str, kind: &str, i: usize) -> String {
        let taken = |n: &str| n.is_empty() || self.builder.graph().value_by_name(n).is_some();
        if !taken(name) {
            return name.into();
        }
        let names = std::iter::once(format!("{kind}_{i}")).chain((1..).map(|n| format!("{kind}_{i}_{n}")));
        names.into_iter().find(|n| !taken(n)).expect("the names do not end")
    }

    /// The type that the file declares of an input.
    fn declared(&self, t: usize, input: usize) -> Result<Type> {
        let info: &TensorInfo = &self.graph.tensors[t];
        let dtype = dtype(info, &self.place(t))?;
        let size = |(axis, known): (usize, Option<usize>)| match known {
            Some(n) => Dim::Known(n),
            // Keras leaves the batch open, which is the same for all inputs.
            None if axis == 0 => Dim::symbol("batch"),
            None => Dim::symbol(&format!("n{input}_{axis}")),
        };
        Ok(match info.signature.as_ref().filter(|_| self.open) {
            Some(s) => Type::tensor(dtype, s.iter().copied().enumerate().map(size)),
            None => Type::tensor(dtype, info.shape.iter().map(|n| Dim::Known(*n))),
        })
    }

    fn operators(&mut self) -> Result<()> {
        let (model, graph) = (self.model, self.graph);
        for (index, op) in graph.operators.iter().enumerate() {
            let name = model.codes()[op.code].name();
            self.builder.set_origin(Some(&format!("{name}_{index}")));
            let (options, lower) = find(&name).expect("checked before");
            let place = |source: LowerError| LowerError::Node {
                at: format!("operator {index} {name}"),
                source: Box::new(source),
            };
            let done = NodeCx::new(self, op, options).and_then(|mut cx| {
                lower(&mut cx)?;
                cx.finish()
            });
            for (t, held) in done.map_err(place)? {
                self.define(t, held).map_err(place)?;
            }
        }
        Ok(())
    }

    /// Takes a result for the tensor that the file says it is.
    fn define(&mut self, t: usize, (v, order): (ValueId, Order)) -> Result<()> {
        let (info, place) = (&self.graph.tensors[t], self.place(t));
        if self.held[t].is_some() {
            return LowerError::operand(format!("{place} is computed twice, or is an input"));
        }
        let (declared, is) = (dtype(info, &place)?, self.builder.ty(v).as_tensor().map(|t| t.dtype));
        if is != Some(declared) {
            let is = self.builder.ty(v).to_string();
            return LowerError::operand(format!("{place} is declared {declared}, but is {is}"));
        }
        self.held[t] = Some(Held::new(v, order));
        self.refine(t, v, order);
        let (b, name) = (&mut self.builder, &info.name);
        let free = b.graph().value(v).name.is_none() && b.graph().value_by_name(name).is_none();
        if free && !name.is_empty() && b.name(v, name).is_err() {
            unreachable!("both were free");
        }
        Ok(())
    }

    /// Narrows a result by the sizes that the file declares, as far as they hold for every input.
    fn refine(&mut self, t: usize, v: ValueId, order: Order) {
        let info = &self.graph.tensors[t];
        let sizes: Vec<Option<usize>> = match &info.signature {
            Some(s) => s.clone(),
            None if self.open => return,
            None => info.shape.iter().map(|n| Some(*n)).collect(),
        };
        let Ok(own) = self.dims(v) else { return };
        if own.len() != sizes.len() || self.builder.ty(v).as_tensor().is_none() {
            return;
        }
        let mut declared = own.clone();
        let mut differs = false;
        for (axis, size) in sizes.into_iter().enumerate() {
            let at = order.axis(axis);
            let Some(n) = size else { continue };
            match &own[at] {
                Dim::Unknown => declared[at] = Dim::Known(n),
                Dim::Known(m) => differs |= *m != n,
                Dim::Sym(_) => {}
            }
        }
        if differs {
            let (name, inferred) = (quoted(&info.name), self.builder.ty(v).to_string());
            let declared = format!("{:?}", info.shape);
            self.warnings.push(LowerWarning::DeclaredType { name, declared, inferred });
            return;
        }
        let dtype = self.builder.ty(v).as_tensor().map(|t| t.dtype);
        if let Some(dtype) = dtype {
            // Only what was unknown is told, which contradicts nothing.
            let _ = self.builder.refine(v, &Type::tensor(dtype, declared));
        }
    }

    fn outputs(&mut self) -> Result<()> {
        let mut names: Vec<String> = vec![];
        for (i, &t) in self.graph.outputs.iter().enumerate() {
            let v = self.value(t, Order::Plain)?;
            let own = &self.graph.tensors[t].name;
            let mut name = if own.is_empty() { format!("output_{i}") } else { own.clone() };
            while names.contains(&name) {
                name.push_str(&format!("_{i}"));
            }
            self.builder.output(&name, v)?;
            names.push(name);
        }
        Ok(())
    }
}

//! Names to values: the graph being built, the bodies inside it, and the functions being inlined.

use super::LowerError;
use crate::{
    onnx::{Opsets, proto::AttributeProto},
    text::quoted,
};
use std::collections::{HashMap, HashSet};
use tensormill_ir::{GraphBuilder, ValueId};

/// Where names are looked up.
pub(super) struct Scope<'m> {
    /// Values by their name in the file.
    names: HashMap<String, ValueId>,
    /// Which builder the nodes go to.
    builder: usize,
    /// Whether names that are not found here are looked up in the scope around: bodies see it, functions do not.
    sees_outer: bool,
    /// Values of the builder around that the body uses, in the order of the body's inputs for them.
    pub(super) captures: Vec<ValueId>,
    /// Versions of the operator sets.
    pub(super) opsets: &'m Opsets,
    /// In a function: the attributes of the call and the function's defaults.
    pub(super) attributes: HashMap<&'m str, &'m AttributeProto>,
    /// In a function: parameters that the call leaves out.
    absent: HashSet<String>,
    /// For places in errors and names of nodes.
    pub(super) path: String,
}

/// The stack of scopes, innermost last, and the graphs being built.
pub(super) struct Scopes<'m> {
    scopes: Vec<Scope<'m>>,
    builders: Vec<GraphBuilder>,
}

impl<'m> Scopes<'m> {
    pub(super) fn new(name: &str, opsets: &'m Opsets) -> Self {
        let root = Scope {
            names: HashMap::new(),
            builder: 0,
            sees_outer: false,
            captures: vec![],
            opsets,
            attributes: HashMap::new(),
            absent: HashSet::new(),
            path: "graph".into(),
        };
        Scopes { scopes: vec![root], builders: vec![GraphBuilder::new(name)] }
    }

    pub(super) fn current(&self) -> &Scope<'m> {
        self.scopes.last().expect("the root scope is never left")
    }

    /// Whether nodes go to the graph of a body.
    pub(super) fn in_body(&self) -> bool {
        self.current().builder > 0
    }

    pub(super) fn builder(&mut self) -> &mut GraphBuilder {
        let at = self.current().builder;
        &mut self.builders[at]
    }

    pub(super) fn builder_ref(&self) -> &GraphBuilder {
        &self.builders[self.current().builder]
    }

    /// Enters a body: a graph of its own that sees the names around it.
    pub(super) fn enter_body(&mut self, path: String, name: &str) {
        let outer = self.current();
        let scope = Scope {
            names: HashMap::new(),
            builder: self.builders.len(),
            sees_outer: true,
            captures: vec![],
            opsets: outer.opsets,
            attributes: outer.attributes.clone(),
            absent: outer.absent.clone(),
            path,
        };
        self.builders.push(GraphBuilder::new(name));
        self.scopes.push(scope);
    }

    /// Enters a body whose nodes go to the graph around it.
    pub(super) fn enter_inline(&mut self, path: String) {
        let outer = self.current();
        let scope = Scope {
            names: HashMap::new(),
            builder: outer.builder,
            sees_outer: true,
            captures: vec![],
            opsets: outer.opsets,
            attributes: outer.attributes.clone(),
            absent: outer.absent.clone(),
            path,
        };
        self.scopes.push(scope);
    }

    /// Leaves a body: its graph, and the values around it that it uses.
    pub(super) fn leave_body(&mut self) -> (GraphBuilder, Vec<ValueId>) {
        let scope = self.scopes.pop().expect("entered before");
        (self.builders.pop().expect("entered before"), scope.captures)
    }

    /// Enters a function: names of its own, nodes in the same graph.
    pub(super) fn enter_function(
        &mut self,
        path: String,
        opsets: &'m Opsets,
        attributes: HashMap<&'m str, &'m AttributeProto>,
    ) {
        let builder = self.current().builder;
        self.scopes.push(Scope {
            names: HashMap::new(),
            builder,
            sees_outer: false,
            captures: vec![],
            opsets,
            attributes,
            absent: HashSet::new(),
            path,
        });
    }

    pub(super) fn leave_function(&mut self) {
        self.scopes.pop();
    }

    /// Binds a name of the file in the innermost scope.
    pub(super) fn define(&mut self, name: &str, v: ValueId) -> Result<(), LowerError> {
        let scope = self.scopes.last_mut().expect("the root scope is never left");
        match scope.names.insert(name.into(), v) {
            None => Ok(()),
            Some(_) => Err(LowerError::Name(format!("{} is defined twice", quoted(name)))),
        }
    }

    /// Declares parameters of the function just entered that its call leaves out.
    pub(super) fn absent(&mut self, names: impl Iterator<Item = String>) {
        self.scopes.last_mut().expect("the root scope is never left").absent.extend(names);
    }

    /// An operand by its name in the file: empty names and absent parameters are operands left out.
    pub(super) fn operand(&mut self, name: &str) -> Result<Option<ValueId>, LowerError> {
        let scope = self.current();
        if name.is_empty() || (scope.absent.contains(name) && !scope.names.contains_key(name)) {
            return Ok(None);
        }
        self.resolve(name).map(Some)
    }

    /// The value of a name, captured into the innermost body where it is defined further out.
    pub(super) fn resolve(&mut self, name: &str) -> Result<ValueId, LowerError> {
        let found = self.scopes.iter().enumerate().rev().try_fold((), |(), (i, s)| match s.names.get(name) {
            Some(&v) => Err(Some((i, v))),
            None if s.sees_outer => Ok(()),
            None => Err(None),
        });
        let Err(Some((level, mut v))) = found else {
            return Err(LowerError::Name(format!("{} is used before anything defines it", quoted(name))));
        };
        for inner in level + 1..self.scopes.len() {
            v = self.capture(inner, v)?;
            self.scopes[inner].names.insert(name.into(), v);
        }
        Ok(v)
    }

    /// Makes a value of the scope around `level` a value of it.
    fn capture(&mut self, level: usize, v: ValueId) -> Result<ValueId, LowerError> {
        let (outer, inner) = (self.scopes[level - 1].builder, self.scopes[level].builder);
        if outer == inner {
            return Ok(v);
        }
        let graph = self.builders[outer].graph();
        // A constant is its own copy everywhere (its data is shared), which lets the body's sizes depend on it.
        if let Some(t) = graph.constant(v) {
            let t = t.clone();
            return Ok(self.builders[inner].constant(t)?);
        }
        let ty = graph.ty(v).clone();
        let input = self.builders[inner].unnamed_input(ty);
        self.scopes[level].captures.push(v);
        Ok(input)
    }

    pub(super) fn finish(mut self) -> GraphBuilder {
        self.builders.swap_remove(0)
    }
}

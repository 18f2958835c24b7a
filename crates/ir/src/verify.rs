use crate::{
    error::IrError,
    graph::{Def, Graph, ValueId},
    infer,
};

impl Graph {
    /// Checks every invariant of a graph:
    ///
    /// 1. every operand, input and output is a live value of this graph;
    /// 2. a value is defined once: by the input or the node result that its `def` names, and there;
    /// 3. every node's operands come before it in some order: there is no cycle;
    /// 4. a value lists each of its users once per use, and nobody else;
    /// 5. names of values are unique, and the name table is exactly those names;
    /// 6. names of outputs are unique;
    /// 7. every op accepts its operands, and each result's type agrees with what inference says: equal
    ///    dtype and rank, no two numbers that differ;
    /// 8. an optional operand at the end of the list is given (places left out stand only before given ones);
    /// 9. the same holds in every body.
    ///
    /// # Errors
    /// [`IrError::Verify`] with the first invariant that does not hold.
    pub fn verify(&self) -> Result<(), IrError> {
        let fail = |what: String| Err(IrError::Verify(what));
        for (i, &v) in self.inputs.iter().enumerate() {
            match self.get_value(v) {
                Some(info) if info.def == Def::Input(i) => {}
                _ => return fail(format!("input {i} is not defined as such")),
            }
        }
        let mut output_names = std::collections::HashSet::new();
        for o in &self.outputs {
            if self.get_value(o.value).is_none() {
                return fail(format!("output \"{}\" is not in the graph", crate::shown(&o.name)));
            }
            if !output_names.insert(&o.name) {
                return fail(format!("two outputs are named \"{}\"", crate::shown(&o.name)));
            }
        }
        self.verify_values()?;
        let mut at = vec![usize::MAX; self.nodes.len()];
        for (i, id) in self.order().into_iter().enumerate() {
            at[id.index()] = i;
        }
        for (id, node) in self.nodes() {
            let name = node.op.name();
            for &v in node.inputs.iter().flatten() {
                let Some(info) = self.get_value(v) else {
                    return fail(format!("`{name}` uses a value that is gone"));
                };
                if let Def::Node(p, _) = info.def
                    && at[p.index()] >= at[id.index()]
                {
                    return fail(format!("`{name}` depends on itself"));
                }
                if !info.users.contains(&id) {
                    return fail(format!("`{name}` is not listed as a user of its operand"));
                }
            }
            if matches!(node.inputs.last(), Some(None)) {
                return fail(format!("`{name}` ends with an operand that is left out"));
            }
            self.verify_types(node)?;
            for body in node.op.bodies() {
                body.verify()?;
            }
        }
        Ok(())
    }

    fn verify_values(&self) -> Result<(), IrError> {
        let fail = |what: String| Err(IrError::Verify(what));
        for (id, info) in self.values() {
            let defined = match info.def {
                Def::Input(i) => self.inputs.get(i) == Some(&id),
                Def::Node(n, i) => self.get_node(n).is_some_and(|n| n.outputs.get(i) == Some(&id)),
            };
            if !defined {
                return fail(format!("value {} is not where its definition says", id.index()));
            }
            let uses =
                |n| self.get_node(n).map_or(0, |n| n.inputs.iter().filter(|v| **v == Some(id)).count());
            let listed = |n| info.users.iter().filter(|u| **u == n).count();
            if info.users.iter().any(|&n| uses(n) != listed(n)) {
                return fail(format!("value {} lists a user that it does not have", id.index()));
            }
            if let Some(name) = &info.name
                && self.names.get(name) != Some(&id)
            {
                return fail(format!("name \"{}\" is another value's", crate::shown(name)));
            }
        }
        for (name, &id) in &self.names {
            if self.get_value(id).is_none_or(|v| v.name.as_ref() != Some(name)) {
                return fail(format!("name \"{}\" is nobody's", crate::shown(name)));
            }
        }
        Ok(())
    }

    fn verify_types(&self, node: &crate::graph::Node) -> Result<(), IrError> {
        let facts: Vec<_> = node.inputs.iter().map(|v| v.map(|v: ValueId| self.fact(v))).collect();
        let inferred = infer::infer(&node.op, &facts).map_err(|what| IrError::Infer {
            node: node.origin.as_deref().map(str::to_owned),
            op: node.op.name(),
            what,
        })?;
        if inferred.len() != node.outputs.len() {
            return Err(IrError::Verify(format!(
                "`{}` has {} results, not {}",
                node.op.name(),
                inferred.len(),
                node.outputs.len()
            )));
        }
        for (&v, i) in node.outputs.iter().zip(&inferred) {
            if i.ty.meet(self.ty(v)).is_none() {
                return Err(IrError::Verify(format!(
                    "`{}` gives {}, but the value is {}",
                    node.op.name(),
                    i.ty,
                    self.ty(v)
                )));
            }
        }
        Ok(())
    }
}

use tensormill_ir::{Bindings, Dim, Graph, GraphBuilder, IrError, TensorType, Type, ValueId};

/// The graph with sizes put in place of symbols, and with further outputs.
pub(crate) fn specialize(
    g: &Graph,
    bindings: &Bindings,
    extra: &[(String, ValueId)],
) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new(g.name());
    let mut new: Vec<Option<ValueId>> = vec![None; g.value_capacity()];
    for &v in g.inputs() {
        let info = g.value(v);
        let ty = bind(&info.ty, bindings);
        let id = match &info.name {
            Some(name) => b.input(name, ty)?,
            None => b.unnamed_input(ty),
        };
        new[v.index()] = Some(id);
    }
    for id in g.order() {
        let node = g.node(id);
        b.set_origin(node.origin.as_deref());
        let inputs: Vec<Option<ValueId>> =
            node.inputs.iter().map(|v| v.and_then(|v| new[v.index()])).collect();
        let outputs = b.node(node.op.clone(), &inputs)?;
        for (&old, id) in node.outputs.iter().zip(outputs) {
            let info = g.value(old);
            b.refine(id, &bind(&info.ty, bindings))?;
            if let Some(name) = &info.name {
                b.name(id, name)?;
            }
            new[old.index()] = Some(id);
        }
    }
    let outputs = g.outputs().iter().map(|o| (&*o.name, o.value));
    for (name, v) in outputs.chain(extra.iter().map(|(n, v)| (n.as_str(), *v))) {
        let id = new[v.index()].ok_or_else(|| IrError::Name("an output is not in the graph".into()))?;
        b.output(name, id)?;
    }
    b.finish()
}

/// A type with sizes in place of symbols.
fn bind(ty: &Type, bindings: &Bindings) -> Type {
    match ty {
        Type::Tensor(t) => {
            let dim = |d: &Dim| match d {
                Dim::Sym(e) => Dim::from(e.substitute(bindings)),
                d => d.clone(),
            };
            TensorType { dtype: t.dtype, dims: t.dims.as_ref().map(|d| d.iter().map(dim).collect()) }.into()
        }
        Type::Sequence(t) => Type::Sequence(Box::new(bind(t, bindings))),
        Type::Optional(t) => Type::Optional(Box::new(bind(t, bindings))),
        other => other.clone(),
    }
}

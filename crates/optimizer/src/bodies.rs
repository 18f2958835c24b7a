use std::sync::Arc;
use tensormill_ir::{
    Graph, IrError, NodeId, Patch,
    attr::{Attr, Body},
    ops::Op,
};

/// Rewrites every body of every control-flow node of a graph; returns how many nodes changed.
///
/// `f` gets a copy of each body and says whether it changed it. The op is taken apart into its
/// attributes and put together again, so that ops which gain bodies need nothing here.
///
/// # Errors
/// Whatever `f` says, and [`IrError`] when the node refuses its new bodies.
pub fn map_bodies<E: From<IrError>>(
    g: &mut Graph,
    f: &mut dyn FnMut(&mut Graph) -> Result<bool, E>,
) -> Result<usize, E> {
    let with: Vec<NodeId> = g.nodes().filter(|(_, n)| !n.op.bodies().is_empty()).map(|(id, _)| id).collect();
    let mut count = 0;
    for id in with {
        let Some(node) = g.get_node(id) else { continue };
        let mut attrs = node.op.attrs();
        let mut changed = false;
        for (_, a) in &mut attrs {
            map_attr(a, &mut |body| {
                let yes = f(body)?;
                changed |= yes;
                Ok::<bool, E>(yes)
            })?;
        }
        if !changed {
            continue;
        }
        let attrs = attrs.into_iter().map(|(n, a)| (n.to_owned(), a)).collect();
        let op = Op::from_text(node.op.name(), attrs).map_err(IrError::Verify)?;
        let inputs: Vec<_> = node.inputs.iter().map(|v| v.map(Into::into)).collect();
        let mut p = Patch::new();
        let new = p.node(op, &inputs);
        p.origin(node.origin.clone());
        for (i, v) in node.outputs.iter().enumerate() {
            p.replace(*v, new.sibling(i));
        }
        g.apply(p)?;
        count += 1;
    }
    Ok(count)
}

fn map_attr<E>(a: &mut Attr, f: &mut dyn FnMut(&mut Graph) -> Result<bool, E>) -> Result<(), E> {
    match a {
        Attr::Graph(Body(body)) => {
            let mut copy = (**body).clone();
            if f(&mut copy)? {
                *body = Arc::new(copy);
            }
            Ok(())
        }
        Attr::List(items) | Attr::Call(_, items) => items.iter_mut().try_for_each(|a| map_attr(a, f)),
        _ => Ok(()),
    }
}

//! Graphs inside graphs: the bodies of control flow, and functions replaced by what they do.

use super::{LowerError, cx::LoweredBody, graph::Lowerer};
use crate::{
    onnx::{
        Opsets,
        proto::{FunctionProto, GraphProto, NodeProto},
    },
    text::quoted,
};
use std::{collections::HashMap, sync::Arc};
use tensormill_ir::{Type, ValueId, attr::Body, ops::OptionalOf};

/// Nodes that bodies read more than once may have together. A loop whose carried sizes change is read
/// again with wider types, and loops inside it each time: without a bound, the work doubles with
/// every level.
const MAX_REREAD: usize = 1_000_000;

/// Lowers a body whose own inputs have these types; the results at `optional` become optionals.
///
/// What the file declares of a body's inputs is not believed: sizes that hold for the first iteration
/// only, or ranks left from another export, are common there, and callers know the types of all operands.
pub(super) fn lower_body<'m>(
    l: &mut Lowerer<'m>,
    g: &'m GraphProto,
    name: &str,
    inputs: &[Type],
    optional: &[usize],
) -> Result<LoweredBody, LowerError> {
    if !l.bodies_read.insert(std::ptr::from_ref(g)) {
        l.reread += g.node.len();
        if l.reread > MAX_REREAD {
            return LowerError::feature("loops in loops that change sizes at every level");
        }
    }
    if g.input.len() != inputs.len() {
        return LowerError::operand(format!(
            "body \"{name}\" takes {} inputs, but gets {}",
            g.input.len(),
            inputs.len()
        ));
    }
    let path = format!("{}.{name}", l.scopes.current().path);
    l.scopes.enter_body(path, if g.name.is_empty() { name } else { &g.name });
    let done = contents(l, g, inputs, optional);
    let (builder, captures) = l.scopes.leave_body();
    done?;
    Ok((Body(Arc::new(builder.finish()?)), captures))
}

/// Puts a body's nodes into the graph around it, its inputs being these values; returns its outputs.
pub(super) fn inline<'m>(
    l: &mut Lowerer<'m>,
    g: &'m GraphProto,
    name: &str,
    inputs: &[ValueId],
) -> Result<Vec<ValueId>, LowerError> {
    if g.input.len() != inputs.len() {
        return LowerError::operand(format!(
            "body \"{name}\" takes {} inputs, but gets {}",
            g.input.len(),
            inputs.len()
        ));
    }
    let path = format!("{}.{name}", l.scopes.current().path);
    l.scopes.enter_inline(path);
    let done = (|| {
        for (input, v) in g.input.iter().zip(inputs) {
            l.scopes.define(&input.name, *v)?;
        }
        l.contents(g)?;
        g.output.iter().map(|out| l.scopes.resolve(&out.name)).collect()
    })();
    l.scopes.leave_function();
    done
}

fn contents<'m>(
    l: &mut Lowerer<'m>,
    g: &'m GraphProto,
    inputs: &[Type],
    optional: &[usize],
) -> Result<(), LowerError> {
    for (input, ty) in g.input.iter().zip(inputs) {
        let v = l.scopes.builder().unnamed_input(ty.clone());
        l.scopes.define(&input.name, v)?;
        l.label(v, &input.name);
    }
    l.contents(g)?;
    for (i, out) in g.output.iter().enumerate() {
        let mut v = l.scopes.resolve(&out.name)?;
        if optional.contains(&i) {
            v = l.scopes.builder().op(OptionalOf::default(), &[v])?;
        }
        // One value may be two outputs of a body, so the place is the name.
        l.scopes.builder().output(&i.to_string(), v)?;
    }
    Ok(())
}

/// Replaces a call by the function's nodes.
pub(super) fn call<'m>(
    l: &mut Lowerer<'m>,
    node: &'m NodeProto,
    inputs: &[Option<ValueId>],
    f: &'m FunctionProto,
    opsets: &'m Opsets,
) -> Result<(), LowerError> {
    if inputs.len() > f.input.len() || node.output.len() > f.output.len() {
        return LowerError::operand(format!(
            "function {} takes {} operands and gives {} results",
            quoted(&f.name),
            f.input.len(),
            f.output.len()
        ));
    }
    let mut attributes: HashMap<&str, _> = f.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
    for a in &node.attribute {
        let known = f.attribute.contains(&a.name) || attributes.contains_key(a.name.as_str());
        if !known {
            return Err(LowerError::Attribute {
                name: a.name.clone(),
                what: "is not one of the function's".into(),
            });
        }
        // A reference in the call names an attribute of the function around.
        let value = if a.ref_attr_name.is_empty() {
            Some(a)
        } else {
            l.scopes.current().attributes.get(a.ref_attr_name.as_str()).copied()
        };
        if let Some(v) = value {
            attributes.insert(&a.name, v);
        }
    }
    let path = format!("{}.{}", l.scopes.current().path, f.name);
    l.scopes.enter_function(path, opsets, attributes);
    let done = (|| {
        for (name, v) in f.input.iter().zip(inputs) {
            if let Some(v) = v {
                l.scopes.define(name, *v)?;
            }
        }
        let types = f.value_info.iter().map(|v| (v.name.as_str(), v)).collect();
        // A parameter left out reads as an operand left out.
        let absent = f.input.iter().enumerate().filter(|(i, _)| inputs.get(*i).copied().flatten().is_none());
        l.scopes.absent(absent.map(|(_, n)| n.clone()));
        l.nodes(&f.node, &types)?;
        f.output.iter().take(node.output.len()).map(|n| l.scopes.resolve(n)).collect::<Result<Vec<_>, _>>()
    })();
    l.scopes.leave_function();
    for (name, v) in node.output.iter().zip(done?) {
        if !name.is_empty() {
            l.scopes.define(name, v)?;
            l.label(v, name);
        }
    }
    Ok(())
}

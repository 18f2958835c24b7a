use super::{
    OnnxError, ParseLimits,
    proto::{AttributeProto, FunctionProto, GraphProto, NodeProto},
    walk::{Body, Item, attributes, walk},
};
use crate::text::quoted;
use std::{collections::HashMap, fmt};

/// What a node must name to call a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FunctionId {
    /// Namespace; ONNX's own is empty, under either of its names.
    pub domain: String,
    /// Name.
    pub name: String,
    /// Distinguishes functions of one name; most often empty.
    pub overload: String,
}

impl FunctionId {
    fn new(domain: &str, name: &str, overload: &str) -> Self {
        FunctionId { domain: plain_domain(domain).into(), name: name.into(), overload: overload.into() }
    }

    /// The identity of a function.
    pub fn of(f: &FunctionProto) -> Self {
        FunctionId::new(&f.domain, &f.name, &f.overload)
    }

    /// The identity of the function that a node would call; no such function means an operator.
    pub fn called_by(n: &NodeProto) -> Self {
        FunctionId::new(&n.domain, &n.op_type, &n.overload)
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.domain, &self.name, &self.overload].into_iter().filter(|p| !p.is_empty());
        f.write_str(&quoted(&parts.map(String::as_str).collect::<Vec<_>>().join("::")))
    }
}

/// The namespace of ONNX's own operators has two names; this is the shorter.
pub(crate) fn plain_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Finds functions by identity, and refuses those that are there twice.
pub(crate) fn index(functions: &[FunctionProto]) -> Result<HashMap<FunctionId, usize>, OnnxError> {
    let mut ids = HashMap::with_capacity(functions.len());
    for (i, f) in functions.iter().enumerate() {
        let id = FunctionId::of(f);
        if ids.contains_key(&id) {
            return Err(OnnxError::FunctionTwice { id: id.to_string() });
        }
        ids.insert(id, i);
    }
    Ok(ids)
}

struct Calls {
    /// Every call, in order of appearance, repeated as often as it is made.
    callees: Vec<usize>,
    nodes: u64,
}

fn calls<'a>(
    body: Body<'a>,
    defaults: &'a [AttributeProto],
    ids: &HashMap<FunctionId, usize>,
) -> Result<Calls, OnnxError> {
    let mut found = Calls { callees: Vec::new(), nodes: 0 };
    let mut visit = |_: &dyn fmt::Display, item: Item<'_>| {
        if let Item::Node(n) = item {
            found.nodes += 1;
            if !ids.is_empty() {
                found.callees.extend(ids.get(&FunctionId::called_by(n)));
            }
        }
        Ok(())
    };
    // A default may be a graph, whose calls count as the function's own.
    let path = body.path.clone();
    let mut bodies = vec![body];
    attributes(&path, defaults, &mut bodies, &mut visit)?;
    bodies.into_iter().try_for_each(|b| walk(b, &mut visit))?;
    Ok(found)
}

/// Refuses functions that call themselves, and models that calls make too large: functions that each
/// call the next twice double with every step.
pub(crate) fn check_calls(
    graph: &GraphProto,
    functions: &[FunctionProto],
    ids: &HashMap<FunctionId, usize>,
    limits: &ParseLimits,
) -> Result<(), OnnxError> {
    let table = functions.iter().map(|f| calls(Body::function(f), &f.attribute_proto, ids));
    let table: Vec<Calls> = table.collect::<Result<_, _>>()?;
    // Nodes of each function once all its calls are replaced; None while it is on the path.
    let mut sizes: Vec<Option<u64>> = vec![None; functions.len()];
    let mut on_path = vec![false; functions.len()];
    for root in 0..functions.len() {
        if sizes[root].is_some() {
            continue;
        }
        let mut path = vec![(root, 0)];
        on_path[root] = true;
        while let Some((f, next)) = path.last_mut() {
            let f = *f;
            let Some(&callee) = table[f].callees.get(*next) else {
                sizes[f] = Some(expanded(&table[f], &sizes));
                on_path[f] = false;
                path.pop();
                continue;
            };
            *next += 1;
            if on_path[callee] {
                let from = path.iter().position(|p| p.0 == callee).unwrap_or(0);
                let id = FunctionId::of(&functions[callee]).to_string();
                let mut chain: Vec<String> = path[from..]
                    .iter()
                    .take(8)
                    .map(|p| FunctionId::of(&functions[p.0]).to_string())
                    .collect();
                if path.len() - from > 8 {
                    chain.push("…".into());
                }
                chain.push(id.clone());
                return Err(OnnxError::Recursion { id, chain: chain.join(" calls ") });
            }
            if sizes[callee].is_none() {
                on_path[callee] = true;
                path.push((callee, 0));
            }
        }
    }
    let main = calls(Body::graph("graph".into(), graph), &[], ids)?;
    if expanded(&main, &sizes) > limits.max_nodes {
        return Err(OnnxError::Limit {
            at: "graph".into(),
            what: "nodes, with the bodies of called functions,",
            limit: limits.max_nodes,
            field: "max_nodes",
        });
    }
    Ok(())
}

fn expanded(calls: &Calls, sizes: &[Option<u64>]) -> u64 {
    calls.callees.iter().fold(calls.nodes, |n, &c| n.saturating_add(sizes[c].unwrap_or(0)))
}

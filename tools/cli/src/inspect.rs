//! `tensormill inspect`

use crate::{
    args::InspectArgs,
    failure::Failure,
    session,
    text::{bytes, count, safe, table},
};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write};
use tensormill::{Graph, Model, Optimization, Port, SessionOptions};
use tensormill_ir::{Op, text};

pub fn run(args: &InspectArgs) -> Result<String, Failure> {
    let mut model = session::load(&args.model, None)?;
    let opt = Optimization::from(args.opt);
    if opt != Optimization::None || !args.dims.is_empty() {
        let options = args
            .dims
            .iter()
            .fold(SessionOptions::new().optimization(opt), |o, (name, size)| o.dim(name, *size));
        model = model.prepared(&options)?;
    }
    if args.text {
        return Ok(text::print(model.graph()).text);
    }
    if args.dot {
        return Ok(dot(model.graph()));
    }
    let facts = Facts::of(model.graph());
    if args.json { Ok(as_json(&model, &facts)) } else { Ok(for_people(args, &model, &facts)) }
}

/// What is counted over a graph and its bodies.
#[derive(Default)]
struct Facts {
    ops: BTreeMap<&'static str, usize>,
    parameters: u64,
    bytes: u64,
    dtypes: BTreeMap<&'static str, u64>,
}

impl Facts {
    fn of(g: &Graph) -> Facts {
        let mut facts = Facts::default();
        // Readers bound how deep bodies nest; a list of what is left needs no bound.
        let mut graphs = vec![g];
        while let Some(g) = graphs.pop() {
            for (_, node) in g.nodes() {
                if let Op::Const(c) = &node.op {
                    facts.parameters += c.tensor.len() as u64;
                    facts.bytes += c.tensor.byte_len() as u64;
                    *facts.dtypes.entry(c.tensor.dtype().name()).or_default() += c.tensor.len() as u64;
                } else {
                    *facts.ops.entry(node.op.name()).or_default() += 1;
                }
                graphs.extend(node.op.bodies());
            }
        }
        facts
    }

    fn by_count(&self) -> Vec<(&'static str, usize)> {
        let mut ops: Vec<_> = self.ops.iter().map(|(k, v)| (*k, *v)).collect();
        ops.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
        ops
    }
}

fn as_json(model: &Model, facts: &Facts) -> String {
    let ports = |ports: &[Port]| {
        ports.iter().map(|p| json!({"name": p.name, "type": p.ty.to_string()})).collect::<Vec<_>>()
    };
    let report = json!({
        "format": format!("{:?}", model.kind()).to_lowercase(),
        "inputs": ports(model.inputs()), "outputs": ports(model.outputs()), "dims": model.dims(),
        "nodes": facts.ops.values().sum::<usize>(), "ops": facts.ops,
        "constants": facts.parameters, "constant_bytes": facts.bytes, "constants_by_type": facts.dtypes,
        "metadata": model.metadata(), "warnings": model.warnings(),
    });
    format!("{report}\n")
}

fn for_people(args: &InspectArgs, model: &Model, facts: &Facts) -> String {
    let mut out = String::new();
    // A String takes every write.
    let _ = writeln!(
        out,
        "{}: {} model \"{}\"\n",
        safe(&args.model.display().to_string()),
        model.kind(),
        safe(model.graph().name())
    );
    for (title, ports) in [("inputs", model.inputs()), ("outputs", model.outputs())] {
        let rows: Vec<_> = ports.iter().map(|p| vec![safe(&p.name), p.ty.to_string()]).collect();
        out += &table(&[title, "type"], &[], &rows);
        out.push('\n');
    }
    let types: Vec<String> = facts.dtypes.iter().map(|(t, n)| format!("{} {t}", count(*n))).collect();
    let _ = writeln!(
        out,
        "constants: {} elements, {} ({})\n",
        count(facts.parameters),
        bytes(facts.bytes),
        types.join(", ")
    );
    let rows: Vec<_> =
        facts.by_count().iter().map(|(op, n)| vec![(*op).to_string(), n.to_string()]).collect();
    out += &table(&["op", "nodes"], &[1], &rows);
    if !model.metadata().is_empty() {
        out.push('\n');
        let rows: Vec<_> = model.metadata().iter().map(|(k, v)| vec![safe(k), safe(v)]).collect();
        out += &table(&["metadata", "value"], &[], &rows);
    }
    out
}

/// The graph for Graphviz; constants stay out, as their number hides the rest.
fn dot(g: &Graph) -> String {
    let label = |s: &str| safe(s).replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::from("digraph model {\n  rankdir=TB; node [shape=box, fontname=\"sans-serif\"];\n");
    for &v in g.inputs() {
        let info = g.value(v);
        let name = info.name.as_deref().unwrap_or("input");
        let _ = writeln!(
            out,
            "  v{} [shape=ellipse, label=\"{}\\n{}\"];",
            v.index(),
            label(name),
            label(&info.ty.to_string())
        );
    }
    for id in g.order() {
        let node = g.node(id);
        if matches!(node.op, Op::Const(_)) {
            continue;
        }
        let _ = writeln!(
            out,
            "  n{} [label=\"{}\\n{}\"];",
            id.index(),
            node.op.name(),
            label(node.origin.as_deref().unwrap_or(""))
        );
        for &v in node.inputs.iter().flatten() {
            let ty = label(&g.ty(v).to_string());
            match g.producer(v) {
                Some((_, p)) if matches!(p.op, Op::Const(_)) => {}
                Some((p, _)) => {
                    let _ = writeln!(out, "  n{} -> n{} [label=\"{ty}\"];", p.index(), id.index());
                }
                None => {
                    let _ = writeln!(out, "  v{} -> n{};", v.index(), id.index());
                }
            }
        }
    }
    for (i, o) in g.outputs().iter().enumerate() {
        let _ = writeln!(out, "  o{i} [shape=ellipse, label=\"{}\"];", label(&o.name));
        let from = match g.producer(o.value) {
            Some((p, _)) => format!("n{}", p.index()),
            None => format!("v{}", o.value.index()),
        };
        let _ = writeln!(out, "  {from} -> o{i};");
    }
    out + "}\n"
}

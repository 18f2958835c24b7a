//! `tensormill check`

use crate::{
    args::CheckArgs,
    failure::Failure,
    session,
    text::{bytes, safe, table},
};
use serde_json::json;
use std::collections::BTreeMap;
use tensormill::NodeReport;

pub fn run(args: &CheckArgs) -> Result<String, Failure> {
    let model = session::load(&args.model, Some(&args.session))?;
    let session = session::compile(&model, &args.session, &[])?;
    let report = session.report();
    let fallbacks: Vec<&NodeReport> = report.fallbacks().collect();
    if args.json {
        let node = |n: &NodeReport| {
            json!({"node": n.node, "op": n.op, "backend": n.backend, "kernel": n.kernel,
                "reason": n.reason, "fallback": n.fallback})
        };
        let nodes: Vec<_> = report.nodes.iter().map(node).collect();
        let report = json!({"runs": true, "nodes": nodes, "fallbacks": fallbacks.len(),
            "constant_bytes": report.constant_bytes});
        return Ok(format!("{report}\n"));
    }
    let mut out = format!(
        "runs: {} nodes, {} of them by a fallback, {} of prepared constants\n",
        report.nodes.len(),
        fallbacks.len(),
        bytes(report.constant_bytes as u64)
    );
    let row = |n: &NodeReport| {
        vec![
            safe(n.node.as_deref().unwrap_or("-")),
            n.op.to_string(),
            format!("{}:{}", n.backend, n.kernel),
            safe(&n.reason),
        ]
    };
    if args.nodes {
        let rows: Vec<_> = report.nodes.iter().map(row).collect();
        out += &table(&["node", "op", "runs by", "because"], &[], &rows);
    } else if !fallbacks.is_empty() {
        let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for n in &fallbacks {
            *kinds.entry((n.op, &n.reason)).or_default() += 1;
        }
        let rows: Vec<_> =
            kinds.iter().map(|((op, why), n)| vec![(*op).to_string(), n.to_string(), safe(why)]).collect();
        out += &table(&["fallback", "nodes", "because"], &[1], &rows);
    }
    Ok(out)
}

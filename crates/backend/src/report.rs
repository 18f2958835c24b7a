use std::fmt;

/// How one node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// The node's name in the source file.
    pub node: Option<String>,
    /// The op's name.
    pub op: &'static str,
    /// The backend that runs it.
    pub backend: &'static str,
    /// The kernel, or how the node vanished: `alias`, `constant`.
    pub kernel: String,
    /// Why this one: the shape that decided it, or what the backend lacks.
    pub reason: String,
    /// Whether the node runs by something slower than a kernel of the backend that was asked for.
    pub fallback: bool,
}

/// What runs each node of a plan, and what the plan keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanReport {
    /// The nodes in the order in which they run.
    pub nodes: Vec<NodeReport>,
    /// Bytes of constants that the plan keeps, prepared for its kernels.
    pub constant_bytes: usize,
}

impl PlanReport {
    /// The nodes that do not run by a kernel of the backend that was asked for.
    pub fn fallbacks(&self) -> impl Iterator<Item = &NodeReport> {
        self.nodes.iter().filter(|n| n.fallback)
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for n in &self.nodes {
            let name = n.node.as_deref().unwrap_or("-").escape_debug().to_string();
            writeln!(f, "{name}  {}  {}:{}  {}", n.op, n.backend, n.kernel, n.reason)?;
        }
        write!(
            f,
            "{} nodes, {} fallbacks, {} bytes of constants",
            self.nodes.len(),
            self.fallbacks().count(),
            self.constant_bytes
        )
    }
}

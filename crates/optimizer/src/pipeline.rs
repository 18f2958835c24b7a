use crate::{
    bodies::map_bodies,
    fuse,
    log::{LogEntry, OptLog},
    pass::{Changed, Numerics, OptOptions, Pass, PassCx, PassError},
    simplify,
};
use std::time::Instant;
use tensormill_ir::{Graph, IrError};

/// Bodies within bodies that passes enter.
const MAX_DEPTH: usize = 24;
/// How often a pipeline repeats while it still changes the graph.
const MAX_REPEATS: usize = 4;

/// Passes in the order they run.
pub struct Pipeline {
    name: &'static str,
    stages: Vec<Stage>,
}

/// Passes that run one after the other, and again until nothing changes.
struct Stage(Vec<Box<dyn Pass>>);

impl Pipeline {
    /// The names that [`Pipeline::by_name`] knows, with a line on each.
    pub const NAMES: &[(&str, &str)] = &[
        ("none", "leave the graph as the file has it"),
        ("basic", "fold constants and remove what is dead, double or does nothing"),
        (
            "default",
            "all of basic, and fuse: activations, biases and residuals into products, GELU and its kin, integers \
             instead of steps of quantization",
        ),
    ];

    /// A pipeline of passes that run once each, in order.
    pub fn new(name: &'static str, passes: Vec<Box<dyn Pass>>) -> Self {
        Pipeline { name, stages: passes.into_iter().map(|p| Stage(vec![p])).collect() }
    }

    /// The pipeline of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let basic = || Stage(vec![simplify::pass(), Box::new(simplify::Common), Box::new(simplify::Refine)]);
        let dead = || Stage(vec![Box::new(simplify::Dead)]);
        // What is folded then may be all that others wait for.
        // Types last: sizes known since then are what a file keeps.
        let unpack = || Stage(vec![fuse::unpack(), simplify::pass(), Box::new(simplify::Refine)]);
        Some(match name {
            "none" => Pipeline { name: "none", stages: vec![] },
            "basic" => Pipeline { name: "basic", stages: vec![dead(), basic(), unpack()] },
            "default" => Pipeline {
                name: "default",
                stages: vec![
                    dead(),
                    basic(),
                    Stage(vec![fuse::integers(), Box::new(simplify::Common)]),
                    Stage(vec![
                        fuse::patterns(),
                        fuse::weights(),
                        simplify::pass(),
                        Box::new(simplify::Common),
                    ]),
                    Stage(vec![fuse::epilogues(), Box::new(simplify::Common)]),
                    Stage(vec![fuse::merges()]),
                    unpack(),
                ],
            },
            _ => return None,
        })
    }

    /// A pass by its name, as golden files list them.
    pub fn pass_by_name(name: &str) -> Option<Box<dyn Pass>> {
        Some(match name {
            "dead" => Box::new(simplify::Dead),
            "common" => Box::new(simplify::Common),
            "refine" => Box::new(simplify::Refine),
            "simplify" => simplify::pass(),
            "patterns" => fuse::patterns(),
            "weights" => fuse::weights(),
            "epilogues" => fuse::epilogues(),
            "merges" => fuse::merges(),
            "part" => fuse::part(),
            "join" => fuse::join(),
            "integers" => fuse::integers(),
            "unpack" => fuse::unpack(),
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its passes in order.
    pub fn passes(&self) -> impl Iterator<Item = &dyn Pass> {
        self.stages.iter().flat_map(|s| s.0.iter().map(|p| &**p))
    }

    /// Optimizes a graph and the bodies in it.
    ///
    /// # Errors
    /// [`PassError`] when a pass breaks the graph: a defect of the pass. The graph may then be partly
    /// rewritten; in builds without debug assertions a caller may go on with a copy of the original.
    pub fn run(&self, g: &mut Graph, options: &OptOptions) -> Result<OptLog, PassError> {
        let start = Instant::now();
        let mut cx = PassCx::new(options);
        self.run_in(g, &mut cx)?;
        cx.log.time = start.elapsed();
        Ok(cx.log)
    }

    fn run_in(&self, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<bool, PassError> {
        let mut changed = false;
        for stage in &self.stages {
            for _ in 0..MAX_REPEATS {
                let mut again = false;
                for pass in &stage.0 {
                    if pass.numerics() <= cx.options.numerics && cx.budget.fuel > 0 {
                        again |= run_pass(&**pass, g, cx)? == Changed::Yes;
                    }
                }
                changed |= again;
                if !again || stage.0.len() == 1 {
                    break;
                }
            }
        }
        // Bodies last: what they capture is then in its final form.
        if cx.depth < MAX_DEPTH && !self.stages.is_empty() {
            cx.depth += 1;
            let entered = map_bodies(g, &mut |body| self.run_in(body, cx).map_err(InBody::Pass));
            cx.depth -= 1;
            changed |= entered.map_err(|e| match e {
                InBody::Pass(e) => e,
                InBody::Graph(source) => PassError::Graph { pass: "bodies", source },
            })? > 0;
        }
        Ok(changed)
    }
}

/// What can go wrong in a body: inside it, or when it is put back.
enum InBody {
    Pass(PassError),
    Graph(IrError),
}

impl From<IrError> for InBody {
    fn from(e: IrError) -> Self {
        InBody::Graph(e)
    }
}

fn run_pass(pass: &dyn Pass, g: &mut Graph, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
    let start = Instant::now();
    let before = cx.log.rewrites();
    let changed = pass.run(g, cx)?;
    // Sets of rules have logged each rule; other passes count as one rewrite a run unless they logged.
    let logged = cx.log.rewrites() > before;
    cx.log.record(LogEntry {
        pass: pass.name(),
        rule: None,
        rewrites: u64::from(changed == Changed::Yes && !logged),
        declines: vec![],
        time: start.elapsed(),
    });
    if cx.options.verify {
        g.verify().map_err(|source| PassError::Graph { pass: pass.name(), source })?;
    }
    Ok(changed)
}

impl Numerics {
    /// Every case with the word that options and golden files spell it by.
    pub const WORDS: &[(&str, Numerics)] =
        &[("exact", Numerics::Exact), ("reassociates", Numerics::Reassociates), ("lossy", Numerics::Lossy)];

    /// The case of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Numerics::WORDS.iter().find(|w| w.0 == word).map(|w| w.1)
    }
}

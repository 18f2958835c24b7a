//! Where the values of a run lie.

use crate::native::Native;
use smallvec::SmallVec;
use tensormill_ir::NodeId;
use tensormill_tensor::{DType, Shape, Tensor};

/// The block that a value lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Base {
    /// The state's arena.
    Arena,
    /// A tensor made anew in each run, for an output.
    Result(usize),
    /// A tensor of the caller.
    Input(usize),
    /// A tensor that no run changes.
    Const(usize),
    /// A value that a step makes: its size may be known only then.
    Slot(usize),
}

/// A part of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub base: Base,
    pub offset: usize,
    pub bytes: usize,
    /// Whether it is all of its block.
    pub whole: bool,
    /// Bytes from one row to the next where rows are parts of wider ones; `bytes` then reaches from the first
    /// element to the last, over those of others.
    pub pitch: Option<usize>,
}

/// A value as a step or an output sees it. The type is `None` where only a run tells it.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    pub place: Place,
    pub ty: Option<(DType, Shape)>,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Work {
    /// A prepared kernel over places of fixed size.
    Native { native: Native, in_place: bool },
    /// Values of their own, by whatever fits: a kernel prepared during the run, or the reference.
    Values { native: bool },
}

/// One node's part of a run.
#[derive(Debug)]
pub(crate) struct Step {
    pub node: NodeId,
    pub work: Work,
    pub ins: SmallVec<[Option<Typed>; 4]>,
    pub outs: SmallVec<[Typed; 1]>,
    /// Results in the order of their places, which is that in which blocks are carved.
    pub order: SmallVec<[usize; 1]>,
    /// Slots that nobody reads after this step.
    pub free: SmallVec<[usize; 1]>,
    /// Whether it only brings a value of the node's into another order.
    pub converts: bool,
}

/// A graph laid out for inputs of concrete types.
#[derive(Debug)]
pub(crate) struct Layout {
    pub steps: Vec<Step>,
    pub inputs: Vec<Option<(DType, Shape)>>,
    pub arena: usize,
    pub results: Vec<(DType, Shape)>,
    pub constants: Vec<Tensor>,
    /// Bytes of those that the plan does not hold.
    pub own_constants: usize,
    pub slots: usize,
    pub outputs: Vec<Typed>,
    pub report: tensormill_backend::PlanReport,
}

/// Whether a dtype's elements can lie in blocks of bytes.
pub(crate) fn plain(dtype: DType) -> bool {
    dtype.size().is_some() && dtype != DType::Str
}

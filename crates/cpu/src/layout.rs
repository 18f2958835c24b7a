//! Where the values of a run lie.

use crate::native::Run;
use smallvec::SmallVec;
use tensormill_ir::NodeId;
use tensormill_tensor::table::{Cut, Spot};
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

/// What a step does, for those who look at it from outside.
#[derive(Debug)]
pub(crate) enum Work {
    /// A prepared kernel over places of fixed size.
    Native { name: &'static str, flops: u64, anywhere: SmallVec<[usize; 2]> },
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
    /// Slots that nobody reads after this step.
    pub free: SmallVec<[usize; 1]>,
    /// Whether it only brings a value of the node's into another order.
    pub converts: bool,
}

/// All that a run of a step needs, in the order of the run; the [`Step`] is looked at only where more is told.
pub(crate) struct Hot {
    /// The step's number.
    pub step: usize,
    pub act: Act,
    /// Whether slots are freed after it.
    pub frees: bool,
}

/// How a step runs.
pub(crate) enum Act {
    /// A kernel over places that were checked.
    Kernel(Kernel),
    /// [`Work::Values`].
    Values,
}

/// A kernel and its places.
pub(crate) struct Kernel {
    pub run: Run,
    pub cut: Cut,
    pub in_place: bool,
    /// Where rows of operands or of the first result lie apart.
    pub pitches: Option<Box<Pitches>>,
}

/// Bytes from one row to the next, where rows lie apart.
pub(crate) struct Pitches {
    pub ins: SmallVec<[Option<usize>; 4]>,
    pub out: Option<usize>,
}

impl Pitches {
    /// Those of a step's operands and first result, if any has one.
    pub fn of(ins: &[Option<Typed>], outs: &[Typed]) -> Option<Box<Pitches>> {
        let ins: SmallVec<[Option<usize>; 4]> =
            ins.iter().map(|t| t.as_ref().and_then(|t| t.place.pitch)).collect();
        let out = outs.first().and_then(|t| t.place.pitch);
        let any = out.is_some() || ins.iter().any(Option::is_some);
        any.then(|| Box::new(Pitches { ins, out }))
    }
}

/// The numbers of a layout's blocks in a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    pub results: usize,
    pub inputs: usize,
    pub constants: usize,
    pub slots: usize,
}

impl Blocks {
    /// The number of a block.
    pub fn number(&self, base: Base) -> usize {
        match base {
            Base::Arena => 0,
            Base::Result(i) => 1 + i,
            Base::Input(i) => 1 + self.results + i,
            Base::Const(i) => 1 + self.results + self.inputs + i,
            Base::Slot(i) => (1 + self.results + self.inputs + self.constants).saturating_add(i),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.number(Base::Slot(self.slots))
    }

    /// A place by its block's number.
    pub fn spot(&self, place: Place) -> Spot {
        Spot { block: self.number(place.base), start: place.offset, len: place.bytes }
    }
}

/// A graph laid out for inputs of concrete types.
pub(crate) struct Layout {
    pub steps: Vec<Step>,
    pub hot: Vec<Hot>,
    pub blocks: Blocks,
    pub inputs: Vec<Option<(DType, Shape)>>,
    pub arena: usize,
    pub results: Vec<(DType, Shape)>,
    pub constants: Vec<Tensor>,
    /// Bytes of those that the plan does not hold.
    pub own_constants: usize,
    pub outputs: Vec<Typed>,
    pub report: tensormill_backend::PlanReport,
}

/// Whether a dtype's elements can lie in blocks of bytes.
pub(crate) fn plain(dtype: DType) -> bool {
    dtype.size().is_some() && dtype != DType::Str
}

//! Which values share memory, for how long, and where it lies.

use crate::layout::{Base, Place};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tensormill_backend::{Lifetime, MemoryPlan, plan_memory};
use tensormill_ir::ValueId;

/// Who makes the memory that a class of values lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The state: steps write into it.
    Step,
    /// The caller.
    Input(usize),
    /// The plan or the state, before the run.
    Const(usize),
    /// A step, anew in each run.
    Slot(usize),
}

/// Values that lie in one block: the one that made it, and those that look at parts of it.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    kind: Kind,
    bytes: usize,
    first: usize,
    last: usize,
    /// Whether all of it becomes an output.
    output: bool,
    /// What it became a part of.
    parent: Option<Link>,
    /// How many rows it has, once it has parts that are parts of each of them.
    rows: Option<usize>,
    /// Whether another class became a part of it that is one run of bytes.
    runs: bool,
    /// The values that were put into it, and not by way of another class.
    values: SmallVec<[ValueId; 2]>,
}

/// How a class is a part of another.
#[derive(Debug, Clone, Copy)]
struct Link {
    class: usize,
    offset: usize,
    /// Rows, and bytes from one to the next; `None` where the part is one run of bytes.
    apart: Option<(usize, usize)>,
}

impl Class {
    pub fn new(kind: Kind, bytes: usize) -> Class {
        let (first, last, values) = (usize::MAX, 0, SmallVec::new());
        Class { kind, bytes, first, last, output: false, parent: None, rows: None, runs: false, values }
    }
}

/// Where a value lies in the block that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub class: usize,
    pub offset: usize,
    /// Bytes from the first element to the last, over those of others where rows lie apart.
    pub span: usize,
    /// Bytes from one row to the next, where they lie apart.
    pub pitch: Option<usize>,
}

/// What [`Classes::put`] changed.
pub(crate) struct Put {
    part: usize,
    whole: usize,
    before: (usize, usize, Option<usize>),
}

/// The classes of a graph's values.
pub(crate) struct Classes {
    all: Vec<Class>,
    /// Class, offset and size of each value.
    of: Vec<Option<(usize, usize, usize)>>,
    slots: usize,
}

impl Classes {
    pub fn new(values: usize) -> Classes {
        Classes { all: vec![], of: vec![None; values], slots: 0 }
    }

    /// Starts a class with the value that is all of it.
    pub fn add(&mut self, v: ValueId, class: Class) {
        if let Kind::Slot(i) = class.kind {
            self.slots = self.slots.max(i + 1);
        }
        if self.of.len() <= v.index() {
            self.of.resize(v.index() + 1, None);
        }
        self.of[v.index()] = Some((self.all.len(), 0, class.bytes));
        self.all.push(class);
        self.note(v);
    }

    /// How many slots there are: also the number of the next one.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Makes `v` a part of what `of` lies in.
    pub fn alias(&mut self, v: ValueId, of: ValueId, offset: usize, bytes: usize) {
        if self.of.len() <= v.index() {
            self.of.resize(v.index() + 1, None);
        }
        self.of[v.index()] = self.of[of.index()].map(|(class, at, _)| (class, at + offset, bytes));
        self.note(v);
    }

    fn note(&mut self, v: ValueId) {
        if let Some((class, ..)) = self.of[v.index()] {
            self.all[class].values.push(v);
        }
    }

    /// The block that a value lies in, and where it begins.
    pub fn find(&self, v: ValueId) -> Option<(usize, usize)> {
        self.spot(v).map(|s| (s.class, s.offset))
    }

    /// Where a value lies.
    pub fn spot(&self, v: ValueId) -> Option<Spot> {
        let (mut class, mut offset, bytes) = self.of[v.index()]?;
        let mut apart: Option<(usize, usize)> = None;
        while let Some(link) = self.all[class].parent {
            // All that lies apart has the rows of what it is a part of: the outermost pitch is theirs.
            apart = link.apart.or(apart);
            (class, offset) = (link.class, offset + link.offset);
        }
        let span = match apart {
            Some((rows, pitch)) if bytes > 0 => (rows - 1) * pitch + bytes / rows,
            _ => bytes,
        };
        Some(Spot { class, offset, span, pitch: apart.map(|a| a.1) })
    }

    /// The class that a value was put into, and the values there, if it is all of it.
    pub fn all_of(&self, v: ValueId) -> Option<(usize, &[ValueId])> {
        let (class, offset, bytes) = self.of[v.index()]?;
        let c = &self.all[class];
        (offset == 0 && bytes == c.bytes).then_some((class, &c.values[..]))
    }

    /// What the value's class is a part of, row by row: the other class, and where in a row.
    pub fn row_of(&self, v: ValueId) -> Option<(usize, usize)> {
        let link = self.all[self.all_of(v)?.0].parent?;
        link.apart.map(|_| (link.class, link.offset))
    }

    /// The value that a class was made for.
    pub fn owner(&self, class: usize) -> Option<ValueId> {
        self.all.get(class)?.values.first().copied()
    }

    /// How many rows a class has, once parts lie in each of them.
    pub fn rows(&self, class: usize) -> Option<usize> {
        self.all.get(class)?.rows
    }

    /// Makes the class of `part`, which has `rows` rows, a part of each row of `whole`, from byte `offset` of
    /// the row on; `None` where one of them does not allow it.
    pub fn put(&mut self, part: ValueId, whole: ValueId, offset: usize, rows: usize) -> Option<Put> {
        let part = self.own(part)?;
        let (into, _) = self.all_of(whole)?;
        let (p, w) = (&self.all[part], &self.all[into]);
        let rows_fit = |c: &Class| c.rows.is_none_or(|r| r == rows) && c.bytes.is_multiple_of(rows);
        let apart = w.parent.and_then(|l| l.apart);
        let fits = rows > 1
            && rows_fit(p)
            && rows_fit(w)
            && !p.runs
            && p.last != usize::MAX
            && p.bytes > 0
            && offset + p.bytes / rows <= w.bytes / rows
            && matches!(w.kind, Kind::Step | Kind::Input(_))
            && apart.is_none_or(|a| a.0 == rows);
        if !fits || self.root(into) == part {
            return None;
        }
        let put = Put { part, whole: into, before: (w.first, w.last, w.rows) };
        let link = Link { class: into, offset, apart: Some((rows, w.bytes / rows)) };
        self.merge(part, link);
        self.all[into].rows = Some(rows);
        Some(put)
    }

    /// Undoes the newest [`Classes::put`].
    pub fn take_back(&mut self, put: &Put) {
        self.all[put.part].parent = None;
        let whole = &mut self.all[put.whole];
        (whole.first, whole.last, whole.rows) = put.before;
    }

    fn root(&self, mut class: usize) -> usize {
        while let Some(link) = self.all[class].parent {
            class = link.class;
        }
        class
    }

    fn size(&self, v: ValueId) -> usize {
        self.of[v.index()].map_or(0, |o| o.2)
    }

    /// Keeps the value until the run has ended.
    pub fn output(&mut self, v: ValueId) {
        let Some((class, offset)) = self.find(v) else { return };
        let whole = offset == 0 && self.size(v) == self.all[class].bytes;
        let class = &mut self.all[class];
        class.output |= whole;
        class.last = usize::MAX;
    }

    /// Notes that a step writes the value.
    pub fn written(&mut self, v: ValueId, step: usize) {
        self.read(v, step);
        if let Some((class, _)) = self.find(v) {
            self.all[class].first = self.all[class].first.min(step);
        }
    }

    /// Notes that a step reads the value.
    pub fn read(&mut self, v: ValueId, step: usize) {
        if let Some((class, _)) = self.find(v) {
            self.all[class].last = self.all[class].last.max(step);
        }
    }

    /// The class that a value is all of, if steps write it and it is no part of another.
    fn own(&self, v: ValueId) -> Option<usize> {
        let (class, offset) = self.find(v)?;
        let c = &self.all[class];
        let direct = self.of[v.index()].is_some_and(|o| o.0 == class);
        (direct && offset == 0 && c.kind == Kind::Step && self.size(v) == c.bytes).then_some(class)
    }

    fn merge(&mut self, part: usize, link: Link) {
        let (first, last) = (self.all[part].first, self.all[part].last);
        self.all[part].parent = Some(link);
        let mut next = Some(link);
        while let Some(link) = next {
            let whole = &mut self.all[link.class];
            whole.first = whole.first.min(first);
            whole.last = whole.last.max(last);
            whole.runs |= link.apart.is_none();
            next = whole.parent;
        }
    }

    /// Makes the parts lie one after the other in `out`; leaves all as it is and says so when one cannot.
    pub fn join(&mut self, out: ValueId, parts: &[(ValueId, usize)]) -> bool {
        let Some(whole) = self.own(out) else { return false };
        let mut owners: SmallVec<[(usize, usize); 4]> = SmallVec::new();
        let mut at = 0;
        for &(v, bytes) in parts {
            let Some(class) = self.own(v) else { return false };
            let fresh = class != whole && owners.iter().all(|o| o.0 != class);
            if !fresh || self.all[class].last == usize::MAX || bytes == 0 {
                return false;
            }
            owners.push((class, at));
            at += bytes;
        }
        if at != self.all[whole].bytes {
            return false;
        }
        for (class, at) in owners {
            self.merge(class, Link { class: whole, offset: at, apart: None });
        }
        true
    }

    /// Puts `y` where `x` lies, if step `step` is the last that looks at x's block.
    pub fn overwrite(&mut self, y: ValueId, x: ValueId, bytes: usize, step: usize) -> bool {
        let (Some(own), Some(spot)) = (self.own(y), self.spot(x)) else { return false };
        let Spot { class, offset, pitch, .. } = spot;
        let c = &self.all[class];
        let free = c.kind == Kind::Step && c.last == step && !c.output && class != own && pitch.is_none();
        if !free || self.size(x) != bytes || bytes == 0 || self.all[own].last == usize::MAX {
            return false;
        }
        self.merge(own, Link { class, offset, apart: None });
        true
    }

    /// The slots that nobody reads after each step.
    pub fn slot_ends(&self) -> FxHashMap<usize, SmallVec<[usize; 1]>> {
        let mut ends: FxHashMap<usize, SmallVec<[usize; 1]>> = FxHashMap::default();
        for c in &self.all {
            if let Kind::Slot(i) = c.kind
                && c.last != usize::MAX
            {
                ends.entry(c.last).or_default().push(i);
            }
        }
        ends
    }

    /// Places for all blocks that the state makes; `None` when they exceed the address space.
    pub fn plan(&self) -> Option<Places<'_>> {
        let mut lifetimes = vec![];
        let mut bases = vec![None; self.all.len()];
        let mut results = vec![];
        for (i, c) in self.all.iter().enumerate() {
            if c.parent.is_some() {
                continue;
            }
            bases[i] = Some(match c.kind {
                Kind::Input(n) => (Base::Input(n), 0),
                Kind::Const(n) => (Base::Const(n), 0),
                Kind::Slot(n) => (Base::Slot(n), 0),
                Kind::Step if c.output => {
                    results.push(c.bytes);
                    (Base::Result(results.len() - 1), 0)
                }
                Kind::Step => {
                    // What no step writes has no place: its first step lies after its last.
                    let first = c.first.min(c.last);
                    lifetimes.push(Lifetime { first, last: c.last, bytes: c.bytes });
                    (Base::Arena, lifetimes.len() - 1)
                }
            });
        }
        let MemoryPlan { offsets, bytes } = plan_memory(&lifetimes)?;
        for (base, at) in bases.iter_mut().flatten() {
            if *base == Base::Arena {
                *at = offsets[*at];
            }
        }
        results.iter().try_fold(bytes, |n: usize, &r| n.checked_add(r))?;
        Some(Places { bases, results, arena: bytes, classes: &self.all })
    }
}

/// Where each class lies.
pub(crate) struct Places<'a> {
    bases: Vec<Option<(Base, usize)>>,
    classes: &'a [Class],
    /// Sizes of the blocks that become outputs.
    pub results: Vec<usize>,
    /// Size of the arena.
    pub arena: usize,
}

impl Places<'_> {
    /// Bytes of all blocks that a run needs at once.
    pub fn bytes(&self) -> usize {
        self.results.iter().fold(self.arena, |n, &r| n.saturating_add(r))
    }

    /// The place of a part of a class.
    pub fn place(&self, at: Spot) -> Place {
        let Spot { class, offset, span, pitch } = at;
        let (base, start) = self.bases[class].unwrap_or((Base::Slot(usize::MAX), 0));
        let whole = offset == 0 && span == self.classes[class].bytes;
        Place { base, offset: start + offset, bytes: span, whole, pitch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensormill_ir::{GraphBuilder, Type};
    use tensormill_tensor::DType;

    fn values(n: usize) -> Vec<ValueId> {
        let mut b = GraphBuilder::new("ids");
        (0..n).map(|_| b.unnamed_input(Type::tensor(DType::F32, [4.into()]))).collect()
    }

    #[test]
    fn joined_parts_follow_one_another() {
        let v = values(3);
        let mut c = Classes::new(3);
        for (i, bytes) in [64, 128, 192].into_iter().enumerate() {
            c.add(v[i], Class::new(Kind::Step, bytes));
            c.written(v[i], i);
        }
        assert!(!c.join(v[2], &[(v[0], 64), (v[0], 64)]), "one part cannot lie in two places");
        assert!(c.join(v[2], &[(v[0], 64), (v[1], 128)]));
        assert_eq!((c.find(v[0]), c.find(v[1]), c.find(v[2])), (Some((2, 0)), Some((2, 64)), Some((2, 0))));
        let plan = c.plan().unwrap();
        assert_eq!(plan.arena, 192);
    }

    #[test]
    fn only_the_last_reader_overwrites() {
        let v = values(2);
        let mut c = Classes::new(2);
        c.add(v[0], Class::new(Kind::Step, 64));
        c.add(v[1], Class::new(Kind::Step, 64));
        c.written(v[0], 0);
        c.read(v[0], 1);
        c.written(v[1], 1);
        c.read(v[0], 2);
        assert!(!c.overwrite(v[1], v[0], 64, 1), "step 2 still reads it");
        assert!(c.overwrite(v[1], v[0], 64, 2));
        assert_eq!(c.plan().unwrap().arena, 64);
    }
}

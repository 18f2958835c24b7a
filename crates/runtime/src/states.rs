use crate::cancel::lock;
use std::sync::Mutex;
use tensormill_backend::State;
use tensormill_ir::{Dim, Type, infer::Inferred};
use tensormill_tensor::Value;

/// States that all callers of a session share.
pub(crate) struct StatePool(Mutex<Kept>);

/// States that wait for their next run, by the types of the inputs they were made for. The least
/// recently used sizes go first when there are too many, and states that memory has no room for.
pub(crate) struct Kept {
    entries: Vec<Entry>,
    bytes: usize,
    clock: u64,
    max_signatures: usize,
    max_bytes: usize,
}

struct Entry {
    types: Box<[Inferred]>,
    idle: Vec<Box<dyn State>>,
    used: u64,
}

impl StatePool {
    pub(crate) fn new(kept: Kept) -> Self {
        StatePool(Mutex::new(kept))
    }

    /// As [`Kept::take`].
    pub(crate) fn take(&self, values: &[Value]) -> Option<Box<dyn State>> {
        lock(&self.0).take(values)
    }

    /// As [`Kept::put`].
    pub(crate) fn put(
        &self,
        values: &[Value],
        state: Box<dyn State>,
        types: impl FnOnce() -> Option<Box<[Inferred]>>,
    ) {
        lock(&self.0).put(values, state, types);
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> Vec<usize> {
        lock(&self.0).entries.iter().map(|e| e.idle.len()).collect()
    }

    /// Keeps everybody else out while the result lives.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> std::sync::MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}

impl Kept {
    pub(crate) fn new(max_signatures: usize, max_bytes: usize) -> Kept {
        Kept { entries: vec![], bytes: 0, clock: 0, max_signatures, max_bytes }
    }

    /// A state for these values, if one is idle.
    pub(crate) fn take(&mut self, values: &[Value]) -> Option<Box<dyn State>> {
        self.clock += 1;
        let now = self.clock;
        let entry = self.entries.iter_mut().find(|e| e.fits(values))?;
        entry.used = now;
        let state = entry.idle.pop()?;
        self.bytes -= state.bytes().min(self.bytes);
        Some(state)
    }

    /// Keeps a state for the next run with inputs of these types; `types` is asked for only when they are new.
    pub(crate) fn put(
        &mut self,
        values: &[Value],
        state: Box<dyn State>,
        types: impl FnOnce() -> Option<Box<[Inferred]>>,
    ) {
        self.clock += 1;
        let now = self.clock;
        if self.max_signatures == 0 {
            return;
        }
        let place = match self.entries.iter().position(|e| e.fits(values)) {
            Some(i) => i,
            None => {
                let Some(types) = types() else { return };
                if self.entries.len() >= self.max_signatures {
                    self.drop_oldest(None);
                }
                self.entries.push(Entry { types, idle: vec![], used: now });
                self.entries.len() - 1
            }
        };
        self.entries[place].used = now;
        let bytes = state.bytes();
        self.entries[place].idle.push(state);
        self.bytes = self.bytes.saturating_add(bytes);
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            self.drop_oldest(Some(now));
        }
        while self.bytes > self.max_bytes {
            // Only the sizes at hand are left.
            let Some(state) = self.entries.first_mut().and_then(|e| e.idle.pop()) else { break };
            self.bytes -= state.bytes().min(self.bytes);
        }
    }

    /// Drops the entry used longest ago, unless it is the one used at `except`.
    fn drop_oldest(&mut self, except: Option<u64>) {
        let oldest = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, e)| Some(e.used) != except)
            .min_by_key(|(_, e)| e.used);
        if let Some((i, _)) = oldest {
            for state in self.entries.swap_remove(i).idle {
                self.bytes -= state.bytes().min(self.bytes);
            }
        }
    }
}

impl Entry {
    /// Whether the values have the types that the states were made for, without allocating for tensors.
    fn fits(&self, values: &[Value]) -> bool {
        self.types.len() == values.len() && self.types.iter().zip(values).all(|(t, v)| fits(&t.ty, v))
    }
}

fn fits(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Tensor(t), Value::Tensor(v)) => {
            t.dtype == v.dtype()
                && t.dims.as_ref().is_some_and(|d| {
                    d.len() == v.shape().rank()
                        && d.iter().zip(v.shape().iter()).all(|(d, n)| *d == Dim::Known(*n))
                })
        }
        (_, Value::Tensor(_)) | (Type::Tensor(_), _) => false,
        (ty, v) => Type::of(v).is_some_and(|t| t == *ty),
    }
}

/// The types of these values, for the inputs they are given to; an empty list has that of the input.
pub(crate) fn types(inputs: &[crate::Port], values: &[Value]) -> Box<[Inferred]> {
    inputs
        .iter()
        .zip(values)
        .map(|(port, v)| Inferred { ty: Type::of(v).unwrap_or_else(|| port.ty.clone()), elements: None })
        .collect()
}

//! Packed weights kept on disk from one start to the next.
//!
//! A plan's cache is one file, whose name follows from the graph, a sample of its constants, this version
//! and the processor's level. An entry is used only if it was packed from the same weights: the same place
//! of the same unchanged file, or else the same bytes. A file that is damaged, of another version or not
//! ours is as good as none, and is replaced.

mod digest;
mod file;

use bytes::Bytes;
pub(crate) use digest::digest_words;
use digest::{digest, digest_on};
use file::{Item, Name, Stored};
use std::path::{Path, PathBuf};
use tensormill_ir::{Graph, ops::Op};
use tensormill_kernels::packed::Packed;
use tensormill_kernels::quantized::packing;
use tensormill_kernels::threads::Pool;
use tensormill_tensor::{Tensor, file_stamp, map_file};

/// Changes whenever kernels pack otherwise, which a version alone does not tell while it is in the making.
const PACKING: u64 = 1;
/// Bytes of a constant that go into the file's name, at several places of it.
const SAMPLE: usize = 64;

/// A plan's file.
pub(crate) struct Cache {
    path: PathBuf,
    key: u64,
    stored: Stored,
}

/// What weights were packed from, as far as the cache goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Source {
    pub name: Name,
    pub fingerprint: [u64; 2],
}

impl Source {
    /// Of a node's weights, packed for these sizes.
    pub fn of(
        pool: &Pool,
        node: usize,
        kind: &str,
        variant: usize,
        from: &[&Tensor],
        sizes: &[usize],
    ) -> Source {
        let mut words: Vec<u64> = sizes.iter().map(|&n| n as u64).collect();
        for from in from {
            words.extend([from.dtype() as u64, from.shape().rank() as u64]);
            words.extend(from.shape().iter().map(|&n| n as u64));
            match file_stamp(from.bytes()) {
                Some(stamp) => words.extend(stamp),
                None => words.push(digest_on(pool, from.bytes())),
            }
        }
        let name = [node as u64, digest(0, kind.as_bytes()), variant as u64];
        Source { name, fingerprint: [1, 2].map(|seed| digest_words(seed, &words)) }
    }
}

/// The sum that the file has of packed weights.
pub(crate) fn sum(pool: &Pool, packed: &Packed) -> u64 {
    digest_on(pool, packed.bytes())
}

/// What tells a plan from others; equal for other files with the same contents.
fn key(g: &Graph, pool: &Pool) -> u64 {
    let mut words = vec![PACKING];
    let text = |s: &str| digest(0, s.as_bytes());
    let level = pool.level();
    words.extend([env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, level.name(), packing(level)].map(text));
    for &v in g.inputs() {
        words.extend([v.index() as u64, text(&format!("{:?}", g.ty(v)))]);
    }
    for id in g.order() {
        let node = g.node(id);
        words.extend([id.index() as u64, text(node.op.name())]);
        words.extend(node.inputs.iter().map(|v| v.map_or(u64::MAX, |v| v.index() as u64)));
        if let Op::Const(c) = &node.op {
            let bytes = c.tensor.bytes();
            words.push(text(&format!("{:?}", c.tensor)));
            let last = bytes.len().saturating_sub(SAMPLE);
            for i in 0..4 {
                let at = last / 3 * i;
                words.push(digest(0, &bytes[at..(at + SAMPLE).min(bytes.len())]));
            }
        }
    }
    digest_words(0, &words)
}

impl Cache {
    /// The plan's file in a folder, read if it is there.
    pub fn open(folder: &Path, g: &Graph, pool: &Pool) -> Cache {
        let key = key(g, pool);
        let path = folder.join(format!("{key:016x}.packed"));
        let found = map_file(&path).unwrap_or_else(|_| Bytes::new());
        let stored = Stored::parse(found, key).unwrap_or_default();
        Cache { path, key, stored }
    }

    /// Weights packed from this source, and their sum.
    pub fn get(&self, pool: &Pool, source: &Source) -> Option<(Packed, u64)> {
        self.stored.get(pool, &source.name, source.fingerprint)
    }

    /// Writes these, and what else the file had. A cache that cannot be written only saves no time.
    pub fn save(&self, pool: &Pool, held: impl Iterator<Item = (Source, Packed, u64)>) {
        let item = |(source, packed, sum): (Source, Packed, u64)| Item {
            name: source.name,
            fingerprint: source.fingerprint,
            packed,
            sum,
        };
        let mut items: Vec<Item> = held.map(item).collect();
        let names: Vec<Name> = items.iter().map(|i| i.name).collect();
        items.extend(self.stored.others(pool, |name| names.contains(name)));
        let _ = file::write(&self.path, self.key, &mut items);
    }
}

//! Which of several kernels is the fastest on this machine: measured, within a budget, and kept on disk.
//!
//! Estimates decide unless a plan has a tuner. What was measured is a property of sizes, threads and the
//! processor, not of a model, so that models share one small file of text: a line that says what it is for,
//! then a line for each choice. A file that does not fit is as good as none.

use crate::cache::digest_words;
use rustc_hash::FxHashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tensormill_kernels::threads::Pool;

/// Calls of a kernel whose best counts, after one that does not.
const CALLS: usize = 3;

struct State {
    /// What measuring may still take.
    left: Duration,
    choices: FxHashMap<u64, usize>,
    /// Whether the file lacks some of them.
    changed: bool,
}

/// Measures kernels for a plan.
pub(crate) struct Tuner {
    state: Mutex<State>,
    path: Option<PathBuf>,
    header: String,
}

impl Tuner {
    /// A tuner that may spend `budget`, and knows what the folder's file says.
    pub fn new(budget: Duration, folder: Option<&Path>, pool: &Pool) -> Tuner {
        let header = format!(
            "tensormill choices, {}, {}, {}",
            env!("CARGO_PKG_VERSION"),
            pool.level().name(),
            processor()
        );
        let path = folder.map(|f| {
            let name: Vec<u64> = header.bytes().map(u64::from).collect();
            f.join(format!("{:016x}.choices", digest_words(0, &name)))
        });
        let choices = path.as_deref().and_then(|p| read(p, &header)).unwrap_or_default();
        Tuner { state: Mutex::new(State { left: budget, choices, changed: false }), path, header }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fastest candidate for these sizes: as measured earlier, or now by `time`. The first is taken when
    /// the budget does not suffice or a measurement fails.
    pub fn pick<T: Copy>(
        &self,
        (kind, sizes): (&str, &[usize]),
        pool: &Pool,
        candidates: &[T],
        mut time: impl FnMut(T) -> Option<Duration>,
    ) -> T {
        let mut words: Vec<u64> = kind.bytes().map(u64::from).collect();
        words.extend([sizes.len(), pool.threads(), candidates.len()].map(|n| n as u64));
        words.extend(sizes.iter().map(|&n| n as u64));
        let key = digest_words(0, &words);
        let mut state = self.state();
        if let Some(c) = state.choices.get(&key).and_then(|&i| candidates.get(i)) {
            return *c;
        }
        let mut best: Option<(Duration, usize)> = None;
        for (i, &candidate) in candidates.iter().enumerate() {
            if state.left.is_zero() {
                return candidates[0];
            }
            let start = Instant::now();
            let took = time(candidate);
            state.left = state.left.saturating_sub(start.elapsed());
            let Some(took) = took else { return candidates[0] };
            if best.is_none_or(|b| took < b.0) {
                best = Some((took, i));
            }
        }
        let chosen = best.map_or(0, |b| b.1);
        state.choices.insert(key, chosen);
        state.changed = true;
        candidates[chosen]
    }

    /// Writes what the file lacks. A file that cannot be written only saves no time.
    pub fn save(&self) {
        let mut state = self.state();
        let Some(path) = self.path.as_deref().filter(|_| state.changed) else { return };
        state.changed = false;
        // Another plan may have written meanwhile.
        let mut all = read(path, &self.header).unwrap_or_default();
        all.extend(&state.choices);
        let _ = write(path, &self.header, all);
    }
}

/// The least time of a few calls; `None` if one fails.
pub(crate) fn least<E>(mut call: impl FnMut() -> Result<(), E>) -> Option<Duration> {
    call().ok()?;
    let mut best = Duration::MAX;
    for _ in 0..CALLS {
        let start = Instant::now();
        call().ok()?;
        best = best.min(start.elapsed());
    }
    Some(best)
}

/// What the system calls the processor.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    ["model name", "cpu family", "model\t"].iter().filter_map(|k| named(k)).collect::<Vec<_>>().join(" ")
}

fn read(path: &Path, header: &str) -> Option<FxHashMap<u64, usize>> {
    /// Far more than all sizes there are.
    const MOST: u64 = 1 << 20;
    std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MOST)?;
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    if lines.next()? != header {
        return None;
    }
    lines
        .map(|l| {
            let (key, choice) = l.split_once(' ')?;
            Some((u64::from_str_radix(key, 16).ok()?, choice.parse().ok()?))
        })
        .collect()
}

fn write(path: &Path, header: &str, choices: FxHashMap<u64, usize>) -> std::io::Result<()> {
    let mut sorted: Vec<_> = choices.into_iter().collect();
    sorted.sort_unstable();
    let mut text = format!("{header}\n");
    for (key, choice) in sorted {
        text.push_str(&format!("{key:016x} {choice}\n"));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Beside it and then renamed: whoever reads meanwhile sees a whole file.
    let beside = path.with_extension(format!("choices.{}", std::process::id()));
    let done = std::fs::File::create(&beside)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&beside, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuner(budget: Duration, folder: Option<&Path>) -> Tuner {
        Tuner::new(budget, folder, &Pool::serial())
    }

    fn pick(t: &Tuner, sizes: &[usize], calls: &mut usize) -> char {
        t.pick(("test", sizes), &Pool::serial(), &['a', 'b', 'c'], |c| {
            *calls += 1;
            Some(Duration::from_millis(if c == 'b' { 1 } else { 2 }))
        })
    }

    #[test]
    fn the_fastest_is_taken_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let mut calls = 0;
        let first = tuner(Duration::from_secs(1), Some(folder.path()));
        assert_eq!(pick(&first, &[1, 2], &mut calls), 'b');
        assert_eq!((pick(&first, &[1, 2], &mut calls), calls), ('b', 3));
        first.save();
        // What is on disk costs no budget.
        let second = tuner(Duration::ZERO, Some(folder.path()));
        assert_eq!((pick(&second, &[1, 2], &mut calls), calls), ('b', 3));
        assert_eq!((pick(&second, &[2, 1], &mut calls), calls), ('a', 3));
    }

    #[test]
    fn without_budget_or_after_a_failure_the_first_is_taken() {
        let t = tuner(Duration::from_secs(1), None);
        let failed = t.pick(("test", &[]), &Pool::serial(), &[1, 2], |c| (c == 1).then_some(Duration::MAX));
        assert_eq!(failed, 1);
        let mut calls = 0;
        assert_eq!(pick(&tuner(Duration::ZERO, None), &[], &mut calls), 'a');
        assert_eq!(calls, 0);
    }

    #[test]
    fn damaged_files_are_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut calls = 0;
        let t = tuner(Duration::from_secs(1), Some(folder.path()));
        pick(&t, &[1], &mut calls);
        t.save();
        let path = t.path.clone().unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            "",
            "\n",
            &good.replace("choices", "choice"),
            &format!("{good}zz 1\n"),
            &good.replace(" 1\n", " 9\n"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let again = tuner(Duration::ZERO, Some(folder.path()));
            assert_eq!(pick(&again, &[1], &mut calls), 'a', "{bad:?}");
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(pick(&tuner(Duration::ZERO, Some(folder.path())), &[1], &mut calls), 'b');
    }
}

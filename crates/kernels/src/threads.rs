//! Worker threads that split one kernel's work.
//!
//! The caller is a worker too: it publishes a job, takes pieces like everyone else, and returns when the
//! last piece is done. Idle workers watch for the next job for a moment before they go to sleep, because
//! a model is hundreds of short regions a few microseconds apart.

use crate::error::KernelError;
use crate::simd::Level;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker watches before it sleeps.
const WATCH: Duration = Duration::from_micros(50);

/// How long it watches while somebody is inside a [`Pool::busy`] stretch: steps that run on one thread are
/// rarely longer, and waking a sleeper costs as much as many of them.
const WATCH_BUSY: Duration = Duration::from_millis(1);

/// Threads to split kernels over, and the instruction level those kernels use.
///
/// Cloning shares the threads. One job runs at a time: a kernel that finds the threads taken, by another
/// caller or by the kernel it runs inside of, does its work on the calling thread alone, with the same
/// result.
#[derive(Clone)]
pub struct Pool {
    workers: Workers,
    level: Level,
}

#[derive(Clone)]
enum Workers {
    None,
    Own(Arc<Team>),
    Rayon(Arc<rayon::ThreadPool>),
}

impl Pool {
    /// No threads: everything runs on the caller.
    pub fn serial() -> Pool {
        Pool { workers: Workers::None, level: Level::best() }
    }

    /// `threads` threads in all, the caller among them; 0 is taken as 1.
    pub fn new(threads: usize) -> Result<Pool, KernelError> {
        if threads <= 1 {
            return Ok(Pool::serial());
        }
        Ok(Pool { workers: Workers::Own(Arc::new(Team::start(threads - 1)?)), level: Level::best() })
    }

    /// Threads that belong to somebody else.
    pub fn external(pool: Arc<rayon::ThreadPool>) -> Pool {
        Pool { workers: Workers::Rayon(pool), level: Level::best() }
    }

    /// The same threads with kernels held to `level`.
    pub fn with_level(mut self, level: Level) -> Pool {
        self.level = level;
        self
    }

    /// The instruction level of kernels run here.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many threads share the work.
    pub fn threads(&self) -> usize {
        match &self.workers {
            Workers::None => 1,
            Workers::Own(team) => team.threads.len() + 1,
            Workers::Rayon(pool) => pool.current_num_threads(),
        }
    }

    /// Says that jobs follow one another until the result is dropped: idle workers stay awake longer.
    pub fn busy(&self) -> Busy<'_> {
        let count = match &self.workers {
            Workers::Own(team) => Some(&team.shared.busy),
            _ => None,
        };
        if let Some(c) = count {
            c.fetch_add(1, Ordering::Relaxed);
        }
        Busy(count)
    }

    /// Calls `task` once for every number below `tasks`, in any order, on any thread.
    ///
    /// A panic in a task comes out of this call after all running tasks have ended.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let inline = |tasks| (0..tasks).for_each(&task);
        match &self.workers {
            _ if tasks <= 1 || INSIDE.get() => inline(tasks),
            Workers::None => inline(tasks),
            Workers::Own(team) => {
                if !team.run(tasks, &task) {
                    inline(tasks);
                }
            }
            Workers::Rayon(pool) => {
                let next = AtomicUsize::new(0);
                let threads = pool.current_num_threads().min(tasks);
                let (next, task) = (&next, &task);
                pool.in_place_scope(|scope| {
                    for _ in 1..threads {
                        scope.spawn(move |_| drain(next, tasks, task));
                    }
                    drain(next, tasks, task);
                });
            }
        }
    }

    /// Cuts `0..len` into pieces of about `grain` and calls `piece` once for each.
    ///
    /// The cuts depend on the number of threads, so `piece` must compute each element from its own inputs
    /// alone.
    pub fn split(&self, len: usize, grain: usize, piece: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        let pieces = len.div_ceil(grain).min(self.threads() * 4).max(1);
        if pieces == 1 || self.threads() == 1 {
            if len > 0 {
                piece(0..len);
            }
            return;
        }
        let each = len.div_ceil(pieces);
        self.run(len.div_ceil(each), |i| piece(i * each..((i + 1) * each).min(len)));
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).field("level", &self.level).finish()
    }
}

/// A stretch of jobs; see [`Pool::busy`].
#[derive(Debug)]
pub struct Busy<'a>(Option<&'a AtomicUsize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(c) = self.0 {
            c.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

thread_local! {
    /// Set while this thread runs a piece of a job: a job inside a job runs inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Marks the thread as inside a job for as long as it lives.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        INSIDE.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

fn drain(next: &AtomicUsize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let _inside = Inside::enter();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            return;
        }
        task(i);
    }
}

/// The job being run, readable by workers that passed the gate.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

struct Shared {
    /// Counts jobs; a worker looks at the gate when it changes.
    epoch: AtomicUsize,
    /// Bit 0: a job is open. The rest, in steps of two: workers inside.
    gate: AtomicUsize,
    next: AtomicUsize,
    /// Written only while the gate is closed and empty, read only from inside it.
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether there is one: jobs that end well take no lock.
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    /// Stretches of jobs that are under way.
    busy: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not `Sync` by itself; the gate protocol (see `Team::run`) keeps
// its writer alone. The task behind its pointer is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

struct Team {
    shared: Arc<Shared>,
    /// Held by the caller whose job is running.
    turn: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Team {
    fn start(workers: usize) -> Result<Team, KernelError> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut team = Team { shared, turn: Mutex::new(()), threads: Vec::new() };
        for i in 0..workers {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new()
                .name(format!("tensormill-{}", i + 1))
                .spawn(move || work(&shared))
                .map_err(|e| KernelError::Threads(e.to_string()))?;
            team.threads.push(thread);
        }
        Ok(team)
    }

    /// Runs a job, or returns false at once when another caller's job is running.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
        let Ok(_turn) = self.turn.try_lock() else { return false };
        let s = &*self.shared;
        // SAFETY: only the lifetime changes. Workers reach the pointer only inside the gate, and this
        // function does not return before the gate is closed and empty.
        let task_ptr = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                task,
            )
        };
        // SAFETY: the gate is closed and empty (the previous job ended so) and `turn` keeps other callers
        // out, so nobody else reads or writes the job.
        unsafe { *s.job.get() = Some(Job { task: task_ptr, tasks }) };
        s.next.store(0, Ordering::Relaxed);
        s.gate.store(1, Ordering::Release);
        s.epoch.fetch_add(1, Ordering::SeqCst);
        if s.sleepers.load(Ordering::SeqCst) > 0 {
            let _lock = s.lock.lock().unwrap_or_else(|e| e.into_inner());
            s.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| drain(&s.next, tasks, task)));
        if mine.is_err() {
            s.next.store(tasks, Ordering::Relaxed);
        }
        s.gate.fetch_and(!1, Ordering::AcqRel);
        let mut spins = 0u32;
        while s.gate.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        // The gate was seen empty, so what workers wrote before they left it is seen too.
        let panicked = s.panicked.swap(false, Ordering::Relaxed);
        let theirs = if panicked { s.panic.lock().unwrap_or_else(|e| e.into_inner()).take() } else { None };
        drop(_turn);
        if let Err(payload) = mine {
            resume_unwind(payload);
        }
        if let Some(payload) = theirs {
            resume_unwind(payload);
        }
        true
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        {
            let _lock = self.shared.lock.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A worker catches its tasks' panics, so joining can only fail where there is nothing to do.
            let _ = thread.join();
        }
    }
}

fn work(s: &Shared) {
    let mut seen = 0;
    loop {
        wait_for_epoch(s, seen);
        seen = s.epoch.load(Ordering::SeqCst);
        if s.stop.load(Ordering::SeqCst) {
            return;
        }
        let entered = s
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |g| (g & 1 == 1).then_some(g + 2))
            .is_ok();
        if !entered {
            continue;
        }
        // SAFETY: inside the gate the job was written before the gate opened and stays until it is empty.
        if let Some(job) = unsafe { *s.job.get() } {
            // SAFETY: the caller keeps the task alive until the gate is empty.
            let task = unsafe { &*job.task };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drain(&s.next, job.tasks, task))) {
                s.next.store(job.tasks, Ordering::Relaxed);
                *s.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
                s.panicked.store(true, Ordering::Relaxed);
            }
        }
        s.gate.fetch_sub(2, Ordering::AcqRel);
    }
}

/// Returns when the epoch differs from `seen`: watches first, then sleeps.
fn wait_for_epoch(s: &Shared, seen: usize) {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if s.epoch.load(Ordering::Acquire) != seen {
                return;
            }
            std::hint::spin_loop();
        }
        let watch = if s.busy.load(Ordering::Relaxed) > 0 { WATCH_BUSY } else { WATCH };
        if start.elapsed() > watch {
            break;
        }
    }
    let mut lock = s.lock.lock().unwrap_or_else(|e| e.into_inner());
    s.sleepers.fetch_add(1, Ordering::SeqCst);
    while s.epoch.load(Ordering::SeqCst) == seen {
        lock = s.wake.wait(lock).unwrap_or_else(|e| e.into_inner());
    }
    s.sleepers.fetch_sub(1, Ordering::SeqCst);
}

/// A pointer to an output slice that tasks write disjoint parts of.
///
/// The borrow of the slice lives as long as this does, so nobody else can touch it meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Shards<'a, T> {
    ptr: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out parts through `unsafe` methods whose callers promise disjointness.
unsafe impl<T: Send> Send for Shards<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shards { ptr: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    /// The part from `start`, `len` long.
    ///
    /// # Safety
    /// No two tasks that run at the same time may hold overlapping parts.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part outside the output");
        // SAFETY: inside the slice by the check above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// The whole slice's start, for kernels that write strided tiles.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.ptr
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn pools() -> Vec<Pool> {
        let rayon = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        vec![Pool::serial(), Pool::new(2).unwrap(), Pool::new(5).unwrap(), Pool::external(Arc::new(rayon))]
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for pool in pools() {
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{pool:?} {tasks}");
            }
        }
    }

    #[test]
    fn thousands_of_short_jobs_and_pauses() {
        let pool = Pool::new(3).unwrap();
        for round in 0..3000usize {
            let sum = AtomicUsize::new(0);
            pool.run(7, |i| {
                sum.fetch_add(i + round, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 21 + 7 * round);
            if round.is_multiple_of(500) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn nested_and_concurrent_jobs_complete() {
        for pool in pools() {
            let total = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        pool.run(10, |_| {
                            pool.run(10, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    });
                }
            });
            assert_eq!(total.into_inner(), 400);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        for pool in pools() {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, |i| assert!(i != 33, "task 33"));
            }));
            assert!(caught.is_err());
            let sum = AtomicUsize::new(0);
            pool.run(50, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 1225);
        }
    }

    #[test]
    fn split_covers_the_range() {
        for pool in pools() {
            for (len, grain) in [(0, 4), (1, 4), (100, 7), (100, 1000), (5, 0)] {
                let hits: Vec<AtomicU32> = (0..len).map(|_| AtomicU32::new(0)).collect();
                pool.split(len, grain, |r| r.for_each(|i| _ = hits[i].fetch_add(1, Ordering::Relaxed)));
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }
}

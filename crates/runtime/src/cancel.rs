use std::{
    collections::BinaryHeap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Stops runs from another thread. Clones are the same token.
///
/// A run ends between two nodes, with [`Error::Cancelled`](crate::Error::Cancelled); a token stays used.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<Token>);

#[derive(Debug, Default)]
struct Token {
    used: AtomicBool,
    /// Flags of running runs that also have a deadline.
    runs: Mutex<Vec<Weak<AtomicBool>>>,
}

impl CancelToken {
    /// A token that is not used yet.
    pub fn new() -> Self {
        CancelToken::default()
    }

    /// Stops every run that was given this token, now and later.
    pub fn cancel(&self) {
        self.0.used.store(true, Ordering::Release);
        for run in lock(&self.0.runs).drain(..) {
            if let Some(flag) = run.upgrade() {
                flag.store(true, Ordering::Release);
            }
        }
    }

    /// Whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.used.load(Ordering::Acquire)
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0.used
    }

    /// Sets `flag` too when the token is used.
    pub(crate) fn attach(&self, flag: &Arc<AtomicBool>) {
        let mut runs = lock(&self.0.runs);
        runs.retain(|r| r.strong_count() > 0);
        runs.push(Arc::downgrade(flag));
        // Used before it was listed: nobody else would tell.
        if self.is_cancelled() {
            flag.store(true, Ordering::Release);
        }
    }
}

/// A time at which a flag is to be set.
struct Alarm {
    at: Instant,
    flag: Weak<AtomicBool>,
}

impl Ord for Alarm {
    /// The earliest is the greatest, as the heap gives that one first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}
impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Alarm {}

#[derive(Default)]
struct Clock {
    alarms: Mutex<BinaryHeap<Alarm>>,
    changed: Condvar,
}

/// Sets `flag` at a time, from one thread that all runs with a deadline share. Says whether it will:
/// without a thread nobody can.
pub(crate) fn alarm(at: Instant, flag: &Arc<AtomicBool>) -> bool {
    static CLOCK: OnceLock<Option<Arc<Clock>>> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| {
        let clock = Arc::new(Clock::default());
        let seen = clock.clone();
        std::thread::Builder::new()
            .name("tensormill-clock".into())
            .spawn(move || keep_time(&seen))
            .ok()
            .map(|_| clock)
    });
    let Some(clock) = clock else { return false };
    lock(&clock.alarms).push(Alarm { at, flag: Arc::downgrade(flag) });
    clock.changed.notify_one();
    true
}

fn keep_time(clock: &Clock) {
    let mut alarms = lock(&clock.alarms);
    loop {
        let now = Instant::now();
        while alarms.peek().is_some_and(|a| a.at <= now || a.flag.strong_count() == 0) {
            if let Some(flag) = alarms.pop().and_then(|a| a.flag.upgrade()) {
                flag.store(true, Ordering::Release);
            }
        }
        alarms = match alarms.peek().map(|a| a.at - now) {
            Some(wait) => clock.changed.wait_timeout(alarms, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => clock.changed.wait(alarms).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn alarms_ring_in_time() {
        let start = Instant::now();
        let flags: Vec<_> = (0..4).map(|_| Arc::new(AtomicBool::new(false))).collect();
        for (i, f) in flags.iter().enumerate().rev() {
            assert!(alarm(start + Duration::from_millis(20 * (i as u64 + 1)), f));
        }
        while !flags.iter().all(|f| f.load(Ordering::Acquire)) {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(start.elapsed() >= Duration::from_millis(80));
    }

    #[test]
    fn a_used_token_stops_what_is_attached_before_and_after() {
        let token = CancelToken::new();
        let (a, b) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        token.attach(&a);
        token.clone().cancel();
        token.attach(&b);
        assert!(a.load(Ordering::Acquire) && b.load(Ordering::Acquire) && token.is_cancelled());
    }
}

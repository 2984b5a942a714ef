//! Threads that walk a step together.
//!
//! # The protocol
//!
//! A step of a model is a few hundred phases of a few microseconds to milliseconds. Forking for each would cost more
//! than many of them take, so a step is **one parallel region**: [`Pool::run`] wakes the workers once, every
//! thread (the caller is worker 0) runs the same function, and inside it the threads meet at the end of each
//! phase ([`Worker::for_each`]).
//!
//! **Waiting.** Whoever waits spins for a moment ([`SPINS`]), because the others are usually microseconds away, then
//! gives its time slice away, then sleeps on a condition variable, so that an idle chat uses no processor and a busy
//! machine is not held up by spinning. A sleeper counts itself in `sleepers` before it looks at the word it waits for
//! the last time, and a waker changes the word before it looks at `sleepers`; both are sequentially consistent, so one of
//! them sees the other and no wake-up is lost.
//!
//! **Sharing work.** Items of a phase are dealt out in equal contiguous shares, one a thread, so that a thread meets the
//! same weights in every step and memory stays local on machines with several nodes. A thread takes the items of its own share
//! one by one from an atomic counter and then helps the others with theirs. Which thread computes an
//! item never changes the item's result.
//!
//! **Counters.** There are three sets of counters. Phase p uses set p mod 3; at its start worker 0 zeroes the set of phase
//! p + 2, which is that of phase p − 1: everybody left phase p − 1 at the barrier that ended it, and nobody enters phase p + 2
//! before worker 0 has reached the barrier at the end of phase p.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Rounds of spinning before a waiter yields: some ten microseconds.
const SPINS: u32 = 4000;
/// Yields before a waiter sleeps.
const YIELDS: u32 = 20;

/// A word that threads wait on.
#[derive(Default)]
struct Gate {
    word: AtomicU32,
    sleepers: AtomicU32,
    mutex: Mutex<()>,
    condvar: Condvar,
}

impl Gate {
    /// Waits until the word is no longer `old`.
    fn wait_while(&self, old: u32) {
        for _ in 0..SPINS {
            if self.word.load(Acquire) != old {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if self.word.load(Acquire) != old {
                return;
            }
            std::thread::yield_now();
        }
        let mut guard = self.lock();
        self.sleepers.fetch_add(1, SeqCst);
        while self.word.load(SeqCst) == old {
            guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Changes the word and wakes whoever waits.
    fn open(&self, new: u32) {
        self.word.store(new, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            let _guard = self.lock();
            self.condvar.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicUsize);

struct Shared {
    n: usize,
    /// Counts regions; workers wait here between them.
    region: Gate,
    /// The function of the current region.
    job: Mutex<Option<Job>>,
    stop: AtomicBool,
    /// Counts barriers.
    barrier: Gate,
    arrived: Counter,
    counters: [Vec<Counter>; 3],
}

/// What a region runs.
pub type Region<'f> = dyn Fn(&Worker<'_>) + Sync + 'f;

/// A borrowed function whose lifetime is guarded by [`Pool::run`] waiting for everybody.
#[derive(Clone, Copy)]
struct Job(*const Region<'static>);

// SAFETY: the function behind the pointer is `Sync`, and `Pool::run` keeps it alive until every worker is done.
unsafe impl Send for Job {}

/// Threads that run regions together.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One region at a time.
    busy: Mutex<()>,
}

impl Pool {
    /// A pool of `n` threads, the caller of [`Pool::run`] included.
    pub fn new(n: NonZeroUsize) -> std::io::Result<Self> {
        let n = n.get();
        let counters = || (0..n).map(|_| Counter::default()).collect();
        let shared = Arc::new(Shared {
            n,
            region: Gate::default(),
            job: Mutex::new(None),
            stop: AtomicBool::new(false),
            barrier: Gate::default(),
            arrived: Counter::default(),
            counters: [counters(), counters(), counters()],
        });
        let mut pool = Pool { shared, threads: vec![], busy: Mutex::new(()) };
        for id in 1..n {
            let shared = pool.shared.clone();
            let thread =
                std::thread::Builder::new().name(format!("fathom-{id}")).spawn(move || serve(&shared, id))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Number of threads.
    pub fn n_threads(&self) -> usize {
        self.shared.n
    }

    /// Runs `f` on every thread and returns when all are done.
    ///
    /// A panic in `f` ends the process: the other threads would wait at a barrier for ever.
    pub fn run(&self, f: &Region<'_>) {
        let _one = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; the final barrier below is passed only when no worker uses `f` any more.
        let job = Job(unsafe { std::mem::transmute::<*const Region<'_>, *const Region<'static>>(f) });
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        shared.region.open(shared.region.word.load(Relaxed).wrapping_add(1));
        work(shared, 0, f);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.region.open(self.shared.region.word.load(Relaxed).wrapping_add(1));
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

fn serve(shared: &Shared, id: usize) {
    let mut region = 0;
    loop {
        shared.region.wait_while(region);
        region = region.wrapping_add(1);
        if shared.stop.load(SeqCst) {
            return;
        }
        let job = *shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Job(f)) = job {
            // SAFETY: `Pool::run` waits for this worker's arrival at the final barrier before it lets go of `f`.
            work(shared, id, unsafe { &*f });
        }
    }
}

fn work(shared: &Shared, id: usize, f: &Region<'_>) {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    let _abort = AbortOnPanic;
    let worker = Worker { shared, id, phase: Cell::new(0) };
    f(&worker);
    worker.finish();
}

/// One thread inside a region.
pub struct Worker<'a> {
    shared: &'a Shared,
    id: usize,
    phase: Cell<usize>,
}

impl Worker<'_> {
    /// Which thread this is, from 0.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Runs `f` for every item of `0..n`, together with the other threads, and waits for them.
    ///
    /// Every thread must come here with the same `n`.
    pub fn for_each(&self, n: usize, mut f: impl FnMut(usize)) {
        let threads = self.shared.n;
        if threads == 1 {
            (0..n).for_each(f);
            return;
        }
        let phase = self.phase.get();
        self.phase.set(phase + 1);
        if self.id == 0 {
            self.shared.counters[(phase + 2) % 3].iter().for_each(|c| c.0.store(0, Relaxed));
        }
        for k in 0..threads {
            let share = (self.id + k) % threads;
            let (first, last) = (share * n / threads, (share + 1) * n / threads);
            let counter = &self.shared.counters[phase % 3][share].0;
            while counter.load(Relaxed) < last - first {
                let i = counter.fetch_add(1, Relaxed);
                if i >= last - first {
                    break;
                }
                f(first + i);
            }
        }
        self.barrier();
    }

    /// Waits for all threads; what they wrote before is visible after.
    fn barrier(&self) {
        let shared = self.shared;
        let old = shared.barrier.word.load(Relaxed);
        if shared.arrived.0.fetch_add(1, AcqRel) + 1 == shared.n {
            shared.arrived.0.store(0, Relaxed);
            shared.barrier.open(old.wrapping_add(1));
        } else {
            shared.barrier.wait_while(old);
        }
    }

    /// The end of a region: leaves all counters at zero for the next one, which starts again with phase 0.
    fn finish(&self) {
        if self.shared.n == 1 {
            return;
        }
        self.barrier();
        if self.id == 0 {
            self.shared.counters.iter().flatten().for_each(|c| c.0.store(0, Relaxed));
        }
        self.barrier();
    }
}

/// Threads to use unless told otherwise: the physical cores that this process may run on.
///
/// Two hardware threads of a core share its vector units and its memory ports, and matrix products leave
/// nothing of them idle.
pub fn default_threads() -> NonZeroUsize {
    let allowed = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    physical_cores().map_or(allowed, |cores| cores.min(allowed))
}

/// Cores of a Linux machine: processors that are the first of their siblings.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<NonZeroUsize> {
    let mut siblings = std::collections::HashSet::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let name = entry.file_name();
        let is_cpu =
            name.to_str().and_then(|n| n.strip_prefix("cpu")).is_some_and(|n| n.parse::<u32>().is_ok());
        if let (true, Ok(list)) =
            (is_cpu, std::fs::read_to_string(entry.path().join("topology/thread_siblings_list")))
        {
            siblings.insert(list);
        }
    }
    NonZeroUsize::new(siblings.len())
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<NonZeroUsize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(n: usize) -> Pool {
        Pool::new(NonZeroUsize::new(n).unwrap()).unwrap()
    }

    #[test]
    fn every_item_of_every_phase_runs_exactly_once() {
        for threads in [1, 2, 3, 7] {
            let pool = pool(threads);
            let seen: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..20 {
                pool.run(&|w| {
                    for n in [1, 0, 100, 3, 64] {
                        w.for_each(n, |i| {
                            seen[i].fetch_add(1, Relaxed);
                        });
                    }
                });
            }
            let want = |i: usize| 20 * [1, 100, 3, 64].iter().filter(|&&n| i < n).count();
            for (i, s) in seen.iter().enumerate() {
                assert_eq!(s.load(Relaxed), want(i), "item {i}, {threads} threads");
            }
        }
    }

    #[test]
    fn a_phase_sees_what_the_phase_before_wrote() {
        let pool = pool(4);
        let cells: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        pool.run(&|w| {
            for round in 0..200 {
                w.for_each(64, |i| {
                    // The neighbour was last written in the round before, by whichever thread.
                    let all_same =
                        cells.iter().all(|c| matches!(c.load(Relaxed), r if r == round || r == round + 1));
                    assert!(all_same, "round {round}, item {i}");
                    cells[i].store(round + 1, Relaxed);
                });
            }
        });
    }

    #[test]
    fn sleepers_wake() {
        let pool = pool(3);
        let count = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            pool.run(&|w| {
                w.for_each(3, |_| std::thread::sleep(std::time::Duration::from_millis(2)));
                w.for_each(30, |_| {
                    count.fetch_add(1, Relaxed);
                });
            });
        }
        assert_eq!(count.load(Relaxed), 150);
    }
}

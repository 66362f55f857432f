//! Threads for parallel regions of a few microseconds.
//!
//! A pool of N threads is N - 1 workers and whoever calls. A region is a number of tasks, which all of them claim
//! from one counter. Workers that wait for a region spin for some tens of microseconds and then sleep, so an idle
//! pool costs nothing. The caller never waits for a worker that has not started: when no task is left to claim it
//! closes the region, and waits for those only that had entered. On a machine with more to do than it has cores, a
//! region thus ends when its tasks have, whichever workers the system happens to run.
//!
//! # Why it is sound
//! All that the threads agree on is in one word, the *gate*: how many workers may still enter the region (permits),
//! how many are in it (entered), and which region it is. Three facts suffice.
//!
//! - **One owner.** Regions are opened by the thread that holds `turn`, so opening and closing are never concurrent.
//!   A worker changes the gate only by exchanging a permit for an entry and by giving up its entry.
//! - **The job is written only while nobody can read it.** The owner writes it while permits and entered are zero. A
//!   worker reads it after its exchange, which acquires what the opening store released (other workers' exchanges in
//!   between are read-modify-writes, which continue the release sequence). Once permits are zero again nobody
//!   enters; each worker that leaves releases, and the owner acquires the zero that the last one leaves: all that
//!   they wrote is visible to it, and the closure they borrowed is theirs no more. The exchange compares the whole
//!   word, but nothing depends on the region's number: a worker that slept while it wrapped around enters a region
//!   that is open, which is all it needs.
//! - **Nobody sleeps through his own call.** A worker declares itself parked and then looks at the gate; the owner
//!   opens the gate and then looks who is parked. All four are sequentially consistent, so at least one sees the
//!   other. (Were it missed, the region would lack a worker and be none the less complete.) The owner that waits for
//!   the last worker sets a bit in the gate while it holds `done`'s lock, and waits on its condition; a worker that
//!   leaves as the last and finds the bit takes the lock before it notifies, so it cannot notify between the owner's
//!   look and its wait.

use std::any::Any;
use std::cell::{RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker looks out for the next region before it sleeps, and the owner for the last worker to leave.
const SPIN: Duration = Duration::from_micros(50);
/// Looks at the gate between looks at the clock.
const SPINS_PER_CLOCK: u32 = 16;

/// Bits of the gate: 16 of entered workers, 16 of permits, two flags, the rest the region's number.
const ENTERED: u64 = 1;
const PERMIT: u64 = 1 << 16;
const ALL_PERMITS: u64 = MOST_WORKERS * PERMIT;
/// The owner sleeps until the last entered worker has left.
const OWNER_WAITS: u64 = 1 << 32;
/// The pool is being dropped.
const STOP: u64 = 1 << 33;
const REGION: u64 = 1 << 34;
const MOST_WORKERS: u64 = 0xffff;

fn entered(gate: u64) -> u64 {
    gate & MOST_WORKERS
}

fn permits(gate: u64) -> u64 {
    (gate / PERMIT) & MOST_WORKERS
}

fn region(gate: u64) -> u64 {
    gate / REGION
}

/// What tasks are called with: an index and the number of the thread.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads for parallel regions.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose regions the workers serve.
    turn: Mutex<()>,
}

/// What the owner and the workers share.
struct Shared {
    gate: Line<AtomicU64>,
    job: UnsafeCell<Job>,
    /// The next index to claim. Valid between a region's opening and its end.
    next: Line<AtomicUsize>,
    /// Whether worker `i + 1` sleeps.
    parked: Vec<Line<AtomicBool>>,
    /// What the owner sleeps on while the last workers finish.
    done: Mutex<()>,
    left: Condvar,
    /// The first panic of a region in a worker.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A region's tasks.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    count: usize,
}

// SAFETY: `job` is the only part that is not `Sync` by itself, and it is accessed as the module's documentation
// says; what it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// A value with cache lines of its own (two, since processors fetch them in pairs).
#[repr(align(128))]
struct Line<T>(T);

impl Pool {
    /// A pool of `threads` threads, at least one, of which the caller will be one.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let workers = threads.clamp(1, MOST_WORKERS as usize) - 1;
        let shared = Shared {
            gate: Line(AtomicU64::new(0)),
            job: UnsafeCell::new(Job { task: &|_, _| {}, count: 0 }),
            next: Line(AtomicUsize::new(0)),
            parked: (0..workers).map(|_| Line(AtomicBool::new(false))).collect(),
            done: Mutex::new(()),
            left: Condvar::new(),
            panic: Mutex::new(None),
        };
        let mut pool = Self { shared: Arc::new(shared), workers: Vec::new(), turn: Mutex::new(()) };
        for number in 1..=workers {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("danaus-compute-{number}"));
            // Where this fails, dropping the pool ends the threads that there are.
            pool.workers.push(builder.spawn(move || shared.serve(number))?);
        }
        Ok(pool)
    }

    /// Number of threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on this thread, with the pool to itself. Where this thread has it already, just runs it.
    pub(crate) fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        if Frame::find(self.id()).is_some() {
            return work();
        }
        let _turn = lock(&self.turn);
        let _frame = Frame::push(self.id(), 0, false);
        self.wake(self.workers.len());
        work()
    }

    /// Calls `task` with each index below `count` and the calling thread's number, which is below `threads` and
    /// differs from that of every call at the same time. Inside a task, the calls are made one after the other on
    /// its own thread.
    pub(crate) fn for_each(&self, count: usize, task: &Task<'_>) {
        match Frame::find(self.id()) {
            None => self.enter(|| self.for_each(count, task)),
            Some(frame) if frame.in_task || count <= 1 || self.workers.is_empty() => {
                let _frame = Frame::push(self.id(), frame.worker, true);
                (0..count).for_each(|index| task(index, frame.worker));
            }
            Some(_) => self.region(count, task),
        }
    }

    /// One parallel region, by the thread that holds `turn`, outside any task.
    fn region(&self, count: usize, task: &Task<'_>) {
        let shared = &*self.shared;
        // SAFETY: the lifetime ends after this function returns, and by then no worker has the pointer: `close` has
        // waited for all that entered.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let job = Job { task, count };
        // SAFETY: the last region was closed and its workers have left, and this thread has the turn: nobody reads
        // the job.
        unsafe { *shared.job.get() = job };
        shared.next.0.store(0, Ordering::Relaxed);
        let wanted = self.workers.len().min(count - 1);
        let region = region(shared.gate.0.load(Ordering::Relaxed)).wrapping_add(1);
        let gate = region.wrapping_mul(REGION) + wanted as u64 * PERMIT;
        shared.gate.0.store(gate, Ordering::SeqCst);
        self.wake(wanted);
        let mine = {
            let _frame = Frame::push(self.id(), 0, true);
            // SAFETY: the task outlives this call.
            catch_unwind(AssertUnwindSafe(|| unsafe { shared.claim(job, 0) }))
        };
        if mine.is_err() {
            shared.next.0.store(count, Ordering::Relaxed);
        }
        shared.close();
        let theirs = lock(&shared.panic).take();
        match (mine, theirs) {
            (Err(panic), theirs) => {
                // As in `work`: a panic while this one unwinds would end the process.
                std::mem::forget(theirs);
                resume_unwind(panic);
            }
            (Ok(()), Some(panic)) => resume_unwind(panic),
            (Ok(()), None) => {}
        }
    }

    /// Wakes those of the first `count` workers that sleep.
    fn wake(&self, count: usize) {
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers).take(count) {
            if parked.0.load(Ordering::SeqCst) && parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    /// What tells this pool from others while it lives.
    fn id(&self) -> usize {
        self.shared.id()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.0.fetch_or(STOP, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            parked.0.store(false, Ordering::SeqCst);
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            // Tasks' panics were caught, so there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Shared {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// A worker's life.
    fn serve(&self, number: usize) {
        let _frame = Frame::push(self.id(), number, true);
        let mut last = 0;
        let mut idle = Instant::now();
        let mut spins = 0;
        loop {
            if self.try_enter(&mut last) {
                self.work(number);
                (idle, spins) = (Instant::now(), 0);
                continue;
            }
            if self.gate.0.load(Ordering::Relaxed) & STOP != 0 {
                return;
            }
            std::hint::spin_loop();
            spins += 1;
            if spins % SPINS_PER_CLOCK == 0 && idle.elapsed() > SPIN {
                self.park(number, last);
                (idle, spins) = (Instant::now(), 0);
            }
        }
    }

    /// Enters the open region, if there is one after region `last`, and leaves its number there.
    fn try_enter(&self, last: &mut u64) -> bool {
        let mut gate = self.gate.0.load(Ordering::Relaxed);
        while self.is_open(gate, *last) {
            let inside = gate - PERMIT + ENTERED;
            match self.gate.0.compare_exchange_weak(gate, inside, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    *last = region(gate);
                    return true;
                }
                Err(now) => gate = now,
            }
        }
        false
    }

    fn is_open(&self, gate: u64, last: u64) -> bool {
        permits(gate) > 0 && region(gate) != last
    }

    /// A worker's part in the region it has entered.
    fn work(&self, number: usize) {
        // SAFETY: this worker has entered, so the job is not written until it leaves.
        let job = unsafe { *self.job.get() };
        // SAFETY: the owner does not return from the region before this worker leaves, so the task lives.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { self.claim(job, number) })) {
            self.next.0.store(job.count, Ordering::Relaxed);
            match &mut *lock(&self.panic) {
                first @ None => *first = Some(panic),
                // Dropping it might panic once more, and end this thread before it has left the region.
                Some(_) => std::mem::forget(panic),
            }
        }
        let before = self.gate.0.fetch_sub(ENTERED, Ordering::AcqRel);
        if entered(before) == 1 && before & OWNER_WAITS != 0 {
            drop(lock(&self.done));
            self.left.notify_one();
        }
    }

    /// Claims tasks and runs them until there are no more.
    ///
    /// # Safety
    /// The task lives.
    unsafe fn claim(&self, job: Job, number: usize) {
        // SAFETY: it lives, by this function's contract.
        let task = unsafe { &*job.task };
        loop {
            // Relaxed: the gate orders what tasks read and write; here, an index must only be handed out once.
            let index = self.next.0.fetch_add(1, Ordering::Relaxed);
            if index >= job.count {
                return;
            }
            task(index, number);
        }
    }

    /// Lets no more workers in and waits for those inside.
    fn close(&self) {
        if entered(self.gate.0.fetch_and(!ALL_PERMITS, Ordering::Acquire)) == 0 {
            return;
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..SPINS_PER_CLOCK {
                if entered(self.gate.0.load(Ordering::Acquire)) == 0 {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut done = lock(&self.done);
        let mut gate = self.gate.0.fetch_or(OWNER_WAITS, Ordering::Acquire);
        while entered(gate) != 0 {
            done = self.left.wait(done).unwrap_or_else(PoisonError::into_inner);
            gate = self.gate.0.load(Ordering::Acquire);
        }
    }

    /// Sleeps until the owner wakes this worker.
    fn park(&self, number: usize, last: u64) {
        let parked = &self.parked[number - 1].0;
        parked.store(true, Ordering::SeqCst);
        let gate = self.gate.0.load(Ordering::SeqCst);
        if self.is_open(gate, last) || gate & STOP != 0 {
            parked.store(false, Ordering::SeqCst);
        }
        while parked.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool that this thread has, or works for.
#[derive(Clone, Copy)]
struct Frame {
    pool: usize,
    worker: usize,
    /// Whether the thread is inside a task, so that regions cannot use the workers.
    in_task: bool,
}

thread_local! {
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

impl Frame {
    /// The innermost frame of a pool on this thread.
    fn find(pool: usize) -> Option<Frame> {
        FRAMES.with_borrow(|frames| frames.iter().rev().find(|frame| frame.pool == pool).copied())
    }

    /// Makes a frame last as long as the result.
    fn push(pool: usize, worker: usize, in_task: bool) -> PopFrame {
        FRAMES.with_borrow_mut(|frames| frames.push(Frame { pool, worker, in_task }));
        PopFrame(())
    }
}

struct PopFrame(());

impl Drop for PopFrame {
    fn drop(&mut self) {
        FRAMES.with_borrow_mut(|frames| frames.pop());
    }
}

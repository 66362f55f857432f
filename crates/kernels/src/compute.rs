//! What kernels compute with: an instruction set and threads.

use std::sync::{Mutex, PoisonError};

use danaus_simd::Isa;

use crate::pool::Pool;

/// The instruction set and the threads that kernels run on: whoever calls is one of them.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: Pool,
}

impl Compute {
    /// Threads for kernels: `threads` of them, at least one.
    ///
    /// # Errors
    /// What the operating system says where it refuses a thread.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        Ok(Self { isa, pool: Pool::new(threads)? })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs `work` on this thread with the other threads to itself: passes that several threads start at once take
    /// turns as wholes, not region by region. Inside `work` it may be called again.
    ///
    /// Tasks of two `Compute`s must not wait for each other's turns.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        self.pool.enter(work)
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order, on all threads; inside a task, on that task's thread.
    ///
    /// # Panics
    /// Where a task does, with what one of them said, after all that had begun have ended; others may then be left
    /// out.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync + Send) {
        match count {
            0 => {}
            1 => task(0),
            _ if self.threads() == 1 => (0..count).for_each(task),
            _ => self.pool.for_each(count, &|index, _| task(index)),
        }
    }

    /// Gives each of `items` to one call of `task`, in any order, on all threads; inside a task, on that task's
    /// thread. The second argument is the thread's number, below [`threads`](Compute::threads): no two calls that
    /// run at the same time have the same one, unless one runs inside the other.
    ///
    /// # Panics
    /// As [`for_each`](Compute::for_each).
    pub fn for_each_item<T: Send>(&self, items: Vec<T>, task: impl Fn(T, usize) + Sync) {
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.pool.for_each(items.len(), &|index, worker| {
            let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(item) = item {
                task(item, worker);
            }
        });
    }
}

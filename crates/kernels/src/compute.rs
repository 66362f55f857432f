//! What kernels compute with: an instruction set and threads.

use std::sync::{Mutex, PoisonError};

use danaus_simd::Isa;
use rayon::prelude::*;

/// The instruction set and the threads that kernels run on.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: rayon::ThreadPool,
}

impl Compute {
    /// Threads for kernels: `threads` of them, at least one.
    ///
    /// # Errors
    /// What the operating system says where it refuses a thread.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("danaus-compute-{index}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { isa, pool })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on one of the threads, so that the parallel regions inside it start without a hand-over from outside
    /// (which costs about ten times as much).
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order, on all threads.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync + Send) {
        match count {
            0 => {}
            1 => task(0),
            _ if self.threads() == 1 => (0..count).for_each(task),
            _ => self.pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(task)),
        }
    }

    /// Gives each of `items` to one call of `task`, in any order, on all threads. The second argument is the thread's
    /// number, below [`threads`](Compute::threads): no two calls that run at the same time have the same one.
    pub fn for_each_item<T: Send>(&self, items: Vec<T>, task: impl Fn(T, usize) + Sync) {
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.enter(|| {
            self.for_each(items.len(), |index| {
                let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(item) = item {
                    task(item, rayon::current_thread_index().unwrap_or(0));
                }
            });
        });
    }
}

//! What kernels compute with: an instruction set and threads.

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
    pub(crate) fn for_each(&self, count: usize, task: impl Fn(usize) + Sync + Send) {
        match count {
            0 => {}
            1 => task(0),
            _ if self.threads() == 1 => (0..count).for_each(task),
            _ => self.pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(task)),
        }
    }
}

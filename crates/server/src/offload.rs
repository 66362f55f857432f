//! Work for the CPU, kept off the async runtime's threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Below this many bytes, simple work (a few nanoseconds a byte) is done sooner than handed to another thread.
const SMALL_BYTES: usize = 64 * 1024;

/// From this many bytes on, work counts as large.
const LARGE_BYTES: usize = 1024 * 1024;

/// How much large work goes on at once. It bounds memory (tokenising needs many times the text's size) and leaves
/// small requests a share of the cores.
const LARGE_AT_ONCE: usize = 2;

/// Runs blocking work on threads made for it. Large work takes turns; small work never waits behind it.
#[derive(Debug, Clone)]
pub(crate) struct Offload {
    large: Arc<Semaphore>,
}

impl Offload {
    pub(crate) fn new() -> Self {
        Self { large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }

    /// Runs `work`, which goes over about `bytes` bytes of data.
    ///
    /// # Errors
    /// 500 if `work` panicked, 503 if the runtime is going down.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let turn =
            if bytes >= LARGE_BYTES { Arc::clone(&self.large).acquire_owned().await.ok() } else { None };
        // The turn ends with the work, not with this future: a client that leaves must not let a third one in.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        task.await.map_err(|error| {
            if error.is_cancelled() {
                return ApiError::shutting_down();
            }
            tracing::error!(%error, "work on a request panicked");
            ApiError::internal()
        })
    }

    /// Like [`run`](Offload::run), for work of a few nanoseconds a byte: done here and now where it is small.
    ///
    /// # Errors
    /// As [`run`](Offload::run).
    pub(crate) async fn run_if_not_small<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        if bytes < SMALL_BYTES { Ok(work()) } else { self.run(bytes, work).await }
    }
}

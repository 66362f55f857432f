//! Work for the CPU, kept off the async runtime's threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Below this many bytes, quick work is done sooner than handed to another thread.
const TRIVIAL_BYTES: usize = 64 * 1024;

/// From this many bytes on, a text counts as large.
const LARGE_BYTES: usize = 256 * 1024;

/// How many large texts are tokenised at once. It bounds memory (the tokenizer needs hundreds of times a text's size)
/// and leaves small texts a share of the cores.
const LARGE_AT_ONCE: usize = 2;

/// How much of the other kinds of work goes on at once: as much as there are cores, within these bounds.
const FEWEST_AT_ONCE: usize = 4;
const MOST_AT_ONCE: usize = 16;

/// How much quick work, and how much tokenising of small texts, goes on at once.
pub(crate) fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(FEWEST_AT_ONCE, MOST_AT_ONCE)
}

/// Runs blocking work on threads made for it, in three lanes that do not wait for each other.
#[derive(Debug, Clone)]
pub(crate) struct Offload {
    quick: Arc<Semaphore>,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Offload {
    pub(crate) fn new() -> Self {
        let lane = |at_once| Arc::new(Semaphore::new(at_once));
        let at_once = at_once();
        Self { quick: lane(at_once), small: lane(at_once), large: lane(LARGE_AT_ONCE) }
    }

    /// Runs work of a few nanoseconds per byte over about `bytes` bytes: here and now, if there are few.
    ///
    /// # Errors
    /// 500 if `work` panicked, 503 if the runtime is going down.
    pub(crate) async fn quick<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        if bytes < TRIVIAL_BYTES { Ok(work()) } else { run(&self.quick, work).await }
    }

    /// Runs work that tokenises about `bytes` bytes.
    ///
    /// # Errors
    /// As [`quick`](Offload::quick).
    pub(crate) async fn tokenise<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        run(if bytes < LARGE_BYTES { &self.small } else { &self.large }, work).await
    }
}

async fn run<R: Send + 'static>(
    lane: &Arc<Semaphore>,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ApiError> {
    let turn = Arc::clone(lane).acquire_owned().await;
    // The turn ends with the work, not with this future: a client that leaves must not let one more in.
    let span = tracing::Span::current();
    let task = tokio::task::spawn_blocking(move || {
        let result = span.in_scope(work);
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

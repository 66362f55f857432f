//! The model's queue and the thread that empties it: forms batches, computes them, hands the vectors back.

mod flights;
mod thread;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use danaus_engine::padding::Window;
use danaus_engine::{Backend, Padding, Pooling, Text};
use tokio::sync::oneshot;

use crate::cache::{CacheSize, Pooled, VectorCache};
use crate::metrics::{Metrics, Waiting};
use crate::scheduler::{Estimate, Lanes, QueueLimits, Refusal, Scheduler, Speed, whole_seconds};
use crate::vector_key::VectorKey;
use flights::{Flights, Outcome, Reply};
use thread::Thread;

pub(crate) use thread::panic_message;

/// One text on its way to the model.
#[derive(Debug)]
pub(crate) struct QueuedText {
    ids: Vec<u32>,
    pooling: Pooling,
    /// What the model computes for it, decided once.
    window: Window,
    key: VectorKey,
}

impl QueuedText {
    /// A text as `backend` will compute it.
    pub(crate) fn new(backend: &dyn Backend, ids: Vec<u32>, pooling: Pooling, padding: Padding) -> Self {
        let text = backend.text(&ids, pooling, padding);
        let key = VectorKey::new(&text, backend.demoted().is_some());
        let window = text.window;
        Self { ids, pooling, window, key }
    }

    /// Tokens of the text itself.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How it is padded: what is computed, not what was asked for.
    pub(crate) fn padding(&self) -> Padding {
        self.window.padding
    }

    /// Tokens that the model computes for it, padding included.
    pub(crate) fn cost(&self) -> usize {
        self.window.cost()
    }

    fn text(&self) -> Text<'_> {
        Text { ids: &self.ids, pooling: self.pooling, window: self.window.clone() }
    }
}

/// Why a request got no vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkError {
    /// The backend failed or panicked; the log says how.
    Failed,
    /// The GPU has not enough memory for one of the batch's texts.
    OutOfMemory,
    /// The worker stopped before the request's turn.
    Stopped,
}

/// Why a request was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubmitError {
    /// Too much waits already.
    Refused(Refusal),
    /// The worker has stopped.
    Stopped,
}

/// A request's vectors and how long they took.
#[derive(Debug)]
pub(crate) struct Computed {
    /// One pooled vector per text, in order.
    pub(crate) vectors: Vec<Pooled>,
    /// Start of its first batch.
    pub(crate) started: Instant,
    /// From admission to the start of its first batch.
    pub(crate) queue: Duration,
    /// From the start of its first batch to the end of its last.
    pub(crate) compute: Duration,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when texts arrive and when the worker is to stop.
    work: Condvar,
    /// What the scheduler counts time from.
    epoch: Instant,
    cache: VectorCache,
    metrics: Metrics,
}

struct State {
    flights: Flights,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// How the worker shares the model among those who ask.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) limits: QueueLimits,
    pub(crate) lanes: Lanes,
    /// The machine's speed, as far as it is known.
    pub(crate) speed: Speed,
    /// `None`: as many as suit the device.
    pub(crate) max_batch_tokens: Option<usize>,
    pub(crate) cache: VectorCache,
}

/// Most tokens of a batch now: as many as were asked for, or as suit the device. (A GPU that is no longer used takes its own number with it.)
pub(crate) fn batch_tokens(asked: Option<usize>, backend: &dyn Backend) -> usize {
    asked.unwrap_or_else(|| backend.batch_tokens())
}

/// A request's texts, after a look into the cache.
struct LookedUp {
    /// For each text its vector, if it is there.
    known: Vec<Option<Pooled>>,
    /// The others, in order.
    unknown: Vec<Arc<QueuedText>>,
}

/// Handle of the worker thread; the thread ends when the handle is dropped.
pub(crate) struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(backend: Arc<dyn Backend>, policy: Policy, metrics: Metrics) -> io::Result<Self> {
        let scheduler = Scheduler::new(policy.limits, policy.lanes, policy.speed);
        let state = State { flights: Flights::new(scheduler), stopping: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            epoch: Instant::now(),
            cache: policy.cache,
            metrics,
        });
        let thread =
            Thread { shared: Arc::clone(&shared), backend, max_batch_tokens: policy.max_batch_tokens };
        std::thread::Builder::new().name("danaus-worker".into()).spawn(move || thread.run())?;
        Ok(Self { shared })
    }

    /// Queues one request's texts, all of them or none: those that are neither in the cache nor on their way already.
    pub(crate) fn submit(&self, texts: Vec<QueuedText>) -> Result<Submission, SubmitError> {
        let submitted = Instant::now();
        let LookedUp { known, unknown } = self.look_up(texts);
        let mut receivers = Vec::new();
        if !unknown.is_empty() {
            let mut state = self.shared.lock();
            if state.stopping {
                return Err(SubmitError::Stopped);
            }
            receivers = state.flights.join(self.shared.now(), &unknown).map_err(SubmitError::Refused)?;
            drop(state);
            self.shared.work.notify_one();
        }
        self.count_cached(known.len() - unknown.len(), unknown.len());
        Ok(Submission { shared: Arc::clone(&self.shared), known, texts: unknown, receivers, submitted })
    }

    /// What would become of a request of these texts.
    pub(crate) fn estimate(&self, texts: Vec<QueuedText>) -> Estimate {
        let LookedUp { unknown, .. } = self.look_up(texts);
        if unknown.is_empty() {
            return Estimate { wait: Duration::ZERO, compute: Duration::ZERO, refusal: None };
        }
        self.shared.lock().flights.estimate(self.shared.now(), &unknown)
    }

    fn look_up(&self, texts: Vec<QueuedText>) -> LookedUp {
        let known: Vec<_> = texts.iter().map(|text| self.shared.cache.get(&text.key)).collect();
        let unknown = texts.into_iter().zip(&known).filter(|(_, known)| known.is_none());
        let unknown = unknown.map(|(text, _)| Arc::new(text)).collect();
        LookedUp { known, unknown }
    }

    fn count_cached(&self, hits: usize, misses: usize) {
        if self.shared.cache.is_on() {
            self.shared.metrics.cache_asked(hits, misses);
        }
    }

    /// What waits for the model now.
    pub(crate) fn waiting(&self) -> Waiting {
        self.shared.lock().flights.waiting(self.shared.now())
    }

    /// Whole seconds in which all that is here will have been computed, about; at least 1.
    pub(crate) fn backlog_seconds(&self) -> u64 {
        whole_seconds(self.waiting().backlog)
    }

    /// What the cache holds.
    pub(crate) fn cached(&self) -> CacheSize {
        self.shared.cache.size()
    }

    /// Ends the thread after the batch it is computing, a long one after its current step; what waits is answered with
    /// [`WorkError::Stopped`].
    pub(crate) fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.flights.clear_queue();
        drop(state);
        self.shared.work.notify_all();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A queued request. Dropping it takes those of its texts that still wait, and that nobody else waits for, out of the queue.
pub(crate) struct Submission {
    shared: Arc<Shared>,
    /// For each text its vector, if it was known.
    known: Vec<Option<Pooled>>,
    /// The others, in order.
    texts: Vec<Arc<QueuedText>>,
    receivers: Vec<oneshot::Receiver<Outcome>>,
    submitted: Instant,
}

impl Submission {
    /// Waits for all the vectors.
    pub(crate) async fn computed(mut self) -> Result<Computed, WorkError> {
        let mut known = std::mem::take(&mut self.known);
        let mut span: Option<(Instant, Instant)> = None;
        let unknown = known.iter_mut().filter(|vector| vector.is_none());
        for (vector, receiver) in unknown.zip(&mut self.receivers) {
            let Reply { vector: computed, started, finished } =
                receiver.await.unwrap_or(Err(WorkError::Stopped))?;
            let (first, last) = span.unwrap_or((started, finished));
            span = Some((first.min(started), last.max(finished)));
            *vector = Some(computed);
        }
        let (started, finished) = span.unwrap_or((self.submitted, self.submitted));
        // A text that was being computed already did not wait, and took this request what was left.
        let started = started.max(self.submitted);
        Ok(Computed {
            vectors: known.into_iter().flatten().collect(),
            started,
            queue: started.saturating_duration_since(self.submitted),
            compute: finished.saturating_duration_since(started),
        })
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.receivers.clear();
        self.shared.lock().flights.leave(&self.texts);
    }
}

//! The thread that owns the model: forms batches, computes them, hands the vectors back.

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use danaus_engine::{Backend, EngineError, Padding, Pooling, Text};
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::scheduler::{Batch, Depth, Entry, Lanes, QueueFull, QueueLimits, Scheduler, Throughput, Tickets};

/// One text on its way to the model.
#[derive(Debug)]
pub(crate) struct QueuedText {
    pub(crate) ids: Vec<u32>,
    pub(crate) pooling: Pooling,
    pub(crate) padding: Padding,
    /// Tokens that the model computes for it, padding included.
    pub(crate) cost: usize,
}

/// Why a request got no vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkError {
    /// The backend failed or panicked; the log says how.
    Failed,
    /// The worker stopped before the request's turn.
    Stopped,
}

/// Why a request was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubmitError {
    /// Too much waits already; the backlog is computed in about this many seconds.
    Full { full: QueueFull, seconds: u64 },
    /// The worker has stopped.
    Stopped,
}

/// A request's vectors and how long they took.
#[derive(Debug)]
pub(crate) struct Computed {
    /// One pooled vector per text, in order.
    pub(crate) vectors: Vec<Vec<f32>>,
    /// From admission to the start of its first batch.
    pub(crate) queue: Duration,
    /// From the start of its first batch to the end of its last.
    pub(crate) compute: Duration,
}

#[derive(Debug)]
struct Job {
    text: QueuedText,
    reply: oneshot::Sender<Result<Reply, WorkError>>,
}

#[derive(Debug)]
struct Reply {
    vector: Vec<f32>,
    started: Instant,
    finished: Instant,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when texts arrive and when the worker is to stop.
    work: Condvar,
    /// What the scheduler counts time from.
    epoch: Instant,
}

struct State {
    scheduler: Scheduler<Job>,
    throughput: Throughput,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle of the worker thread; the thread ends when the handle is dropped.
pub(crate) struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        (limits, lanes): (QueueLimits, Lanes),
        max_batch_tokens: usize,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let scheduler = Scheduler::new(limits, lanes);
        let state = State { scheduler, throughput: Throughput::default(), stopping: false };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), epoch: Instant::now() });
        let thread = Thread { shared: Arc::clone(&shared), backend, max_batch_tokens, metrics };
        std::thread::Builder::new().name("danaus-worker".into()).spawn(move || thread.run())?;
        Ok(Self { shared })
    }

    /// Queues one request's texts, all of them or none.
    pub(crate) fn submit(&self, texts: Vec<QueuedText>) -> Result<Submission, SubmitError> {
        let (entries, replies) = texts.into_iter().map(entry).unzip();
        let mut state = self.shared.lock();
        if state.stopping {
            return Err(SubmitError::Stopped);
        }
        let tickets = state.scheduler.admit(self.shared.epoch.elapsed(), entries).map_err(|full| {
            SubmitError::Full { full, seconds: state.throughput.seconds_for(full.waiting.tokens) }
        })?;
        drop(state);
        self.shared.work.notify_one();
        Ok(Submission { shared: Arc::clone(&self.shared), tickets, replies, submitted: Instant::now() })
    }

    /// What waits for the model now.
    pub(crate) fn depth(&self) -> Depth {
        self.shared.lock().scheduler.depth()
    }

    /// Seconds in which what waits now is computed, about; at least 1.
    pub(crate) fn backlog_seconds(&self) -> u64 {
        let state = self.shared.lock();
        state.throughput.seconds_for(state.scheduler.depth().tokens)
    }

    /// Ends the thread after the batch it is computing, a long one after its current layer; what waits is answered with
    /// [`WorkError::Stopped`].
    pub(crate) fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        let mut waiting = Vec::new();
        while let Some(batch) = state.scheduler.next_batch(usize::MAX) {
            waiting.push(batch);
        }
        drop(state);
        drop(waiting);
        self.shared.work.notify_all();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn entry(text: QueuedText) -> (Entry<Job>, oneshot::Receiver<Result<Reply, WorkError>>) {
    let (reply, receiver) = oneshot::channel();
    (Entry { cost: text.cost, payload: Job { text, reply } }, receiver)
}

/// A queued request. Dropping it takes those of its texts that still wait out of the queue.
pub(crate) struct Submission {
    shared: Arc<Shared>,
    tickets: Tickets,
    replies: Vec<oneshot::Receiver<Result<Reply, WorkError>>>,
    submitted: Instant,
}

impl Submission {
    /// Waits for all the vectors.
    pub(crate) async fn computed(mut self) -> Result<Computed, WorkError> {
        let mut vectors = Vec::with_capacity(self.replies.len());
        let mut span: Option<(Instant, Instant)> = None;
        for receiver in &mut self.replies {
            let reply = receiver.await.unwrap_or(Err(WorkError::Stopped))?;
            let started = span.map_or(reply.started, |(first, _)| first);
            span = Some((started, reply.finished));
            vectors.push(reply.vector);
        }
        let (started, finished) = span.unwrap_or((self.submitted, self.submitted));
        Ok(Computed {
            vectors,
            queue: started.saturating_duration_since(self.submitted),
            compute: finished.saturating_duration_since(started),
        })
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.shared.lock().scheduler.cancel(&self.tickets);
    }
}

/// What the worker thread has.
struct Thread {
    shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    max_batch_tokens: usize,
    metrics: Metrics,
}

impl Thread {
    fn run(self) {
        while let Some(batch) = self.next_batch() {
            self.compute(batch);
        }
    }

    /// Waits for work; `None` when the worker is to stop.
    fn next_batch(&self) -> Option<Batch<Job>> {
        let mut state = self.shared.lock();
        loop {
            if state.stopping {
                return None;
            }
            let batch = state.scheduler.next_batch(self.max_batch_tokens);
            if batch.is_some() {
                return batch;
            }
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Computes a batch and answers its requests. Returns how long it took.
    fn compute(&self, Batch { long, entries }: Batch<Job>) -> Duration {
        let tokens = entries.iter().map(|entry| entry.cost).sum();
        let batch: Vec<Job> = entries.into_iter().map(|entry| entry.payload).collect();
        let texts: Vec<Text<'_>> = batch
            .iter()
            .map(|Job { text, .. }| Text { ids: &text.ids, pooling: text.pooling, padding: text.padding })
            .collect();
        let started = Instant::now();
        let mut turns = Turns { layer: started, others: Duration::ZERO };
        // The backend promises nothing about its state after a panic, but it is all we have to answer the next
        // request with: a backend that stays broken fails that one too, in the same visible way.
        let outcome = catch_unwind(AssertUnwindSafe(|| match long {
            true => self.backend.embed_stepwise(&texts, &mut || self.between_layers(&batch, &mut turns)),
            false => self.backend.embed(&texts),
        }));
        let finished = Instant::now();
        let elapsed = finished.saturating_duration_since(started);
        let failure = match outcome {
            Ok(Ok(vectors)) if vectors.len() == batch.len() => {
                let own = elapsed.saturating_sub(turns.others);
                self.shared.lock().throughput.observe(tokens, own);
                self.metrics.batch_computed(batch.len(), tokens, own);
                for (job, vector) in batch.into_iter().zip(vectors) {
                    // An error here is a client that left while its text was computed.
                    let _ = job.reply.send(Ok(Reply { vector, started, finished }));
                }
                return elapsed;
            }
            Ok(Ok(vectors)) => format!("{} vectors for {} texts", vectors.len(), batch.len()),
            // Whoever still waits finds its sender gone, as those do that were queued when the worker stopped.
            Ok(Err(EngineError::Stopped)) => return elapsed,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("panic: {}", panic_message(panic.as_ref())),
        };
        tracing::error!(texts = batch.len(), tokens, %failure, "the model failed on a batch");
        self.metrics.batch_failed();
        for job in batch {
            let _ = job.reply.send(Err(WorkError::Failed));
        }
        elapsed
    }

    /// Computes short texts that wait, until they had as much time as the long batch's last layer: half of the machine while
    /// it is busy with both. Breaks where nobody waits for the long batch any more, or the worker is to stop.
    fn between_layers(&self, batch: &[Job], turns: &mut Turns) -> ControlFlow<()> {
        let layer = turns.layer.elapsed();
        let mut spent = Duration::ZERO;
        while spent < layer {
            let mut state = self.shared.lock();
            if state.stopping || batch.iter().all(|job| job.reply.is_closed()) {
                return ControlFlow::Break(());
            }
            let Some(short) = state.scheduler.next_short_batch(self.max_batch_tokens) else { break };
            drop(state);
            spent += self.compute(short);
        }
        turns.others += spent;
        turns.layer = Instant::now();
        ControlFlow::Continue(())
    }
}

/// Whose turn it was while a long batch was computed.
struct Turns {
    /// When its current layer began.
    layer: Instant,
    /// What went to other batches.
    others: Duration,
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

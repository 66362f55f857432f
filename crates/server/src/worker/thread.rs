//! The thread that owns the model.

use std::any::Any;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use danaus_engine::{Backend, EngineError, Text};

use super::flights::{Reply, Waiter};
use super::{QueuedText, Shared, WorkError, batch_tokens};
use crate::cache::Pooled;
use crate::metrics::BatchSize;
use crate::scheduler::Batch;

/// What the worker thread has.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) max_batch_tokens: Option<usize>,
}

/// Texts that are computed together.
type Texts = Vec<Arc<QueuedText>>;

impl Thread {
    pub(super) fn run(self) {
        while let Some(batch) = self.next_batch() {
            self.compute(batch);
        }
    }

    /// Waits for work; `None` when the worker is to stop.
    fn next_batch(&self) -> Option<Batch<Arc<QueuedText>>> {
        let mut state = self.shared.lock();
        loop {
            if state.stopping {
                return None;
            }
            let batch = state.flights.next_batch(self.shared.now(), self.batch_tokens());
            if batch.is_some() {
                return batch;
            }
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn batch_tokens(&self) -> usize {
        batch_tokens(self.max_batch_tokens, &*self.backend)
    }

    /// Computes a batch and answers its requests.
    fn compute(&self, Batch { long, entries }: Batch<Arc<QueuedText>>) {
        let tokens = entries.iter().map(|entry| entry.cost).sum();
        let batch: Texts = entries.into_iter().map(|entry| entry.payload).collect();
        let texts: Vec<Text<'_>> = batch.iter().map(|text| text.text()).collect();
        let started = Instant::now();
        let mut step = started;
        // The backend promises nothing about its state after a panic, but it is all we have to answer the next
        // request with: a backend that stays broken fails that one too, in the same visible way.
        let outcome = catch_unwind(AssertUnwindSafe(|| match long {
            true => self.backend.embed_stepwise(&texts, &mut || self.between_steps(&batch, &mut step)),
            false => self.backend.embed(&texts),
        }));
        let finished = Instant::now();
        let failure = match outcome {
            Ok(Ok(vectors)) if vectors.len() == batch.len() => {
                let own = self.shared.lock().flights.finished(self.shared.now(), long, true);
                let size = BatchSize { texts: batch.len(), tokens, budget: self.batch_tokens() };
                self.shared.metrics.batch_computed(size, own);
                self.shared.metrics.texts_padded(batch.iter().map(|text| text.padding()));
                return self.answer(&batch, vectors, (started, finished));
            }
            Ok(Ok(vectors)) => {
                Some((WorkError::Failed, format!("{} vectors for {} texts", vectors.len(), batch.len())))
            }
            Ok(Err(EngineError::Stopped)) => None,
            Ok(Err(error @ EngineError::OutOfMemory { .. })) => {
                Some((WorkError::OutOfMemory, error.to_string()))
            }
            Ok(Err(error)) => Some((WorkError::Failed, error.to_string())),
            Err(panic) => Some((WorkError::Failed, format!("panic: {}", panic_message(panic.as_ref())))),
        };
        let mut state = self.shared.lock();
        state.flights.finished(self.shared.now(), long, false);
        let waiters = state.flights.land(&batch);
        drop(state);
        // Where the batch was given up, whoever still waits finds its sender gone, as those do that were queued then.
        let Some((error, failure)) = failure else { return };
        self.shared.metrics.batch_failed();
        answer_failure(waiters, tokens, error, &failure);
    }

    fn answer(&self, batch: &Texts, vectors: Vec<Vec<f32>>, (started, finished): (Instant, Instant)) {
        let vectors: Vec<Pooled> = vectors.into_iter().map(Arc::new).collect();
        // Into the cache before they leave the flights: whoever comes in between finds them in one of the two.
        for (text, vector) in batch.iter().zip(&vectors) {
            self.shared.cache.insert(text.key, vector);
        }
        let waiters = self.shared.lock().flights.land(batch);
        let shared = waiters.iter().map(|waiters| waiters.len().saturating_sub(1)).sum();
        self.shared.metrics.texts_shared(shared);
        for (waiters, vector) in waiters.into_iter().zip(vectors) {
            for waiter in waiters {
                // An error here is a client that left while its text was computed.
                let _ = waiter.reply.send(Ok(Reply { vector: Arc::clone(&vector), started, finished }));
            }
        }
    }

    /// Computes short texts that wait, until they had as much time as the long batch's last step: half of the machine while
    /// it is busy with both. Breaks where nobody waits for the long batch any more, or the worker is to stop.
    fn between_steps(&self, batch: &Texts, step: &mut Instant) -> ControlFlow<()> {
        let (turn, begun) = (step.elapsed(), Instant::now());
        loop {
            let mut state = self.shared.lock();
            if state.stopping || state.flights.abandon(batch) {
                return ControlFlow::Break(());
            }
            let short = state.flights.next_short_batch(self.shared.now(), self.batch_tokens());
            drop(state);
            let Some(short) = short else { break };
            self.compute(short);
            if begun.elapsed() >= turn {
                break;
            }
        }
        *step = Instant::now();
        ControlFlow::Continue(())
    }
}

/// Tells all requests of a batch that it failed, and the log why, once for each of them.
fn answer_failure(waiters: Vec<Vec<Waiter>>, tokens: usize, error: WorkError, failure: &str) {
    let (texts, mut told) = (waiters.len(), HashSet::new());
    for Waiter { reply, span } in waiters.into_iter().flatten() {
        if told.insert(span.id()) {
            span.in_scope(|| tracing::error!(texts, tokens, failure, "the model failed on a batch"));
        }
        let _ = reply.send(Err(error));
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

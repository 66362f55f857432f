//! Texts on their way to the model, each once, whoever asked for it.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::{QueuedText, WorkError};
use crate::cache::Pooled;
use crate::metrics::Waiting;
use crate::scheduler::{Batch, Entry, Estimate, Refusal, Scheduler, Ticket};
use crate::vector_key::VectorKey;

/// A text's vector, before it is finished.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) vector: Pooled,
    pub(super) started: Instant,
    pub(super) finished: Instant,
}

/// Who waits for a text.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Outcome>,
    /// The request's, for the log.
    pub(super) span: Span,
}

pub(super) type Outcome = Result<Reply, WorkError>;

/// A text that waits or is being computed, and who waits for it.
#[derive(Debug)]
struct Flight {
    text: Arc<QueuedText>,
    /// Its place in the queue; none once its turn has come.
    ticket: Option<Ticket>,
    waiters: Vec<Waiter>,
}

impl Flight {
    /// Whether it is that very text's: an equal one may have come after that one left.
    fn is_of(&self, text: &Arc<QueuedText>) -> bool {
        Arc::ptr_eq(&self.text, text)
    }

    fn is_wanted(&self) -> bool {
        self.waiters.iter().any(|waiter| !waiter.reply.is_closed())
    }
}

/// The queue, and who waits for what.
#[derive(Debug)]
pub(super) struct Flights {
    scheduler: Scheduler<Arc<QueuedText>>,
    by_key: HashMap<VectorKey, Flight>,
}

impl Flights {
    pub(super) fn new(scheduler: Scheduler<Arc<QueuedText>>) -> Self {
        Self { scheduler, by_key: HashMap::new() }
    }

    pub(super) fn waiting(&self, now: Duration) -> Waiting {
        let oldest = self.scheduler.oldest().map_or(Duration::ZERO, |came| now.saturating_sub(came));
        Waiting { depth: self.scheduler.depth(), oldest, backlog: self.scheduler.backlog(now) }
    }

    /// What would become of a request of these texts.
    pub(super) fn estimate(&self, now: Duration, texts: &[Arc<QueuedText>]) -> Estimate {
        let costs: Vec<usize> = self.new_texts(texts).iter().map(|text| text.cost()).collect();
        self.scheduler.estimate(now, &costs)
    }

    /// Queues the texts of a request that are not on their way yet, all of them or none. The receivers are in the texts'
    /// order.
    pub(super) fn join(
        &mut self,
        now: Duration,
        texts: &[Arc<QueuedText>],
    ) -> Result<Vec<oneshot::Receiver<Outcome>>, Refusal> {
        let new = self.new_texts(texts);
        let entries = new.iter().map(|text| Entry { cost: text.cost(), payload: Arc::clone(text) }).collect();
        let tickets = self.scheduler.admit(now, entries)?;
        for (text, ticket) in new.into_iter().zip(tickets) {
            self.by_key.insert(text.key, Flight { text, ticket: Some(ticket), waiters: Vec::new() });
        }
        let wait = |text: &Arc<QueuedText>| {
            let (reply, receiver) = oneshot::channel();
            if let Some(flight) = self.by_key.get_mut(&text.key) {
                flight.waiters.push(Waiter { reply, span: Span::current() });
            }
            receiver
        };
        Ok(texts.iter().map(wait).collect())
    }

    /// Those of a request's texts that are not on their way, each once.
    fn new_texts(&self, texts: &[Arc<QueuedText>]) -> Vec<Arc<QueuedText>> {
        let mut seen = HashSet::new();
        let is_new = |text: &&Arc<QueuedText>| !self.by_key.contains_key(&text.key) && seen.insert(text.key);
        texts.iter().filter(is_new).cloned().collect()
    }

    /// Takes the texts that nobody waits for any more out of the queue.
    pub(super) fn leave(&mut self, texts: &[Arc<QueuedText>]) {
        for text in texts {
            let Slot::Occupied(mut slot) = self.by_key.entry(text.key) else { continue };
            slot.get_mut().waiters.retain(|waiter| !waiter.reply.is_closed());
            let Some(ticket) = slot.get().ticket else { continue };
            if slot.get().waiters.is_empty() {
                self.scheduler.cancel(ticket);
                slot.remove();
            }
        }
    }

    pub(super) fn next_batch(&mut self, now: Duration, max_tokens: usize) -> Option<Batch<Arc<QueuedText>>> {
        let batch = self.scheduler.next_batch(now, max_tokens)?;
        Some(self.begin(batch))
    }

    pub(super) fn next_short_batch(
        &mut self,
        now: Duration,
        max_tokens: usize,
    ) -> Option<Batch<Arc<QueuedText>>> {
        let batch = self.scheduler.next_short_batch(now, max_tokens)?;
        Some(self.begin(batch))
    }

    fn begin(&mut self, batch: Batch<Arc<QueuedText>>) -> Batch<Arc<QueuedText>> {
        for entry in &batch.entries {
            if let Some(flight) = self.by_key.get_mut(&entry.payload.key) {
                flight.ticket = None;
            }
        }
        batch
    }

    /// Whether nobody waits for a batch any more; then nobody can from now on.
    pub(super) fn abandon(&mut self, batch: &[Arc<QueuedText>]) -> bool {
        let wanted = |text: &Arc<QueuedText>| {
            self.by_key.get(&text.key).is_some_and(|flight| flight.is_of(text) && flight.is_wanted())
        };
        let abandoned = !batch.iter().any(wanted);
        if abandoned {
            self.land(batch);
        }
        abandoned
    }

    /// The batch of long texts or of short ones is no longer computed; see [`Scheduler::finished`].
    pub(super) fn finished(&mut self, now: Duration, long: bool, computed: bool) -> Duration {
        self.scheduler.finished(now, long, computed)
    }

    /// Takes out a batch's texts, and returns who waits for each.
    pub(super) fn land(&mut self, batch: &[Arc<QueuedText>]) -> Vec<Vec<Waiter>> {
        let waiters = |text: &Arc<QueuedText>| match self.by_key.entry(text.key) {
            Slot::Occupied(slot) if slot.get().is_of(text) => slot.remove().waiters,
            _ => Vec::new(),
        };
        batch.iter().map(waiters).collect()
    }

    /// Takes out all that waits; whoever waits for it finds its sender gone.
    pub(super) fn clear_queue(&mut self) {
        let (by_key, scheduler) = (&mut self.by_key, &mut self.scheduler);
        by_key.retain(|_, flight| {
            let Some(ticket) = flight.ticket else { return true };
            scheduler.cancel(ticket);
            false
        });
    }
}

//! Which texts are computed together: a pure state machine, without threads, clock or I/O.
//!
//! First come, first served: a batch is always the oldest waiting texts, as many as fit the token budget. A text's
//! cost is known before it is queued, and a cancelled text leaves at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most texts.
    pub texts: usize,
    /// Most tokens, over all texts.
    pub tokens: usize,
}

/// The places in the queue of one request's texts, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tickets(Range<u64>);

/// One text to be queued: what it costs, and what its owner wants back when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Tokens that the model computes for it.
    pub cost: usize,
    /// Handed back by [`Scheduler::next_batch`].
    pub payload: T,
}

/// A request that does not fit the queue as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{texts} texts of {tokens} tokens do not fit the queue, where {} texts of {} tokens wait \
     (limits: {} texts, {} tokens)",
    waiting.texts, waiting.tokens, limits.texts, limits.tokens
)]
pub struct QueueFull {
    /// Texts of the refused request.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
    /// What waits already.
    pub waiting: Depth,
    /// How much may wait.
    pub limits: QueueLimits,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Texts.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
}

/// The queue of texts that wait for the model.
#[derive(Debug)]
pub struct Scheduler<T> {
    /// By ticket, which is the order of arrival.
    waiting: BTreeMap<u64, Entry<T>>,
    next_ticket: u64,
    tokens: usize,
    limits: QueueLimits,
}

impl<T> Scheduler<T> {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self { waiting: BTreeMap::new(), next_ticket: 0, tokens: 0, limits }
    }

    /// What waits now.
    pub fn depth(&self) -> Depth {
        Depth { texts: self.waiting.len(), tokens: self.tokens }
    }

    /// Queues one request's texts, all of them or none.
    ///
    /// An empty queue takes any request, so that a large one cannot be refused for ever.
    ///
    /// # Errors
    /// [`QueueFull`] where texts or tokens would be over the limits; nothing is queued then.
    pub fn admit(&mut self, request: Vec<Entry<T>>) -> Result<Tickets, QueueFull> {
        let tokens = request.iter().fold(0, |sum: usize, entry| sum.saturating_add(entry.cost));
        let over = self.waiting.len().saturating_add(request.len()) > self.limits.texts
            || self.tokens.saturating_add(tokens) > self.limits.tokens;
        if over && !self.waiting.is_empty() {
            let (waiting, limits) = (self.depth(), self.limits);
            return Err(QueueFull { texts: request.len(), tokens, waiting, limits });
        }
        let first = self.next_ticket;
        self.next_ticket += request.len() as u64;
        self.tokens = self.tokens.saturating_add(tokens);
        self.waiting.extend((first..).zip(request));
        Ok(Tickets(first..self.next_ticket))
    }

    /// Takes out the texts of a request that still wait, and returns how many.
    pub fn cancel(&mut self, tickets: &Tickets) -> usize {
        let cancelled: Vec<u64> = self.waiting.range(tickets.0.clone()).map(|(&ticket, _)| ticket).collect();
        for ticket in &cancelled {
            if let Some(entry) = self.waiting.remove(ticket) {
                self.tokens = self.tokens.saturating_sub(entry.cost);
            }
        }
        cancelled.len()
    }

    /// Takes out the oldest texts whose costs add up to at most `max_tokens`, in order; a single text that costs more
    /// than that goes alone. Empty only if nothing waits.
    pub fn next_batch(&mut self, max_tokens: usize) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let mut tokens: usize = 0;
        while let Some(oldest) = self.waiting.first_entry() {
            let sum = tokens.saturating_add(oldest.get().cost);
            if !batch.is_empty() && sum > max_tokens {
                break;
            }
            tokens = sum;
            batch.push(oldest.remove());
        }
        self.tokens = self.tokens.saturating_sub(tokens);
        batch
    }
}

/// Tokens per second that the model was seen to compute, recent batches counting most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    tokens_per_second: Option<f64>,
}

impl Throughput {
    /// Share of the newest batch in the average: the last ten or so batches decide.
    const WEIGHT: f64 = 0.2;

    /// Notes a batch of `tokens` that took `elapsed`.
    pub fn observe(&mut self, tokens: usize, elapsed: Duration) {
        // A batch too short for the clock must not count as infinitely fast.
        let seen = tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        let average = self.tokens_per_second.map_or(seen, |old| old + Self::WEIGHT * (seen - old));
        self.tokens_per_second = Some(average);
    }

    /// Whole seconds, 1 to 3600, in which `tokens` will have been computed; 1 where nothing was seen yet.
    pub fn seconds_for(&self, tokens: usize) -> u64 {
        let seconds = self.tokens_per_second.map_or(1.0, |rate| tokens as f64 / rate.max(1e-3));
        seconds.ceil().clamp(1.0, 3600.0) as u64
    }
}

//! Which texts are computed together: a pure state machine, without threads, clock or I/O.
//!
//! Short texts and long ones wait in two lanes, each first come, first served. A batch is the oldest texts of one lane, as
//! many as fit the token budget. The lane whose oldest text came first has its turn, but long texts count as if they had come
//! later than they did, by the [ageing](Lanes::ageing): short ones overtake them for that long and no longer, so that nobody
//! waits for ever. Between the layers of a long text, short ones may be computed too ([`Scheduler::next_short_batch`]). A
//! text's cost is known before it is queued, and a cancelled text leaves at once.

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

/// How short and long texts share the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Most tokens of a short text.
    pub short: usize,
    /// By how much short texts that came later go before a long one.
    pub ageing: Duration,
}

/// What is computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T> {
    /// Whether its texts are long ones: then short ones need not wait for its end.
    pub long: bool,
    /// At least one text.
    pub entries: Vec<Entry<T>>,
}

/// The places in the queue of one request's texts, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tickets(Range<u64>);

/// One text to be queued: what it costs, and what its owner wants back when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Tokens that the model computes for it.
    pub cost: usize,
    /// Handed back when its turn comes.
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
    /// Short texts and long ones.
    queues: [Queue<T>; 2],
    next_ticket: u64,
    limits: QueueLimits,
    lanes: Lanes,
}

const SHORT: usize = 0;
const LONG: usize = 1;

/// The waiting texts of a lane.
#[derive(Debug)]
struct Queue<T> {
    /// By ticket, which is the order of arrival; with the time of arrival.
    waiting: BTreeMap<u64, (Duration, Entry<T>)>,
    tokens: usize,
}

impl<T> Scheduler<T> {
    /// An empty queue.
    pub fn new(limits: QueueLimits, lanes: Lanes) -> Self {
        let queue = || Queue { waiting: BTreeMap::new(), tokens: 0 };
        Self { queues: [queue(), queue()], next_ticket: 0, limits, lanes }
    }

    /// What waits now.
    pub fn depth(&self) -> Depth {
        let [short, long] = self.queues.each_ref().map(|queue| (queue.waiting.len(), queue.tokens));
        Depth { texts: short.0 + long.0, tokens: short.1.saturating_add(long.1) }
    }

    /// When the text came that waits longest; `None` where none waits.
    pub fn oldest(&self) -> Option<Duration> {
        self.queues.iter().filter_map(Queue::oldest).min()
    }

    /// Queues one request's texts, all of them or none. `now` is the time since some moment, the same for all calls.
    ///
    /// An empty queue takes any request, so that a large one cannot be refused for ever.
    ///
    /// # Errors
    /// [`QueueFull`] where texts or tokens would be over the limits; nothing is queued then.
    pub fn admit(&mut self, now: Duration, request: Vec<Entry<T>>) -> Result<Tickets, QueueFull> {
        let tokens = request.iter().fold(0, |sum: usize, entry| sum.saturating_add(entry.cost));
        let (waiting, limits) = (self.depth(), self.limits);
        let over = waiting.texts.saturating_add(request.len()) > limits.texts
            || waiting.tokens.saturating_add(tokens) > limits.tokens;
        if over && waiting.texts > 0 {
            return Err(QueueFull { texts: request.len(), tokens, waiting, limits });
        }
        let first = self.next_ticket;
        for entry in request {
            let lane = if entry.cost <= self.lanes.short { SHORT } else { LONG };
            let queue = &mut self.queues[lane];
            queue.tokens = queue.tokens.saturating_add(entry.cost);
            queue.waiting.insert(self.next_ticket, (now, entry));
            self.next_ticket += 1;
        }
        Ok(Tickets(first..self.next_ticket))
    }

    /// Takes out the texts of a request that still wait, and returns how many.
    pub fn cancel(&mut self, tickets: &Tickets) -> usize {
        self.queues.iter_mut().map(|queue| queue.cancel(tickets)).sum()
    }

    /// Takes out the oldest texts of the lane whose turn it is, whose costs add up to at most `max_tokens`, in order; a single
    /// text that costs more than that goes alone. `None` only if nothing waits.
    pub fn next_batch(&mut self, max_tokens: usize) -> Option<Batch<T>> {
        let [short, long] = self.queues.each_ref().map(Queue::oldest);
        let long = match (short, long) {
            (None, None) => return None,
            (Some(short), Some(long)) => long.saturating_add(self.lanes.ageing) < short,
            (_, long) => long.is_some(),
        };
        let queue = &mut self.queues[if long { LONG } else { SHORT }];
        Some(Batch { long, entries: queue.take(max_tokens) })
    }

    /// Takes out the oldest short texts, as [`next_batch`](Scheduler::next_batch) does when it is their turn.
    pub fn next_short_batch(&mut self, max_tokens: usize) -> Option<Batch<T>> {
        let entries = self.queues[SHORT].take(max_tokens);
        (!entries.is_empty()).then_some(Batch { long: false, entries })
    }
}

impl<T> Queue<T> {
    /// When the oldest text came.
    fn oldest(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(_, &(arrived, _))| arrived)
    }

    fn cancel(&mut self, tickets: &Tickets) -> usize {
        let cancelled: Vec<u64> = self.waiting.range(tickets.0.clone()).map(|(&ticket, _)| ticket).collect();
        for ticket in &cancelled {
            if let Some((_, entry)) = self.waiting.remove(ticket) {
                self.tokens = self.tokens.saturating_sub(entry.cost);
            }
        }
        cancelled.len()
    }

    fn take(&mut self, max_tokens: usize) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let mut tokens: usize = 0;
        while let Some(oldest) = self.waiting.first_entry() {
            let sum = tokens.saturating_add(oldest.get().1.cost);
            if !batch.is_empty() && sum > max_tokens {
                break;
            }
            tokens = sum;
            batch.push(oldest.remove().1);
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

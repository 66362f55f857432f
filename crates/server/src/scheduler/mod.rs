//! Which texts are computed together: a pure state machine, without threads, clock or I/O.
//!
//! Short texts and long ones wait in two lanes, each first come, first served. A batch is the oldest texts of one lane, as
//! many as fit the token budget. The lane whose oldest text came first has its turn, but long texts count as if they had come
//! later than they did, by the [ageing](Lanes::ageing): short ones overtake them for that long and no longer, so that nobody
//! waits for ever. Between the steps of a long text, short ones may be computed too ([`Scheduler::next_short_batch`]). A
//! text's cost is known before it is queued, and a cancelled text leaves at once.

use std::collections::BTreeMap;
use std::time::Duration;

mod speed;

pub use speed::{Load, Speed};

/// How much may wait, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most texts.
    pub texts: usize,
    /// Most tokens, over all texts.
    pub tokens: usize,
    /// Longest wait of a request for its turn, as far as it can be foreseen.
    pub wait: Duration,
}

/// How short and long texts share the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Most tokens of a short text.
    pub short: usize,
    /// By how much short texts that came later go before a long one.
    pub ageing: Duration,
    /// Steps of a long text, between which short ones have their turn.
    pub steps: usize,
}

/// What is computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T> {
    /// Whether its texts are long ones: then short ones need not wait for its end.
    pub long: bool,
    /// At least one text.
    pub entries: Vec<Entry<T>>,
}

/// The place of a text in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// One text to be queued: what it costs, and what its owner wants back when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Tokens that the model computes for it.
    pub cost: usize,
    /// Handed back when its turn comes.
    pub payload: T,
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not fit the queue as it is now.
    #[error(
        "{texts} texts of {tokens} tokens do not fit the queue, where {} texts of {} tokens wait \
         (limits: {} texts, {} tokens)",
        waiting.texts, waiting.tokens, limits.texts, limits.tokens
    )]
    Full {
        /// Texts of the refused request.
        texts: usize,
        /// Their tokens.
        tokens: usize,
        /// What waits already.
        waiting: Depth,
        /// How much may wait.
        limits: QueueLimits,
        /// When all that waits will have been computed.
        retry_after: Duration,
    },
    /// Its turn would come too late.
    #[error(
        "what is before this request takes about {:.1} s, over the limit of {} s",
        wait.as_secs_f64(), limit.as_secs_f64()
    )]
    Late {
        /// When its turn would come.
        wait: Duration,
        /// The longest wait.
        limit: Duration,
    },
}

impl Refusal {
    /// Whole seconds, 1 to 3600, after which to ask again.
    pub fn retry_after(&self) -> u64 {
        let after = match *self {
            Self::Full { retry_after, .. } => retry_after,
            Self::Late { wait, limit } => wait.saturating_sub(limit),
        };
        whole_seconds(after)
    }
}

/// A time after which to ask again, in whole seconds, 1 to 3600.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs_f64().ceil().clamp(1.0, 3600.0) as u64
}

/// What would become of a request that came now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// When its turn would come.
    pub wait: Duration,
    /// How long it would take then.
    pub compute: Duration,
    /// Why it would not be let in, if so.
    pub refusal: Option<Refusal>,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Texts.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
}

/// The queue of texts that wait for the model, and what it computes.
#[derive(Debug)]
pub struct Scheduler<T> {
    /// Short texts and long ones.
    queues: [Queue<T>; 2],
    /// The batch of each lane that is being computed.
    running: [Option<Running>; 2],
    next_ticket: u64,
    limits: QueueLimits,
    lanes: Lanes,
    speed: Speed,
}

const SHORT: usize = 0;
const LONG: usize = 1;

/// The waiting texts of a lane.
#[derive(Debug)]
struct Queue<T> {
    /// By ticket, which is the order of arrival; with the time of arrival.
    waiting: BTreeMap<Ticket, (Duration, Entry<T>)>,
    load: Load,
}

/// A batch that is being computed.
#[derive(Debug, Clone, Copy)]
struct Running {
    load: Load,
    since: Duration,
    /// What went to others meanwhile.
    others: Duration,
}

impl Running {
    /// What it had of the machine until `now`.
    fn own(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since).saturating_sub(self.others)
    }
}

impl<T> Scheduler<T> {
    /// An empty queue on a machine that is known to have that speed.
    ///
    /// Times are since some moment, the same for all calls.
    pub fn new(limits: QueueLimits, lanes: Lanes, speed: Speed) -> Self {
        let queue = || Queue { waiting: BTreeMap::new(), load: Load::default() };
        let queues = [queue(), queue()];
        Self { queues, running: [None; 2], next_ticket: 0, limits, lanes, speed }
    }

    /// What waits now.
    pub fn depth(&self) -> Depth {
        let [short, long] = self.queues.each_ref().map(|queue| (queue.waiting.len(), queue.load.tokens()));
        Depth { texts: short.0 + long.0, tokens: short.1.saturating_add(long.1) }
    }

    /// When the text came that waits longest; `None` where none waits.
    pub fn oldest(&self) -> Option<Duration> {
        self.queues.iter().filter_map(Queue::oldest).min()
    }

    /// In how long all that is here will have been computed.
    pub fn backlog(&self, now: Duration) -> Duration {
        self.wait(now, true)
    }

    /// What would become of a request of texts that cost that many tokens each; one of none is always let in.
    pub fn estimate(&self, now: Duration, costs: &[usize]) -> Estimate {
        let wait = self.wait(now, costs.iter().any(|&cost| self.lane(cost) == LONG));
        let load: Load = costs.iter().copied().collect();
        let refusal =
            if costs.is_empty() { None } else { self.refusal(now, wait, costs.len(), load.tokens()) };
        Estimate { wait, compute: self.speed.time_for(&load), refusal }
    }

    /// Queues one request's texts, all of them or none; their tickets are in their order.
    ///
    /// An empty queue takes any request, so that a large one cannot be refused for ever.
    ///
    /// # Errors
    /// Texts, tokens or the time to wait would be over the limits; nothing is queued then.
    pub fn admit(&mut self, now: Duration, request: Vec<Entry<T>>) -> Result<Vec<Ticket>, Refusal> {
        let costs: Vec<usize> = request.iter().map(|entry| entry.cost).collect();
        if let Some(refusal) = self.estimate(now, &costs).refusal {
            return Err(refusal);
        }
        Ok(request.into_iter().map(|entry| self.insert(now, entry)).collect())
    }

    /// Takes out a text if it still waits, and returns whether it did.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.queues.iter_mut().any(|queue| queue.remove(ticket).is_some())
    }

    /// Takes out the oldest texts of the lane whose turn it is, whose costs add up to at most `max_tokens`, in order; a single
    /// text that costs more than that goes alone. `None` only if nothing waits. [`finished`](Scheduler::finished) says when it
    /// is computed.
    pub fn next_batch(&mut self, now: Duration, max_tokens: usize) -> Option<Batch<T>> {
        let [short, long] = self.queues.each_ref().map(Queue::oldest);
        let long = match (short, long) {
            (None, None) => return None,
            (Some(short), Some(long)) => long.saturating_add(self.lanes.ageing) < short,
            (_, long) => long.is_some(),
        };
        self.start(now, if long { LONG } else { SHORT }, max_tokens)
    }

    /// Takes out the oldest short texts, as [`next_batch`](Scheduler::next_batch) does when it is their turn.
    pub fn next_short_batch(&mut self, now: Duration, max_tokens: usize) -> Option<Batch<T>> {
        self.start(now, SHORT, max_tokens)
    }

    /// The batch of long texts, or of short ones, that was taken out last is no longer computed. Returns how long it took, less
    /// what went to others meanwhile; where it was `computed` to its end, the machine's speed follows from that.
    pub fn finished(&mut self, now: Duration, long: bool, computed: bool) -> Duration {
        let Some(running) = self.running[if long { LONG } else { SHORT }].take() else {
            return Duration::ZERO;
        };
        let own = running.own(now);
        if computed {
            self.speed.observe(&running.load, own);
        }
        if let (false, Some(beside)) = (long, &mut self.running[LONG]) {
            beside.others += own;
        }
        own
    }

    fn lane(&self, cost: usize) -> usize {
        if cost <= self.lanes.short { SHORT } else { LONG }
    }

    fn insert(&mut self, now: Duration, entry: Entry<T>) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let lane = self.lane(entry.cost);
        let queue = &mut self.queues[lane];
        queue.load.add(entry.cost);
        queue.waiting.insert(ticket, (now, entry));
        ticket
    }

    /// When the turn of a request would come: of a long one after everything else; of a short one after short ones alone, which
    /// have half of the machine while long ones are computed, and a step of those.
    fn wait(&self, now: Duration, long: bool) -> Duration {
        let [short_left, long_left] = self.running.map(|running| {
            running.map_or(Duration::ZERO, |running| {
                self.speed.time_for(&running.load).saturating_sub(running.own(now))
            })
        });
        let [short_queue, long_queue] = self.queues.each_ref().map(|queue| self.speed.time_for(&queue.load));
        if long {
            let queued = short_queue.saturating_add(long_queue);
            return queued.saturating_add(short_left).saturating_add(long_left);
        }
        let alone = self.running[LONG].is_none() && self.queues[LONG].waiting.is_empty();
        let queued = if alone { short_queue } else { short_queue.saturating_mul(2) };
        let step = self.running[LONG].map_or(Duration::ZERO, |running| {
            let steps = u32::try_from(self.lanes.steps).unwrap_or(u32::MAX).max(1);
            long_left.min(self.speed.time_for(&running.load) / steps)
        });
        queued.saturating_add(short_left).saturating_add(step)
    }

    fn refusal(&self, now: Duration, wait: Duration, texts: usize, tokens: usize) -> Option<Refusal> {
        let (waiting, limits) = (self.depth(), self.limits);
        let over = waiting.texts.saturating_add(texts) > limits.texts
            || waiting.tokens.saturating_add(tokens) > limits.tokens;
        if over && waiting.texts > 0 {
            let retry_after = self.wait(now, true);
            return Some(Refusal::Full { texts, tokens, waiting, limits, retry_after });
        }
        (wait > limits.wait).then_some(Refusal::Late { wait, limit: limits.wait })
    }

    fn start(&mut self, now: Duration, lane: usize, max_tokens: usize) -> Option<Batch<T>> {
        let entries = self.queues[lane].take(max_tokens);
        if entries.is_empty() {
            return None;
        }
        let load = entries.iter().map(|entry| entry.cost).collect();
        self.running[lane] = Some(Running { load, since: now, others: Duration::ZERO });
        Some(Batch { long: lane == LONG, entries })
    }
}

impl<T> Queue<T> {
    /// When the oldest text came.
    fn oldest(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(_, &(arrived, _))| arrived)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Entry<T>> {
        let (_, entry) = self.waiting.remove(&ticket)?;
        self.load.remove(entry.cost);
        Some(entry)
    }

    fn take(&mut self, max_tokens: usize) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let mut tokens: usize = 0;
        while let Some((&ticket, (_, oldest))) = self.waiting.first_key_value() {
            let sum = tokens.saturating_add(oldest.cost);
            if !batch.is_empty() && sum > max_tokens {
                break;
            }
            tokens = sum;
            batch.extend(self.remove(ticket));
        }
        batch
    }
}

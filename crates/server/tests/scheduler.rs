//! The scheduler against random sequences of arrivals, departures and batches.

use std::collections::BTreeMap;
use std::time::Duration;

use danaus_server::scheduler::{Batch, Depth, Entry, Lanes, QueueLimits, Scheduler, Throughput, Tickets};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Admit(Vec<usize>),
    /// Which of the requests admitted so far, modulo their number.
    Cancel(usize),
    Batch(usize),
    ShortBatch(usize),
    Wait(u64),
}

/// Texts of up to 20 tokens are short, and overtake long ones that came up to five seconds before them.
const LANES: Lanes = Lanes { short: 20, ageing: Duration::from_secs(5) };

fn scheduler(texts: usize, tokens: usize) -> Scheduler<usize> {
    Scheduler::new(QueueLimits { texts, tokens }, LANES)
}

fn payloads(batch: Option<Batch<usize>>) -> Vec<usize> {
    batch.map_or_else(Vec::new, |batch| batch.entries.into_iter().map(|entry| entry.payload).collect())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::collection::vec(1usize..40, 1..6).prop_map(Step::Admit),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (1usize..60).prop_map(Step::Batch),
        1 => (1usize..60).prop_map(Step::ShortBatch),
        2 => (0u64..9).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

fn entries(costs: &[usize], payloads: std::ops::Range<usize>) -> Vec<Entry<usize>> {
    costs.iter().zip(payloads).map(|(&cost, payload)| Entry { cost, payload }).collect()
}

/// What a queue must do, written the obvious way: a list of texts.
#[derive(Default)]
struct Expected {
    waiting: Vec<Waiting>,
}

#[derive(Clone, Copy)]
struct Waiting {
    text: usize,
    cost: usize,
    request: usize,
    arrived: u64,
}

impl Waiting {
    fn long(&self) -> bool {
        self.cost > LANES.short
    }
}

impl Expected {
    fn depth(&self) -> Depth {
        Depth { texts: self.waiting.len(), tokens: self.waiting.iter().map(|text| text.cost).sum() }
    }

    fn next_batch(&mut self, max_tokens: usize) -> Vec<usize> {
        let oldest = |long| self.waiting.iter().find(|text| text.long() == long).map(|text| text.arrived);
        let long = match (oldest(false), oldest(true)) {
            (Some(short), Some(long)) => long + LANES.ageing.as_secs() < short,
            (short, _) => short.is_none(),
        };
        self.take(long, max_tokens)
    }

    fn take(&mut self, long: bool, max_tokens: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        let mut tokens = 0;
        for text in self.waiting.iter().filter(|text| text.long() == long) {
            tokens += text.cost;
            if !taken.is_empty() && tokens > max_tokens {
                break;
            }
            taken.push(text.text);
        }
        self.waiting.retain(|text| !taken.contains(&text.text));
        taken
    }
}

proptest! {
    /// Order kept, budget kept, nobody lost, nobody twice, no cancelled text computed, whole requests admitted or refused.
    #[test]
    fn every_admitted_text_is_batched_once_in_order_unless_cancelled(
        steps in steps(), max_texts in 1usize..12, max_tokens in 1usize..200,
    ) {
        let limits = QueueLimits { texts: max_texts, tokens: max_tokens };
        let mut scheduler = Scheduler::new(limits, LANES);
        let mut now = 0;
        let mut expected = Expected::default();
        let mut requests: Vec<Tickets> = Vec::new();
        let mut costs: BTreeMap<usize, usize> = BTreeMap::new();
        let mut names = 0;
        for step in steps {
            match step {
                Step::Admit(sizes) => {
                    let before = scheduler.depth();
                    let total: usize = sizes.iter().sum();
                    let fits = before.texts + sizes.len() <= max_texts && before.tokens + total <= max_tokens;
                    match scheduler.admit(Duration::from_secs(now), entries(&sizes, names..names + sizes.len())) {
                        Ok(tickets) => {
                            prop_assert!(fits || before.texts == 0);
                            for (name, cost) in (names..).zip(sizes) {
                                expected.waiting.push(Waiting { text: name, cost, request: requests.len(), arrived: now });
                                costs.insert(name, cost);
                                names = name + 1;
                            }
                            requests.push(tickets);
                        }
                        Err(full) => {
                            prop_assert!(!fits && before.texts > 0);
                            prop_assert_eq!((full.texts, full.tokens), (sizes.len(), total));
                            prop_assert_eq!((full.waiting, full.limits), (before, limits));
                        }
                    }
                }
                Step::Cancel(which) if !requests.is_empty() => {
                    let request = which % requests.len();
                    let before = expected.waiting.len();
                    expected.waiting.retain(|text| text.request != request);
                    prop_assert_eq!(scheduler.cancel(&requests[request]), before - expected.waiting.len());
                }
                Step::Cancel(_) => {}
                Step::Batch(budget) => {
                    let batch = payloads(scheduler.next_batch(budget));
                    let tokens: usize = batch.iter().map(|name| costs[name]).sum();
                    prop_assert!(tokens <= budget || batch.len() == 1);
                    prop_assert_eq!(batch, expected.next_batch(budget));
                }
                Step::ShortBatch(budget) => {
                    let batch = payloads(scheduler.next_short_batch(budget));
                    prop_assert_eq!(batch, expected.take(false, budget));
                }
                Step::Wait(seconds) => now += seconds,
            }
            prop_assert_eq!(scheduler.depth(), expected.depth());
        }
    }

    /// Every batch of a queue that is not empty takes something, so that it drains; each lane in order.
    #[test]
    fn a_queue_always_drains(sizes in prop::collection::vec(0usize..50, 0..40), budget in 0usize..60) {
        let mut scheduler = scheduler(1000, 10_000);
        scheduler.admit(Duration::ZERO, entries(&sizes, 0..sizes.len())).unwrap();
        let mut seen = Vec::new();
        while let Some(batch) = scheduler.next_batch(budget) {
            prop_assert!(!batch.entries.is_empty());
            prop_assert!(batch.entries.iter().all(|entry| (entry.cost > LANES.short) == batch.long));
            seen.extend(payloads(Some(batch)));
        }
        let (short, long): (Vec<_>, Vec<_>) = (0..sizes.len()).partition(|&text| sizes[text] <= LANES.short);
        prop_assert_eq!(seen, [short, long].concat());
        prop_assert_eq!(scheduler.depth(), Depth::default());
        prop_assert!(scheduler.next_short_batch(budget).is_none());
    }

    /// However many short texts come, a long one that waits is taken after those that came within the ageing.
    #[test]
    fn short_texts_never_starve_a_long_one(every in 1u64..4, budget in 1usize..60) {
        let mut scheduler = scheduler(1_000_000, usize::MAX);
        scheduler.admit(Duration::ZERO, entries(&[100], 0..1)).unwrap();
        let mut now = 0;
        let taken = (1..).find(|&name| {
            // Faster than they are taken.
            scheduler.admit(Duration::from_secs(now), entries(&[20; 5], name..name + 5)).unwrap();
            now += every;
            scheduler.next_batch(budget).is_some_and(|batch| batch.long)
        });
        // Five a step of those that came in the first five seconds, at least one a batch.
        prop_assert!(taken.unwrap() <= 5 * (5 / every as usize + 1) + 1);
    }

    /// A retry hint is always a whole second or more, and never absurd.
    #[test]
    fn a_retry_hint_is_between_a_second_and_an_hour(
        batches in prop::collection::vec((0usize..100_000, 0u64..10_000_000), 0..8), backlog in any::<usize>(),
    ) {
        let mut throughput = Throughput::default();
        for (tokens, micros) in batches {
            throughput.observe(tokens, Duration::from_micros(micros));
        }
        prop_assert!((1..=3600).contains(&throughput.seconds_for(backlog)));
    }
}

#[test]
fn a_text_over_the_budget_goes_alone() {
    let mut scheduler = scheduler(10, 1000);
    scheduler.admit(Duration::ZERO, entries(&[3, 18, 3, 4, 100, 30], 0..6)).unwrap();
    let batches: Vec<Vec<usize>> = (0..6).map(|_| payloads(scheduler.next_batch(8))).collect();
    assert_eq!(batches, [vec![0], vec![1], vec![2, 3], vec![4], vec![5], vec![]]);
}

#[test]
fn costs_that_overflow_do_not_panic() {
    let mut scheduler = scheduler(10, usize::MAX);
    scheduler.admit(Duration::MAX, entries(&[usize::MAX, usize::MAX, 1], 0..3)).unwrap();
    assert_eq!(payloads(scheduler.next_batch(usize::MAX)), [2]);
    assert_eq!(payloads(scheduler.next_batch(usize::MAX)), [0, 1]);
    assert_eq!(scheduler.depth(), Depth::default());
}

#[test]
fn the_retry_hint_follows_the_observed_rate() {
    let mut throughput = Throughput::default();
    assert_eq!(throughput.seconds_for(1_000_000), 1, "nothing observed yet");
    throughput.observe(1000, Duration::from_secs(1));
    assert_eq!(throughput.seconds_for(10_000), 10);
    assert_eq!(throughput.seconds_for(10_001), 11);
    throughput.observe(6000, Duration::from_secs(1)); // 1000 + 0.2 * 5000 = 2000 per second
    assert_eq!(throughput.seconds_for(10_000), 5);
}

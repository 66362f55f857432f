//! The scheduler against random sequences of arrivals, departures and batches.

use std::collections::BTreeMap;
use std::time::Duration;

use danaus_server::scheduler::{Depth, Entry, QueueLimits, Scheduler, Throughput, Tickets};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Admit(Vec<usize>),
    /// Which of the requests admitted so far, modulo their number.
    Cancel(usize),
    Batch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::collection::vec(1usize..40, 1..6).prop_map(Step::Admit),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (1usize..60).prop_map(Step::Batch),
    ];
    prop::collection::vec(step, 0..60)
}

fn entries(costs: &[usize], payloads: std::ops::Range<usize>) -> Vec<Entry<usize>> {
    costs.iter().zip(payloads).map(|(&cost, payload)| Entry { cost, payload }).collect()
}

/// What a queue must do, written the obvious way: a list of (text, cost, request).
#[derive(Default)]
struct Expected {
    waiting: Vec<(usize, usize, usize)>,
}

impl Expected {
    fn depth(&self) -> Depth {
        Depth { texts: self.waiting.len(), tokens: self.waiting.iter().map(|&(_, cost, _)| cost).sum() }
    }

    fn next_batch(&mut self, max_tokens: usize) -> Vec<usize> {
        let mut budget = max_tokens;
        let mut count = 0;
        for &(_, cost, _) in &self.waiting {
            if count > 0 && cost > budget {
                break;
            }
            budget = budget.saturating_sub(cost);
            count += 1;
        }
        self.waiting.drain(..count).map(|(text, _, _)| text).collect()
    }
}

proptest! {
    /// Order kept, budget kept, nobody lost, nobody twice, no cancelled text computed, whole requests admitted or refused.
    #[test]
    fn every_admitted_text_is_batched_once_in_order_unless_cancelled(
        steps in steps(), max_texts in 1usize..12, max_tokens in 1usize..200,
    ) {
        let limits = QueueLimits { texts: max_texts, tokens: max_tokens };
        let mut scheduler = Scheduler::new(limits);
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
                    match scheduler.admit(entries(&sizes, names..names + sizes.len())) {
                        Ok(tickets) => {
                            prop_assert!(fits || before.texts == 0);
                            for (name, cost) in (names..).zip(sizes) {
                                expected.waiting.push((name, cost, requests.len()));
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
                    expected.waiting.retain(|&(_, _, owner)| owner != request);
                    prop_assert_eq!(scheduler.cancel(&requests[request]), before - expected.waiting.len());
                }
                Step::Cancel(_) => {}
                Step::Batch(budget) => {
                    let batch: Vec<usize> = scheduler.next_batch(budget).iter().map(|e| e.payload).collect();
                    let tokens: usize = batch.iter().map(|name| costs[name]).sum();
                    prop_assert!(tokens <= budget || batch.len() == 1);
                    prop_assert_eq!(batch, expected.next_batch(budget));
                }
            }
            prop_assert_eq!(scheduler.depth(), expected.depth());
        }
    }

    /// Every batch of a queue that is not empty takes something, so that it drains.
    #[test]
    fn a_queue_always_drains(sizes in prop::collection::vec(0usize..50, 0..40), budget in 0usize..60) {
        let mut scheduler = Scheduler::new(QueueLimits { texts: 1000, tokens: 10_000 });
        scheduler.admit(entries(&sizes, 0..sizes.len())).unwrap();
        let mut seen = Vec::new();
        while scheduler.depth().texts > 0 {
            let batch = scheduler.next_batch(budget);
            prop_assert!(!batch.is_empty());
            seen.extend(batch.into_iter().map(|entry| entry.payload));
        }
        prop_assert_eq!(seen, (0..sizes.len()).collect::<Vec<_>>());
        prop_assert_eq!(scheduler.depth(), Depth::default());
        prop_assert!(scheduler.next_batch(budget).is_empty());
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
    let mut scheduler = Scheduler::new(QueueLimits { texts: 10, tokens: 1000 });
    scheduler.admit(entries(&[3, 100, 3, 4], 0..4)).unwrap();
    let batches: Vec<Vec<usize>> =
        (0..4).map(|_| scheduler.next_batch(8).into_iter().map(|entry| entry.payload).collect()).collect();
    assert_eq!(batches, [vec![0], vec![1], vec![2, 3], vec![]]);
}

#[test]
fn costs_that_overflow_do_not_panic() {
    let mut scheduler = Scheduler::new(QueueLimits { texts: 10, tokens: usize::MAX });
    scheduler.admit(entries(&[usize::MAX, usize::MAX], 0..2)).unwrap();
    assert_eq!(scheduler.next_batch(usize::MAX).len(), 2);
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

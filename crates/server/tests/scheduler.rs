//! The scheduler against random sequences of arrivals, departures and batches.

use std::collections::BTreeMap;
use std::time::Duration;

use danaus_server::scheduler::{
    Batch, Depth, Entry, Lanes, Load, QueueLimits, Refusal, Scheduler, Speed, Ticket,
};
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
const LANES: Lanes = Lanes { short: 20, ageing: Duration::from_secs(5), steps: 10 };

fn limits(texts: usize, tokens: usize) -> QueueLimits {
    QueueLimits { texts, tokens, wait: Duration::MAX }
}

fn scheduler(texts: usize, tokens: usize) -> Scheduler<usize> {
    Scheduler::new(limits(texts, tokens), LANES, Speed::default())
}

/// A machine that takes a second for ten tokens.
fn ten_tokens_a_second() -> Speed {
    let mut speed = Speed::default();
    speed.observe(&Load::from_iter([10]), SECOND);
    speed
}

const SECOND: Duration = Duration::from_secs(1);

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
        let limits = limits(max_texts, max_tokens);
        let mut scheduler = Scheduler::new(limits, LANES, Speed::default());
        let mut now = 0;
        let mut expected = Expected::default();
        let mut requests: Vec<Vec<Ticket>> = Vec::new();
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
                        Err(refusal) => {
                            prop_assert!(!fits && before.texts > 0);
                            let full = Refusal::Full {
                                texts: sizes.len(), tokens: total, waiting: before, limits, retry_after: Duration::ZERO,
                            };
                            prop_assert_eq!(refusal, full);
                        }
                    }
                }
                Step::Cancel(which) if !requests.is_empty() => {
                    let request = which % requests.len();
                    let before = expected.waiting.len();
                    expected.waiting.retain(|text| text.request != request);
                    let cancelled = requests[request].iter().filter(|&&ticket| scheduler.cancel(ticket)).count();
                    prop_assert_eq!(cancelled, before - expected.waiting.len());
                }
                Step::Cancel(_) => {}
                Step::Batch(budget) => {
                    let batch = payloads(scheduler.next_batch(Duration::from_secs(now), budget));
                    let tokens: usize = batch.iter().map(|name| costs[name]).sum();
                    prop_assert!(tokens <= budget || batch.len() == 1);
                    prop_assert_eq!(batch, expected.next_batch(budget));
                }
                Step::ShortBatch(budget) => {
                    let batch = payloads(scheduler.next_short_batch(Duration::from_secs(now), budget));
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
        while let Some(batch) = scheduler.next_batch(Duration::ZERO, budget) {
            prop_assert!(!batch.entries.is_empty());
            prop_assert!(batch.entries.iter().all(|entry| (entry.cost > LANES.short) == batch.long));
            seen.extend(payloads(Some(batch)));
        }
        let (short, long): (Vec<_>, Vec<_>) = (0..sizes.len()).partition(|&text| sizes[text] <= LANES.short);
        prop_assert_eq!(seen, [short, long].concat());
        prop_assert_eq!(scheduler.depth(), Depth::default());
        prop_assert!(scheduler.next_short_batch(Duration::ZERO, budget).is_none());
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
            scheduler.next_batch(Duration::from_secs(now), budget).is_some_and(|batch| batch.long)
        });
        // Five a step of those that came in the first five seconds, at least one a batch.
        prop_assert!(taken.unwrap() <= 5 * (5 / every as usize + 1) + 1);
    }

    /// Whatever was seen, estimates are finite and grow with the work, and a retry hint is whole seconds, never absurd.
    #[test]
    fn estimates_are_sane(
        batches in prop::collection::vec((prop::collection::vec(0usize..100_000, 0..4), 0u64..10_000_000), 0..8),
        texts in prop::collection::vec(0usize..1_000_000, 1..9), wait in any::<u64>(),
    ) {
        let mut speed = Speed::default();
        for (sizes, micros) in batches {
            speed.observe(&sizes.into_iter().collect(), Duration::from_micros(micros));
        }
        let [all, fewer] = [&texts[..], &texts[1..]].map(|texts| speed.time_for(&texts.iter().copied().collect()));
        prop_assert!(fewer <= all && all < Duration::MAX);
        let late = Refusal::Late { wait: Duration::from_millis(wait), limit: SECOND };
        prop_assert!((1..=3600).contains(&late.retry_after()));
    }

    /// From batches of a single size or of mixed ones, each size's own time is learned.
    #[test]
    fn the_speed_of_each_size_is_learned(
        truth in prop::array::uniform3(1e-5..1e-2f64), kinds in prop::collection::vec(0usize..4, 300),
    ) {
        let sizes = [16, 500, 30_000];
        let time = |texts: &[usize]| {
            let of = |&size: &usize| size as f64 * truth[sizes.iter().position(|&other| other == size).unwrap()];
            Duration::from_secs_f64(texts.iter().map(of).sum())
        };
        let mut speed = Speed::default();
        for kind in (0..3).chain(kinds) {
            let texts = if kind == 3 { vec![16, 500] } else { vec![sizes[kind]] };
            speed.observe(&texts.iter().copied().collect(), time(&texts));
        }
        for size in sizes {
            let (seen, wanted) = (speed.time_for(&Load::from_iter([size])), time(&[size]));
            prop_assert!(seen < wanted.mul_f64(1.1) && seen > wanted.mul_f64(0.9), "{size}: {seen:?} {wanted:?}");
        }
    }

    /// A request is let in where what is before it, at the speed that was seen, takes no longer than the limit; its texts have
    /// their turn in that time if all goes as foreseen.
    #[test]
    fn what_is_let_in_has_its_turn_in_time(requests in prop::collection::vec((1usize..60, 0u64..4), 1..30)) {
        let limit = 12 * SECOND;
        let limits = QueueLimits { wait: limit, ..limits(1000, 100_000) };
        let mut scheduler = Scheduler::new(limits, LANES, ten_tokens_a_second());
        let (mut now, mut free) = (Duration::ZERO, Duration::ZERO);
        let mut running: Option<bool> = None;
        let mut arrived = BTreeMap::new();
        let mut names = 0;
        let finish = Duration::from_secs(1_000_000);
        for (cost, pause) in requests.into_iter().map(|(cost, pause)| (cost, Duration::from_secs(pause))).chain([(1, finish)]) {
            // What the machine does until the next request comes: one batch after another, none between steps.
            let until = now + pause;
            while free <= until {
                if let Some(long) = running.take() {
                    prop_assert!(scheduler.finished(free, long, true) > Duration::ZERO);
                }
                let Some(batch) = scheduler.next_batch(free, 1) else { break };
                for entry in &batch.entries {
                    let waited = free - arrived[&entry.payload];
                    // A text can be overtaken by as much as short ones that came in the ageing take.
                    let overtaken = if batch.long { 120 * SECOND } else { 6 * SECOND };
                    prop_assert!(waited <= limit + overtaken, "{waited:?}");
                }
                running = Some(batch.long);
                free += batch.entries.iter().map(|entry| SECOND * entry.cost as u32 / 10).sum::<Duration>();
            }
            now = until;
            free = free.max(now);
            let estimate = scheduler.estimate(now, &[cost]);
            match scheduler.admit(now, vec![Entry { cost, payload: names }]) {
                Ok(_) => {
                    prop_assert!(estimate.wait <= limit && estimate.refusal.is_none());
                    arrived.insert(names, now);
                    names += 1;
                }
                Err(refusal) => {
                    prop_assert_eq!(estimate.refusal, Some(refusal));
                    prop_assert_eq!(refusal, Refusal::Late { wait: estimate.wait, limit });
                    prop_assert!(estimate.wait > limit);
                }
            }
        }
    }
}

/// The first batch of a length makes its filters.
#[test]
fn one_slow_batch_is_not_taken_for_the_rule() {
    let mut speed = ten_tokens_a_second();
    let (load, usual) = (Load::from_iter([2000]), 200 * SECOND);
    speed.observe(&load, 10 * usual);
    assert!(speed.time_for(&load) < 4 * usual, "{:?}", speed.time_for(&load));
    (0..5).for_each(|_| speed.observe(&load, usual));
    assert!(speed.time_for(&load) < usual.mul_f64(1.6), "{:?}", speed.time_for(&load));
}

#[test]
fn the_wait_is_what_is_before_a_request() {
    let mut scheduler = Scheduler::new(limits(100, 10_000), LANES, ten_tokens_a_second());
    let wait = |scheduler: &Scheduler<usize>, now, cost| scheduler.estimate(now * SECOND, &[cost]).wait;
    assert_eq!(wait(&scheduler, 0, 10), Duration::ZERO);
    // A long text of ten seconds, one step of which a short text waits for.
    scheduler.admit(Duration::ZERO, entries(&[100], 0..1)).unwrap();
    assert_eq!((wait(&scheduler, 0, 10), wait(&scheduler, 0, 100)), (Duration::ZERO, 10 * SECOND));
    scheduler.next_batch(Duration::ZERO, 1000).unwrap();
    assert_eq!((wait(&scheduler, 4, 10), wait(&scheduler, 4, 100)), (SECOND, 6 * SECOND));
    // Two seconds of short texts, which take four while the long one has the other half of the machine.
    scheduler.admit(4 * SECOND, entries(&[10, 10], 1..3)).unwrap();
    assert_eq!((wait(&scheduler, 4, 10), wait(&scheduler, 4, 100)), (5 * SECOND, 8 * SECOND));
    scheduler.next_short_batch(4 * SECOND, 10).unwrap();
    assert_eq!(wait(&scheduler, 4, 100), 8 * SECOND);
    scheduler.finished(5 * SECOND, false, true);
    assert_eq!(wait(&scheduler, 5, 100), 7 * SECOND, "the long text's time stood still meanwhile");
}

#[test]
fn a_request_that_comes_too_late_is_refused_and_told_when_it_would_not() {
    let limits = QueueLimits { wait: 5 * SECOND, ..limits(100, 10_000) };
    let mut scheduler = Scheduler::new(limits, LANES, ten_tokens_a_second());
    scheduler.admit(Duration::ZERO, entries(&[10; 7], 0..7)).unwrap();
    let refusal = scheduler.admit(Duration::ZERO, entries(&[10], 7..8)).unwrap_err();
    assert_eq!(refusal, Refusal::Late { wait: 7 * SECOND, limit: 5 * SECOND });
    assert_eq!(refusal.retry_after(), 2);
    assert_eq!(refusal.to_string(), "what is before this request takes about 7.0 s, over the limit of 5 s");
    scheduler.next_batch(Duration::ZERO, 20).unwrap();
    scheduler.finished(2 * SECOND, false, true);
    scheduler.admit(2 * SECOND, entries(&[10], 7..8)).unwrap();
}

#[test]
fn a_text_over_the_budget_goes_alone() {
    let mut scheduler = scheduler(10, 1000);
    scheduler.admit(Duration::ZERO, entries(&[3, 18, 3, 4, 100, 30], 0..6)).unwrap();
    let batches: Vec<Vec<usize>> =
        (0..6).map(|_| payloads(scheduler.next_batch(Duration::ZERO, 8))).collect();
    assert_eq!(batches, [vec![0], vec![1], vec![2, 3], vec![4], vec![5], vec![]]);
}

#[test]
fn costs_that_overflow_do_not_panic() {
    let mut scheduler = scheduler(10, usize::MAX);
    scheduler.admit(Duration::MAX, entries(&[usize::MAX, usize::MAX, 1], 0..3)).unwrap();
    assert_eq!(payloads(scheduler.next_batch(Duration::MAX, usize::MAX)), [2]);
    assert_eq!(payloads(scheduler.next_batch(Duration::MAX, usize::MAX)), [0, 1]);
    assert_eq!(scheduler.depth(), Depth::default());
}

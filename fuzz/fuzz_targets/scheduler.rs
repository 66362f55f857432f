//! Sequences of arrivals, departures and batches, against what must hold whatever the order: nobody is lost, computed twice or
//! computed after leaving; each lane keeps its order and each batch its budget; what waits is counted right; everything drains.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::Arbitrary;
use danaus_server::scheduler::{Batch, Depth, Entry, Lanes, QueueLimits, Scheduler, Speed, Ticket};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Run {
    short: u8,
    ageing: u8,
    steps_of_long: u8,
    limits: (u8, u16, u16),
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Admit(Vec<Cost>),
    /// Which of the requests admitted so far, modulo their number.
    Cancel(u8),
    Batch(Cost),
    ShortBatch(Cost),
    /// The last batch of long texts, or of short ones, has ended; whether it was computed to its end.
    Finished(bool, bool),
    Wait(u32),
}

/// Mostly small, sometimes as large as it gets.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Cost {
    Small(u8),
    Large(u32),
}

impl Cost {
    fn tokens(self) -> usize {
        match self {
            Cost::Small(tokens) => tokens.into(),
            Cost::Large(tokens) => tokens as usize,
        }
    }
}

/// What waits, by name: names count up, so that their order is that of arrival.
struct Waiting {
    texts: BTreeMap<usize, Text>,
    short: usize,
    computed: usize,
}

struct Text {
    cost: usize,
    request: usize,
}

impl Waiting {
    fn depth(&self) -> Depth {
        let tokens = self.texts.values().fold(0, |sum: usize, text| sum.saturating_add(text.cost));
        Depth { texts: self.texts.len(), tokens }
    }

    /// Takes a batch's texts out, and looks whether it may be one.
    fn take(&mut self, batch: &Batch<usize>, budget: usize) {
        let is_long = |text: &Text| text.cost > self.short;
        let lane = self.texts.iter().filter(|(_, text)| is_long(text) == batch.long).map(|(name, _)| *name);
        let oldest: Vec<usize> = lane.take(batch.entries.len()).collect();
        let names: Vec<usize> = batch.entries.iter().map(|entry| entry.payload).collect();
        assert!(!names.is_empty(), "an empty batch");
        assert_eq!(names, oldest, "the oldest of its lane, in order");
        let taken: Vec<Text> = names.iter().filter_map(|name| self.texts.remove(name)).collect();
        let tokens = taken.iter().fold(0, |sum: usize, text| sum.saturating_add(text.cost));
        assert!(tokens <= budget || taken.len() == 1, "{tokens} tokens of {budget}");
        self.computed += taken.len();
    }
}

fuzz_target!(|run: Run| {
    let (texts, tokens, wait) = run.limits;
    let limits =
        QueueLimits { texts: texts.into(), tokens: tokens.into(), wait: Duration::from_millis(wait.into()) };
    let ageing = Duration::from_millis(run.ageing.into());
    let lanes = Lanes { short: run.short.into(), ageing, steps: run.steps_of_long.into() };
    let mut scheduler = Scheduler::new(limits, lanes, Speed::default());
    let mut waiting = Waiting { texts: BTreeMap::new(), short: lanes.short, computed: 0 };
    let mut running = [false; 2];
    let mut requests: Vec<Vec<Ticket>> = Vec::new();
    let (mut now, mut names, mut cancelled) = (Duration::ZERO, 0, 0);
    for step in run.steps {
        match step {
            Step::Admit(costs) => {
                let costs: Vec<usize> = costs.into_iter().map(Cost::tokens).collect();
                let estimate = scheduler.estimate(now, &costs);
                let entries = costs.iter().zip(names..).map(|(&cost, payload)| Entry { cost, payload });
                match scheduler.admit(now, entries.collect()) {
                    Ok(tickets) => {
                        assert_eq!(estimate.refusal, None);
                        assert_eq!(tickets.len(), costs.len());
                        for cost in costs {
                            waiting.texts.insert(names, Text { cost, request: requests.len() });
                            names += 1;
                        }
                        requests.push(tickets);
                    }
                    Err(refusal) => {
                        assert_eq!(estimate.refusal, Some(refusal));
                        assert!((1..=3600).contains(&refusal.retry_after()));
                        let idle = waiting.texts.is_empty() && running == [false; 2];
                        assert!(!idle, "a machine that does nothing takes any request");
                    }
                }
            }
            Step::Cancel(which) if !requests.is_empty() => {
                let request = usize::from(which) % requests.len();
                let before = waiting.texts.len();
                waiting.texts.retain(|_, text| text.request != request);
                let left = before - waiting.texts.len();
                assert_eq!(
                    requests[request].iter().filter(|&&ticket| scheduler.cancel(ticket)).count(),
                    left
                );
                cancelled += left;
            }
            Step::Cancel(_) => {}
            Step::Batch(budget) => match scheduler.next_batch(now, budget.tokens()) {
                Some(batch) => {
                    running[usize::from(batch.long)] = true;
                    waiting.take(&batch, budget.tokens());
                }
                None => assert!(waiting.texts.is_empty(), "something waits"),
            },
            Step::ShortBatch(budget) => match scheduler.next_short_batch(now, budget.tokens()) {
                Some(batch) => {
                    assert!(!batch.long);
                    running[0] = true;
                    waiting.take(&batch, budget.tokens());
                }
                None => assert!(waiting.texts.values().all(|text| text.cost > lanes.short)),
            },
            Step::Finished(long, computed) => {
                let took = scheduler.finished(now, long, computed);
                let was_running = std::mem::take(&mut running[usize::from(long)]);
                assert!(took <= now && (was_running || took.is_zero()));
            }
            Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds.into()),
        }
        assert_eq!(scheduler.depth(), waiting.depth());
    }
    while let Some(batch) = scheduler.next_batch(now, usize::MAX) {
        waiting.take(&batch, usize::MAX);
    }
    assert_eq!((waiting.texts.len(), scheduler.depth()), (0, Depth::default()));
    assert_eq!(waiting.computed + cancelled, names, "each text is computed once, or cancelled");
});

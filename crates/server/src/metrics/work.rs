//! What waits for the model, and what it computes.

use std::time::Duration;

use prometheus::{Counter, Error, Gauge, Histogram, IntCounter, IntGauge};

use super::Waiting;
use super::register::{Register, powers_of_two, request_buckets};

/// How large a batch was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchSize {
    pub(crate) texts: usize,
    pub(crate) tokens: usize,
    /// Most tokens of a batch of several texts.
    pub(crate) budget: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Work {
    texts: IntCounter,
    tokens: IntCounter,
    truncated: IntCounter,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    batch_fill: Histogram,
    failed_batches: IntCounter,
    compute_seconds: Counter,
    queue_seconds: Histogram,
    queue_texts: IntGauge,
    queue_tokens: IntGauge,
    queue_oldest: Gauge,
    backlog: Gauge,
}

impl Work {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let fill =
            "Share of the token budget that a batch uses; a text longer than the budget goes alone, above 1.";
        // Tenths, and for long texts powers of two.
        let tenths = (1..=10).map(|tenths| f64::from(tenths) / 10.0);
        let fill_buckets = tenths.chain([2.0, 4.0, 8.0, 16.0]).collect();
        let texts = powers_of_two(13)?;
        let tokens = powers_of_two(19)?;
        let waited = "Time a request waited for its first batch.";
        let failed = "Batches that the model failed on.";
        let backlog = "In how long all that waits or is computed will be done, at the speed that was seen.";
        let oldest = "For how long the text that waits longest has waited; 0 where none waits.";
        Ok(Self {
            texts: register.counter("danaus_texts_total", "Texts embedded.")?,
            tokens: register.counter("danaus_tokens_total", "Tokens computed, padding included.")?,
            truncated: register
                .counter("danaus_truncated_texts_total", "Texts cut to the model's length.")?,
            batch_texts: register.histogram("danaus_batch_texts", "Texts in a batch.", texts)?,
            batch_tokens: register.histogram("danaus_batch_tokens", "Tokens in a batch.", tokens)?,
            batch_fill: register.histogram("danaus_batch_fill_ratio", fill, fill_buckets)?,
            failed_batches: register.counter("danaus_failed_batches_total", failed)?,
            compute_seconds: register
                .seconds("danaus_compute_seconds_total", "Time the model spent computing.")?,
            queue_seconds: register.histogram("danaus_queue_wait_seconds", waited, request_buckets()?)?,
            queue_texts: register.gauge("danaus_queue_texts", "Texts that wait for the model.")?,
            queue_tokens: register.gauge("danaus_queue_tokens", "Tokens that wait for the model.")?,
            queue_oldest: register.real_gauge("danaus_queue_oldest_age_seconds", oldest)?,
            backlog: register.real_gauge("danaus_queue_seconds", backlog)?,
        })
    }

    pub(super) fn batch_computed(&self, size: BatchSize, elapsed: Duration) {
        self.texts.inc_by(size.texts as u64);
        self.tokens.inc_by(size.tokens as u64);
        self.batch_texts.observe(size.texts as f64);
        self.batch_tokens.observe(size.tokens as f64);
        self.batch_fill.observe(size.tokens as f64 / size.budget as f64);
        self.compute_seconds.inc_by(elapsed.as_secs_f64());
    }

    pub(super) fn batch_failed(&self) {
        self.failed_batches.inc();
    }

    pub(super) fn queued_for(&self, waited: Duration) {
        self.queue_seconds.observe(waited.as_secs_f64());
    }

    pub(super) fn truncated(&self, texts: usize) {
        self.truncated.inc_by(texts as u64);
    }

    pub(super) fn waiting(&self, Waiting { depth, oldest, backlog }: Waiting) {
        self.queue_texts.set(i64::try_from(depth.texts).unwrap_or(i64::MAX));
        self.queue_tokens.set(i64::try_from(depth.tokens).unwrap_or(i64::MAX));
        self.queue_oldest.set(oldest.as_secs_f64());
        self.backlog.set(backlog.as_secs_f64());
    }
}

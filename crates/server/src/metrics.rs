//! What `/metrics` tells.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

use crate::scheduler::Depth;

/// The server's own counters; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGauge,
    texts: IntCounter,
    tokens: IntCounter,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    failed_batches: IntCounter,
    compute_seconds: Counter,
    queue_seconds: Histogram,
    queue_texts: IntGauge,
    queue_tokens: IntGauge,
    model_loaded: IntGauge,
    cache_texts: IntCounterVec,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    shared_texts: IntCounter,
}

/// Which request a measurement is about. Routes are patterns, so that the number of series stays bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLabels<'a> {
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: &'a str,
}

const REQUEST_LABELS: [&str; 3] = ["method", "route", "status"];

impl Metrics {
    pub(crate) fn new() -> Self {
        build().expect("names and labels of the metrics are constants, valid and distinct")
    }

    /// Counts a finished request.
    pub(crate) fn request_finished(&self, labels: RequestLabels<'_>, elapsed: Duration) {
        let values = [labels.method, labels.route, labels.status];
        self.requests.with_label_values(&values).inc();
        self.request_seconds.with_label_values(&values).observe(elapsed.as_secs_f64());
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(crate) fn batch_computed(&self, texts: usize, tokens: usize, elapsed: Duration) {
        self.texts.inc_by(texts as u64);
        self.tokens.inc_by(tokens as u64);
        self.batch_texts.observe(texts as f64);
        self.batch_tokens.observe(tokens as f64);
        self.compute_seconds.inc_by(elapsed.as_secs_f64());
    }

    pub(crate) fn batch_failed(&self) {
        self.failed_batches.inc();
    }

    pub(crate) fn queued_for(&self, waited: Duration) {
        self.queue_seconds.observe(waited.as_secs_f64());
    }

    /// Counts a request's texts whose vectors were in the cache, and the others.
    pub(crate) fn cache_asked(&self, hits: usize, misses: usize) {
        self.cache_texts.with_label_values(&["hit"]).inc_by(hits as u64);
        self.cache_texts.with_label_values(&["miss"]).inc_by(misses as u64);
    }

    /// Counts texts that were not computed because an equal one just was.
    pub(crate) fn texts_shared(&self, texts: usize) {
        self.shared_texts.inc_by(texts as u64);
    }

    pub(crate) fn model_loaded(&self) {
        self.model_loaded.set(1);
    }

    /// Everything in the Prometheus text format, with what waits now, and the cache's vectors and bytes.
    pub(crate) fn render(&self, queue: Depth, cached: (u64, u64)) -> Result<String, prometheus::Error> {
        self.cache_entries.set(i64::try_from(cached.0).unwrap_or(i64::MAX));
        self.cache_bytes.set(i64::try_from(cached.1).unwrap_or(i64::MAX));
        self.queue_texts.set(i64::try_from(queue.texts).unwrap_or(i64::MAX));
        self.queue_tokens.set(i64::try_from(queue.tokens).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn build() -> Result<Metrics, prometheus::Error> {
    let registry = Registry::new();
    let r = &registry;
    // From half a millisecond (an error) to a quarter of an hour (a large batch of long texts).
    let seconds = exponential_buckets(0.0005, 2.0, 21)?;
    let powers_of_two = |count| exponential_buckets(1.0, 2.0, count);
    let request_seconds =
        HistogramOpts::new("danaus_http_request_duration_seconds", "Time to answer a request.")
            .buckets(seconds.clone());
    let metrics = Metrics {
        requests: add(
            r,
            IntCounterVec::new(
                Opts::new(
                    "danaus_http_requests_total",
                    "Requests answered; status 499: the client left first.",
                ),
                &REQUEST_LABELS,
            ),
        )?,
        request_seconds: add(r, HistogramVec::new(request_seconds, &REQUEST_LABELS))?,
        in_flight: gauge(r, "danaus_http_requests_in_flight", "Requests being answered.")?,
        texts: add(r, IntCounter::new("danaus_texts_total", "Texts embedded."))?,
        tokens: add(r, IntCounter::new("danaus_tokens_total", "Tokens computed, padding included."))?,
        batch_texts: histogram(r, "danaus_batch_texts", "Texts in a batch.", powers_of_two(13)?)?,
        batch_tokens: histogram(r, "danaus_batch_tokens", "Tokens in a batch.", powers_of_two(19)?)?,
        failed_batches: add(
            r,
            IntCounter::new("danaus_failed_batches_total", "Batches that the model failed on."),
        )?,
        compute_seconds: add(
            r,
            Counter::new("danaus_compute_seconds_total", "Time the model spent computing."),
        )?,
        queue_seconds: histogram(
            r,
            "danaus_queue_wait_seconds",
            "Time a request waited for its first batch.",
            seconds,
        )?,
        queue_texts: gauge(r, "danaus_queue_texts", "Texts that wait for the model.")?,
        queue_tokens: gauge(r, "danaus_queue_tokens", "Tokens that wait for the model.")?,
        model_loaded: gauge(r, "danaus_model_loaded", "1 when the model is loaded, else 0.")?,
        cache_texts: add(
            r,
            IntCounterVec::new(
                Opts::new(
                    "danaus_cache_texts_total",
                    "Texts looked up in the cache, by result: hit or miss.",
                ),
                &["result"],
            ),
        )?,
        cache_entries: gauge(r, "danaus_cache_entries", "Vectors in the cache.")?,
        cache_bytes: gauge(r, "danaus_cache_bytes", "What the cache's vectors take.")?,
        shared_texts: add(
            r,
            IntCounter::new(
                "danaus_shared_texts_total",
                "Texts not computed because an equal one was on its way.",
            ),
        )?,
        registry: registry.clone(),
    };
    build_info(r)?;
    Ok(metrics)
}

fn build_info(registry: &Registry) -> Result<(), prometheus::Error> {
    let version = Opts::new("danaus_build_info", "The running version.");
    let info = add(registry, IntGaugeVec::new(version, &["version"]))?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    add(registry, IntGauge::new(name, help))
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> Result<Histogram, prometheus::Error> {
    add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

//! Metrics that a registry knows.

use prometheus::core::Collector;
use prometheus::{
    Counter, Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, exponential_buckets,
};

/// Makes metrics and registers them.
#[derive(Clone, Copy)]
pub(super) struct Register<'a>(pub(super) &'a Registry);

impl Register<'_> {
    pub(super) fn add<C: Collector + Clone + 'static>(self, metric: Result<C, Error>) -> Result<C, Error> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn counter(self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn counters(self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A counter of seconds.
    pub(super) fn seconds(self, name: &str, help: &str) -> Result<Counter, Error> {
        self.add(Counter::new(name, help))
    }

    pub(super) fn gauge(self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add(IntGauge::new(name, help))
    }

    /// A gauge whose value need not be whole.
    pub(super) fn real_gauge(self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add(Gauge::new(name, help))
    }

    /// A gauge that is 1 and says something by its labels.
    pub(super) fn info(self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histogram(self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    pub(super) fn histograms(
        self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> Result<HistogramVec, Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

/// From half a millisecond (an error) to a quarter of an hour (a large batch of long texts).
pub(super) fn request_buckets() -> Result<Vec<f64>, Error> {
    exponential_buckets(0.0005, 2.0, 21)
}

/// 1, 2, 4 and so on, `count` of them.
pub(super) fn powers_of_two(count: usize) -> Result<Vec<f64>, Error> {
    exponential_buckets(1.0, 2.0, count)
}

//! Requests, whatever they ask for.

use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounterVec, IntGauge};

use super::register::{Register, request_buckets};
use crate::error::ErrorKind;

/// Which request a measurement is about. Routes are patterns, so that the number of series stays bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLabels<'a> {
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: &'a str,
    /// Why it got an error instead of an answer.
    pub(crate) reason: Option<ErrorKind>,
}

const LABELS: [&str; 3] = ["method", "route", "status"];

#[derive(Debug, Clone)]
pub(super) struct Requests {
    answered: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    rejected: IntCounterVec,
}

impl Requests {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let answered = "Requests answered; status 499: the client left first.";
        let seconds = "Time to answer a request.";
        let rejected =
            "Requests answered with an error, by its code; those of overload by what there is too much of.";
        Ok(Self {
            answered: register.counters("danaus_http_requests_total", answered, &LABELS)?,
            seconds: register.histograms(
                "danaus_http_request_duration_seconds",
                seconds,
                request_buckets()?,
                &LABELS,
            )?,
            in_flight: register.gauge("danaus_http_requests_in_flight", "Requests being answered.")?,
            rejected: register.counters("danaus_requests_rejected_total", rejected, &["reason"])?,
        })
    }

    pub(super) fn finished(&self, labels: RequestLabels<'_>, elapsed: Duration) {
        let values = [labels.method, labels.route, labels.status];
        self.answered.with_label_values(&values).inc();
        self.seconds.with_label_values(&values).observe(elapsed.as_secs_f64());
        if let Some(reason) = labels.reason {
            self.rejected.with_label_values(&[reason.reason()]).inc();
        }
    }

    pub(super) fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
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

//! Where requests spend their time.

use std::time::Duration;

use prometheus::{Error, HistogramVec, exponential_buckets};

use super::register::Register;

/// A part of a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its body arrives and is parsed.
    Read,
    /// Texts become tokens.
    Tokenise,
    /// Its texts wait for the model, until the first batch that has any of them begins.
    Queue,
    /// The model computes, until the last batch that has any of them ends.
    Compute,
    /// Vectors are shortened and scaled.
    Finish,
    /// The answer is written down.
    Respond,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Tokenise => "tokenise",
            Self::Queue => "queue",
            Self::Compute => "compute",
            Self::Finish => "finish",
            Self::Respond => "respond",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Stages(HistogramVec);

impl Stages {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        // From a tenth of a millisecond (a short text's tokens) to a quarter of an hour.
        let buckets = exponential_buckets(0.0001, 2.0, 24)?;
        let help = "Time that requests spent in a stage of their way.";
        Ok(Self(register.histograms("danaus_stage_duration_seconds", help, buckets, &["stage"])?))
    }

    pub(super) fn finished(&self, stage: Stage, elapsed: Duration) {
        self.0.with_label_values(&[stage.name()]).observe(elapsed.as_secs_f64());
    }
}

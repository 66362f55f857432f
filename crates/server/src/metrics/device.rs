//! Whether a GPU does its work.

use std::sync::{Arc, Mutex, PoisonError};

use danaus_engine::Rechecks;
use prometheus::{Error, IntCounter, IntGauge};

use super::register::Register;

#[derive(Debug, Clone)]
pub(super) struct Device {
    demoted: IntGauge,
    agreed: IntCounter,
    differed: IntCounter,
    /// Held while totals are taken over: whoever does so meanwhile would add the same answers again.
    taking_over: Arc<Mutex<()>>,
}

impl Device {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let demoted = "1 when a GPU was given up and the CPU computes in its place, else 0.";
        let rechecks = "Answers of the GPU that were computed again on the CPU, by whether they agreed.";
        let rechecks = register.counters("danaus_device_rechecks_total", rechecks, &["result"])?;
        Ok(Self {
            demoted: register.gauge("danaus_device_demoted", demoted)?,
            agreed: rechecks.with_label_values(&["agreed"]),
            differed: rechecks.with_label_values(&["differed"]),
            taking_over: Arc::default(),
        })
    }

    pub(super) fn present(&self, demoted: bool, Rechecks { agreed, differed }: Rechecks) {
        let _one = self.taking_over.lock().unwrap_or_else(PoisonError::into_inner);
        self.demoted.set(demoted.into());
        for (counter, total) in [(&self.agreed, agreed), (&self.differed, differed)] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}

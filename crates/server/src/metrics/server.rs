//! What runs: version, model, process.

use prometheus::{Error, IntGauge, IntGaugeVec};

use super::register::Register;
use crate::service::Service;

#[derive(Debug, Clone)]
pub(super) struct Server {
    model_loaded: IntGauge,
    model: IntGaugeVec,
    inflight_bytes: IntGauge,
}

/// Labels of the model. Empty where it has none, as a revision has a model that is not from the hub.
const MODEL: [&str; 6] = ["model", "revision", "dtype", "device", "instruction_set", "padding"];

impl Server {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let build = register.info("danaus_build_info", "The running version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        process(register)?;
        let held = "Bytes of requests and of their answers that are held.";
        Ok(Self {
            inflight_bytes: register.gauge("danaus_inflight_bytes", held)?,
            model_loaded: register.gauge("danaus_model_loaded", "1 when the model is loaded, else 0.")?,
            model: register.info("danaus_model_info", "The loaded model and how it computes.", &MODEL)?,
        })
    }

    pub(super) fn inflight(&self, bytes: usize) {
        self.inflight_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn model_loaded(&self, service: &Service) {
        let (model, computing) = (&service.model, service.backend.info());
        let values: [&str; MODEL.len()] = [
            &model.id,
            model.revision.as_deref().unwrap_or_default(),
            computing.dtype,
            computing.device,
            computing.instruction_set,
            &service.padding.to_string(),
        ];
        self.model.with_label_values(&values).set(1);
        self.model_loaded.set(1);
    }
}

/// Memory, processor time, threads, open files and start, as the kernel counts them.
#[cfg(target_os = "linux")]
fn process(register: Register<'_>) -> Result<(), Error> {
    register.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
}

/// Elsewhere the library has no collector.
#[cfg(not(target_os = "linux"))]
fn process(_: Register<'_>) -> Result<(), Error> {
    Ok(())
}

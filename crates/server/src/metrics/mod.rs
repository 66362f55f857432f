//! What `/metrics` tells: a group of measurements a file, each registered by itself.

mod connections;
mod device;
mod padding;
mod register;
mod requests;
mod server;
mod sharing;
mod stages;
mod work;

use std::time::{Duration, Instant};

use danaus_engine::padding::Progress;
use danaus_engine::{Padding, Rechecks};
use prometheus::{Registry, TextEncoder};

use crate::cache::CacheSize;
use crate::scheduler::Depth;
use crate::service::Service;
use crate::traces;
use connections::Connections;
use device::Device;
use padding::Paddings;
use register::Register;
use requests::Requests;
use server::Server;
use sharing::Sharing;
use stages::Stages;
use work::Work;

pub(crate) use connections::RefusedConnection;
pub(crate) use requests::{InFlight, RequestLabels};
pub(crate) use stages::Stage;
pub(crate) use work::BatchSize;

/// The server's own measurements; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Requests,
    connections: Connections,
    stages: Stages,
    work: Work,
    sharing: Sharing,
    server: Server,
    device: Device,
    paddings: Paddings,
}

/// What waits for the model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waiting {
    pub(crate) depth: Depth,
    /// For how long the text that came first has waited; zero where none waits.
    pub(crate) oldest: Duration,
    /// In how long all that is here will have been computed, at the speed that was seen.
    pub(crate) backlog: Duration,
}

/// What is not counted but looked up when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Present {
    pub(crate) waiting: Waiting,
    pub(crate) cached: CacheSize,
    /// Bytes of requests and of their answers that are held.
    pub(crate) inflight_bytes: usize,
    /// Whether a GPU was given up.
    pub(crate) demoted: bool,
    pub(crate) rechecks: Rechecks,
    /// How far the preparation of fast padding is, where something is being prepared.
    pub(crate) preparation: Option<Progress>,
    /// Texts of 2 to so many tokens are fast.
    pub(crate) longest_fast: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self::register(Registry::new())
            .expect("names and labels of the metrics are constants, valid and distinct")
    }

    fn register(registry: Registry) -> Result<Self, prometheus::Error> {
        let register = Register(&registry);
        Ok(Self {
            requests: Requests::new(register)?,
            connections: Connections::new(register)?,
            stages: Stages::new(register)?,
            work: Work::new(register)?,
            sharing: Sharing::new(register)?,
            server: Server::new(register)?,
            device: Device::new(register)?,
            paddings: Paddings::new(register)?,
            registry,
        })
    }

    /// Counts a finished request.
    pub(crate) fn request_finished(&self, labels: RequestLabels<'_>, elapsed: Duration) {
        self.requests.finished(labels, elapsed);
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.requests.in_flight()
    }

    /// Counts a connection that is not served.
    pub(crate) fn connection_refused(&self, why: RefusedConnection) {
        self.connections.refused(why);
    }

    /// Notes a part of a request's way, also for its trace: to be called by the task that answers it.
    pub(crate) fn stage_finished(&self, stage: Stage, started: Instant, elapsed: Duration) {
        self.stages.finished(stage, elapsed);
        traces::stage_finished(stage, started, elapsed);
    }

    pub(crate) fn batch_computed(&self, size: BatchSize, elapsed: Duration) {
        self.work.batch_computed(size, elapsed);
    }

    pub(crate) fn batch_failed(&self) {
        self.work.batch_failed();
    }

    /// Counts texts that were computed, by how they were padded.
    pub(crate) fn texts_padded(&self, paddings: impl Iterator<Item = Padding>) {
        paddings.for_each(|padding| self.paddings.text(padding));
    }

    pub(crate) fn queued_for(&self, waited: Duration) {
        self.work.queued_for(waited);
    }

    pub(crate) fn truncated(&self, texts: usize) {
        self.work.truncated(texts);
    }

    /// Counts a request's texts whose vectors were in the cache, and the others.
    pub(crate) fn cache_asked(&self, hits: usize, misses: usize) {
        self.sharing.cache_asked(hits, misses);
    }

    /// Counts texts that were not computed because an equal one just was.
    pub(crate) fn texts_shared(&self, texts: usize) {
        self.sharing.texts_shared(texts);
    }

    pub(crate) fn model_loaded(&self, service: &Service) {
        self.server.model_loaded(service);
    }

    /// Everything in the Prometheus text format.
    pub(crate) fn render(&self, present: Present) -> Result<String, prometheus::Error> {
        let Present { waiting, cached, inflight_bytes, demoted, rechecks, preparation, longest_fast } =
            present;
        self.paddings.present(preparation, longest_fast);
        self.device.present(demoted, rechecks);
        self.sharing.cached(cached);
        self.server.inflight(inflight_bytes);
        self.work.waiting(waiting);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

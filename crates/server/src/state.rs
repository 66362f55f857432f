//! What all requests share, and the server's three phases: loading, ready, shutting down.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::body::BodyReader;
use crate::config::ServerConfig;
use crate::inflight::Inflight;
use crate::metrics::{Metrics, Present};
use crate::offload::Offload;
use crate::service::{Ready, Service};

/// What all requests share; cheap to clone.
///
/// New, it serves everything but what needs a model: see [`AppState::set_ready`].
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    config: ServerConfig,
    metrics: Metrics,
    offload: Offload,
    inflight: Arc<Inflight>,
    ready: OnceLock<Arc<Ready>>,
    shutting_down: AtomicBool,
    /// Every request that was let in holds a receiver.
    in_flight: watch::Sender<()>,
    request_ids: RequestIds,
    started: SystemTime,
}

impl AppState {
    /// A server whose model is still loading.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(Inner {
            inflight: Inflight::new(config.max_inflight_bytes),
            config,
            metrics: Metrics::new(),
            offload: Offload::new(),
            ready: OnceLock::new(),
            shutting_down: AtomicBool::new(false),
            in_flight: watch::Sender::new(()),
            request_ids: RequestIds::new(),
            started: SystemTime::now(),
        }))
    }

    /// Starts the worker thread on a loaded model and lets requests in. A second call changes nothing.
    ///
    /// # Errors
    /// The operating system's, where it does not give us a thread.
    pub fn set_ready(&self, service: Service) -> io::Result<()> {
        let (model, device) = (service.model.clone(), service.backend.info().device);
        let (dimension, max_tokens) = (service.backend.dimension(), service.backend.max_tokens());
        let ready = Ready::start(service, &self.0.config, self.0.metrics.clone(), self.0.offload.clone())?;
        let ready = Arc::new(ready);
        if self.0.ready.set(Arc::clone(&ready)).is_err() {
            return Ok(());
        }
        self.0.metrics.model_loaded(ready.service());
        tracing::info!(model = model.id, dimension, max_tokens, device, warning = model.warning(), "ready");
        Ok(())
    }

    /// From now on, requests are refused with 503 and `Connection: close`; those in flight go on.
    pub fn begin_shutdown(&self) {
        self.0.shutting_down.store(true, Ordering::SeqCst);
    }

    /// Lets a request in until the returned guard is dropped; `None` during a shutdown.
    pub(crate) fn let_in(&self) -> Option<watch::Receiver<()>> {
        // Counted first, looked up second: a shutdown that begins in between waits for this request.
        let guard = self.0.in_flight.subscribe();
        (!self.is_shutting_down()).then_some(guard)
    }

    /// Waits until no request that was let in is in flight.
    pub(crate) async fn all_answered(&self) {
        self.0.in_flight.closed().await;
    }

    /// Ends the worker thread after the batch it is computing; requests that still wait get 503.
    pub(crate) fn stop_worker(&self) {
        if let Some(ready) = self.0.ready.get() {
            ready.stop();
        }
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.0.shutting_down.load(Ordering::SeqCst)
    }

    pub(crate) fn ready(&self) -> Option<Arc<Ready>> {
        self.0.ready.get().cloned()
    }

    /// What waits, and what is held, now.
    pub(crate) fn present(&self) -> Present {
        let inflight_bytes = self.0.inflight.bytes();
        let Some(ready) = self.0.ready.get() else { return Present { inflight_bytes, ..Present::default() } };
        let (demoted, rechecks) = (ready.backend().demoted().is_some(), ready.backend().rechecks());
        let (waiting, cached) = (ready.waiting(), ready.cached());
        let preparation = ready.service().preparation.progress();
        let longest_fast = preparation.map_or_else(
            || ready.backend().far_fields().map_or(0, |fields| fields.longest_fast()),
            |progress| progress.longest_fast,
        );
        Present { waiting, cached, inflight_bytes, demoted, rechecks, preparation, longest_fast }
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn inflight(&self) -> &Arc<Inflight> {
        &self.0.inflight
    }

    /// How bodies are read.
    pub(crate) fn body_reader(&self) -> BodyReader<'_> {
        let config = self.config();
        BodyReader { limit: config.max_body_bytes, patience: config.read_timeout, state: self }
    }

    /// Seconds in which what waits now is computed, about; at least 1.
    pub(crate) fn backlog_seconds(&self) -> u64 {
        self.0.ready.get().map_or(1, |ready| ready.backlog_seconds())
    }

    pub(crate) fn offload(&self) -> &Offload {
        &self.0.offload
    }

    /// When the server was started, in seconds since 1970.
    pub(crate) fn started(&self) -> u64 {
        self.0.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    pub(crate) fn new_request_id(&self) -> String {
        self.0.request_ids.next()
    }
}

/// Ids for requests that bring none: a random number per server and a count.
struct RequestIds {
    server: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        // The standard library keys its hash maps from the system's random numbers: the hash of nothing is one.
        Self { server: RandomState::new().build_hasher().finish(), count: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{:016x}-{:x}", self.server, self.count.fetch_add(1, Ordering::Relaxed))
    }
}

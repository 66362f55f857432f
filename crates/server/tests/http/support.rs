//! A small real model, a gate around it, and shorthands for requests.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use danaus_engine::padding::{FarFields, Preparation, Window, WindowEncoder};
use danaus_engine::{
    Backend, BackendInfo, BackendOptions, Device, Dtype, EngineError, Padding, Pooling, Text, finish,
    load_backend,
};
use danaus_model::{LoadedModel, ModelConfig, Tokenizer};
use danaus_server::scheduler::Speed;
use danaus_server::{AppState, ModelInfo, ServerConfig, Service, app};
use serde_json::Value;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// The longest text of the small model, in tokens.
pub const MAX_TOKENS: usize = 256;

/// The length of its vectors.
pub const DIMENSION: usize = 64;

static BACKEND: LazyLock<Arc<dyn Backend>> = LazyLock::new(new_backend);

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::bert_base_uncased()));

/// A model that loads and computes in milliseconds.
pub fn small_model() -> LoadedModel {
    let config = ModelConfig {
        hidden_size: DIMENSION,
        intermediate_size: 128,
        num_hidden_layers: 2,
        monarch_mlp_nblocks: 4,
        hyena_filter_order: 16,
        ..ModelConfig::m2_bert_80m(MAX_TOKENS)
    };
    danaus_model::synthetic(&config, 1)
}

/// The small model on a backend that no other test sees.
pub fn new_backend() -> Arc<dyn Backend> {
    let (device, dtype, threads) = (Device::Cpu, Dtype::F32, Some(1));
    let options = BackendOptions { device, dtype, threads, ..BackendOptions::default() };
    load_backend(&small_model(), &options).expect("the small model fits the CPU backend")
}

pub fn backend() -> Arc<dyn Backend> {
    Arc::clone(&BACKEND)
}

pub fn tokenizer() -> Arc<Tokenizer> {
    Arc::clone(&TOKENIZER)
}

pub fn service_on(backend: Arc<dyn Backend>) -> Service {
    let model = ModelInfo { id: "small".into(), revision: Some("abc".into()), synthetic: true };
    let (padding, preparation, speed) = (Padding::None, Arc::new(Preparation::default()), Speed::default());
    Service { backend, tokenizer: tokenizer(), model, padding, preparation, speed }
}

pub fn service() -> Service {
    service_on(backend())
}

pub fn ready_state(config: ServerConfig, service: Service) -> AppState {
    let state = AppState::new(config);
    state.set_ready(service).expect("a thread for the worker");
    state
}

/// The application with the small model.
pub fn ready_app() -> Router {
    app(ready_state(ServerConfig::default(), service()))
}

pub fn ready_app_with(config: ServerConfig) -> Router {
    app(ready_state(config, service()))
}

/// What the engine itself says about a text.
pub fn expected_vector(text: &str, pooling: Pooling, dimensions: Option<usize>, normalize: bool) -> Vec<f32> {
    let mut ids = tokenizer().encode(text).expect("a text").ids;
    danaus_model::truncate(&mut ids, MAX_TOKENS);
    let pooled =
        backend().embed(&[backend().text(&ids, pooling, Padding::None)]).expect("a valid text").remove(0);
    finish(pooled, dimensions, normalize).expect("a finite vector")
}

/// Its default form, as JSON text.
pub fn expected_json(text: &str) -> String {
    serde_json::to_string(&expected_vector(text, Pooling::Mean, None, true)).expect("numbers")
}

/// A response, body and all.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

pub async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.expect("the application never fails");
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a whole body");
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).expect("UTF-8"),
    }
}

pub fn post_request(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(CONTENT_TYPE, "application/json").body(body.into()).expect("a request")
}

pub async fn post(app: &Router, path: &str, body: impl Into<Body>) -> Answer {
    send(app, post_request(path, body)).await
}

pub async fn request(app: &Router, method: &str, path: &str) -> Answer {
    send(app, Request::builder().method(method).uri(path).body(Body::empty()).expect("a request")).await
}

pub async fn get(app: &Router, path: &str) -> Answer {
    request(app, "GET", path).await
}

pub fn query(text: &str) -> String {
    serde_json::json!({ "query": text }).to_string()
}

/// Asserts that the answer is of these texts' vectors, in order.
pub fn assert_vectors(answer: &Answer, texts: &[&str]) {
    let vectors: Vec<String> = texts.iter().map(|text| expected_json(text)).collect();
    let start = format!(r#"{{"embeddings":[{}]"#, vectors.join(","));
    assert!(answer.body.starts_with(&start), "{texts:?}: {}", answer.body);
}

/// Sends `POST /embed` in a task of its own.
pub fn spawn_body(app: &Router, body: String) -> JoinHandle<Answer> {
    let app = app.clone();
    tokio::spawn(async move { post(&app, "/embed", body).await })
}

/// The body of an error.
pub fn error_json(message: &str, error_type: &str, code: &str) -> Value {
    serde_json::json!({"error": {"message": message, "type": error_type, "code": code}, "detail": message})
}

/// Waits until `condition` holds; a test whose condition never comes fails instead of hanging.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The value of a metric without labels, or with exactly those of `name`.
pub async fn metric(app: &Router, name: &str) -> f64 {
    let text = get(app, "/metrics").await.body;
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
}

pub async fn until_queued(app: &Router, texts: f64) {
    until(
        &format!("{texts} texts queued"),
        || async move { metric(app, "danaus_queue_texts").await == texts },
    )
    .await;
}

/// The small model behind a gate that notes every batch, can hold it back, and can make it fail.
pub struct Gate {
    inner: Arc<dyn Backend>,
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    /// The token ids of every batch that came, in order.
    batches: Vec<Vec<Vec<u32>>>,
    /// How many more batches may pass.
    permits: usize,
    failure: Option<Failure>,
}

/// How a batch goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    Panic,
    Error,
    NotANumber,
    VectorMissing,
}

impl Failure {
    pub const ALL: [Self; 4] = [Self::Panic, Self::Error, Self::NotANumber, Self::VectorMissing];
}

impl Gate {
    pub fn new(permits: usize) -> Arc<Self> {
        Self::around(backend(), permits)
    }

    pub fn around(inner: Arc<dyn Backend>, permits: usize) -> Arc<Self> {
        let state = GateState { batches: Vec::new(), permits, failure: None };
        Arc::new(Self { inner, state: Mutex::new(state), changed: Condvar::new() })
    }

    pub fn open(&self) {
        self.state.lock().unwrap().permits = usize::MAX;
        self.changed.notify_all();
    }

    pub fn let_one_batch_through(&self) {
        self.state.lock().unwrap().permits += 1;
        self.changed.notify_all();
    }

    pub fn fail_next(&self, failure: Failure) {
        self.state.lock().unwrap().failure = Some(failure);
    }

    pub fn batches(&self) -> Vec<Vec<Vec<u32>>> {
        self.state.lock().unwrap().batches.clone()
    }

    /// Notes a batch and waits until it may pass; how it is to go wrong then.
    fn pass(&self, texts: &[Text<'_>]) -> Option<Failure> {
        let mut state = self.state.lock().unwrap();
        state.batches.push(texts.iter().map(|text| text.ids.to_vec()).collect());
        while state.permits == 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.permits = state.permits.saturating_sub(usize::from(state.permits != usize::MAX));
        state.failure.take()
    }

    pub async fn until_batches(&self, count: usize) {
        until(&format!("{count} batches"), || async { self.batches().len() == count }).await;
    }
}

impl Backend for Gate {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn max_tokens(&self) -> usize {
        self.inner.max_tokens()
    }

    fn window(&self, ids: &[u32], pooling: Pooling, padding: Padding) -> Window {
        self.inner.window(ids, pooling, padding)
    }

    fn windows(&self) -> &dyn WindowEncoder {
        self.inner.windows()
    }

    fn far_fields(&self) -> Option<Arc<FarFields>> {
        self.inner.far_fields()
    }

    fn set_far_fields(&self, far_fields: Arc<FarFields>) {
        self.inner.set_far_fields(far_fields);
    }

    /// The gate is before the first layer; what comes between the others is the inner backend's.
    fn embed_stepwise(
        &self,
        texts: &[Text<'_>],
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let failure = self.pass(texts);
        spoil(self.inner.embed_stepwise(texts, between)?, failure)
    }

    fn embed(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let failure = self.pass(texts);
        spoil(self.inner.embed(texts)?, failure)
    }
}

/// Makes a batch go wrong.
fn spoil(mut vectors: Vec<Vec<f32>>, failure: Option<Failure>) -> Result<Vec<Vec<f32>>, EngineError> {
    match failure {
        None => {}
        Some(Failure::Panic) => panic!("a test made this batch panic"),
        Some(Failure::Error) => return Err(EngineError::EmptyText { index: 0 }),
        Some(Failure::NotANumber) => vectors[0][0] = f32::NAN,
        Some(Failure::VectorMissing) => drop(vectors.pop()),
    }
    Ok(vectors)
}

/// The application with the small model behind a gate.
pub fn gated(gate: &Arc<Gate>, config: ServerConfig) -> Router {
    app(ready_state(config, service_on(Arc::clone(gate) as _)))
}

/// The token ids of a text, as the gate notes them.
pub fn ids(text: &str) -> Vec<u32> {
    tokenizer().encode(text).expect("a text").ids
}

//! `GET /health`, `GET /info` and `GET /metrics`.

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, PREPARING_SECONDS};
use crate::extract::Model;
use crate::offload;
use crate::openapi::{Either, ShutdownError, UnavailableErrors};
use crate::respond::{JsonBytes, json};
use crate::state::AppState;
use crate::types::danaus::{
    self, Accelerator, ErrorBody, FastErrors, FastLimits, FastPadding, FastRange, Health, Info, Limits,
    NotReady,
};
use crate::types::tei::{TeiEmbeddingModel, TeiInfo, TeiModelType};
use danaus_engine::padding::FarFields;
use danaus_engine::{Backend, Rechecks};

type NotReadyOrPreparing = Either<NotReady, Health>;

/// Says whether the server is ready.
///
/// While fast padding is being prepared, the status is `preparing`, with `done`, `total`, `seconds_left` and `longest_fast` beside it.
/// Texts are answered meanwhile, so that this is a 200, unless the server runs with `--padding-wait refuse`.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Server",
    responses(
        (status = 200, description = "Ready", body = Health),
        (status = 503, description = "Loading the model, shutting down, or preparing fast padding where the server refuses texts meanwhile",
            body = NotReadyOrPreparing, headers(
            ("Retry-After" = u64, description = "Whole seconds after which to try again")
        )),
    ),
)]
pub(super) async fn health(State(state): State<AppState>) -> Response {
    if state.is_shutting_down() {
        return not_ready("shutting down", "The server is shutting down");
    }
    let Some(ready) = state.ready() else {
        return not_ready("loading", "The model is still loading");
    };
    let (model, backend) = (ready.model(), ready.backend());
    let preparation = ready.service().preparation.progress();
    let health = Health {
        status: if preparation.is_some() { "preparing" } else { "healthy" },
        model: model.id.clone(),
        device: computing_device(backend),
        embedding_dimension: backend.dimension(),
        done: preparation.map(|progress| progress.done),
        total: preparation.map(|progress| progress.total),
        seconds_left: preparation.map(|progress| progress.seconds_left),
        longest_fast: preparation.map(|progress| progress.longest_fast),
        demoted: backend.demoted().map(str::to_owned),
        warning: model.warning(),
    };
    if preparation.is_some() && state.config().refuse_unprepared {
        return unavailable(PREPARING_SECONDS, json(&health));
    }
    json(&health).into_response()
}

/// Where texts are computed now, by the names that PyTorch gives to devices.
fn computing_device(backend: &dyn Backend) -> &'static str {
    match backend.info().device {
        _ if backend.demoted().is_some() => "cpu",
        "metal" => "mps",
        device => device,
    }
}

fn not_ready(status: &'static str, detail: &'static str) -> Response {
    unavailable(2, json(&NotReady { status, detail }))
}

fn unavailable(retry_after: u64, body: JsonBytes) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, HeaderValue::from(retry_after))], body).into_response()
}

/// Describes the model and the server's limits.
#[utoipa::path(
    get,
    path = "/info",
    tag = "Server",
    responses((status = 200, description = "Model, device, defaults and limits", body = Info), UnavailableErrors),
)]
pub(super) async fn info(State(state): State<AppState>, Model(ready): Model) -> JsonBytes {
    let (config, model, backend) = (state.config(), ready.model(), ready.backend());
    let computing = backend.info();
    json(&Info {
        model: model.id.clone(),
        revision: model.revision.clone(),
        dimension: backend.dimension(),
        max_tokens: backend.max_tokens(),
        dtype: computing.dtype,
        device: computing.device,
        instruction_set: computing.instruction_set,
        threads: computing.threads,
        accelerator: accelerator(backend),
        pooling: config.pooling.to_string(),
        padding: ready.padding().to_string(),
        fast_padding: backend.far_fields().map(|fields| fast_padding(&fields)),
        preparation: ready.service().preparation.progress().map(Into::into),
        auto_truncate: config.auto_truncate,
        limits: Limits {
            max_body_bytes: config.max_body_bytes,
            max_inputs: config.max_inputs,
            max_batch_tokens: ready.batch_tokens(),
            max_queued_tokens: config.max_queued_tokens,
            max_queued_texts: config.max_queued_texts,
            max_queue_seconds: config.max_queue_time.map(|limit| limit.as_secs_f64()),
            cache_bytes: config.cache_bytes,
            max_connections: config.max_connections,
            max_inflight_bytes: config.max_inflight_bytes,
            read_timeout_seconds: config.read_timeout.as_secs_f64(),
            write_timeout_seconds: config.write_timeout.as_secs_f64(),
            request_timeout_seconds: config.request_timeout.map(|limit| limit.as_secs_f64()),
        },
        synthetic: model.synthetic,
        warning: model.warning(),
        version: env!("CARGO_PKG_VERSION"),
        tei: TeiInfo {
            model_id: model.id.clone(),
            model_sha: model.revision.clone(),
            model_dtype: computing.dtype,
            model_type: TeiModelType { embedding: TeiEmbeddingModel { pooling: config.pooling.to_string() } },
            max_concurrent_requests: config.max_queued_texts,
            max_input_length: backend.max_tokens(),
            max_batch_tokens: ready.batch_tokens(),
            max_batch_requests: None,
            max_client_batch_size: config.max_inputs,
            tokenization_workers: offload::at_once(),
        },
    })
}

fn accelerator(backend: &dyn Backend) -> Option<Accelerator> {
    let Rechecks { agreed, differed } = backend.rechecks();
    let gpu = backend.info().accelerator.as_ref()?;
    Some(Accelerator {
        name: gpu.name.clone(),
        driver: gpu.driver.clone(),
        memory_bytes: gpu.memory_bytes,
        crossover: gpu.crossover,
        cpu_dtype: gpu.cpu_dtype,
        demoted: backend.demoted().map(str::to_owned),
        rechecks: danaus::Rechecks { agreed, differed },
    })
}

fn fast_padding(far_fields: &FarFields) -> FastPadding {
    let ranges = far_fields.bins().map(|bin| {
        let [mean, cls, model] = bin.errors;
        let errors = FastErrors { mean, cls, model };
        let [mean, cls, model] = bin.most_equal;
        let most_equal = FastLimits { mean, cls, model };
        let (shortest, longest, window, sketch) = (bin.shortest, bin.longest, bin.window, bin.sketch);
        FastRange { shortest, longest, window, sketch, errors, most_equal }
    });
    FastPadding { bound: far_fields.bound(), ranges: ranges.collect() }
}

/// Measures the server, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Server",
    responses(
        (status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"),
        (status = 500, description = "Internal error", body = ErrorBody),
        ShutdownError,
    ),
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let text = state.metrics().render(state.present()).map_err(|error| {
        tracing::error!(%error, "cannot render the metrics");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT))], text).into_response())
}

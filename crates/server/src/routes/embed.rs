//! `POST /embed` and `POST /embed/batch`.

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::Naming;
use crate::error::ApiError;
use crate::extract::{JsonBody, Model};
use crate::openapi::ModelErrors;
use crate::respond::json;
use crate::service::{EmbedOptions, NamedTexts, Timing};
use crate::state::AppState;
use crate::types::{EmbedRequest, EmbedResponse, Object, TextInput, TextList};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const EMPTY: &str = "Query list cannot be empty";

const QUERY: Naming = Naming {
    one: |_| "query".to_owned(),
    many: |index| format!("query[{index}]"),
    empty: EMPTY,
    remedy: "shorten it, or set \"truncate\": true to embed its beginning",
};

const BATCH: Naming = Naming {
    one: |_| "body".to_owned(),
    many: |index| format!("[{index}]"),
    empty: EMPTY,
    remedy: "shorten it, or send it to POST /embed with \"truncate\": true to embed its beginning",
};

/// Embeds one text or several.
///
/// The same text has the same vector alone and in any list. A text over the model's length is an error, unless
/// `truncate` allows to cut it.
#[utoipa::path(
    post,
    path = "/embed",
    tag = "Embeddings",
    request_body = EmbedRequest,
    responses(
        (status = 200, description = "One vector per text, in order; a list of vectors also for one text",
            body = EmbedResponse, headers(
                ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute")
            )),
        ModelErrors,
    ),
)]
pub(super) async fn embed(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<EmbedRequest>>,
) -> Result<Response, ApiError> {
    let defaults = model.defaults();
    let options = EmbedOptions {
        truncate: request.truncate.unwrap_or(defaults.truncate),
        dimensions: request.dimensions.map(|dimensions| dimensions.0),
        normalize: request.normalize.unwrap_or(defaults.normalize),
        pooling: request.pooling.map_or(defaults.pooling, |pooling| pooling.0),
        padding: request.padding.map_or(defaults.padding, |padding| padding.0),
    };
    answer(&state, Model(model), QUERY.name(request.query)?, options).await
}

/// Embeds a list of texts with the server's defaults.
#[utoipa::path(
    post,
    path = "/embed/batch",
    tag = "Embeddings",
    request_body = TextList,
    responses(
        (status = 200, description = "One vector per text, in order", body = EmbedResponse, headers(
            ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute")
        )),
        ModelErrors,
    ),
)]
pub(super) async fn embed_batch(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(TextList(texts)): JsonBody<TextList>,
) -> Result<Response, ApiError> {
    let options = model.defaults();
    answer(&state, Model(model), BATCH.name(TextInput::Many(texts))?, options).await
}

async fn answer(
    state: &AppState,
    Model(model): Model,
    texts: NamedTexts,
    options: EmbedOptions,
) -> Result<Response, ApiError> {
    let embedded = model.embed(texts, options).await?;
    let timing = server_timing(embedded.timing);
    let bytes = embedded.vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum();
    let response = EmbedResponse {
        dimension: options.dimensions.unwrap_or(model.backend().dimension()),
        count: embedded.vectors.len(),
        embeddings: embedded.vectors,
        model: model.model().id.clone(),
        tokens: embedded.tokens,
        truncated: embedded.truncated,
    };
    let body = state.offload().quick(bytes, move || json(&response)).await?;
    Ok(([(SERVER_TIMING, timing)], body).into_response())
}

/// Where the request's time went, in milliseconds, as browsers' developer tools show it.
fn server_timing(timing: Timing) -> HeaderValue {
    let milliseconds = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let value = format!(
        "tokenise;dur={:.3}, queue;dur={:.3}, compute;dur={:.3}",
        milliseconds(timing.tokenise),
        milliseconds(timing.queue),
        milliseconds(timing.compute),
    );
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

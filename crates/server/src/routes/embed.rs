//! `POST /embed` and `POST /embed/batch`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Naming, tei};
use crate::error::{Api, ApiError};
use crate::extract::{FromJson, JsonBody, Model};
use crate::openapi::{Either, EmbedErrors, ModelErrors};
use crate::respond::embeddings;
use crate::service::{EmbedOptions, Embedded, NamedTexts, Ready};
use crate::state::AppState;
use crate::types::danaus::{EmbedRequest, EmbedResponse};
use crate::types::tei::{TeiRequest, TeiResponse};
use crate::types::{Object, TextInput, TextList};

const EMPTY: &str = "Query list cannot be empty";

pub(super) const QUERY: Naming = Naming {
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

/// A request of one of two APIs: with `query` it is the product's own, with `inputs` that of Text Embeddings Inference.
#[derive(Debug)]
pub(super) enum EmbedBody {
    Danaus(EmbedRequest),
    Tei(TeiRequest),
}

type EitherRequest = Either<EmbedRequest, TeiRequest>;
type EitherResponse = Either<EmbedResponse, TeiResponse>;

impl FromJson for EmbedBody {
    fn from_json(bytes: &[u8]) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Fields {
            query: Option<IgnoredAny>,
            inputs: Option<IgnoredAny>,
        }
        // What is not even that is an error, which the product's own API words.
        match serde_json::from_slice(bytes) {
            Ok(Object(Fields { query: None, inputs: Some(_) })) => {
                let request = Object::from_json(bytes).map_err(|error| error.of(Api::Tei));
                request.map(|Object(request)| Self::Tei(request))
            }
            _ => Object::from_json(bytes).map(|Object(request)| Self::Danaus(request)),
        }
    }
}

/// Embeds one text or several.
///
/// The same text has the same vector alone and in any list. A text over the model's length is an error, unless
/// `truncate` allows to cut it. With `inputs` instead of `query`, request, answer and errors are those of Text Embeddings
/// Inference.
#[utoipa::path(
    post,
    path = "/embed",
    tag = "Embeddings",
    request_body = EitherRequest,
    responses(
        (status = 200, description = "One vector per text, in order; a list of vectors also for one text",
            body = EitherResponse, headers(
                ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute"),
                ("X-Danaus-Padding" = String, description = "How texts were padded: those of none, fast, max-length")
            )),
        EmbedErrors,
    ),
)]
pub(super) async fn embed(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response, ApiError> {
    let request = match body {
        EmbedBody::Danaus(request) => request,
        EmbedBody::Tei(request) => return tei::answer(&state, &model, request).await,
    };
    let options = options(&request, &model);
    answer(&state, &model, QUERY.name(request.query)?, options).await
}

/// Embeds a list of texts with the server's defaults.
#[utoipa::path(
    post,
    path = "/embed/batch",
    tag = "Embeddings",
    request_body = TextList,
    responses(
        (status = 200, description = "One vector per text, in order", body = EmbedResponse, headers(
            ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute"),
            ("X-Danaus-Padding" = String, description = "How texts were padded: those of none, fast, max-length")
        )),
        ModelErrors,
    ),
)]
pub(super) async fn embed_batch(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(TextList(texts)): JsonBody<TextList>,
) -> Result<Response, ApiError> {
    answer(&state, &model, BATCH.name(TextInput::Many(texts))?, model.defaults()).await
}

/// How a request wants its texts embedded.
pub(super) fn options(request: &EmbedRequest, model: &Ready) -> EmbedOptions {
    let defaults = model.defaults();
    EmbedOptions {
        truncate: request.truncate.map_or(defaults.truncate, Into::into),
        dimensions: request.dimensions.map(|dimensions| dimensions.0),
        normalize: request.normalize.unwrap_or(defaults.normalize),
        pooling: request.pooling.map_or(defaults.pooling, |pooling| pooling.0),
        padding: request.padding.map_or(defaults.padding, |padding| padding.0),
    }
}

async fn answer(
    state: &AppState,
    model: &Ready,
    texts: NamedTexts,
    options: EmbedOptions,
) -> Result<Response, ApiError> {
    let embedded = model.embed(texts, options).await?;
    let dimension = options.dimensions.unwrap_or(model.backend().dimension());
    let model = model.model().id.clone();
    let form = move |embedded: Embedded| EmbedResponse {
        dimension,
        count: embedded.vectors.len(),
        embeddings: embedded.vectors,
        model,
        tokens: embedded.tokens,
        truncated: embedded.truncated,
        padding: embedded.padding.into_iter().map(Into::into).collect(),
    };
    embeddings(state, embedded, form).await
}

//! OpenAI's API: `POST /v1/embeddings` and `GET /v1/models`, also without `/v1` and under `/api/v1`.

use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Naming;
use crate::error::{ApiError, ErrorKind, shortened};
use crate::extract::{JsonBody, Model};
use crate::openapi::{OpenAiErrors, OpenAiUnavailableErrors};
use crate::respond;
use crate::respond::{JsonBytes, json};
use crate::service::{EmbedOptions, Embedded};
use crate::state::AppState;
use crate::types::openai::{
    Embedding, EmbeddingsInput, EmbeddingsRequest, EmbeddingsResponse, EncodedVector, EncodingFormat,
    ModelCard, ModelList, Usage,
};
use crate::types::{Object, OneOrMany};

const INPUT: Naming = Naming {
    one: |_| "input".to_owned(),
    many: |index| format!("input[{index}]"),
    empty: "Input list cannot be empty",
    remedy: "shorten it, or run the server with --auto-truncate to embed its beginning",
};

/// Who is said to own a model whose id does not say.
const OWNER: &str = "danaus";

/// The routes, to be nested where clients look for them.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(embeddings)).routes(routes!(models))
}

/// Embeds one text or several, as OpenAI does.
///
/// The vectors are those of `POST /embed`, at unit length.
#[utoipa::path(
    post,
    path = "/embeddings",
    tag = "OpenAI",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "One vector per text, in order", body = EmbeddingsResponse, headers(
            ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute"),
            ("X-Danaus-Padding" = String, description = "How texts were padded: those of none, fast, max-length")
        )),
        OpenAiErrors,
    ),
)]
async fn embeddings(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<EmbeddingsRequest>>,
) -> Result<Response, ApiError> {
    let (config, id) = (state.config(), &model.model().id);
    let name = request.model.unwrap_or_else(|| id.clone());
    if config.strict_model && name != *id {
        return Err(unknown_model(&name, id));
    }
    let dimensions = request.dimensions.map(|dimensions| dimensions.0);
    let options = EmbedOptions { dimensions, ..model.defaults() };
    let embedded = match request.input {
        EmbeddingsInput::Texts(texts) => model.embed(INPUT.name(texts)?, options).await?,
        EmbeddingsInput::Tokens(ids) if config.accept_token_ids => {
            model.embed(INPUT.name(ids)?, options).await?
        }
        EmbeddingsInput::Tokens(ids) => return Err(token_ids(&ids)),
    };
    let format = request.encoding_format.unwrap_or_default();
    respond::embeddings(&state, embedded, move |embedded| response(embedded, name, format)).await
}

/// Names the model that this server has.
#[utoipa::path(
    get,
    path = "/models",
    tag = "OpenAI",
    responses((status = 200, description = "A list of one", body = ModelList), OpenAiUnavailableErrors),
)]
async fn models(State(state): State<AppState>, Model(model): Model) -> JsonBytes {
    let id = model.model().id.clone();
    let owned_by = id.split_once('/').map_or(OWNER, |(owner, _)| owner).to_owned();
    let card = ModelCard { id, object: "model", created: state.started(), owned_by };
    json(&ModelList { object: "list", data: vec![card] })
}

fn unknown_model(name: &str, id: &str) -> ApiError {
    let name = shortened(name);
    let message = format!("this server has no {name:?}: ask for {id:?}, or leave the field out");
    ApiError::at(ErrorKind::UnknownModel, "model", message)
}

fn token_ids(ids: &OneOrMany<Vec<u32>>) -> ApiError {
    let what = match ids {
        OneOrMany::One(_) => "a list of token ids",
        OneOrMany::Many(_) => "lists of token ids",
    };
    let message = format!(
        "{what} came, which stand for other words here if they are of another model's tokenizer, as most clients' are: send \
         texts (with LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or, if they are what POST /tokenize \
         gives, run the server with --accept-token-ids"
    );
    ApiError::at(ErrorKind::TokenIds, "input", message)
}

fn response(embedded: Embedded, model: String, format: EncodingFormat) -> EmbeddingsResponse {
    let tokens = embedded.tokens.iter().sum();
    let encode = |vector: Vec<f32>| match format {
        EncodingFormat::Float => EncodedVector::Float(vector),
        EncodingFormat::Base64 => EncodedVector::Base64(base64(&vector)),
    };
    let embedding = |(index, vector)| Embedding { object: "embedding", index, embedding: encode(vector) };
    EmbeddingsResponse {
        object: "list",
        data: embedded.vectors.into_iter().enumerate().map(embedding).collect(),
        model,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    }
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|component| component.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

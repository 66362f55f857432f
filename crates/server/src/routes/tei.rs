//! The API of Text Embeddings Inference: `POST /`, and `POST /embed` with `inputs`.

use axum::extract::State;
use axum::response::Response;

use super::Naming;
use crate::error::{Api, ApiError, ErrorKind, shortened};
use crate::extract::{JsonBody, Model};
use crate::openapi::TeiErrors;
use crate::respond::embeddings;
use crate::service::{EmbedOptions, Ready, Truncate};
use crate::state::AppState;
use crate::types::Object;
use crate::types::tei::{TeiRequest, TeiResponse, TruncationDirection};

const INPUTS: Naming = Naming {
    one: |_| "inputs".to_owned(),
    many: |index| format!("inputs[{index}]"),
    empty: "Input list cannot be empty",
    remedy: "shorten it, or set \"truncate\": true to embed a part of it",
};

/// Embeds one text or several, as Text Embeddings Inference does.
#[utoipa::path(
    post,
    path = "/",
    operation_id = "embed_at_root",
    tag = "Text Embeddings Inference",
    request_body = TeiRequest,
    responses(
        (status = 200, description = "One vector per text, in order; a list of vectors also for one text",
            body = TeiResponse, headers(
                ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute"),
                ("X-Danaus-Padding" = String, description = "How texts were padded: those of none, fast, max-length")
            )),
        TeiErrors,
    ),
)]
pub(super) async fn embed(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<TeiRequest>>,
) -> Result<Response, ApiError> {
    answer(&state, &model, request).await
}

/// Answers a request, whichever route it came by.
pub(super) async fn answer(
    state: &AppState,
    model: &Ready,
    request: TeiRequest,
) -> Result<Response, ApiError> {
    let answer = async {
        let options = options(&request, model.defaults())?;
        let embedded = model.embed(INPUTS.name(request.inputs)?, options).await?;
        embeddings(state, embedded, |embedded| TeiResponse(embedded.vectors)).await
    };
    answer.await.map_err(|error: ApiError| error.of(Api::Tei))
}

fn options(request: &TeiRequest, defaults: EmbedOptions) -> Result<EmbedOptions, ApiError> {
    if let Some(name) = &request.prompt_name {
        let name = shortened(name);
        let message = format!("this model has no prompts, so none called {name:?}: leave the field out");
        return Err(ApiError::at(ErrorKind::InvalidField, "prompt_name", message));
    }
    let truncate = match request.truncate.map_or(defaults.truncate, Truncate::from) {
        Truncate::End if request.truncation_direction == Some(TruncationDirection::Left) => Truncate::Start,
        truncate => truncate,
    };
    Ok(EmbedOptions {
        truncate,
        dimensions: request.dimensions.map(|dimensions| dimensions.0),
        normalize: request.normalize.unwrap_or(defaults.normalize),
        ..defaults
    })
}

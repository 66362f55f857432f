//! `POST /tokenize`.

use axum::extract::State;
use danaus_model::Encoding;

use super::Naming;
use crate::error::ApiError;
use crate::extract::{JsonBody, Model};
use crate::openapi::BodyErrors;
use crate::respond::{JsonBytes, json};
use crate::state::AppState;
use crate::types::Object;
use crate::types::danaus::{TokenizeRequest, TokenizeResponse, TokenizedText};

const INPUTS: Naming = Naming {
    one: |_| "inputs".to_owned(),
    many: |index| format!("inputs[{index}]"),
    empty: "Input list cannot be empty",
    remedy: "shorten it",
};

/// What a token takes in memory, about.
const BYTES_PER_TOKEN: usize = 64;

/// Tokenises one text or several.
///
/// The two special tokens are included; texts over the model's length are not cut. At most 1 MiB of text.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens of each text, in order", body = TokenizeResponse),
        BodyErrors,
    ),
)]
pub(super) async fn tokenize(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<TokenizeRequest>>,
) -> Result<JsonBytes, ApiError> {
    let encodings = model.tokenize(INPUTS.name(request.inputs)?).await?;
    let tokens: usize = encodings.iter().map(|encoding| encoding.ids.len()).sum();
    let id = model.model().id.clone();
    state.offload().quick(tokens * BYTES_PER_TOKEN, move || json(&response(encodings, id))).await
}

fn response(encodings: Vec<Encoding>, model: String) -> TokenizeResponse {
    let text = |Encoding { ids, tokens, offsets }| TokenizedText { ids, tokens, offsets };
    let encodings: Vec<TokenizedText> = encodings.into_iter().map(text).collect();
    TokenizeResponse { count: encodings.len(), encodings, model }
}

//! `POST /similarity`.

use axum::extract::State;
use axum::response::Response;

use crate::error::{ApiError, ErrorKind};
use crate::extract::{JsonBody, Model};
use crate::openapi::ModelErrors;
use crate::respond::embeddings;
use crate::service::{EmbedOptions, NamedTexts};
use crate::state::AppState;
use crate::types::Object;
use crate::types::danaus::SimilarityRequest;

/// Compares a sentence with others.
///
/// The cosine of the angle between the embedding of `source_sentence` and that of each of `sentences`, in order: 1 for
/// the same direction, -1 for opposite ones, 0 for unrelated texts.
#[utoipa::path(
    post,
    path = "/similarity",
    tag = "Embeddings",
    request_body = SimilarityRequest,
    responses(
        (status = 200, description = "One score per sentence, from -1 to 1", body = Vec<f32>, headers(
            ("Server-Timing" = String, description = "Milliseconds spent: tokenise, queue, compute"),
            ("X-Danaus-Padding" = String, description = "How texts were padded: those of none, fast, max-length")
        ), example = json!([0.83, 0.12])),
        ModelErrors,
    ),
)]
pub(super) async fn similarity(
    State(state): State<AppState>,
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<SimilarityRequest>>,
) -> Result<Response, ApiError> {
    let defaults = model.defaults();
    let options =
        EmbedOptions { truncate: request.truncate.map_or(defaults.truncate, Into::into), ..defaults };
    let Object(inputs) = request.inputs;
    if inputs.sentences.is_empty() {
        return Err(ApiError::new(ErrorKind::EmptyList, "Sentence list cannot be empty"));
    }
    let texts = NamedTexts {
        texts: std::iter::once(inputs.source_sentence).chain(inputs.sentences).collect(),
        name,
        remedy: "shorten it, or set \"truncate\": true to compare its beginning",
    };
    let embedded = model.embed(texts, options).await?;
    embeddings(&state, embedded, |embedded| scores(&embedded.vectors)).await
}

/// The source sentence comes first, then the others.
fn name(index: usize) -> String {
    match index.checked_sub(1) {
        None => "inputs.source_sentence".to_owned(),
        Some(sentence) => format!("inputs.sentences[{sentence}]"),
    }
}

/// Dot products of the first unit vector with the others; rounding must not lead out of [-1, 1].
fn scores(vectors: &[Vec<f32>]) -> Vec<f32> {
    let Some((source, others)) = vectors.split_first() else { return Vec::new() };
    let dot =
        |other: &Vec<f32>| source.iter().zip(other).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    others.iter().map(|other| dot(other).clamp(-1.0, 1.0) as f32).collect()
}

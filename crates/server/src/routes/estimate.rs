//! `POST /estimate`.

use super::embed::{QUERY, options};
use crate::error::ApiError;
use crate::extract::{JsonBody, Model};
use crate::openapi::EstimateErrors;
use crate::respond::{JsonBytes, json};
use crate::service::Estimated;
use crate::types::Object;
use crate::types::danaus::{EmbedRequest, EstimateResponse};

/// Says what embedding texts would cost now, and whether they would be let in, without computing them.
///
/// The request is that of `POST /embed` (danaus's own, with `query`), and so are the errors of one that could not be answered at all. Only tokens are
/// counted; `queue_seconds` and `compute_seconds` follow from the rows that each text takes, padded as it would be now, and from what
/// the server has seen of its machine.
#[utoipa::path(
    post,
    path = "/estimate",
    tag = "Embeddings",
    request_body = EmbedRequest,
    responses(
        (status = 200, description = "Tokens, padding, expected seconds, and whether it would be admitted", body = EstimateResponse),
        EstimateErrors,
    ),
)]
pub(super) async fn estimate(
    Model(model): Model,
    JsonBody(Object(request)): JsonBody<Object<EmbedRequest>>,
) -> Result<JsonBytes, ApiError> {
    let options = options(&request, &model);
    let Estimated { tokens, truncated, padding, rows, estimate } =
        model.estimate(QUERY.name(request.query)?, options).await?;
    Ok(json(&EstimateResponse {
        count: tokens.len(),
        tokens,
        truncated,
        padding: padding.into_iter().map(Into::into).collect(),
        rows,
        model: model.model().id.clone(),
        queue_seconds: estimate.wait.as_secs_f64(),
        compute_seconds: estimate.compute.as_secs_f64(),
        admitted: estimate.refusal.is_none(),
        reason: estimate.refusal.map(|refusal| refusal.to_string()),
        retry_after: estimate.refusal.map(|refusal| refusal.retry_after()),
    }))
}

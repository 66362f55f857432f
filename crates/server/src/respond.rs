//! Responses with a JSON body.

use std::time::{Duration, Instant};

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use danaus_engine::Padding;
use serde::Serialize;

use crate::error::ApiError;
use crate::metrics::Stage;
use crate::service::{Embedded, Timing};
use crate::state::AppState;

pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How a request's texts were padded, also where the answer has no field for it.
pub(crate) const PADDING: HeaderName = HeaderName::from_static("x-danaus-padding");

/// A serialised JSON document, as a response of status 200.
#[derive(Debug, Clone)]
pub(crate) struct JsonBytes(pub(crate) Vec<u8>);

/// Serialises one of our own response types; f32 values in their shortest form that reads back as the same f32.
pub(crate) fn json<T: Serialize>(value: &T) -> JsonBytes {
    JsonBytes(
        serde_json::to_vec(value).expect("our response types have string keys and no failing Serialize"),
    )
}

impl IntoResponse for JsonBytes {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0).into_response()
    }
}

/// Answers with embeddings in the form that `form` gives them, and says where the time went and how texts were padded.
pub(crate) async fn embeddings<T: Serialize>(
    state: &AppState,
    embedded: Embedded,
    form: impl FnOnce(Embedded) -> T + Send + 'static,
) -> Result<Response, ApiError> {
    let (timing, padding) = (server_timing(embedded.timing), distinct(&embedded.padding));
    let bytes = embedded.vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum();
    let started = Instant::now();
    let body = state.offload().quick(bytes, move || json(&form(embedded))).await?;
    state.metrics().stage_finished(Stage::Respond, started, started.elapsed());
    Ok(([(SERVER_TIMING, timing), (PADDING, padding)], body).into_response())
}

/// Where the request's time went, in milliseconds, as browsers' developer tools show it.
fn server_timing(timing: Timing) -> HeaderValue {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let value = format!(
        "tokenise;dur={:.3}, queue;dur={:.3}, compute;dur={:.3}",
        milliseconds(timing.tokenise),
        milliseconds(timing.queue),
        milliseconds(timing.compute),
    );
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

/// The paddings that there are among `paddings`, each once.
fn distinct(paddings: &[Padding]) -> HeaderValue {
    let all = [Padding::None, Padding::Fast, Padding::MaxLength].into_iter();
    let names: Vec<_> =
        all.filter(|padding| paddings.contains(padding)).map(|padding| padding.to_string()).collect();
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

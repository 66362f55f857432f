//! Responses with a JSON body.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

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

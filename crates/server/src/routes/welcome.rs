//! `GET /`.

use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};

use crate::openapi::ShutdownError;
use crate::respond::json;
use crate::types::danaus::Welcome;

const PAGE: &str = include_str!("welcome.html");

/// Says what this server is.
#[utoipa::path(
    get,
    path = "/",
    tag = "Server",
    responses(
        (status = 200, description = "JSON, or a page for browsers (`Accept: text/html`)", content(
            (Welcome = "application/json"),
            (String = "text/html"),
        )),
        ShutdownError,
    ),
)]
pub(super) async fn welcome(headers: HeaderMap) -> Response {
    let wants_page = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accepted| accepted.to_ascii_lowercase().contains("text/html"));
    let vary = [(VARY, HeaderValue::from_static("accept"))];
    if wants_page {
        let html = [(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
        return (vary, html, PAGE.replace("{version}", env!("CARGO_PKG_VERSION"))).into_response();
    }
    let message = "danaus embeds texts with M2-BERT";
    (vary, json(&Welcome { message, docs: "/docs", health: "/health" })).into_response()
}

//! `GET /docs` (Swagger UI, from files inside the binary) and `GET /openapi.json`.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use utoipa_swagger_ui::{Config, SwaggerFile};

use crate::error::{ApiError, ErrorKind};
use crate::openapi::{Deployment, ShutdownError, document};
use crate::respond::{JsonBytes, json};
use crate::state::AppState;
use crate::types::danaus::ErrorBody;

/// Without a validator, whose badge would be fetched from another server.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::new(["/openapi.json"]).validator_url("none").display_request_duration(true);
    Arc::new(config.default_models_expand_depth(0))
});

/// Shows this API, and lets every route be tried.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "Server",
    responses(
        (status = 200, description = "Swagger UI", body = String, content_type = "text/html"),
        (status = 500, description = "Internal error", body = ErrorBody),
        ShutdownError,
    ),
)]
pub(super) async fn page() -> Result<Response, ApiError> {
    let (_, page) = swagger_file("index.html")?;
    let page = String::from_utf8(page.into()).map_err(|error| broken("index.html", &error))?;
    // The page's own links are relative to /docs/, and it is served at /docs, too.
    let page = page.replacen("<head>", "<head>\n    <base href=\"/docs/\" />", 1);
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], page).into_response())
}

/// A file that the page asks for.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let (content_type, bytes) = swagger_file(&name)?;
    let content_type = HeaderValue::from_str(&content_type).map_err(|error| broken(&name, &error))?;
    // A new version of the server may bring new files under the same names.
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, HeaderValue::from_static("max-age=3600"))];
    Ok((headers, bytes).into_response())
}

/// Describes this API to programs.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Server",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/json"),
        ShutdownError,
    ),
)]
pub(super) async fn openapi(State(state): State<AppState>) -> JsonBytes {
    let config = state.config();
    json(&document(&Deployment {
        dimension: state.ready().map(|ready| ready.backend().dimension()),
        needs_key: !config.api_keys.is_empty(),
        accepts_token_ids: config.accept_token_ids,
    }))
}

fn swagger_file(name: &str) -> Result<(String, Bytes), ApiError> {
    match utoipa_swagger_ui::serve(name, Arc::clone(&CONFIG)) {
        // Most files are the binary's own memory, which a client may read as slowly as it likes.
        Ok(Some(SwaggerFile { bytes: Cow::Borrowed(bytes), content_type, .. })) => {
            Ok((content_type, Bytes::from_static(bytes)))
        }
        Ok(Some(SwaggerFile { bytes: Cow::Owned(bytes), content_type, .. })) => {
            Ok((content_type, bytes.into()))
        }
        Ok(None) => {
            Err(ApiError::new(ErrorKind::UnknownRoute, "No such file: GET /docs is the documentation"))
        }
        Err(error) => Err(broken(name, error.as_ref())),
    }
}

fn broken(name: &str, error: &dyn std::error::Error) -> ApiError {
    tracing::error!(name, %error, "cannot serve a file of the documentation");
    ApiError::internal()
}

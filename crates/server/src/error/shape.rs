//! How an error looks in each API: the one place that knows.

use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{ApiError, ErrorKind};
use crate::respond::{JsonBytes, json};
use crate::types::danaus::{ErrorBody, ErrorDetails};
use crate::types::openai::{OpenAiError, OpenAiErrorDetails};
use crate::types::tei::{TeiError, TeiErrorType};

/// An API that clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// The product's own.
    Danaus,
    OpenAi,
    /// Text Embeddings Inference.
    Tei,
}

impl Api {
    /// The API that a request is to, as far as its route says.
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        let is_under = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        match path {
            "/" if request.method() == Method::POST => Self::Tei,
            "/embeddings" | "/models" => Self::OpenAi,
            _ if is_under("/v1") || is_under("/api/v1") => Self::OpenAi,
            _ => Self::Danaus,
        }
    }

    /// The name of its errors in the OpenAPI document.
    pub(crate) const fn error_schema(self) -> &'static str {
        match self {
            Self::Danaus => "ErrorBody",
            Self::OpenAi => "OpenAiError",
            Self::Tei => "TeiError",
        }
    }
}

/// Gives errors the form of the API that was called; other responses pass as they are.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let api = Api::of(&request);
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let api = error.api.unwrap_or(api);
    // With the headers that it has by now, but for the length of its empty body.
    response.headers_mut().remove(CONTENT_LENGTH);
    let mut response = (error.status(api), response.headers().clone(), error.body(api)).into_response();
    // For those around it that count errors.
    response.extensions_mut().insert(error.kind);
    response
}

impl ApiError {
    /// The status in `api`: that of the kind, but where an API's clients look for another one.
    pub(crate) fn status(&self, api: Api) -> StatusCode {
        match (api, self.kind) {
            (Api::OpenAi, ErrorKind::InvalidField | ErrorKind::TextTooLong) => StatusCode::BAD_REQUEST,
            (Api::Tei, ErrorKind::TextTooLong) => StatusCode::PAYLOAD_TOO_LARGE,
            (_, kind) => kind.status(),
        }
    }

    /// The body in `api`.
    pub(crate) fn body(&self, api: Api) -> JsonBytes {
        let (message, error_type, code) = (self.message.clone(), self.kind.error_type(), self.kind.code());
        match api {
            Api::Danaus => {
                let detail = message.clone();
                json(&ErrorBody { error: ErrorDetails { message, error_type, code }, detail })
            }
            Api::OpenAi => {
                let field = |place: &String| place.split(['[', '.']).next().unwrap_or(place).to_owned();
                let param = self.place.as_ref().map(field);
                json(&OpenAiError { error: OpenAiErrorDetails { message, error_type, param, code } })
            }
            Api::Tei => json(&TeiError { error: message, error_type: self.kind.tei_error_type() }),
        }
    }
}

impl ErrorKind {
    /// The coarse kind that OpenAI's clients know.
    const fn error_type(self) -> &'static str {
        match self {
            Self::Overloaded(_) => "rate_limit_error",
            Self::Internal
            | Self::Loading
            | Self::Preparing
            | Self::ShuttingDown
            | Self::TooManyConnections
            | Self::DeviceMemory
            | Self::DeadlineExceeded => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The coarse kind that clients of Text Embeddings Inference know.
    const fn tei_error_type(self) -> TeiErrorType {
        match self {
            Self::Overloaded(_) | Self::TooManyConnections => TeiErrorType::Overloaded,
            Self::Loading | Self::Preparing | Self::ShuttingDown => TeiErrorType::Unhealthy,
            Self::Internal | Self::DeviceMemory | Self::DeadlineExceeded => TeiErrorType::Backend,
            Self::EmptyList => TeiErrorType::Empty,
            _ => TeiErrorType::Validation,
        }
    }
}

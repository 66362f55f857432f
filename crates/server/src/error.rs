//! Errors as clients see them.

use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which the request would be let in; the same number as `Retry-After`.
pub(crate) const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What went wrong; decides status, `type` and `code` of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    MalformedJson,
    EmptyList,
    UnknownRoute,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    BatchTooLarge,
    UnsupportedMediaType,
    InvalidField,
    TextTooLong,
    Overloaded,
    Internal,
    Loading,
    Preparing,
    ShuttingDown,
    DeadlineExceeded,
}

impl ErrorKind {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::MalformedJson | Self::EmptyList => StatusCode::BAD_REQUEST,
            Self::UnknownRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge | Self::BatchTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidField | Self::TextTooLong => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Loading | Self::Preparing | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::EmptyList => "empty_list",
            Self::UnknownRoute => "unknown_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidField => "invalid_field",
            Self::TextTooLong => "text_too_long",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal_error",
            Self::Loading => "model_loading",
            Self::Preparing => "padding_preparing",
            Self::ShuttingDown => "shutting_down",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The coarse kind that OpenAI's clients know.
    const fn error_type(self) -> &'static str {
        match self {
            Self::Overloaded => "rate_limit_error",
            Self::Internal
            | Self::Loading
            | Self::Preparing
            | Self::ShuttingDown
            | Self::DeadlineExceeded => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// Body of every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetails,
    /// The message again, where FastAPI's clients look for it.
    #[schema(example = "Query list cannot be empty")]
    detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ErrorDetails {
    /// What was expected, what came, and what to do.
    #[schema(example = "Query list cannot be empty")]
    message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    error_type: &'static str,
    /// Stable name of the error, for programs.
    #[schema(example = "empty_list")]
    code: &'static str,
}

/// An error response: message for people, kind for programs, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    kind: ErrorKind,
    message: String,
    retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// The client may try again after this many seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn invalid_field(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidField, message)
    }

    pub(crate) fn loading() -> Self {
        Self::new(
            ErrorKind::Loading,
            "The model is still loading: try again shortly; GET /health says when it is ready",
        )
        .retry_after(2)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            ErrorKind::ShuttingDown,
            "The server is shutting down: send the request to another instance, or again later",
        )
        .retry_after(5)
    }

    /// For what is our fault; the cause belongs in the log, not in the response.
    pub(crate) fn internal() -> Self {
        Self::new(
            ErrorKind::Internal,
            "Internal error while computing this request; the server's log has the cause under this response's X-Request-Id",
        )
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The headers that say when to try again.
    pub(crate) fn retry_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let Some(seconds) = self.retry_after.map(HeaderValue::from) else { return Vec::new() };
        let mut headers = vec![(RETRY_AFTER, seconds.clone())];
        if self.kind == ErrorKind::Overloaded {
            headers.push((RATE_LIMIT_RESET, seconds));
        }
        headers
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let details = ErrorDetails {
            message: self.message.clone(),
            error_type: self.kind.error_type(),
            code: self.kind.code(),
        };
        ErrorBody { error: details, detail: self.message.clone() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), crate::respond::json(&self.body())).into_response();
        response.headers_mut().extend(self.retry_headers());
        if matches!(self.kind, ErrorKind::ShuttingDown | ErrorKind::RequestTimeout) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

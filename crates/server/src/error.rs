//! Errors: what went wrong, in which words. How that looks is a matter of the API: see [`shape`].

mod shape;

pub(crate) use shape::{Api, render};

use std::borrow::Cow;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

/// Seconds after which the request would be let in; the same number as `Retry-After`.
pub(crate) const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Seconds after which to ask again while fast padding is prepared, which takes minutes.
pub(crate) const PREPARING_SECONDS: u64 = 30;

/// What went wrong; decides status, `type` and `code` of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    MalformedJson,
    EmptyList,
    TokenIds,
    MalformedHead,
    PlainHttp,
    Unauthorized,
    UnknownRoute,
    UnknownModel,
    MethodNotAllowed,
    RequestTimeout,
    HeadTooLarge,
    BodyTooLarge,
    BatchTooLarge,
    UnsupportedMediaType,
    InvalidField,
    TextTooLong,
    Overloaded(Overload),
    Internal,
    Loading,
    Preparing,
    ShuttingDown,
    TooManyConnections,
    DeviceMemory,
    DeadlineExceeded,
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overload {
    /// Texts or tokens that wait.
    Queue,
    /// Seconds until the request's turn.
    Wait,
    /// Bytes of requests and answers.
    InflightBytes,
}

impl ErrorKind {
    const fn status(self) -> StatusCode {
        match self {
            Self::MalformedJson
            | Self::EmptyList
            | Self::TokenIds
            | Self::MalformedHead
            | Self::PlainHttp => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnknownRoute | Self::UnknownModel => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge | Self::BatchTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidField | Self::TextTooLong => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Loading
            | Self::Preparing
            | Self::ShuttingDown
            | Self::TooManyConnections
            | Self::DeviceMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::EmptyList => "empty_list",
            Self::TokenIds => "token_ids_not_accepted",
            Self::MalformedHead => "malformed_head",
            Self::PlainHttp => "tls_required",
            Self::Unauthorized => "invalid_api_key",
            Self::UnknownRoute => "unknown_route",
            Self::UnknownModel => "model_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidField => "invalid_field",
            Self::TextTooLong => "text_too_long",
            Self::Overloaded(_) => "overloaded",
            Self::Internal => "internal_error",
            Self::Loading => "model_loading",
            Self::Preparing => "padding_preparing",
            Self::ShuttingDown => "shutting_down",
            Self::TooManyConnections => "too_many_connections",
            Self::DeviceMemory => "device_out_of_memory",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The code, or what it does not tell apart, for those who watch the server.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Overloaded(Overload::Queue) => "queue_full",
            Self::Overloaded(Overload::Wait) => "queue_seconds",
            Self::Overloaded(Overload::InflightBytes) => "inflight_bytes",
            kind => kind.code(),
        }
    }
}

/// What went wrong: message for people, kind for programs, and when to try again.
///
/// As a response it is a note for [`render`], which gives it the form of the API that was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    kind: ErrorKind,
    message: String,
    /// The place in the request that is wrong, like `input[3]`.
    place: Option<String>,
    retry_after: Option<u64>,
    /// The API that was called, where the route alone does not say.
    api: Option<Api>,
}

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None, retry_after: None, api: None }
    }

    /// About a place in the request, which the message then starts with.
    pub(crate) fn at(kind: ErrorKind, place: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let place = place.into();
        Self { place: Some(place.clone()), ..Self::new(kind, format!("{place}: {message}")) }
    }

    /// The client may try again after this many seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The request was one to this API, whatever its route.
    pub(crate) fn of(mut self, api: Api) -> Self {
        self.api = Some(api);
        self
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

    /// Fast padding of the text would be exact, because it is not prepared yet.
    pub(crate) fn preparing() -> Self {
        Self::new(
            ErrorKind::Preparing,
            "Fast padding is still being prepared: try again later, or ask for \"padding\": \"max-length\"",
        )
        .retry_after(PREPARING_SECONDS)
    }

    /// All of the connections that there may be are open.
    pub(crate) fn too_many_connections(limit: usize) -> Self {
        let message = format!(
            "{limit} connections are open, and the limit is {limit}: close or share some, or try again shortly"
        );
        Self::new(ErrorKind::TooManyConnections, message).retry_after(1)
    }

    /// The GPU's memory does not hold what a batch needs.
    pub(crate) fn device_memory() -> Self {
        Self::new(
            ErrorKind::DeviceMemory,
            "The GPU has not enough memory for this request now: try again shortly, or send shorter texts",
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

    /// Whether the request was refused for its size, rather than broken by its client.
    pub(crate) fn is_a_refusal(&self) -> bool {
        matches!(self.kind, ErrorKind::BodyTooLarge | ErrorKind::Overloaded(_))
    }

    /// The headers that say when to try again.
    pub(crate) fn retry_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let Some(seconds) = self.retry_after.map(HeaderValue::from) else { return Vec::new() };
        let mut headers = vec![(RETRY_AFTER, seconds.clone())];
        if matches!(self.kind, ErrorKind::Overloaded(_)) {
            headers.push((RATE_LIMIT_RESET, seconds));
        }
        headers
    }
}

/// A name that a client gave, for a message: its beginning, where it is longer than any that is right.
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    const MOST: usize = 64;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.extend(self.retry_headers());
        match self.kind {
            ErrorKind::ShuttingDown | ErrorKind::RequestTimeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            ErrorKind::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"danaus\""));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

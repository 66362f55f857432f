//! What happens around every request: id, log line, measurements, and the refusal during a shutdown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument, Span};

use crate::body::{Lent, waits_for_our_word};
use crate::error::{ApiError, ErrorKind, shortened};
use crate::metrics::{InFlight, RequestLabels};
use crate::pace::Pace;
use crate::routes::{HEALTH, METRICS};
use crate::state::AppState;
use crate::traces::{self, RequestTrace};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Seconds that a client gives its request.
pub(crate) const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// A client's id longer than this is replaced, so that it cannot fill the log.
const LONGEST_REQUEST_ID: usize = 128;

/// How long the rest of a request is waited for that has its answer.
const UNREAD_PATIENCE: Duration = Duration::from_secs(2);

/// What nginx logs for a client that left before the answer.
const CLIENT_LEFT: &str = "499";

/// Gives every request an id, a log line and its place in the metrics.
pub(crate) async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let id = request_id(&state, request.headers());
    let route: Option<MatchedPath> = request.extensions().get().cloned();
    let method = method_label(request.method());
    let trace = state.config().traces.begin(&request, (method, route.as_ref().map(MatchedPath::as_str)));
    let trace_id = trace.as_ref().and_then(RequestTrace::id);
    // Of the highest level, so that no line about the request is without its id, whatever is logged.
    let span = tracing::error_span!("request", id = id.to_str().unwrap_or_default(), trace_id);
    let mut record = Record {
        method,
        route,
        id: id.clone(),
        trace: trace.clone(),
        started: Instant::now(),
        status: None,
        reason: None,
        span: span.clone(),
        _in_flight: state.metrics().in_flight(),
        state,
    };
    let mut response = traces::within(trace, next.run(request)).instrument(span).await;
    record.status = Some(response.status());
    record.reason = response.extensions().get().copied();
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Refuses requests that arrive on open connections during a shutdown; `/health` answers for itself.
pub(crate) async fn refuse_in_shutdown(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(_in_flight) = state.let_in() {
        return next.run(request).await;
    }
    if request.uri().path() != HEALTH {
        return ApiError::shutting_down().into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Counts what the request and its answer hold, until the answer is sent.
pub(crate) async fn hold(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let held = state.inflight().hold();
    request.extensions_mut().insert(Arc::clone(&held));
    let (head, body) = next.run(request).await.into_parts();
    // Answers are made whole: there is nothing to wait for, and nothing that can fail.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body = if body.is_empty() { Body::empty() } else { Body::from(held.until_sent(body)) };
    Response::from_parts(head, body)
}

/// Reads on where the answer was there before the request's end, as far as that takes no time: most clients read no answer before they
/// have sent everything, and would see a broken connection instead. Where there is still more, the connection ends.
pub(crate) async fn read_on(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let waits = waits_for_our_word(request.headers());
    let (head, body) = request.into_parts();
    let (lent, rest) = Lent::new(body);
    let mut response = next.run(Request::from_parts(head, Body::new(lent))).await;
    let Some(rest) = rest.take() else { return response };
    let mut pace = Pace::new(UNREAD_PATIENCE);
    let reader = state.body_reader();
    let discarded = tokio::time::timeout(UNREAD_PATIENCE, reader.discard(rest, &mut pace));
    if waits || !discarded.await.unwrap_or(false) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Why requests on a connection are refused.
#[derive(Clone)]
pub(crate) struct Refusal {
    /// `None`: each request carries its reason.
    error: Option<ApiError>,
    /// Whether [`HEALTH`] and [`METRICS`] answer nevertheless: a server with many clients is neither dead nor blind.
    but_status: bool,
}

impl Refusal {
    /// Of every request.
    pub(crate) fn always(error: ApiError) -> Self {
        Self { error: Some(error), but_status: false }
    }

    /// Of every request, but those that ask how the server does.
    pub(crate) fn full(error: ApiError) -> Self {
        Self { error: Some(error), but_status: true }
    }

    /// Of requests that have an [`ApiError`] among their extensions.
    pub(crate) fn noted() -> Self {
        Self { error: None, but_status: false }
    }
}

/// Refuses the requests of a connection that cannot be served, and asks for its end.
pub(crate) async fn refuse(State(refusal): State<Refusal>, request: Request, next: Next) -> Response {
    let mut response = if refusal.but_status && [HEALTH, METRICS].contains(&request.uri().path()) {
        next.run(request).await
    } else {
        let noted = request.extensions().get().cloned();
        refusal.error.or(noted).unwrap_or_else(ApiError::internal).into_response()
    };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers 504 where a request takes longer than its client gives it, and gives up what is left of it: texts that wait for
/// the model leave the queue.
pub(crate) async fn keep_deadline(request: Request, next: Next) -> Result<Response, ApiError> {
    let Some(limit) = request_timeout(request.headers())? else { return Ok(next.run(request).await) };
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_elapsed| {
        let message =
            format!("No result within the request's X-Request-Timeout of {} s", limit.as_secs_f64());
        ApiError::new(ErrorKind::DeadlineExceeded, message)
    })
}

fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(REQUEST_TIMEOUT) else { return Ok(None) };
    let seconds: Option<f64> = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    match seconds {
        Some(seconds) if seconds > 0.0 && seconds.is_finite() => {
            let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Ok(Some(limit.max(Duration::from_nanos(1))))
        }
        _ => {
            let value = String::from_utf8_lossy(value.as_bytes());
            let value = shortened(&value);
            let message = format!("expected a number of seconds above 0, like 2.5, got {value:?}");
            Err(ApiError::at(ErrorKind::InvalidField, "X-Request-Timeout", message))
        }
    }
}

/// The client's id if it is sane, else a new one.
fn request_id(state: &AppState, headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=LONGEST_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&state.new_request_id()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// What unknown methods are called.
pub(crate) const UNKNOWN_METHOD: &str = "other";

/// Unknown methods share a label: a client must not be able to make new time series.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => UNKNOWN_METHOD,
    }
}

/// Logs and counts the request when it ends, however it ends.
struct Record {
    state: AppState,
    method: &'static str,
    route: Option<MatchedPath>,
    id: HeaderValue,
    trace: Option<RequestTrace>,
    started: Instant,
    /// `None`: the future was dropped, because the client left.
    status: Option<StatusCode>,
    /// Why it got an error instead of an answer.
    reason: Option<ErrorKind>,
    span: Span,
    _in_flight: InFlight,
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let route = self.route.as_ref().map_or("unknown", MatchedPath::as_str);
        let status = self.status.as_ref().map_or(CLIENT_LEFT, StatusCode::as_str);
        let method = self.method;
        let labels = RequestLabels { method, route, status, reason: self.reason };
        self.state.metrics().request_finished(labels, elapsed);
        if let Some(trace) = &self.trace {
            trace.end(self.status, self.reason, &self.id);
        }
        let _entered = self.span.enter();
        let milliseconds = elapsed.as_micros() as f64 / 1e3;
        let code = self.reason.map(ErrorKind::code);
        if method == "GET" && self.status.is_some_and(|status| status.is_success()) {
            // Health checks and scrapes, mostly.
            tracing::debug!(method, route, status, milliseconds, code, "answered");
        } else {
            tracing::info!(method, route, status, milliseconds, code, "answered");
        }
    }
}

//! Traces for OpenTelemetry: a span for a request, below it one for each stage of its way. Off, they cost a look at nothing.
//!
//! Names and attributes are those of OpenTelemetry's conventions for HTTP servers. No text of a request is in them, nor a path
//! that is no route: what clients send stays out.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version};
use opentelemetry::global::{BoxedTracer, ObjectSafeTracer};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, StringValue, Value};
use opentelemetry_http::HeaderExtractor;

use crate::error::ErrorKind;
use crate::metrics::Stage;
use crate::middleware::UNKNOWN_METHOD;
use crate::routes::{HEALTH, METRICS};

/// Where spans of requests go: nowhere by default.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Sink>>);

struct Sink {
    tracer: BoxedTracer,
    propagator: Box<dyn TextMapPropagator + Send + Sync>,
}

tokio::task_local! {
    /// The trace of the request that this task answers.
    static CURRENT: RequestTrace;
}

impl Traces {
    /// Gives spans to `tracer`; `propagator` reads from a request's headers which span of its client it belongs to.
    pub fn new(
        tracer: impl ObjectSafeTracer + Send + Sync + 'static,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        let (tracer, propagator) = (BoxedTracer::new(Box::new(tracer)), Box::new(propagator));
        Self(Some(Arc::new(Sink { tracer, propagator })))
    }

    /// Begins the trace of a request, with its method and route as metrics call them; none of health checks and scrapes, which
    /// would be most of them.
    pub(crate) fn begin(
        &self,
        request: &Request,
        labels: (&'static str, Option<&str>),
    ) -> Option<RequestTrace> {
        let sink = self.0.as_ref()?;
        if matches!(labels.1, Some(HEALTH | METRICS)) {
            return None;
        }
        let parent =
            sink.propagator.extract_with_context(&Context::new(), &HeaderExtractor(request.headers()));
        let (started, at) = (Instant::now(), SystemTime::now());
        let builder = request_span(request, labels).with_start_time(at);
        let span = sink.tracer.build_with_context(builder, &parent);
        Some(RequestTrace { sink: Arc::clone(sink), context: parent.with_span(span), started, at })
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Traces(on)" } else { "Traces(off)" })
    }
}

/// The span of a request, which ends when [`RequestTrace::end`] says so.
#[derive(Clone)]
pub(crate) struct RequestTrace {
    sink: Arc<Sink>,
    /// Has the span.
    context: Context,
    started: Instant,
    /// The same moment, as the world calls it.
    at: SystemTime,
}

impl RequestTrace {
    /// The trace's id as logs show it: none if the trace is not sampled, so that nobody looks for it in vain.
    pub(crate) fn id(&self) -> Option<String> {
        let span = self.context.span();
        let context = span.span_context();
        context.is_sampled().then(|| context.trace_id().to_string())
    }

    fn stage(&self, stage: Stage, started: Instant, elapsed: Duration) {
        let start = self.at + started.saturating_duration_since(self.started);
        let builder =
            SpanBuilder::from_name(stage.name()).with_kind(SpanKind::Internal).with_start_time(start);
        self.sink.tracer.build_with_context(builder, &self.context).end_with_timestamp(start + elapsed);
    }

    /// Ends the span; without a status, the client left before the answer.
    pub(crate) fn end(&self, status: Option<StatusCode>, reason: Option<ErrorKind>, id: &HeaderValue) {
        let span = self.context.span();
        if let Some(status) = status {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        }
        if let Ok(id) = id.to_str() {
            let ids = Value::Array(vec![StringValue::from(id.to_owned())].into());
            span.set_attribute(KeyValue::new("http.response.header.x-request-id", ids));
        }
        let error = match status {
            None => Some("client_left"),
            Some(_) => reason.map(ErrorKind::code),
        };
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error));
        }
        // A client's mistake is no error of the server: so the convention says.
        if status.is_none_or(|status| status.is_server_error()) {
            span.set_status(Status::error(error.unwrap_or_default()));
        }
        span.end_with_timestamp(self.at + self.started.elapsed());
    }
}

fn request_span(request: &Request, labels: (&'static str, Option<&str>)) -> SpanBuilder {
    // The convention's names for a method that is none.
    let (verb, method) = match labels.0 {
        UNKNOWN_METHOD => ("HTTP", "_OTHER"),
        method => (method, method),
    };
    let name = labels.1.map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}"));
    let mut attributes = vec![KeyValue::new("http.request.method", method)];
    match request.version() {
        Version::HTTP_10 => attributes.push(KeyValue::new("network.protocol.version", "1.0")),
        Version::HTTP_11 => attributes.push(KeyValue::new("network.protocol.version", "1.1")),
        _ => {}
    }
    if let Some(route) = labels.1 {
        attributes.push(KeyValue::new("http.route", route.to_owned()));
        if route == request.uri().path() {
            attributes.push(KeyValue::new("url.path", route.to_owned()));
        }
    }
    SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes)
}

/// Runs what answers a request, whose stages become spans of `trace`.
pub(crate) async fn within<F: Future>(trace: Option<RequestTrace>, answer: F) -> F::Output {
    match trace {
        Some(trace) => CURRENT.scope(trace, answer).await,
        None => answer.await,
    }
}

/// Notes a stage of the request that this task answers, if that is traced.
pub(crate) fn stage_finished(stage: Stage, started: Instant, elapsed: Duration) {
    let _untraced = CURRENT.try_with(|trace| trace.stage(stage, started, elapsed));
}

/// Notes how much a request asks for.
pub(crate) fn size(texts: usize, tokens: usize) {
    let _untraced = CURRENT.try_with(|trace| {
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        trace.context.span().set_attributes([
            KeyValue::new("danaus.texts", count(texts)),
            KeyValue::new("danaus.tokens", count(tokens)),
        ]);
    });
}

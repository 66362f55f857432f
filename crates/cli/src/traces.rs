//! Sending traces to an OpenTelemetry collector, by OTLP over HTTP.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use danaus_server::Traces;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use ureq::http::Uri;

use crate::args::{TraceArgs, usage_error};

/// What the service is called where `OTEL_SERVICE_NAME` does not say.
const SERVICE: &str = "danaus";

/// Where below a collector's address traces go.
const PATH: &str = "v1/traces";

/// Longest time for one delivery.
const DELIVERY: Duration = Duration::from_secs(10);

/// Longest time that the process's end waits for the last delivery.
const LAST_DELIVERY: Duration = Duration::from_secs(3);

/// Shortest time between two warnings about a collector that takes nothing.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Most bytes of a collector's answer.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Spans on their way; the last ones leave with [`finish`](Export::finish).
pub struct Export(Option<SdkTracerProvider>);

/// Starts sending traces, if there is anywhere to send them to.
pub fn start(args: &TraceArgs, model: &str) -> anyhow::Result<(Traces, Export)> {
    let Some(endpoint) = args.traces_url()? else { return Ok((Traces::default(), Export(None))) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new())
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .build()
        .with_context(|| format!("traces cannot be sent to {endpoint}"))?;
    // Its queue is bounded: what a slow collector does not take in time is left out.
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(model)).build();
    tracing::info!(endpoint, "sending traces");
    let traces = Traces::new(provider.tracer(SERVICE), TraceContextPropagator::new());
    Ok((traces, Export(Some(provider))))
}

impl Export {
    /// Sends what is left, and waits for that, but not for long.
    pub fn finish(self) {
        let Some(provider) = self.0 else { return };
        if let Err(error) = provider.shutdown_with_timeout(LAST_DELIVERY) {
            tracing::warn!(%error, "the last traces may not have been delivered");
        }
    }
}

impl TraceArgs {
    /// Where traces go, path and all. OpenTelemetry's own variables count where ours is not set.
    fn traces_url(&self) -> anyhow::Result<Option<String>> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let below = |base: String| format!("{}/{PATH}", base.trim_end_matches('/'));
        if let Some(base) = &self.otlp_endpoint {
            return Ok(Some(below(base.clone())));
        }
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let checked = |name| {
            let url = variable(name).map(|value| endpoint(&value)).transpose();
            url.map_err(|error| usage_error(format!("the environment variable {name}: {error}")))
        };
        // The one for traces alone has its path already: so the specification says.
        match checked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")? {
            Some(url) => Ok(Some(url)),
            None => Ok(checked("OTEL_EXPORTER_OTLP_ENDPOINT")?.map(below)),
        }
    }
}

/// The address of a collector.
pub fn endpoint(text: &str) -> Result<String, String> {
    let expected = "expected the address of a collector, like http://localhost:4318";
    let uri: Uri = text.trim().parse().map_err(|error| format!("{error}: {expected}"))?;
    match (uri.scheme_str(), uri.authority()) {
        // The log shows the address.
        (_, Some(host)) if host.as_str().contains('@') => {
            Err(format!("{expected}; a user and password go into OTEL_EXPORTER_OTLP_HEADERS"))
        }
        (Some("http" | "https"), Some(_)) => Ok(text.trim().to_owned()),
        _ => Err(expected.to_owned()),
    }
}

/// What sends the spans; `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` add to it or replace it.
fn resource(model: &str) -> Resource {
    let ours = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("danaus.model", model.to_owned()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(ours)
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// Talks to the collector, on the thread of the exporter's own, and says when that fails.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    warned: Mutex<Option<Instant>>,
}

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(DELIVERY)).http_status_as_error(false);
        Self { agent: config.build().into(), warned: Mutex::new(None) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }

    fn warn(&self, endpoint: &Uri, failure: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARNING_PAUSE) {
            *warned = Some(Instant::now());
            tracing::warn!(%endpoint, failure, "traces are lost: the collector does not take them");
        }
    }
}

impl HttpClient for Client {
    // As `async_trait` would write it.
    fn send_bytes<'client, 'sending>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sending>>
    where
        'client: 'sending,
        Self: 'sending,
    {
        let endpoint = request.uri().clone();
        let result = self.send(request);
        match &result {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.warn(&endpoint, &format!("status {}", response.status())),
            Err(error) => self.warn(&endpoint, &error.to_string()),
        }
        Box::pin(ready(result))
    }
}

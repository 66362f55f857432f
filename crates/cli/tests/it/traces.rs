//! Traces, as a collector gets them.

use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::json;

use crate::collector::{Collector, attributes};
use crate::common::{danaus_with, run, small_model};
use crate::server::Server;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENTS_SPAN: &str = "00f067aa0ba902b7";

/// Appears in texts and in paths, and nowhere else.
const SECRET: &str = "Schmetterling";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traced(collector: &Collector) -> Server {
    Server::of(small_model(), &format!("--otlp-endpoint http://{}", collector.address))
}

/// Ends the server, so that its last spans are on their way, and returns the spans of requests by their names, and those of
/// stages.
fn finished(mut server: Server, collector: &Collector) -> (HashMap<String, Span>, Vec<Span>) {
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    let spans = collector.spans().into_iter().map(|(span, _)| span);
    let (requests, stages): (Vec<_>, Vec<_>) = spans.partition(|span| span.kind() == SpanKind::Server);
    (requests.into_iter().map(|span| (span.name.clone(), span)).collect(), stages)
}

#[test]
fn a_request_is_a_span_of_its_clients_trace_with_a_span_for_each_stage() {
    let collector = Collector::start();
    let server = traced(&collector);
    let traceparent = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
    let headers =
        [("traceparent", traceparent.as_str()), ("tracestate", "vendor=value"), ("x-request-id", "my-id")];
    let (status, _) = server.post_with("/embed", &json!({"query": [SECRET, "b"]}), &headers);
    assert_eq!(status, 200);
    server.wait_for_log(&format!("id=\"my-id\" trace_id=\"{TRACE}\""));
    let (requests, stages) = finished(server, &collector);

    let request = &requests["POST /embed"];
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.into(), CLIENTS_SPAN.into()));
    assert_eq!(request.trace_state, "vendor=value");
    assert_eq!(request.status.as_ref().map_or(StatusCode::Unset, |status| status.code()), StatusCode::Unset);
    let found = attributes(&request.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/embed"),
        ("url.path", "/embed"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("http.response.header.x-request-id", "my-id"),
        ("danaus.texts", "2"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name} in {found:?}");
    }

    let names: Vec<&str> = stages.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["read", "tokenise", "queue", "compute", "finish", "respond"]);
    for stage in &stages {
        assert_eq!((&stage.trace_id, &stage.parent_span_id), (&request.trace_id, &request.span_id));
        assert!(request.start_time_unix_nano <= stage.start_time_unix_nano, "{stage:?} in {request:?}");
        assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{stage:?}");
        assert!(stage.end_time_unix_nano <= request.end_time_unix_nano, "{stage:?} in {request:?}");
    }
    let (_, resource) = &collector.spans()[0];
    assert_eq!(resource["service.name"], "danaus");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(resource["danaus.model"].ends_with("small-model"), "{resource:?}");
}

#[test]
fn errors_are_marked_and_nothing_that_clients_send_is_in_a_span() {
    let collector = Collector::start();
    let server = traced(&collector);
    server.embed(&[SECRET]);
    server.post(&format!("/{SECRET}?{SECRET}"), &json!(SECRET));
    server.post(&format!("/tokenize?{SECRET}"), &json!({"inputs": SECRET, SECRET: SECRET}));
    server.post("/v1/embeddings", &json!({"input": SECRET, "model": SECRET, "dimensions": SECRET}));
    server.post("/embed/batch", &json!({SECRET: SECRET}));
    server.get(&format!("/docs/{SECRET}"));
    server.get("/health");
    let (requests, _) = finished(server, &collector);
    let names: BTreeSet<&str> = requests.keys().map(String::as_str).collect();
    // Health checks are left out.
    let expected = [
        "GET /docs/{*file}",
        "POST",
        "POST /embed",
        "POST /embed/batch",
        "POST /tokenize",
        "POST /v1/embeddings",
    ];
    assert_eq!(names, expected.into());
    let error = |name: &str| attributes(&requests[name].attributes).get("error.type").cloned();
    assert_eq!(error("POST").as_deref(), Some("unknown_route"));
    assert_eq!(error("POST /v1/embeddings").as_deref(), Some("invalid_field"));
    assert_eq!(error("POST /tokenize"), None);
    // A client's error is none of the server's.
    assert!(
        requests
            .values()
            .all(|span| span.status.as_ref().is_none_or(|status| status.code() != StatusCode::Error))
    );
    assert_ne!(requests["POST"].trace_id, requests["POST /embed"].trace_id);
    for delivery in collector.deliveries() {
        let body = String::from_utf8_lossy(&delivery.body);
        assert!(!body.to_lowercase().contains(&SECRET.to_lowercase()), "{body}");
    }
}

#[test]
fn what_the_client_does_not_sample_is_not_sent() {
    let collector = Collector::start();
    let server = traced(&collector);
    let traceparent = format!("00-{TRACE}-{CLIENTS_SPAN}-00");
    server.post_with("/embed", &json!({"query": "a"}), &[("traceparent", &traceparent)]);
    // A header that is none counts as not there.
    server.post_with("/tokenize", &json!({"inputs": "a"}), &[("traceparent", "00-zz-01")]);
    let (requests, _) = finished(server, &collector);
    assert_eq!(requests.keys().collect::<Vec<_>>(), ["POST /tokenize"]);
    assert_ne!(hex(&requests["POST /tokenize"].trace_id), TRACE);
}

#[test]
fn opentelemetrys_own_variables_are_honoured() {
    let collector = Collector::start();
    let serve = || {
        let mut command = danaus_with(small_model(), "serve --host 127.0.0.1 --port 0");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}/", collector.address));
        command
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc")
            .env("OTEL_SERVICE_NAME", "mine");
        command
    };
    for (command, expected) in [(&mut serve(), 1), (serve().env("OTEL_SDK_DISABLED", "true"), 0)] {
        let before = collector.deliveries().len();
        let server = Server::start(command);
        server.wait_until_ready();
        server.embed(&["a"]);
        finished(server, &collector);
        assert_eq!(collector.deliveries().len() - before, expected);
    }
    assert_eq!(collector.deliveries()[0].headers["authorization"], "Basic abc");
    assert!(collector.spans().iter().all(|(_, resource)| resource["service.name"] == "mine"));
}

/// One that refuses connections, and one that takes them and never answers. More spans than fit the queue.
#[test]
fn a_dead_collector_harms_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_at, refusing_at) = (silent.local_addr().unwrap(), refusing.local_addr().unwrap());
    drop(refusing);
    // A delivery to the silent one may still be on its way at the end, and is not waited for then.
    for (address, least) in [(refusing_at, 1), (silent_at, 0)] {
        let mut server = Server::of(small_model(), &format!("--otlp-endpoint http://{address}"));
        for index in 0..500 {
            assert_eq!(server.embed(&[&format!("text {index}")]).len(), 1);
        }
        server.signal("TERM");
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
        let log = server.log();
        let warned = log.matches("the collector does not take them").count();
        assert!((least..=1).contains(&warned), "{warned} warnings in\n{log}");
        assert!(!log.contains("ERROR"), "{log}");
    }
}

#[test]
fn an_endpoint_that_is_none_is_an_error_of_usage() {
    for (endpoint, message) in [
        ("localhost:4318", "expected the address of a collector"),
        ("ftp://localhost", "expected the address of a collector"),
        ("http://user:word@localhost:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let mut command = danaus_with(small_model(), "serve --host 127.0.0.1 --port 0");
        run(command.args(["--otlp-endpoint", endpoint])).fails(2, &[message]);
        let mut command = danaus_with(small_model(), "serve --host 127.0.0.1 --port 0");
        run(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint))
            .fails(2, &[message, "OTEL_EXPORTER_OTLP_ENDPOINT"]);
    }
}

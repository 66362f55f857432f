//! Every way to be wrong: status and exact body.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use danaus_server::ServerConfig;
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::support::*;

fn invalid(message: &str, code: &str) -> Value {
    error_json(message, "invalid_request_error", code)
}

#[tokio::test]
async fn bodies_that_are_not_json_are_400_with_the_position() {
    let app = ready_app();
    let mut wrong = Vec::new();
    let deep = format!(r#"{{"query": {}"#, "[".repeat(100_000));
    let cases: [(&[u8], &str); 10] = [
        (b"", "The request body is empty: expected JSON"),
        (b" \n", "Malformed JSON: EOF while parsing a value at line 2 column 0"),
        (b"{", "Malformed JSON: EOF while parsing an object at line 1 column 1"),
        (b"query=hello", "Malformed JSON: expected value at line 1 column 1"),
        (br#"{"query": "a"} x"#, "Malformed JSON: trailing characters at line 1 column 16"),
        (br#"{"query": "a",}"#, "Malformed JSON: trailing comma at line 1 column 15"),
        (b"{\"query\": \"\xff\"}", "Malformed JSON: invalid unicode code point at line 1 column 12"),
        (br#"{"query": "\ud800"}"#, "Malformed JSON: unexpected end of hex escape at line 1 column 18"),
        (
            br#"{"query": "a", "dimensions": 1e999}"#,
            "Malformed JSON: number out of range at line 1 column 34",
        ),
        // A wrong type, and then something that is not even JSON.
        (br#"{"query": 5, "#, "Malformed JSON: EOF while parsing an object at line 1 column 13"),
    ];
    for (body, message) in cases {
        let answer = post(&app, "/embed", body.to_vec()).await;
        let shown = String::from_utf8_lossy(body);
        if (answer.status, answer.json()) != (StatusCode::BAD_REQUEST, invalid(message, "malformed_json")) {
            wrong.push(format!(
                "{shown}: {} {} instead of {message}",
                answer.status,
                answer.json()["detail"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let answer = post(&app, "/embed", deep).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn no_error_repeats_a_text() {
    let app = ready_app();
    let text = "Schmetterling ".repeat(400);
    for (path, body) in [
        ("/embed", json!(text)),
        ("/embed", json!({ "query": text })),
        ("/embed", json!({"query": {"text": text}})),
        ("/embed", json!({"query": [text, 7]})),
        ("/embed", json!({"query": "a", "truncate": text})),
        ("/embed", json!({"query": "a", "dimensions": text})),
        ("/embed", json!({"inputs": {"text": text}})),
        ("/embed/batch", json!(text)),
        ("/embed/batch", json!([[text]])),
        ("/", json!({"inputs": 7, "text": text})),
        ("/v1/embeddings", json!({"input": {"text": text}, "model": "m"})),
        ("/tokenize", json!({"inputs": [[text]]})),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": text}})),
        ("/similarity", json!({"inputs": text})),
    ] {
        let answer = post(&app, path, body.to_string()).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        assert!(!answer.body.contains("Schmetter"), "{path}: {}", answer.body);
    }
    // Of what is meant as a name, no more than a name's length.
    for field in ["pooling", "padding"] {
        let answer = post(&app, "/embed", json!({"query": "a", field: text}).to_string()).await;
        assert!(answer.body.len() < 500, "{field}: {}", answer.body);
    }
}

#[tokio::test]
async fn values_of_the_wrong_type_are_422_and_name_the_field() {
    let app = ready_app();
    let mut wrong = Vec::new();
    for (path, body, message) in [
        ("/embed", r#"{}"#, "missing field `query` at line 1 column 2"),
        ("/embed", r#"[]"#, "invalid type: sequence, expected a JSON object at line 1 column 0"),
        (
            "/embed",
            r#"["a", true, 5, true, "cls"]"#,
            "invalid type: sequence, expected a JSON object at line 1 column 0",
        ),
        ("/embed", r#""a""#, "invalid type: a string, expected a JSON object at line 1 column 3"),
        ("/embed", r#"null"#, "invalid type: null, expected a JSON object at line 1 column 4"),
        (
            "/embed",
            r#"{"query": null}"#,
            "query: invalid type: null, expected a string or a list of strings at line 1 column 14",
        ),
        (
            "/embed",
            r#"{"query": {"a": 1}}"#,
            "query: invalid type: map, expected a string or a list of strings at line 1 column 11",
        ),
        (
            "/embed",
            r#"{"query": ["a", null]}"#,
            "query[1]: invalid type: null, expected a string at line 1 column 20",
        ),
        (
            "/embed",
            r#"{"query": ["a", ["b"]]}"#,
            "query[1]: invalid type: sequence, expected a string at line 1 column 16",
        ),
        ("/embed", r#"{"query": "a", "query": "b"}"#, "duplicate field `query` at line 1 column 22"),
        (
            "/embed",
            r#"{"query": "a", "truncate": "yes"}"#,
            "truncate: invalid type: a string, expected a boolean at line 1 column 32",
        ),
        (
            "/embed",
            r#"{"query": "a", "normalize": 1}"#,
            "normalize: invalid type: integer `1`, expected a boolean at line 1 column 29",
        ),
        (
            "/embed",
            r#"{"query": "a", "pooling": "max"}"#,
            "pooling: unknown pooling \"max\": expected one of mean, cls, model at line 1 column 32",
        ),
        (
            "/embed",
            r#"{"query": "a", "padding": "left"}"#,
            "padding: unknown padding \"left\": expected one of none, max-length, fast at line 1 column 33",
        ),
        (
            "/embed",
            r#"{"query": "a", "padding": 256}"#,
            "padding: invalid type: integer `256`, expected a string at line 1 column 29",
        ),
        (
            "/embed",
            r#"{"query": "a", "dimensions": 0}"#,
            "dimensions: invalid value: integer `0`, expected an integer from 1 to the model's dimension at line 1 column 30",
        ),
        (
            "/embed",
            r#"{"query": "a", "dimensions": -3}"#,
            "dimensions: invalid value: integer `-3`, expected an integer from 1 to the model's dimension at line 1 column 31",
        ),
        (
            "/embed",
            r#"{"query": "a", "dimensions": 1.5}"#,
            "dimensions: invalid value: floating point `1.5`, expected an integer from 1 to the model's dimension at line 1 column 32",
        ),
        (
            "/embed",
            r#"{"query": "a", "dimensions": 99999999999999999999999}"#,
            "dimensions: invalid value: floating point `1e+23`, expected an integer from 1 to the model's dimension at line 1 column 52",
        ),
        (
            "/embed",
            r#"{"query": "a", "dimensions": 65}"#,
            "dimensions: the model's vectors have 64 components, cannot keep 65 of them",
        ),
        (
            "/embed/batch",
            r#"{"query": "a"}"#,
            "invalid type: map, expected a list of strings at line 1 column 0",
        ),
        (
            "/embed/batch",
            r#"["a", 1]"#,
            "[1]: invalid type: integer `1`, expected a string at line 1 column 7",
        ),
        (
            "/tokenize",
            r#"{"inputs": 1}"#,
            "inputs: invalid type: integer `1`, expected a string or a list of strings at line 1 column 12",
        ),
        (
            "/similarity",
            r#"{"inputs": []}"#,
            "inputs: invalid type: sequence, expected a JSON object at line 1 column 11",
        ),
        (
            "/similarity",
            r#"{"inputs": {"source_sentence": "a"}}"#,
            "inputs: missing field `sentences` at line 1 column 35",
        ),
        (
            "/similarity",
            r#"{"inputs": {"source_sentence": "a", "sentences": ["b", 2]}}"#,
            "inputs.sentences[1]: invalid type: integer `2`, expected a string at line 1 column 56",
        ),
    ] {
        let answer = post(&app, path, body).await;
        if (answer.status, answer.json())
            != (StatusCode::UNPROCESSABLE_ENTITY, invalid(message, "invalid_field"))
        {
            wrong.push(format!(
                "{path} {body}: {} {} instead of {message}",
                answer.status,
                answer.json()["detail"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_empty_list_is_400() {
    let app = ready_app();
    for (path, body, message) in [
        ("/embed", json!({"query": []}), "Query list cannot be empty"),
        ("/embed/batch", json!([]), "Query list cannot be empty"),
        ("/tokenize", json!({"inputs": []}), "Input list cannot be empty"),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": []}}),
            "Sentence list cannot be empty",
        ),
    ] {
        let answer = post(&app, path, body.to_string()).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::BAD_REQUEST, invalid(message, "empty_list")));
    }
}

#[tokio::test]
async fn unknown_routes_are_404_and_wrong_methods_405() {
    let app = ready_app();
    for (method, path) in
        [("GET", "/nothing"), ("POST", "/v2/nothing"), ("OPTIONS", "/nothing"), ("PUT", "/embed/")]
    {
        let answer = request(&app, method, path).await;
        let message = format!("No route {method} {path}: GET /docs lists the routes");
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::NOT_FOUND, invalid(&message, "unknown_route"))
        );
    }
    for (method, path, allow) in [
        ("GET", "/embed", "POST"),
        ("DELETE", "/embed/batch", "POST"),
        ("POST", "/health", "GET,HEAD"),
        ("BREW", "/docs", "GET,HEAD"),
        ("TRACE", "/", "GET,HEAD,POST"),
    ] {
        let answer = request(&app, method, path).await;
        let message =
            format!("{method} is not allowed on {path}: use a method of the response's Allow header");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::METHOD_NOT_ALLOWED, invalid(&message, "method_not_allowed"))
        );
    }
}

#[tokio::test]
async fn options_and_head_are_answered_without_a_body() {
    let app = ready_app();
    for (path, allow) in [("/embed", "POST"), ("/health", "GET,HEAD"), ("/docs/swagger-ui.css", "GET,HEAD")] {
        let answer = request(&app, "OPTIONS", path).await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::NO_CONTENT, Some(allow)), "{path}");
        assert_eq!(answer.body, "");
    }
    for path in ["/", "/health", "/info", "/docs", "/openapi.json"] {
        let (head, full) = (request(&app, "HEAD", path).await, get(&app, path).await);
        assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""), "{path}");
        assert_eq!(head.header("content-length"), Some(full.body.len().to_string().as_str()), "{path}");
    }
}

#[tokio::test]
async fn bodies_not_declared_as_json_are_415() {
    let app = ready_app();
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[], "Missing Content-Type: expected application/json"),
        (
            &[("content-type", "text/plain")],
            "Unsupported Content-Type \"text/plain\": expected application/json",
        ),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            "Unsupported Content-Type \"application/x-www-form-urlencoded\": expected application/json",
        ),
        (
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
            "Content-Encoding \"gzip\" is not supported: send the body uncompressed",
        ),
    ];
    for (headers, message) in cases {
        let mut request = Request::post("/embed");
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let answer = send(&app, request.body(Body::from(query("a"))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answer.json(), invalid(message, "unsupported_media_type"));
    }
    for declared in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"] {
        let request = Request::post("/embed").header("content-type", declared).body(Body::from(query("a")));
        assert_eq!(send(&app, request.unwrap()).await.status, StatusCode::OK, "{declared}");
    }
}

#[tokio::test]
async fn bodies_and_batches_over_the_limit_are_413_with_limit_and_size() {
    let app = ready_app_with(ServerConfig { max_body_bytes: 60, max_inputs: 3, ..ServerConfig::default() });
    let chunked = |left: usize| Body::new(Pieces { left, end: End::Whole });
    for (body, size) in [
        (Body::from(vec![b' '; 61]), "more than 60"), // no Content-Length in-process
        (chunked(61), "more than 60"),
        (chunked(1000), "more than 60"),
    ] {
        let answer = post(&app, "/embed", body).await;
        let message = format!(
            "The request body has {size} bytes, over the limit of 60 bytes: send fewer or shorter texts"
        );
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.json(), invalid(&message, "body_too_large"));
    }
    let mut declared = post_request("/embed", vec![b' '; 61]);
    declared.headers_mut().insert("content-length", 61.into());
    let message = "The request body has 61 bytes, over the limit of 60 bytes: send fewer or shorter texts";
    assert_eq!(send(&app, declared).await.json(), invalid(message, "body_too_large"));
    let padded = |body: Value| format!("{:60}", body.to_string());
    assert_eq!(post(&app, "/embed", padded(json!({"query": "a"}))).await.status, StatusCode::OK);
    for (path, body, count) in [
        ("/embed", json!({"query": ["a", "b", "c", "d"]}), 4),
        ("/embed/batch", json!(["a", "b", "c", "d", "e"]), 5),
        ("/tokenize", json!({"inputs": ["a", "b", "c", "d"]}), 4),
    ] {
        let answer = post(&app, path, body.to_string()).await;
        let message = format!("The request has {count} texts, over the limit of 3: split it");
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::PAYLOAD_TOO_LARGE, invalid(&message, "batch_too_large"))
        );
    }
}

#[tokio::test]
async fn tokenize_takes_a_megabyte_of_text() {
    let app = ready_app();
    let body = |bytes: usize| json!({"inputs": ["a", " ".repeat(bytes - 1)]}).to_string();
    assert_eq!(post(&app, "/tokenize", body(1_048_576)).await.status, StatusCode::OK);
    let answer = post(&app, "/tokenize", body(1_048_577)).await;
    let message = "The texts have 1048577 bytes, over this route's limit of 1048576: split them";
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::PAYLOAD_TOO_LARGE, invalid(message, "batch_too_large"))
    );
}

/// A body of `left` spaces in pieces, without a declared length, that stalls or breaks off at its end.
struct Pieces {
    left: usize,
    end: End,
}

enum End {
    Whole,
    Stalls,
    Breaks,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let size = self.left.min(7);
        self.left -= size;
        match self.end {
            _ if size > 0 => Poll::Ready(Some(Ok(Frame::data(vec![b' '; size].into())))),
            End::Whole => Poll::Ready(None),
            End::Stalls => Poll::Pending,
            End::Breaks => Poll::Ready(Some(Err(std::io::Error::other("gone")))),
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400_and_one_that_stalls_408() {
    let config = ServerConfig { read_timeout: Duration::from_millis(20), ..ServerConfig::default() };
    let app = ready_app_with(config);
    let broken = post(&app, "/embed", Body::new(Pieces { left: 20, end: End::Breaks })).await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        broken.json(),
        invalid("The request body ended early, or its chunks are malformed: gone", "malformed_json")
    );
    let stalled = post(&app, "/embed", Body::new(Pieces { left: 20, end: End::Stalls })).await;
    assert_eq!(stalled.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(stalled.json(), invalid("No data for 0.02 s: send the whole request body", "request_timeout"));
    assert_eq!(stalled.header("connection"), Some("close"));
}

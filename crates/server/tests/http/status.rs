//! `/health`, `/info`, `/metrics`, `/`, `/tokenize`, request ids, and the phases of a server.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use danaus_server::{AppState, ServerConfig, app};
use serde_json::json;

use crate::support::*;

const WARNING: &str = "synthetic weights: vectors carry no meaning";

#[tokio::test]
async fn health_describes_a_ready_server_and_a_synthetic_model() {
    let answer = get(&ready_app(), "/health").await;
    let expected = json!({"status": "healthy", "model": "small", "device": "cpu", "embedding_dimension": 64, "warning": WARNING});
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
    let mut real = service();
    real.model.synthetic = false;
    let answer = get(&app(ready_state(ServerConfig::default(), real)), "/health").await;
    let expected = json!({"status": "healthy", "model": "small", "device": "cpu", "embedding_dimension": 64});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn info_describes_model_device_and_limits() {
    let answer = get(&ready_app(), "/info").await;
    let backend = backend();
    let expected = json!({
        "model": "small", "revision": "abc", "dimension": 64, "max_tokens": 256, "dtype": "f32", "device": "cpu",
        "instruction_set": backend.info().instruction_set, "threads": 1, "pooling": "mean", "padding": "none",
        "fast_padding": null, "preparation": null,
        "auto_truncate": false,
        "limits": {
            "max_body_bytes": 33554432, "max_inputs": 2048, "max_batch_tokens": 2048, "max_queued_tokens": 8388608,
            "max_queued_texts": 65536, "max_queue_seconds": 60.0, "cache_bytes": 0, "max_connections": 4096,
            "max_inflight_bytes": 134217728, "read_timeout_seconds": 30.0, "write_timeout_seconds": 30.0,
            "request_timeout_seconds": null
        },
        "synthetic": true, "warning": WARNING, "version": env!("CARGO_PKG_VERSION"),
        // What clients of Text Embeddings Inference read.
        "model_id": "small", "model_sha": "abc", "model_dtype": "f32",
        "model_type": {"embedding": {"pooling": "mean"}}, "max_concurrent_requests": 65536,
        "max_input_length": 256, "max_batch_tokens": 2048, "max_batch_requests": null,
        "max_client_batch_size": 2048, "tokenization_workers": answer.json()["tokenization_workers"]
    });
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
    assert!(answer.json()["tokenization_workers"].as_u64() > Some(0));
}

#[tokio::test]
async fn the_root_is_json_for_programs_and_a_page_for_browsers() {
    let app = ready_app();
    let answer = get(&app, "/").await;
    let expected =
        json!({"message": "danaus embeds texts with M2-BERT", "docs": "/docs", "health": "/health"});
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
    assert_eq!(answer.header("vary"), Some("accept"));
    let browser =
        Request::get("/").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8").body(Body::empty());
    let page = send(&app, browser.unwrap()).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, Some("text/html; charset=utf-8"))
    );
    assert!(page.body.contains("href=\"/docs\"") && page.body.contains(env!("CARGO_PKG_VERSION")));
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "the page needs no other server"
    );
}

#[tokio::test]
async fn tokenize_gives_ids_tokens_and_character_offsets() {
    let app = ready_app();
    let hello = json!({
        "ids": [101, 7592, 1010, 15876, 102],
        "tokens": ["[CLS]", "hello", ",", "hu", "[SEP]"],
        "offsets": [[0, 0], [0, 5], [5, 6], [7, 9], [0, 0]]
    });
    let empty = json!({"ids": [101, 102], "tokens": ["[CLS]", "[SEP]"], "offsets": [[0, 0], [0, 0]]});
    let one = post(&app, "/tokenize", json!({"inputs": "Hello, hü"}).to_string()).await;
    assert_eq!(one.json(), json!({"encodings": [hello], "count": 1, "model": "small"}));
    let two = post(&app, "/tokenize", json!({"inputs": ["", "Hello, hü"]}).to_string()).await;
    assert_eq!(two.json(), json!({"encodings": [empty, hello], "count": 2, "model": "small"}));
    let long = post(&app, "/tokenize", json!({"inputs": "word ".repeat(300)}).to_string()).await;
    assert_eq!(long.json()["encodings"][0]["ids"].as_array().map(Vec::len), Some(302), "never cut");
}

#[tokio::test]
async fn metrics_count_requests_texts_and_tokens() {
    let app = ready_app();
    post(&app, "/embed", json!({"query": ["a", "b c"]}).to_string()).await;
    post(&app, "/embed", "{").await;
    get(&app, "/nothing").await;
    request(&app, "BREW", "/health").await;
    let answer = get(&app, "/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    for line in [
        r#"danaus_http_requests_total{method="POST",route="/embed",status="200"} 1"#,
        r#"danaus_http_requests_total{method="POST",route="/embed",status="400"} 1"#,
        r#"danaus_http_requests_total{method="GET",route="unknown",status="404"} 1"#,
        r#"danaus_http_requests_total{method="other",route="/health",status="405"} 1"#,
        r#"danaus_http_request_duration_seconds_count{method="POST",route="/embed",status="200"} 1"#,
        "danaus_http_requests_in_flight 1",
        "danaus_texts_total 2",
        "danaus_tokens_total 7",
        "danaus_batch_texts_sum 2",
        "danaus_batch_tokens_sum 7",
        "danaus_failed_batches_total 0",
        "danaus_queue_wait_seconds_count 1",
        "danaus_queue_texts 0",
        "danaus_queue_tokens 0",
        "danaus_model_loaded 1",
        concat!(r#"danaus_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is not in\n{}", answer.body);
    }
    assert!(metric(&app, "danaus_compute_seconds_total").await > 0.0);
}

#[tokio::test]
async fn request_ids_are_echoed_if_sane_and_made_if_not() {
    let app = ready_app();
    let with = |id: &[u8]| Request::get("/nothing").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(send(&app, with(b"my-id/1")).await.header("x-request-id"), Some("my-id/1"));
    let (first, second) = (get(&app, "/health").await, get(&app, "/health").await);
    let made = |answer: &Answer| answer.header("x-request-id").expect("an id").to_owned();
    assert_ne!(made(&first), made(&second));
    for bad in [&b"two words"[..], b"", b"\xff", &[b'x'; 129]] {
        let answer = send(&app, with(bad)).await;
        assert!(!made(&answer).is_empty() && made(&answer).as_bytes() != bad);
    }
}

#[tokio::test]
async fn while_loading_only_what_needs_a_model_is_503() {
    let state = AppState::new(ServerConfig::default());
    let app = app(state.clone());
    let health = get(&app, "/health").await;
    let loading = json!({"status": "loading", "detail": "The model is still loading"});
    assert_eq!((health.status, health.json()), (StatusCode::SERVICE_UNAVAILABLE, loading));
    let message = "The model is still loading: try again shortly; GET /health says when it is ready";
    let expected = error_json(message, "server_error", "model_loading");
    for (method, path) in [
        ("POST", "/embed"),
        ("POST", "/embed/batch"),
        ("POST", "/tokenize"),
        ("POST", "/similarity"),
        ("GET", "/info"),
    ] {
        let answer = request(&app, method, path).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::SERVICE_UNAVAILABLE, expected.clone()),
            "{path}"
        );
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    for path in ["/", "/docs", "/docs/", "/docs/swagger-ui-bundle.js", "/openapi.json", "/metrics"] {
        assert_eq!(get(&app, path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(metric(&app, "danaus_model_loaded").await, 0.0);
    state.set_ready(service()).unwrap();
    assert_eq!(get(&app, "/health").await.status, StatusCode::OK);
    assert_eq!(post(&app, "/embed", query("a")).await.status, StatusCode::OK);
    assert_eq!(metric(&app, "danaus_model_loaded").await, 1.0);
}

#[tokio::test]
async fn a_shutdown_refuses_new_requests_and_closes_their_connections() {
    let state = ready_state(ServerConfig::default(), service());
    let app = app(state.clone());
    state.begin_shutdown();
    let message = "The server is shutting down: send the request to another instance, or again later";
    let expected = error_json(message, "server_error", "shutting_down");
    for answer in
        [post(&app, "/embed", query("a")).await, get(&app, "/docs").await, get(&app, "/nothing").await]
    {
        assert_eq!((answer.status, answer.json()), (StatusCode::SERVICE_UNAVAILABLE, expected.clone()));
        assert_eq!((answer.header("connection"), answer.header("retry-after")), (Some("close"), Some("5")));
    }
    let health = get(&app, "/health").await;
    let down = json!({"status": "shutting down", "detail": "The server is shutting down"});
    assert_eq!((health.status, health.json()), (StatusCode::SERVICE_UNAVAILABLE, down));
    assert_eq!(health.header("connection"), Some("close"));
}

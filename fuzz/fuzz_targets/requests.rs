//! Bodies of every route that takes one, through the whole application. The first byte chooses the route.

#![no_main]

use std::sync::Arc;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use danaus_engine::Padding;
use danaus_fuzz::small_backend;
use danaus_model::Tokenizer;
use danaus_server::scheduler::Speed;
use danaus_server::{AppState, ModelInfo, ServerConfig, Service, app};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// As many as divide the digits' codes, so that `0` is the first.
const ROUTES: [&str; 8] = [
    "/embed",
    "/embed/batch",
    "/v1/embeddings",
    "/",
    "/similarity",
    "/tokenize",
    "/estimate",
    "/api/v1/embeddings",
];

static APP: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let config = ServerConfig {
        accept_token_ids: true,
        max_body_bytes: 64 * 1024,
        max_inputs: 32,
        short_text_tokens: 8,
        max_batch_tokens: Some(32),
        cache_bytes: 16 * 1024,
        ..ServerConfig::default()
    };
    let state = AppState::new(config);
    let service = Service {
        backend: small_backend(),
        tokenizer: Arc::new(Tokenizer::bert_base_uncased()),
        model: ModelInfo { id: "small".into(), revision: None, synthetic: true },
        padding: Padding::None,
        preparation: Arc::default(),
        speed: Speed::default(),
    };
    state.set_ready(service).expect("a thread for the worker");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    (runtime.expect("a runtime"), app(state))
});

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else { return };
    let route = ROUTES[usize::from(first) % ROUTES.len()];
    let (runtime, app) = &*APP;
    let request = Request::post(route)
        .header("content-type", "application/json")
        .body(Body::from(body.to_vec()))
        .expect("a request");
    let (status, answer) = runtime.block_on(async {
        let response = app.clone().oneshot(request).await.expect("the application never fails");
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), usize::MAX).await.expect("a whole body"))
    });
    let answer: Value = serde_json::from_slice(&answer).expect("JSON, whatever came");
    match status {
        200 => check(route, &answer),
        400 | 413 | 422 => assert!(answer["error"].is_object() || answer["error"].is_string(), "{answer}"),
        _ => panic!("{route}: {status} {answer}"),
    }
});

/// An answer has a vector for each text, of finite numbers.
fn check(route: &str, answer: &Value) {
    let (vectors, count): (Vec<&Value>, _) = match route.strip_prefix("/api").unwrap_or(route) {
        "/embed" | "/embed/batch" if answer.is_object() => {
            let vectors = answer["embeddings"].as_array().expect("vectors").iter().collect();
            (vectors, answer["count"].as_u64())
        }
        "/embed" | "/" => (answer.as_array().expect("vectors").iter().collect(), None),
        "/v1/embeddings" => {
            let data = answer["data"].as_array().expect("data");
            (data.iter().map(|item| &item["embedding"]).filter(|vector| vector.is_array()).collect(), None)
        }
        "/similarity" => {
            let scores = answer.as_array().expect("scores");
            return assert!(scores.iter().all(|score| score.as_f64().is_some_and(|x| x.abs() < 1.001)));
        }
        _ => return,
    };
    assert!(count.is_none_or(|count| count == vectors.len() as u64), "{answer}");
    for vector in vectors {
        let vector = vector.as_array().expect("a vector");
        assert!(!vector.is_empty() && vector.iter().all(Value::is_number), "{vector:?}");
    }
}

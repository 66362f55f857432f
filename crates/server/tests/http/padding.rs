//! Padding by request and by server, and what is answered while fast padding is being prepared.

use std::sync::Arc;

use axum::http::StatusCode;
use danaus_engine::padding::{Budget, FarFields, Probes, prepare};
use danaus_engine::{Backend, Padding, Pooling, finish};
use danaus_server::{ServerConfig, Service, app};
use serde_json::{Value, json};

use crate::support::*;

pub const TEXT: &str = "What is machine learning?";

const BOUND: f64 = 1e-3;

pub fn far_fields(backend: &dyn Backend) -> Arc<FarFields> {
    let probes = Probes::new(&tokenizer(), 30_528);
    let budget = Budget { error: BOUND, bytes: usize::MAX };
    prepare(backend, &probes, budget, None, &mut |_, _| ()).expect("probes are valid texts")
}

pub fn prepared_backend() -> Arc<dyn Backend> {
    let backend = new_backend();
    backend.set_far_fields(far_fields(&*backend));
    backend
}

pub fn padded(backend: &Arc<dyn Backend>, padding: Padding) -> Service {
    Service { padding, ..service_on(Arc::clone(backend)) }
}

/// What the engine itself says about the text.
pub fn engines(backend: &Arc<dyn Backend>, pooling: Pooling, padding: Padding) -> Vec<f32> {
    engines_of(backend, TEXT, pooling, padding)
}

/// What the engine itself says about a text.
pub fn engines_of(backend: &Arc<dyn Backend>, text: &str, pooling: Pooling, padding: Padding) -> Vec<f32> {
    let ids = ids(text);
    let pooled = backend.embed(&[backend.text(&ids, pooling, padding)]).expect("a valid text").remove(0);
    finish(pooled, None, true).expect("a finite vector")
}

/// How the answer begins that has these vectors.
pub fn beginning(vectors: &[Vec<f32>]) -> String {
    format!(r#"{{"embeddings":{},"#, serde_json::to_string(vectors).expect("numbers"))
}

#[tokio::test]
async fn a_request_chooses_its_padding() {
    let backend = prepared_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::None)));
    let mut different = std::collections::BTreeSet::new();
    for (options, pooling, padding) in [
        (json!({}), Pooling::Mean, Padding::None),
        (json!({"padding": null}), Pooling::Mean, Padding::None),
        (json!({"padding": "none"}), Pooling::Mean, Padding::None),
        (json!({"padding": "max-length"}), Pooling::Mean, Padding::MaxLength),
        (json!({"padding": "fast"}), Pooling::Mean, Padding::Fast),
        (json!({"padding": "fast", "pooling": "cls"}), Pooling::Cls, Padding::Fast),
        (json!({"padding": "max-length", "pooling": "model"}), Pooling::Model, Padding::MaxLength),
    ] {
        let mut body = options.clone();
        body["query"] = json!([TEXT]);
        let answer = post(&app, "/embed", body.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{options}: {}", answer.body);
        let start = beginning(&[engines(&backend, pooling, padding)]);
        assert!(answer.body.starts_with(&start), "{options}: {} should start with {start}", answer.body);
        different.insert(start);
    }
    assert_eq!(different.len(), 5, "one for each padding and pooling");
}

#[tokio::test]
async fn the_servers_padding_is_the_default() {
    let backend = prepared_backend();
    for padding in [Padding::None, Padding::MaxLength, Padding::Fast] {
        let app = app(ready_state(ServerConfig::default(), padded(&backend, padding)));
        let vector = engines(&backend, Pooling::Mean, padding);
        let one = post(&app, "/embed", query(TEXT)).await.body;
        assert!(one.starts_with(&beginning(std::slice::from_ref(&vector))), "{padding}: {one}");
        let two = post(&app, "/embed/batch", json!([TEXT, TEXT]).to_string()).await.body;
        assert!(two.starts_with(&beginning(&[vector.clone(), vector])), "{padding}: {two}");
        assert_eq!(get(&app, "/info").await.json()["padding"], padding.to_string());
        let none = post(&app, "/embed", json!({"query": TEXT, "padding": "none"}).to_string()).await.body;
        assert!(none.starts_with(&beginning(&[engines(&backend, Pooling::Mean, Padding::None)])));
    }
}

/// Texts of one request and of several, whose windows are of other lengths than they are.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_several_paddings_together_get_the_numbers_of_lone_ones() {
    let backend = prepared_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::Fast)));
    let names = ["fast", "none", "max-length"];
    let body = |index: usize| {
        let text =
            |n: usize| (0..1 + (7 * index + 11 * n) % 60).map(move |word| format!("{} ", 31 * word + n));
        let texts: Vec<String> = (0..4).map(|n| text(n).collect()).collect();
        json!({"query": texts, "padding": names[index % 3]}).to_string()
    };
    let requests: Vec<_> = (0..18)
        .map(|index| {
            let (app, body) = (app.clone(), body(index));
            tokio::spawn(async move { post(&app, "/embed", body).await.body })
        })
        .collect();
    for (index, request) in requests.into_iter().enumerate() {
        let together = request.await.expect("no panic");
        assert_eq!(together, post(&app, "/embed", body(index)).await.body, "request {index}");
    }
}

#[tokio::test]
async fn info_shows_what_fast_padding_computes_once_it_does() {
    let backend = new_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::Fast)));
    let info = get(&app, "/info").await.json();
    assert_eq!((&info["padding"], &info["fast_padding"]), (&json!("fast"), &Value::Null));
    let far_fields = far_fields(&*backend);
    backend.set_far_fields(Arc::clone(&far_fields));
    let shown = &get(&app, "/info").await.json()["fast_padding"];
    assert_eq!(shown["bound"], json!(BOUND));
    let ranges = shown["ranges"].as_array().expect("a list");
    assert!(ranges.len() > 2 && ranges.len() == far_fields.bins().count(), "{shown}");
    for (range, bin) in ranges.iter().zip(far_fields.bins()) {
        let [mean, cls, model] = bin.errors;
        for (key, value) in [("shortest", bin.shortest), ("longest", bin.longest), ("window", bin.window)] {
            assert_eq!(range[key], json!(value), "{key} of {range}");
        }
        for (key, error) in [("mean", mean), ("cls", cls), ("model", model)] {
            let shown = range["errors"][key].as_f64().expect("a number");
            assert!((shown - error).abs() <= 1e-12 * error, "{key} of {range} is {error}");
        }
    }
}

#[tokio::test]
async fn until_it_is_prepared_fast_padding_is_exact() {
    let backend = new_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::Fast)));
    let exact = engines(&backend, Pooling::Mean, Padding::MaxLength);
    let before = post(&app, "/embed", query(TEXT)).await;
    assert!(before.status == StatusCode::OK && before.body.starts_with(&beginning(&[exact])));
    backend.set_far_fields(far_fields(&*backend));
    let after = post(&app, "/embed", query(TEXT)).await;
    assert!(after.body.starts_with(&beginning(&[engines(&backend, Pooling::Mean, Padding::Fast)])));
    assert_ne!(before.body, after.body);
}

#[tokio::test]
async fn a_server_may_refuse_what_is_not_prepared() {
    let backend = new_backend();
    let config = ServerConfig { refuse_unprepared: true, ..ServerConfig::default() };
    let app = app(ready_state(config, padded(&backend, Padding::Fast)));
    let message =
        "Fast padding is still being prepared: try again later, or ask for \"padding\": \"max-length\"";
    let expected = error_json(message, "server_error", "padding_preparing");
    let similarity = json!({"inputs": {"source_sentence": TEXT, "sentences": ["a"]}}).to_string();
    let requests = [
        ("/embed", query(TEXT)),
        ("/embed", json!({"query": TEXT, "padding": "fast"}).to_string()),
        ("/embed/batch", json!([TEXT]).to_string()),
        ("/similarity", similarity),
    ];
    for (path, body) in &requests {
        let answer = post(&app, path, body.clone()).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::SERVICE_UNAVAILABLE, expected.clone()),
            "{body}"
        );
        let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{:?}", answer.headers);
        assert_eq!(answer.header("connection"), None, "the server stays");
    }
    // What needs no preparation is answered, and the server is healthy.
    for padding in [Padding::None, Padding::MaxLength] {
        let answer =
            post(&app, "/embed", json!({"query": TEXT, "padding": padding.to_string()}).to_string()).await;
        assert!(
            answer.body.starts_with(&beginning(&[engines(&backend, Pooling::Mean, padding)])),
            "{answer:?}"
        );
    }
    assert_eq!(get(&app, "/health").await.status, StatusCode::OK);
    backend.set_far_fields(far_fields(&*backend));
    for (path, body) in requests {
        let answer = post(&app, path, body.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{body}: {}", answer.body);
    }
}

//! What answers say of padding, and what is told while fast padding is being prepared.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use danaus_engine::padding::{Preparation, Progress};
use danaus_engine::{Padding, Pooling};
use danaus_server::scheduler::Load;
use danaus_server::{ServerConfig, app};
use serde_json::{Value, json};

use crate::padding::{TEXT, beginning, engines, engines_of, far_fields, padded, prepared_backend};
use crate::support::*;

/// A text that is longer than any range of the small model.
fn long() -> String {
    (0..190).map(|number| format!("{} ", number % 10)).collect()
}

/// A text of the small model's full length.
fn full() -> String {
    (0..MAX_TOKENS - 2).map(|number| format!("{} ", number % 10)).collect()
}

/// The body of an answer about these texts.
fn body(vectors: &[Vec<f32>], tokens: &[usize], padding: &[&str]) -> String {
    format!(
        r#"{}"dimension":64,"count":{},"model":"small","tokens":{},"truncated":{},"padding":{}}}"#,
        beginning(vectors),
        vectors.len(),
        json!(tokens),
        json!(vec![false; tokens.len()]),
        json!(padding),
    )
}

#[tokio::test]
async fn an_answer_says_how_each_text_was_padded() {
    let backend = prepared_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::Fast)));
    let (long, full) = (long(), full());
    let texts = [TEXT, &long, &full];
    for (asked, [short, middle, whole], header) in [
        ("none", ["none"; 3], "none"),
        ("max-length", ["max-length"; 3], "max-length"),
        ("fast", ["fast", "max-length", "max-length"], "fast, max-length"),
    ] {
        let padding: Padding = asked.parse().unwrap();
        let vectors = texts.map(|text| engines_of(&backend, text, Pooling::Mean, padding));
        let expected = body(&vectors, &[7, 192, MAX_TOKENS], &[short, middle, whole]);
        let answer = post(&app, "/embed", json!({"query": texts, "padding": asked}).to_string()).await;
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &expected), "{asked}");
        assert_eq!(answer.header("x-danaus-padding"), Some(header), "{asked}");
        if asked == "fast" {
            let answer = post(&app, "/embed/batch", json!(texts).to_string()).await;
            assert_eq!((answer.header("x-danaus-padding"), &answer.body), (Some(header), &expected));
        }
    }
}

#[tokio::test]
async fn where_an_answer_has_no_field_for_it_a_header_says_how_texts_were_padded() {
    let backend = prepared_backend();
    let app = app(ready_state(ServerConfig::default(), padded(&backend, Padding::Fast)));
    let both = json!([long(), TEXT]);
    for (path, request) in [
        ("/v1/embeddings", json!({"input": both})),
        ("/embed", json!({"inputs": both})),
        ("/", json!({"inputs": both})),
        ("/similarity", json!({"inputs": {"source_sentence": TEXT, "sentences": [long()]}})),
    ] {
        let answer = post(&app, path, request.to_string()).await;
        let header = answer.header("x-danaus-padding");
        assert_eq!((answer.status, header), (StatusCode::OK, Some("fast, max-length")), "{path}");
        assert!(!answer.body.contains("\"padding\""), "{path}: {}", answer.body);
    }
    let one = post(&app, "/v1/embeddings", json!({"input": TEXT}).to_string()).await;
    assert_eq!(one.header("x-danaus-padding"), Some("fast"));
    // Where there are no vectors, there is nothing to say.
    assert_eq!(post(&app, "/embed", "{").await.header("x-danaus-padding"), None);
}

#[tokio::test]
async fn an_estimate_follows_the_window() {
    let backend = new_backend();
    let mut service = padded(&backend, Padding::Fast);
    service.speed.observe(&Load::from_iter([4]), Duration::from_secs(4));
    let app = app(ready_state(ServerConfig::default(), service));
    let estimate = async |texts: Value| {
        let answer = post(&app, "/estimate", json!({"query": texts}).to_string()).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.json()
    };
    let expected = |tokens: Value, padding: Value, rows: &[usize]| {
        json!({
            "tokens": tokens, "truncated": vec![false; rows.len()], "padding": padding, "rows": rows,
            "count": rows.len(), "model": "small", "queue_seconds": 0.0,
            "compute_seconds": rows.iter().sum::<usize>() as f64, "admitted": true, "reason": null,
            "retry_after": null,
        })
    };
    let before = estimate(json!([TEXT])).await;
    assert_eq!(before, expected(json!([7]), json!(["max-length"]), &[MAX_TOKENS]));
    backend.set_far_fields(far_fields(&*backend));
    let rows = backend.window(&ids(TEXT), Pooling::Mean, Padding::Fast).cost();
    assert!((7..100).contains(&rows), "{rows}");
    let after = estimate(json!([TEXT, long()])).await;
    assert_eq!(after, expected(json!([7, 192]), json!(["fast", "max-length"]), &[rows, MAX_TOKENS]));
}

/// The cache keeps what was computed exactly apart from what is fast, whatever was asked for.
#[tokio::test]
async fn a_cached_vector_is_said_to_be_padded_as_it_was() {
    let backend = new_backend();
    let config = ServerConfig { cache_bytes: 1 << 20, ..ServerConfig::default() };
    let app = app(ready_state(config, padded(&backend, Padding::Fast)));
    let [asked, misses] =
        ["hit", "miss"].map(|result| format!(r#"danaus_cache_texts_total{{result="{result}"}}"#));
    let embed = async |padding: &str| {
        let answer = post(&app, "/embed", json!({"query": TEXT, "padding": padding}).to_string()).await;
        (answer.body, metric(&app, &asked).await, metric(&app, &misses).await)
    };
    let exact = body(&[engines(&backend, Pooling::Mean, Padding::MaxLength)], &[7], &["max-length"]);
    assert_eq!(embed("fast").await, (exact.clone(), 0.0, 1.0));
    assert_eq!(embed("max-length").await, (exact.clone(), 1.0, 1.0), "it is the same vector");
    backend.set_far_fields(far_fields(&*backend));
    let fast = body(&[engines(&backend, Pooling::Mean, Padding::Fast)], &[7], &["fast"]);
    assert_ne!(fast, exact);
    assert_eq!(embed("fast").await, (fast.clone(), 1.0, 2.0), "what was exact is not called fast");
    assert_eq!(embed("fast").await, (fast, 2.0, 2.0));
    assert_eq!(embed("max-length").await, (exact, 3.0, 2.0));
    let [none, fast, exact] = ["none", "fast", "max-length"]
        .map(|padding| format!(r#"danaus_texts_padded_total{{padding="{padding}"}}"#));
    let counted = (metric(&app, &none).await, metric(&app, &fast).await, metric(&app, &exact).await);
    assert_eq!(counted, (0.0, 1.0, 1.0), "texts that were computed");
}

/// A plan that comes while a text waits changes nothing of what the text is, costs and is said to be.
#[tokio::test]
async fn a_text_that_waits_keeps_its_window() {
    let backend = new_backend();
    let gate = Gate::around(Arc::clone(&backend), 0);
    let app = app(ready_state(ServerConfig::default(), padded(&(Arc::clone(&gate) as _), Padding::Fast)));
    let first = spawn_body(&app, json!({"query": "first", "padding": "none"}).to_string());
    gate.until_batches(1).await;
    let waits = spawn_body(&app, query(TEXT));
    until_queued(&app, 1.0).await;
    assert_eq!(metric(&app, "danaus_queue_tokens").await, MAX_TOKENS as f64);
    backend.set_far_fields(far_fields(&*backend));
    // An equal text that comes now is another one.
    let comes = spawn_body(&app, query(TEXT));
    until_queued(&app, 2.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    for (answer, padding) in [(waits, Padding::MaxLength), (comes, Padding::Fast)] {
        let expected = body(&[engines(&backend, Pooling::Mean, padding)], &[7], &[&padding.to_string()]);
        assert_eq!(answer.await.unwrap().body, expected);
    }
    assert_eq!(metric(&app, "danaus_shared_texts_total").await, 0.0);
}

#[tokio::test]
async fn health_info_and_metrics_say_how_far_a_preparation_is() {
    for refuse in [false, true] {
        let backend = new_backend();
        let preparation = Arc::new(Preparation::default());
        let service = danaus_server::Service {
            preparation: Arc::clone(&preparation),
            ..padded(&backend, Padding::Fast)
        };
        let config = ServerConfig { refuse_unprepared: refuse, ..ServerConfig::default() };
        let app = app(ready_state(config, service));
        let gauges = async || {
            let names = ["padding_prepare_done", "padding_prepare_total", "padding_longest_fast_tokens"];
            let mut values = Vec::new();
            for name in names {
                values.push(metric(&app, &format!("danaus_{name}")).await);
            }
            values
        };
        let health = |status: &str| {
            json!({
                "status": status, "model": "small", "device": "cpu", "embedding_dimension": 64,
                "warning": "synthetic weights: vectors carry no meaning"
            })
        };
        let shown = async |progress: Option<Progress>, status: StatusCode, expected: Value| {
            preparation.set(progress);
            let answer = get(&app, "/health").await;
            assert_eq!((answer.status, answer.json()), (status, expected), "refuse: {refuse}");
            let retry_after = (status != StatusCode::OK).then_some("30");
            assert_eq!(answer.header("retry-after"), retry_after);
            get(&app, "/info").await.json()["preparation"].take()
        };
        let preparing = if refuse { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        for progress in [
            Progress::default(),
            Progress { done: 12, total: 90, seconds_left: Some(240.5), longest_fast: 64 },
        ] {
            let Progress { done, total, seconds_left, longest_fast } = progress;
            let object = json!({
                "done": done, "total": total, "seconds_left": seconds_left, "longest_fast": longest_fast
            });
            let mut expected = health("preparing");
            expected.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
            assert_eq!(shown(Some(progress), preparing, expected).await, object);
            assert_eq!(gauges().await, [done as f64, total as f64, longest_fast as f64]);
        }
        let far_fields = far_fields(&*backend);
        backend.set_far_fields(Arc::clone(&far_fields));
        assert_eq!(shown(None, StatusCode::OK, health("healthy")).await, Value::Null);
        let longest = far_fields.longest_fast();
        assert!((16..=MAX_TOKENS / 2).contains(&longest), "{longest}");
        assert_eq!(gauges().await, [0.0, 0.0, longest as f64]);
    }
}

/// While a part is prepared, its texts are answered; others are refused where their range may still come.
#[tokio::test]
async fn while_the_rest_is_prepared_a_refusing_server_answers_what_is_fast() {
    let backend = prepared_backend();
    let preparation = Arc::new(Preparation::default());
    let preparing = Progress { done: 1, total: 2, ..Progress::default() };
    preparation.set(Some(preparing));
    let service =
        danaus_server::Service { preparation: Arc::clone(&preparation), ..padded(&backend, Padding::Fast) };
    let config = ServerConfig { refuse_unprepared: true, ..ServerConfig::default() };
    let app = app(ready_state(config, service));
    let vector = |text: &str, padding| engines_of(&backend, text, Pooling::Mean, padding);
    let (long, full) = (long(), full());
    let message =
        "Fast padding is still being prepared: try again later, or ask for \"padding\": \"max-length\"";
    let expected = error_json(message, "server_error", "padding_preparing");
    for texts in [json!(long), json!([TEXT, long])] {
        let refused = post(&app, "/embed", json!({"query": texts}).to_string()).await;
        assert_eq!((refused.status, refused.json()), (StatusCode::SERVICE_UNAVAILABLE, expected.clone()));
        assert_eq!(refused.header("retry-after"), Some("30"));
    }
    let fast = body(&[vector(TEXT, Padding::Fast)], &[7], &["fast"]);
    assert_eq!(post(&app, "/embed", query(TEXT)).await.body, fast);
    // No range will ever serve the model's full length.
    let whole = body(&[vector(&full, Padding::MaxLength)], &[MAX_TOKENS], &["max-length"]);
    assert_eq!(post(&app, "/embed", query(&full)).await.body, whole);
    let exact = body(&[vector(&long, Padding::MaxLength)], &[192], &["max-length"]);
    let asked = json!({"query": long, "padding": "max-length"}).to_string();
    assert_eq!(post(&app, "/embed", asked).await.body, exact);
    preparation.set(None);
    assert_eq!(post(&app, "/embed", query(&long)).await.body, exact, "nothing more will come");
}

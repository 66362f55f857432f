//! Texts that are computed once for several who ask: at the same time, and later.

use axum::http::StatusCode;
use danaus_engine::Pooling;
use danaus_server::ServerConfig;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn equal_texts_in_flight_are_computed_once() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let first = spawn_body(&app, query("first"));
    gate.until_batches(1).await;
    let waiting = spawn_body(&app, json!({"query": ["a", "b", "a"]}).to_string());
    until_queued(&app, 2.0).await;
    // Each joins what is on its way at the moment when it queues what is not.
    let joined = spawn_body(&app, json!({"query": ["b", "c", "first"]}).to_string());
    until_queued(&app, 3.0).await;
    // Another pooling is another vector.
    let other = spawn_body(&app, json!({"query": "a", "pooling": "cls"}).to_string());
    until_queued(&app, 4.0).await;
    gate.open();
    assert_vectors(&first.await.unwrap(), &["first"]);
    assert_vectors(&waiting.await.unwrap(), &["a", "b", "a"]);
    assert_vectors(&joined.await.unwrap(), &["b", "c", "first"]);
    let cls = serde_json::to_string(&expected_vector("a", Pooling::Cls, None, true)).unwrap();
    assert!(other.await.unwrap().body.contains(&cls));
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("a"), ids("b"), ids("c"), ids("a")]]);
    // "first", "a" and "b" once more.
    assert_eq!(metric(&app, "danaus_shared_texts_total").await, 3.0);
}

#[tokio::test]
async fn a_text_stays_while_somebody_waits_for_it() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let first = spawn_body(&app, query("first"));
    gate.until_batches(1).await;
    let leaving = spawn_body(&app, json!({"query": ["shared", "alone"]}).to_string());
    until_queued(&app, 2.0).await;
    let staying = spawn_body(&app, json!({"query": ["shared", "also"]}).to_string());
    until_queued(&app, 3.0).await;
    leaving.abort();
    until_queued(&app, 2.0).await;
    // Whoever joins now joins the one that stays.
    let later = spawn_body(&app, json!({"query": ["shared", "later"]}).to_string());
    until_queued(&app, 3.0).await;
    gate.open();
    for request in [first, staying, later] {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("shared"), ids("also"), ids("later")]]);
}

#[tokio::test]
async fn a_failure_is_everybodys_and_not_for_ever() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig { cache_bytes: 1 << 20, ..ServerConfig::default() });
    let first = spawn_body(&app, query("same"));
    gate.until_batches(1).await;
    let second = spawn_body(&app, json!({"query": ["same", "other"]}).to_string());
    until_queued(&app, 1.0).await;
    gate.fail_next(Failure::Panic);
    gate.let_one_batch_through();
    for request in [first, second] {
        assert_eq!(request.await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    gate.open();
    // The failed request's other text has left the queue, or its batch is over.
    assert_eq!(post(&app, "/embed", query("next")).await.status, StatusCode::OK);
    let before = gate.batches().len();
    gate.fail_next(Failure::NotANumber);
    assert_eq!(post(&app, "/embed", query("same")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_vectors(&post(&app, "/embed", query("same")).await, &["same"]);
    assert_eq!(gate.batches().len(), before + 2);
}

#[tokio::test]
async fn the_cache_answers_what_was_asked_before() {
    let gate = Gate::new(usize::MAX);
    let app = gated(&gate, ServerConfig { cache_bytes: 1 << 20, ..ServerConfig::default() });
    post(&app, "/embed", json!({"query": ["a", "b"]}).to_string()).await;
    let answer = post(&app, "/embed", json!({"query": ["b", "c", "a"]}).to_string()).await;
    assert_vectors(&answer, &["b", "c", "a"]);
    // How the vector is finished does not matter, how it is pooled and padded does.
    let short =
        post(&app, "/embed", json!({"query": "a", "dimensions": 8, "normalize": false}).to_string()).await;
    let expected = serde_json::to_string(&expected_vector("a", Pooling::Mean, Some(8), false)).unwrap();
    assert!(short.body.contains(&expected));
    assert_eq!(gate.batches(), [vec![ids("a"), ids("b")], vec![ids("c")]]);
    for other in [json!({"query": "a", "pooling": "cls"}), json!({"query": "a", "padding": "max-length"})] {
        post(&app, "/embed", other.to_string()).await;
    }
    assert_eq!(gate.batches().len(), 4);
    let asked = |result: &str| format!(r#"danaus_cache_texts_total{{result="{result}"}}"#);
    assert_eq!((metric(&app, &asked("hit")).await, metric(&app, &asked("miss")).await), (3.0, 5.0));
    assert_eq!(metric(&app, "danaus_cache_entries").await, 5.0);
}

#[tokio::test]
async fn the_cache_keeps_to_its_size() {
    let gate = Gate::new(usize::MAX);
    let bytes = 10 * (4 * DIMENSION + 160);
    let app = gated(&gate, ServerConfig { cache_bytes: bytes, ..ServerConfig::default() });
    for number in 0..50 {
        post(&app, "/embed", query(&format!("text {number}"))).await;
    }
    let entries = metric(&app, "danaus_cache_entries").await;
    assert!((1.0..=10.0).contains(&entries), "{entries}");
    assert!(metric(&app, "danaus_cache_bytes").await <= bytes as f64);
}

#[tokio::test]
async fn without_a_cache_every_text_is_computed() {
    let gate = Gate::new(usize::MAX);
    let app = gated(&gate, ServerConfig::default());
    for _ in 0..2 {
        assert_vectors(&post(&app, "/embed", query("again")).await, &["again"]);
    }
    assert_eq!(gate.batches().len(), 2);
}

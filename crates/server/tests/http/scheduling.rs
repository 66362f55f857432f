//! What is computed together, what is not computed at all, and what happens when the model fails.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use danaus_server::scheduler::Load;
use danaus_server::{ServerConfig, app};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::*;

fn spawn(app: &Router, text: &str) -> JoinHandle<Answer> {
    spawn_body(app, query(text))
}

/// A first request that the gate holds, so that others queue up behind it.
async fn block(gate: &Gate, app: &Router) -> JoinHandle<Answer> {
    let before = gate.batches().len();
    let blocking = spawn(app, "first");
    gate.until_batches(before + 1).await;
    blocking
}

#[tokio::test]
async fn requests_that_wait_together_are_computed_together_in_order() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let first = block(&gate, &app).await;
    let mut waiting = Vec::new();
    for (texts, text) in (1..).zip(["one", "two", "three"]) {
        waiting.push(spawn(&app, text));
        until_queued(&app, f64::from(texts)).await;
    }
    gate.open();
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    for (request, text) in waiting.into_iter().zip(["one", "two", "three"]) {
        assert_vectors(&request.await.unwrap(), &[text]);
    }
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("one"), ids("two"), ids("three")]]);
}

#[tokio::test]
async fn a_request_is_spread_over_batches_by_the_token_budget() {
    let gate = Gate::new(usize::MAX);
    let app = gated(&gate, ServerConfig { max_batch_tokens: Some(8), ..ServerConfig::default() });
    // 3 tokens, 3, 12 (over the budget), 3, 5, 3
    let texts = ["a", "b", "a b c d e f g h i j", "c", "d e f", "g"];
    let answer = post(&app, "/embed", json!({ "query": texts }).to_string()).await;
    assert_vectors(&answer, &texts);
    let batch = |range: std::ops::Range<usize>| texts[range].iter().map(|text| ids(text)).collect::<Vec<_>>();
    assert_eq!(gate.batches(), [batch(0..2), batch(2..3), batch(3..5), batch(5..6)]);
}

/// Texts of up to 8 tokens are short; the model has two layers.
fn with_lanes(gate: &Arc<Gate>) -> Router {
    gated(gate, ServerConfig { short_text_tokens: 8, ..ServerConfig::default() })
}

const LONG: &str = "a b c d e f g h i j";

/// A long text whose layers have begun, and a short one that the gate holds before one of them.
async fn short_within_long(gate: &Gate, app: &Router) -> (JoinHandle<Answer>, JoinHandle<Answer>) {
    let long = spawn(app, LONG);
    gate.until_batches(1).await;
    let short = spawn(app, "short");
    until_queued(app, 1.0).await;
    gate.let_one_batch_through();
    gate.until_batches(2).await;
    (long, short)
}

#[tokio::test]
async fn a_short_text_does_not_wait_for_a_long_ones_end() {
    let gate = Gate::new(0);
    let app = with_lanes(&gate);
    let (long, short) = short_within_long(&gate, &app).await;
    assert_eq!(gate.batches(), [vec![ids(LONG)], vec![ids("short")]]);
    assert!(!long.is_finished(), "the long text still has layers to go");
    gate.open();
    for (request, text) in [(short, "short"), (long, LONG)] {
        assert_vectors(&request.await.unwrap(), &[text]);
    }
}

#[tokio::test]
async fn a_long_text_that_nobody_waits_for_is_given_up() {
    let gate = Gate::new(0);
    let app = with_lanes(&gate);
    let long = spawn(&app, LONG);
    gate.until_batches(1).await;
    long.abort();
    let left = r#"danaus_http_requests_total{method="POST",route="/embed",status="499"}"#;
    until("the client has left", || async { metric(&app, left).await == 1.0 }).await;
    gate.open();
    assert_eq!(post(&app, "/embed", query("next")).await.status, StatusCode::OK);
    assert_eq!(metric(&app, "danaus_texts_total").await, 1.0);
    assert_eq!(metric(&app, "danaus_failed_batches_total").await, 0.0);
}

#[tokio::test]
async fn a_padded_text_costs_the_models_length() {
    let gate = Gate::new(usize::MAX);
    let config = ServerConfig { max_batch_tokens: Some(2 * MAX_TOKENS), ..ServerConfig::default() };
    let app = gated(&gate, config);
    let request = json!({"query": ["a", "b", "c"], "padding": "max-length"});
    post(&app, "/embed", request.to_string()).await;
    assert_eq!(gate.batches(), [vec![ids("a"), ids("b")], vec![ids("c")]]);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_turn_costs_nothing() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let first = block(&gate, &app).await;
    let leaving = spawn_body(&app, json!({"query": ["never", "computed"]}).to_string());
    until_queued(&app, 2.0).await;
    let staying = spawn(&app, "stays");
    until_queued(&app, 3.0).await;
    leaving.abort();
    until_queued(&app, 1.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    assert_eq!(staying.await.unwrap().status, StatusCode::OK);
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("stays")]]);
    let left = r#"danaus_http_requests_total{method="POST",route="/embed",status="499"}"#;
    assert_eq!(metric(&app, left).await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_during_its_turn_harms_nobody() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let leaving = block(&gate, &app).await;
    let staying = spawn(&app, "stays");
    until_queued(&app, 1.0).await;
    leaving.abort();
    gate.open();
    assert_eq!(staying.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_failure_of_the_model_is_a_500_for_its_batch_and_nobody_else() {
    let message = "Internal error while computing this request; the server's log has the cause under this \
                   response's X-Request-Id";
    let expected = error_json(message, "server_error", "internal_error");
    for failure in Failure::ALL {
        let gate = Gate::new(0);
        let app = gated(&gate, ServerConfig::default());
        gate.fail_next(failure);
        let first = block(&gate, &app).await;
        let second = spawn(&app, "second");
        until_queued(&app, 1.0).await;
        gate.open();
        let failed = first.await.unwrap();
        assert_eq!((failed.status, failed.json()), (StatusCode::INTERNAL_SERVER_ERROR, expected.clone()));
        assert_eq!(second.await.unwrap().status, StatusCode::OK, "{failure:?}");
        assert_eq!(post(&app, "/embed", query("third")).await.status, StatusCode::OK, "{failure:?}");
    }
}

#[tokio::test]
async fn a_failure_on_a_long_text_is_a_500_for_it_and_nobody_else() {
    for failure in Failure::ALL {
        let gate = Gate::new(0);
        let app = with_lanes(&gate);
        gate.fail_next(failure);
        let long = spawn(&app, LONG);
        gate.until_batches(1).await;
        gate.open();
        assert_eq!(long.await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR, "{failure:?}");
        for text in ["short", LONG] {
            assert_vectors(&post(&app, "/embed", query(text)).await, &[text]);
        }
    }
}

#[tokio::test]
async fn a_failure_on_a_short_text_between_the_steps_of_a_long_one_is_a_500_for_it_alone() {
    for failure in Failure::ALL {
        let gate = Gate::new(0);
        let app = with_lanes(&gate);
        let (long, short) = short_within_long(&gate, &app).await;
        gate.fail_next(failure);
        gate.open();
        assert_eq!(short.await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR, "{failure:?}");
        assert_vectors(&long.await.unwrap(), &[LONG]);
    }
}

#[tokio::test]
async fn the_rest_of_a_failed_request_is_not_computed() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig { max_batch_tokens: Some(3), ..ServerConfig::default() });
    gate.fail_next(Failure::Panic);
    let failing = spawn_body(&app, json!({"query": ["a", "b", "c"]}).to_string());
    until_queued(&app, 2.0).await;
    gate.let_one_batch_through();
    assert_eq!(failing.await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    // The batch after the failed one may already have been formed when the request's end was noticed.
    until_queued(&app, 0.0).await;
    assert!(gate.batches().len() <= 2, "{:?}", gate.batches());
    gate.open();
}

#[tokio::test]
async fn a_request_on_top_of_a_full_queue_is_429_and_says_when_to_come_back() {
    let gate = Gate::new(0);
    let app =
        gated(&gate, ServerConfig { max_queued_texts: 3, max_queued_tokens: 20, ..ServerConfig::default() });
    let first = block(&gate, &app).await;
    let second = spawn_body(&app, json!({"query": ["a", "b"]}).to_string());
    until_queued(&app, 2.0).await;
    for (body, size) in [
        (json!({"query": ["c", "d"]}), "2 texts of 6 tokens"),
        (json!({"query": "a b c d e f g h i j k l m"}), "1 texts of 15 tokens"),
    ] {
        let refused = post(&app, "/embed", body.to_string()).await;
        let message = format!(
            "The server is busy: {size} do not fit the queue, where 2 texts of 6 tokens wait (limits: 3 texts, 20 \
             tokens); try again in about 1 s"
        );
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.json(), error_json(&message, "rate_limit_error", "overloaded"));
        assert_eq!(
            (refused.header("retry-after"), refused.header("x-ratelimit-reset")),
            (Some("1"), Some("1"))
        );
    }
    let fits = spawn(&app, "c");
    until_queued(&app, 3.0).await;
    gate.open();
    for request in [first, second, fits] {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
    // An empty queue takes any request: it could never be served otherwise.
    let large = json!({"query": ["a", "b", "c", "d"]}).to_string();
    assert_eq!(post(&app, "/embed", large).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_over_its_time_limit_is_504_and_leaves_the_queue() {
    let gate = Gate::new(0);
    let limit = Duration::from_millis(50);
    let app = gated(&gate, ServerConfig { request_timeout: Some(limit), ..ServerConfig::default() });
    let first = block(&gate, &app).await;
    let late = post(&app, "/embed", query("late")).await;
    let message = "No result within the server's limit of 0.05 s per request";
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.json(), error_json(message, "server_error", "deadline_exceeded"));
    assert_eq!(first.await.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    until_queued(&app, 0.0).await;
    gate.open();
    assert_eq!(gate.batches(), [vec![ids("first")]]);
}

/// A request for one text that says how many seconds it may take.
async fn post_within(app: &Router, text: &str, seconds: &str) -> Answer {
    let mut request = post_request("/embed", query(text));
    request.headers_mut().insert("x-request-timeout", seconds.parse().unwrap());
    send(app, request).await
}

#[tokio::test]
async fn a_request_over_its_own_time_limit_is_504_and_leaves_the_queue() {
    let gate = Gate::new(0);
    let app = gated(&gate, ServerConfig::default());
    let first = block(&gate, &app).await;
    let late = post_within(&app, "late", "0.05").await;
    let message = "No result within the request's X-Request-Timeout of 0.05 s";
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.json(), error_json(message, "server_error", "deadline_exceeded"));
    until_queued(&app, 0.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    for seconds in ["60", "1e300"] {
        assert_eq!(post_within(&app, "in time", seconds).await.status, StatusCode::OK);
    }
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("in time")], vec![ids("in time")]]);
}

#[tokio::test]
async fn a_time_limit_that_is_none_is_422() {
    let app = ready_app();
    for seconds in ["0", "-1", "soon", "NaN", "inf", ""] {
        let refused = post_within(&app, "text", seconds).await;
        let message =
            format!("X-Request-Timeout: expected a number of seconds above 0, like 2.5, got {seconds:?}");
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{seconds}");
        assert_eq!(refused.json(), error_json(&message, "invalid_request_error", "invalid_field"));
    }
}

#[tokio::test]
async fn large_texts_do_not_hold_up_small_ones() {
    let app = ready_app();
    // 2048 texts, each far over the model's length, so that tokenising them takes a while.
    let body = json!({"query": vec!["large ".repeat(2000); 2048], "truncate": true}).to_string();
    let larges: Vec<_> = (0..4).map(|_| spawn_body(&app, body.clone())).collect();
    let in_flight = || async { metric(&app, "danaus_http_requests_in_flight").await == 5.0 };
    until("the large requests are in flight", in_flight).await;
    let small = post(&app, "/embed", query("small")).await;
    assert_eq!(small.status, StatusCode::OK);
    assert!(!larges.iter().any(JoinHandle::is_finished), "the small request waited for a large one");
    larges.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_request_whose_turn_would_come_too_late_is_429() {
    let gate = Gate::new(0);
    let config = ServerConfig {
        max_queue_time: Some(Duration::from_secs(500)),
        max_batch_tokens: Some(3),
        ..ServerConfig::default()
    };
    // A machine that takes a hundred seconds a token, beside which this test's own time is nothing.
    let mut service = service_on(Arc::clone(&gate) as _);
    service.speed.observe(&Load::from_iter([3]), Duration::from_secs(300));
    let app = app(ready_state(config, service));
    let first = block(&gate, &app).await;
    let second = spawn(&app, "second");
    until_queued(&app, 1.0).await;
    let refused = post(&app, "/embed", query("third")).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    // Six hundred seconds, less what the first one had already.
    let message = refused.json()["detail"].as_str().unwrap().to_owned();
    let start = "The server is busy: what is before this request takes about ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains(" s, over the limit of 500 s; try again in about "), "{message}");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    assert_eq!(metric(&app, r#"danaus_requests_rejected_total{reason="queue_seconds"}"#).await, 1.0);
    let backlog = metric(&app, "danaus_queue_seconds").await;
    assert!((500.0..=600.0).contains(&backlog), "{backlog}");
    let estimate = post(&app, "/estimate", query("third")).await.json();
    assert_eq!(estimate["admitted"], json!(false));
    assert!(
        estimate["retry_after"].as_u64().is_some_and(|seconds| (1..=100).contains(&seconds)),
        "{estimate}"
    );
    assert!(message.contains(estimate["reason"].as_str().unwrap().split(" about").next().unwrap()));
    // What is on its way already costs nothing more, and is let in.
    assert_eq!(post(&app, "/estimate", query("second")).await.json()["admitted"], json!(true));
    gate.open();
    for request in [first, second] {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn every_api_says_when_to_come_back_by_the_real_backlog() {
    let gate = Gate::new(0);
    let config = ServerConfig { max_queued_texts: 1, max_batch_tokens: Some(3), ..ServerConfig::default() };
    // A machine that takes ten seconds a token.
    let mut service = service_on(Arc::clone(&gate) as _);
    service.speed.observe(&Load::from_iter([3]), Duration::from_secs(30));
    let app = app(ready_state(config, service));
    let first = block(&gate, &app).await;
    let second = spawn(&app, "second");
    until_queued(&app, 1.0).await;
    let apis = [
        ("/embed", json!({"query": "a"}), "/error/type", "rate_limit_error"),
        ("/v1/embeddings", json!({"input": "a", "model": "m"}), "/error/type", "rate_limit_error"),
        ("/embed", json!({"inputs": "a"}), "/error_type", "Overloaded"),
        ("/", json!({"inputs": "a"}), "/error_type", "Overloaded"),
    ];
    for (path, body, place, name) in apis {
        let refused = post(&app, path, body.to_string()).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!(refused.json().pointer(place), Some(&json!(name)), "{path}: {}", refused.body);
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        // Twice three tokens, less what the first text had already.
        assert!((31..=60).contains(&seconds), "{seconds}");
        assert_eq!(refused.header("x-ratelimit-reset"), refused.header("retry-after"));
    }
    assert_eq!(metric(&app, r#"danaus_requests_rejected_total{reason="queue_full"}"#).await, 4.0);
    gate.open();
    for request in [first, second] {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_estimate_computes_nothing() {
    let gate = Gate::new(0);
    let mut service = service_on(Arc::clone(&gate) as _);
    service.speed.observe(&Load::from_iter([4]), Duration::from_secs(4));
    let app = app(ready_state(ServerConfig::default(), service));
    let long = "word ".repeat(MAX_TOKENS);
    let body = json!({"query": ["hello there", long], "truncate": true});
    let estimate = post(&app, "/estimate", body.to_string()).await;
    assert_eq!(estimate.status, StatusCode::OK);
    let expected = json!({
        "tokens": [4, MAX_TOKENS], "truncated": [false, true], "padding": ["none", "none"], "rows": [4, MAX_TOKENS],
        "count": 2, "model": "small", "queue_seconds": 0.0, "compute_seconds": 260.0, "admitted": true, "reason": null, "retry_after": null,
    });
    assert_eq!(estimate.json(), expected);
    // What could not be embedded cannot be estimated, for the same reason.
    let body = json!({"query": "word ".repeat(MAX_TOKENS)}).to_string();
    let [refused, same] = [post(&app, "/estimate", body.clone()).await, post(&app, "/embed", body).await];
    assert_eq!((refused.status, refused.json()), (StatusCode::UNPROCESSABLE_ENTITY, same.json()));
    assert!(gate.batches().is_empty());
}

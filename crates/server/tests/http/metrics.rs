//! `/metrics`: what an operator watches.

use std::collections::BTreeSet;

use danaus_server::{ServerConfig, app};
use serde_json::json;

use crate::support::*;

/// The metrics' lines.
async fn lines(app: &axum::Router) -> BTreeSet<String> {
    get(app, "/metrics").await.body.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn errors_are_counted_by_their_code_and_nothing_else_is() {
    let app = ready_app();
    for _ in 0..2 {
        post(&app, "/embed", "{").await;
    }
    post(&app, "/embed", query(&"word ".repeat(300))).await;
    post(&app, "/v1/embeddings", json!({"input": 7}).to_string()).await;
    get(&app, "/whatever/the/client/likes").await;
    post(&app, "/embed", query("a")).await;
    let found = lines(&app).await;
    let rejected: Vec<&str> =
        found.iter().filter_map(|line| line.strip_prefix("danaus_requests_rejected_total")).collect();
    let expected = [
        r#"{reason="invalid_field"} 1"#,
        r#"{reason="malformed_json"} 2"#,
        r#"{reason="text_too_long"} 1"#,
        r#"{reason="unknown_route"} 1"#,
    ];
    assert_eq!(rejected, expected);
}

#[tokio::test]
async fn every_stage_of_a_request_is_timed() {
    let app = ready_app();
    post(&app, "/embed", query("a")).await;
    post(&app, "/similarity", json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}}).to_string())
        .await;
    for stage in ["read", "tokenise", "queue", "compute", "finish", "respond"] {
        let name = |part: &str| format!("danaus_stage_duration_seconds_{part}{{stage=\"{stage}\"}}");
        assert_eq!(metric(&app, &name("count")).await, 2.0, "{stage}");
        assert!(metric(&app, &name("sum")).await > 0.0, "{stage}");
    }
    // A request that fails is timed as far as it came.
    post(&app, "/embed", query(&"word ".repeat(300))).await;
    assert_eq!(metric(&app, "danaus_stage_duration_seconds_count{stage=\"tokenise\"}").await, 3.0);
    assert_eq!(metric(&app, "danaus_stage_duration_seconds_count{stage=\"queue\"}").await, 2.0);
}

#[tokio::test]
async fn batches_show_how_full_they_are_and_texts_that_were_cut() {
    let app = ready_app_with(ServerConfig { max_batch_tokens: Some(10), ..ServerConfig::default() });
    // Three tokens each: three fit.
    post(&app, "/embed", json!({"query": ["a", "b", "c"]}).to_string()).await;
    post(&app, "/embed", json!({"query": ["word ".repeat(300), "a"], "truncate": true}).to_string()).await;
    let found = lines(&app).await;
    for line in [
        r#"danaus_batch_fill_ratio_bucket{le="0.3"} 1"#, // the short text of the second request
        r#"danaus_batch_fill_ratio_bucket{le="0.8"} 1"#,
        r#"danaus_batch_fill_ratio_bucket{le="0.9"} 2"#,
        r#"danaus_batch_fill_ratio_bucket{le="16"} 2"#, // the long one uses 25.6 budgets
        r#"danaus_batch_fill_ratio_bucket{le="+Inf"} 3"#,
        "danaus_truncated_texts_total 1",
    ] {
        assert!(found.contains(line), "{line} is not in\n{found:#?}");
    }
}

#[tokio::test]
async fn the_age_of_the_oldest_waiting_text_grows_until_its_turn() {
    let gate = Gate::new(0);
    let app = app(ready_state(ServerConfig::default(), service_on(gate.clone())));
    let ask = |text: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { post(&app, "/embed", query(text)).await })
    };
    let name = "danaus_queue_oldest_age_seconds";
    assert_eq!(metric(&app, name).await, 0.0);
    let first = ask("computed");
    gate.until_batches(1).await;
    assert_eq!(metric(&app, name).await, 0.0, "what is computed does not wait");
    let second = ask("waits");
    until_queued(&app, 1.0).await;
    let age = metric(&app, name).await;
    assert!(age > 0.0);
    // One that comes later is not the oldest.
    let third = ask("waits, too");
    until_queued(&app, 2.0).await;
    assert!(metric(&app, name).await > age);
    gate.open();
    for request in [first, second, third] {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(metric(&app, name).await, 0.0);
}

#[tokio::test]
async fn model_and_process_are_described() {
    let app = ready_app();
    let set = backend().info().instruction_set;
    let model = format!(
        r#"danaus_model_info{{device="cpu",dtype="f32",instruction_set="{set}",model="small",padding="none",revision="abc"}} 1"#
    );
    let found = lines(&app).await;
    assert!(found.contains(&model), "{model} is not in\n{found:#?}");
    if cfg!(target_os = "linux") {
        for name in [
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_start_time_seconds",
        ] {
            assert!(metric(&app, name).await > 0.0, "{name}");
        }
        assert!(found.iter().any(|line| line.starts_with("process_cpu_seconds_total ")));
    }
}

/// Whoever asks for whatever: the number of series does not grow with it.
#[tokio::test]
async fn clients_cannot_make_new_series() {
    let app = ready_app();
    let ask = |round: usize| {
        let app = app.clone();
        async move {
            get(&app, &format!("/unknown/{round}")).await;
            request(&app, &format!("BREW{round}"), "/embed").await;
            get(&app, &format!("/docs/file{round}.js")).await;
            post(&app, "/v1/embeddings", json!({"input": "a", "model": format!("m{round}")}).to_string())
                .await;
            post(&app, "/embed", json!({"query": "a", "pooling": format!("p{round}")}).to_string()).await;
            lines(&app).await.iter().filter(|line| !line.starts_with('#')).count()
        }
    };
    ask(0).await;
    let few = ask(1).await;
    for round in 2..20 {
        assert_eq!(ask(round).await, few, "round {round}");
    }
}

//! What a server says of its GPU, and what becomes of requests when that fails. The GPU is the small model on a CPU backend of its
//! own that can be made to fail.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use danaus_engine::gpu::{GuardOptions, GuardedBackend};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Padding, Pooling};
use danaus_server::{ServerConfig, app};
use serde_json::{Value, json};

use crate::faulty::{Control, Fault, Faulty};
use crate::support::*;

/// Texts of fewer tokens are the CPU's.
const CROSSOVER: usize = 8;

/// Texts for the GPU.
const LONG: &str = "one two three four five six seven eight";
const OTHER: &str = "nine ten eleven twelve thirteen fourteen fifteen";

/// A server with a GPU, of which one text in so many is checked.
fn server(recheck_one_in: u64, config: ServerConfig) -> (Router, Control) {
    let model = small_model();
    let options = BackendOptions { dtype: Dtype::F32, threads: Some(1), ..BackendOptions::default() };
    let (gpu, control) = Faulty::open(&model, Dtype::Bf16);
    let guard = GuardOptions { crossover: Some(CROSSOVER), recheck_one_in, ..GuardOptions::default() };
    let backend = GuardedBackend::new(CpuBackend::new(&model, &options).unwrap(), gpu, &guard).unwrap();
    control.batches();
    (app(ready_state(config, service_on(Arc::new(backend)))), control)
}

/// A text's vector from the GPU.
fn gpu_vector(text: &str) -> Vec<f32> {
    let options = BackendOptions { dtype: Dtype::Bf16, threads: Some(1), ..BackendOptions::default() };
    let gpu = CpuBackend::new(&small_model(), &options).unwrap();
    let ids = ids(text);
    let text = gpu.text(&ids, Pooling::Mean, Padding::None);
    danaus_engine::finish(gpu.embed(&[text]).unwrap().remove(0), None, true).unwrap()
}

fn vectors(answer: &Answer) -> Vec<Vec<f32>> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    serde_json::from_value(answer.json()["embeddings"].clone()).unwrap()
}

/// `GET /health` of such a server: where it computes, and why not elsewhere.
fn health(device: &str, demoted: Option<&str>) -> Value {
    let mut health = json!({
        "status": "healthy", "model": "small", "device": device, "embedding_dimension": DIMENSION,
        "warning": "synthetic weights: vectors carry no meaning"
    });
    if let Some(demoted) = demoted {
        health["demoted"] = json!(demoted);
    }
    health
}

/// What `GET /info` says of the GPU.
fn accelerator(demoted: Option<&str>, agreed: u64, differed: u64) -> Value {
    json!({
        "name": "Faulty 1", "driver": "of tests 0.1", "memory_bytes": 1 << 30, "crossover": CROSSOVER,
        "cpu_dtype": "f32", "demoted": demoted, "rechecks": {"agreed": agreed, "differed": differed}
    })
}

async fn rechecks(app: &Router, result: &str) -> f64 {
    metric(app, &format!("danaus_device_rechecks_total{{result=\"{result}\"}}")).await
}

#[tokio::test]
async fn a_gpu_is_named_and_computes_what_it_is_for() {
    let (app, control) = server(1, ServerConfig::default());
    // Metal by the name that PyTorch has for it.
    assert_eq!(get(&app, "/health").await.json(), health("mps", None));
    let answer = post(&app, "/embed", json!({"query": ["short", LONG]}).to_string()).await;
    assert_eq!(vectors(&answer), [expected_vector("short", Pooling::Mean, None, true), gpu_vector(LONG)]);
    assert_eq!(control.batches(), [[(10, 10)]]);
    let info = get(&app, "/info").await.json();
    assert_eq!((&info["device"], &info["dtype"]), (&json!("metal"), &json!("bf16")));
    assert_eq!(info["accelerator"], accelerator(None, 1, 0));
    for _ in 0..2 {
        assert_eq!(metric(&app, "danaus_device_demoted").await, 0.0);
        assert_eq!((rechecks(&app, "agreed").await, rechecks(&app, "differed").await), (1.0, 0.0));
    }
}

#[tokio::test]
async fn a_gpu_that_is_given_up_is_said_to_be_and_costs_no_request() {
    for (fault, reason) in [
        (Fault::Failed, "the device is lost"),
        (Fault::Panic, "panic: a test made the driver panic"),
        (Fault::NotFinite(f32::NAN), "a text of 10 tokens: its vector is not finite"),
        (Fault::Wrong, "a text of 10 tokens: its vector is "),
    ] {
        let checked = u64::from(fault == Fault::Wrong);
        let (app, control) = server(checked, ServerConfig::default());
        control.fault(fault);
        let on_cpu = [expected_vector(LONG, Pooling::Mean, None, true)];
        for _ in 0..2 {
            assert_eq!(vectors(&post(&app, "/embed", query(LONG)).await), on_cpu, "{fault:?}");
        }
        assert_eq!(control.batches().len(), 1, "it is not asked again");
        let told = get(&app, "/health").await.json();
        let demoted = told["demoted"].as_str().unwrap();
        assert!(demoted.starts_with(&format!("Faulty 1: {reason}")), "{demoted}");
        assert_eq!(told, health("cpu", Some(demoted)));
        let looked_at = u64::from(matches!(fault, Fault::NotFinite(_) | Fault::Wrong));
        assert_eq!(
            get(&app, "/info").await.json()["accelerator"],
            accelerator(Some(demoted), 0, looked_at),
            "{fault:?}"
        );
        assert_eq!(metric(&app, "danaus_device_demoted").await, 1.0);
        assert_eq!(rechecks(&app, "differed").await, looked_at as f64);
        assert_eq!(metric(&app, "danaus_failed_batches_total").await, 0.0);
    }
}

/// A vector that the GPU made before it was given up is not trusted any more.
#[tokio::test]
async fn the_cache_forgets_what_a_given_up_gpu_computed() {
    let (app, control) = server(0, ServerConfig { cache_bytes: 1 << 20, ..ServerConfig::default() });
    for _ in 0..2 {
        assert_eq!(vectors(&post(&app, "/embed", query(LONG)).await), [gpu_vector(LONG)]);
    }
    assert_eq!(control.batches().len(), 1, "the second answer is the cache's");
    control.fault(Fault::Failed);
    post(&app, "/embed", query(OTHER)).await;
    let on_cpu = [expected_vector(LONG, Pooling::Mean, None, true)];
    for _ in 0..2 {
        assert_eq!(vectors(&post(&app, "/embed", query(LONG)).await), on_cpu);
    }
    assert_eq!(metric(&app, "danaus_cache_texts_total{result=\"hit\"}").await, 2.0);
}

#[tokio::test]
async fn a_request_that_the_gpu_has_no_memory_for_is_503_and_the_next_one_is_served() {
    let (app, control) = server(0, ServerConfig::default());
    control.fault(Fault::OutOfMemory { rows: 20 });
    let long = "word ".repeat(40);
    let message =
        "The GPU has not enough memory for this request now: try again shortly, or send shorter texts";
    let tei = json!({"error": message, "error_type": "Backend"});
    let ours = error_json(message, "server_error", "device_out_of_memory");
    for (body, expected) in [(json!({"query": long}), ours), (json!({"inputs": long}), tei)] {
        let answer = post(&app, "/embed", body.to_string()).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::SERVICE_UNAVAILABLE, expected));
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    // Together they are too large for it, alone they are not.
    let answer = post(&app, "/embed", json!({"query": [LONG, OTHER, "short"]}).to_string()).await;
    let expected = [gpu_vector(LONG), gpu_vector(OTHER), expected_vector("short", Pooling::Mean, None, true)];
    assert_eq!(vectors(&answer), expected);
    assert_eq!(get(&app, "/health").await.json(), health("mps", None));
    assert_eq!(metric(&app, r#"danaus_requests_rejected_total{reason="device_out_of_memory"}"#).await, 2.0);
    control.fault(None);
    assert_eq!(vectors(&post(&app, "/embed", query(&long)).await).len(), 1);
}

#[tokio::test]
async fn long_texts_are_computed_step_by_step_on_the_gpu_too() {
    let (app, control) = server(0, ServerConfig { short_text_tokens: 9, ..ServerConfig::default() });
    assert_eq!(vectors(&post(&app, "/embed", query(LONG)).await), [gpu_vector(LONG)]);
    control.fault(Fault::Failed);
    let on_cpu = [expected_vector(LONG, Pooling::Mean, None, true)];
    assert_eq!(vectors(&post(&app, "/embed", query(LONG)).await), on_cpu);
    assert_eq!(get(&app, "/health").await.json()["device"], "cpu");
}

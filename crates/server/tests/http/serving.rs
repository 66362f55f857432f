//! `serve` over real connections: the model's arrival, shutdown, and clients that misbehave.

use std::sync::Arc;
use std::time::Duration;

use danaus_server::ServerConfig;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::running::*;
use crate::support::{Gate, error_json, expected_json, ids, query, service, service_on, until};

fn shutting_down() -> Value {
    let message = "The server is shutting down: send the request to another instance, or again later";
    error_json(message, "server_error", "shutting_down")
}

#[tokio::test]
async fn the_port_is_open_before_the_model_is_loaded() {
    let (load, loaded) = std::sync::mpsc::channel::<()>();
    let running = start(ServerConfig::default(), move || {
        loaded.recv()?;
        Ok(service())
    })
    .await;
    let health = running.get("/health").await;
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    assert_eq!(body_of(&health), json!({"status": "loading", "detail": "The model is still loading"}));
    assert!(running.exchange(&post_and_close("a")).await.starts_with("HTTP/1.1 503 "));
    assert!(running.get("/docs").await.starts_with("HTTP/1.1 200 "));
    load.send(()).unwrap();
    until("ready", || async { running.get("/health").await.starts_with("HTTP/1.1 200 ") }).await;
    let answer = running.exchange(&post_and_close("a")).await;
    assert!(answer.contains(&expected_json("a")), "{answer}");
    running.stop.send(()).unwrap();
    bounded(running.result).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_ends_the_server_with_its_error() {
    let failing = start(ServerConfig::default(), || anyhow::bail!("no such model")).await;
    assert_eq!(bounded(failing.result).await.unwrap().unwrap_err().to_string(), "no such model");
    let panicking = start(ServerConfig::default(), || panic!("at the disco")).await;
    let error = bounded(panicking.result).await.unwrap().unwrap_err().to_string();
    assert_eq!(error, "loading the model panicked: at the disco");
}

#[tokio::test]
async fn a_shutdown_while_loading_does_not_wait_for_the_model() {
    let (_load, loaded) = std::sync::mpsc::channel::<()>();
    let running = start(ServerConfig::default(), move || {
        loaded.recv()?;
        Ok(service())
    })
    .await;
    assert!(running.get("/health").await.starts_with("HTTP/1.1 503 "));
    running.stop.send(()).unwrap();
    bounded(running.result).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight_and_refuses_what_comes_after() {
    let gate = Gate::new(0);
    let running = start_ready(ServerConfig::default(), service_on(Arc::clone(&gate) as _)).await;
    let mut computing = running.connect().await;
    computing.write_all(post(&query("computing"), "").as_bytes()).await.unwrap();
    gate.until_batches(1).await;
    let mut waiting = running.connect().await;
    waiting.write_all(post(&query("waiting"), "").as_bytes()).await.unwrap();
    running.until_queued("1").await;
    let mut kept = running.connect().await;
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_one(&mut kept).await.starts_with("HTTP/1.1 200 "));
    let idle = running.connect().await;
    running.stop.send(()).unwrap();
    until_closed(running.address).await;
    kept.write_all(post(&query("late"), "").as_bytes()).await.unwrap();
    let refused = read_all(&mut kept).await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nconnection: close\r\n"),
        "{refused}"
    );
    assert_eq!(body_of(&refused), shutting_down());
    assert!(!running.result.is_finished());
    gate.open();
    for (stream, text) in [(&mut computing, "computing"), (&mut waiting, "waiting")] {
        let answer = read_all(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&expected_json(text)), "{answer}");
    }
    bounded(running.result).await.unwrap().unwrap();
    assert_eq!(gate.batches(), [vec![ids("computing")], vec![ids("waiting")]]);
    drop(idle);
}

/// Connections that the system has made and the server has not looked at yet, as there are always some under load.
#[tokio::test]
async fn a_shutdown_answers_whoever_has_connected_before_it() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let address = running.address;
    shut_down_after_connecting(running, |request| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, request).unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_longer_than_it_may() {
    let gate = Gate::new(0);
    let config = ServerConfig { shutdown_timeout: Duration::from_millis(50), ..ServerConfig::default() };
    let running = start_ready(config, service_on(Arc::clone(&gate) as _)).await;
    let mut computing = running.connect().await;
    computing.write_all(post_and_close("computing").as_bytes()).await.unwrap();
    gate.until_batches(1).await;
    let mut waiting = running.connect().await;
    waiting.write_all(post_and_close("waiting").as_bytes()).await.unwrap();
    running.until_queued("1").await;
    running.stop.send(()).unwrap();
    bounded(running.result).await.unwrap().unwrap();
    // Whoever still waited for the model is told so; the model is not waited for.
    let answer = read_all(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body_of(&answer), shutting_down());
    gate.open();
    assert!(read_all(&mut computing).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.batches(), [vec![ids("computing")]]);
}

#[tokio::test]
async fn a_connection_that_closes_before_its_turn_costs_nothing() {
    let gate = Gate::new(0);
    let running = start_ready(ServerConfig::default(), service_on(Arc::clone(&gate) as _)).await;
    let mut first = running.connect().await;
    first.write_all(post_and_close("first").as_bytes()).await.unwrap();
    gate.until_batches(1).await;
    let mut leaving = running.connect().await;
    leaving.write_all(post(&query("leaving"), "").as_bytes()).await.unwrap();
    running.until_queued("1").await;
    drop(leaving);
    running.until_queued("0").await;
    gate.open();
    assert!(read_all(&mut first).await.starts_with("HTTP/1.1 200 "));
    assert!(running.exchange(&post_and_close("next")).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.batches(), [vec![ids("first")], vec![ids("next")]]);
}

#[tokio::test]
async fn a_slow_client_does_not_hold_up_others() {
    let gate = Gate::new(usize::MAX);
    let running = start_ready(ServerConfig::default(), service_on(Arc::clone(&gate) as _)).await;
    let mut slow = running.connect().await;
    let request = post_and_close("slow");
    let (begin, end) = request.split_at(request.len() - 3);
    slow.write_all(begin.as_bytes()).await.unwrap();
    assert!(running.exchange(&post_and_close("quick")).await.starts_with("HTTP/1.1 200 "));
    slow.write_all(end.as_bytes()).await.unwrap();
    assert!(read_all(&mut slow).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.batches(), [vec![ids("quick")], vec![ids("slow")]]);
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let config = ServerConfig { read_timeout: Duration::from_millis(20), ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut slow = running.connect().await;
    slow.write_all(b"POST /embed HTTP/1.1\r\n").await.unwrap();
    read_all(&mut slow).await; // until the server closes
    let mut slow = running.connect().await;
    slow.write_all(b"POST /embed HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        .await
        .unwrap();
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_even_to_a_client_that_sends_it_all_first() {
    let config = ServerConfig { max_body_bytes: 1024 * 1024, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let size = 3 * 1024 * 1024;
    let answer = running.exchange(&post(&"x".repeat(size), "connection: close\r\n")).await;
    let message = format!(
        "The request body has {size} bytes, over the limit of 1048576 bytes: send fewer or shorter texts"
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(body_of(&answer), error_json(&message, "invalid_request_error", "body_too_large"));
    // A client that asks first is told before it sends anything.
    let head =
        "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    let asked = running.exchange(&format!("{head}content-length: {size}\r\n\r\n")).await;
    assert!(asked.starts_with("HTTP/1.1 413 "), "{asked}");
}

#[tokio::test]
async fn an_answer_without_a_body_has_no_length() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let options = running.exchange("OPTIONS /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(options.starts_with("HTTP/1.1 204 ") && options.contains("\r\nallow: POST\r\n"), "{options}");
    assert!(!options.contains("content-length"), "{options}");
    let server_wide = running.exchange("OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(server_wide.starts_with("HTTP/1.1 404 "), "{server_wide}");
    let proxy = running.exchange("CONNECT a:80 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(proxy.starts_with("HTTP/1.1 404 "), "{proxy}");
}

//! Limits on connections and on what they make the server hold; clients that are slow.

use std::sync::Arc;
use std::time::Duration;

use danaus_server::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::running::*;
use crate::support::{Gate, error_json, expected_json, query, service, service_on, until};

const SHORT: Duration = Duration::from_millis(100);

/// A connection among those that are served. Others that are ending may still count.
async fn inside(running: &Running) -> TcpStream {
    let attempt = async {
        loop {
            let mut stream = running.connect().await;
            stream.write_all(b"GET /info HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            if read_one(&mut stream).await.starts_with("HTTP/1.1 200 ") {
                return stream;
            }
        }
    };
    bounded(attempt).await
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so_and_closed() {
    let config = ServerConfig { max_connections: 2, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let (mut first, second) = (inside(&running).await, inside(&running).await);
    let message = "2 connections are open, and the limit is 2: close or share some, or try again shortly";
    // Without `connection: close`: the server closes all the same, or this would never end.
    let answer = running.exchange(&post(&query("one too many"), "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    for header in ["\r\nretry-after: 1\r\n", "\r\nconnection: close\r\n", "\r\nx-request-id: "] {
        assert!(answer.contains(header), "no {header:?} in {answer}");
    }
    assert_eq!(body_of(&answer), error_json(message, "server_error", "too_many_connections"));
    // In the form of the API that was called.
    let request = post(r#"{"input": "a"}"#, "").replace("/embed", "/v1/embeddings");
    let expected = json!({
        "error": {"message": message, "type": "server_error", "param": null, "code": "too_many_connections"}
    });
    assert_eq!(body_of(&running.exchange(&request).await), expected);
    // A body that is larger than what the system buffers is read to its end, so that its sender hears of the limit.
    let large = running.exchange(&post(&"x".repeat(8 << 20), "")).await;
    assert!(large.starts_with("HTTP/1.1 503 "), "{large}");
    // A server with many clients is neither dead nor blind.
    for path in ["/health", "/metrics"] {
        let answer = running.exchange(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(refused_connections(&running, "too_many_connections").await, 6);
    // Those inside notice nothing, and make room when they leave.
    first.write_all(post(&query("inside"), "").as_bytes()).await.unwrap();
    assert!(read_one(&mut first).await.contains(&expected_json("inside")));
    drop(second);
    until("room", || async {
        running.exchange(&post_and_close("next")).await.contains(&expected_json("next"))
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_can_be_told_are_closed() {
    let config = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    // More than are told of the limit at once: the last ones are closed without a word, and soon.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(running.connect().await);
    }
    assert_eq!(bounded(silent.pop().unwrap().read(&mut [0])).await.unwrap(), 0);
    drop(silent);
    until("room", || async {
        // A connection that is closed unanswered may break.
        let mut stream = running.connect().await;
        let mut answer = String::new();
        let _ = stream.write_all(post_and_close("a").as_bytes()).await;
        let _ = bounded(stream.read_to_string(&mut answer)).await;
        answer.contains(&expected_json("a"))
    })
    .await;
    assert_eq!(refused_connections(&running, "too_many_connections").await, 64);
    assert!(refused_connections(&running, "too_many_to_tell").await >= 200 - 1 - 64);
}

/// How many connections were not served for that reason; asked on a connection that may be one of them.
async fn refused_connections(running: &Running, reason: &str) -> usize {
    let name = format!("danaus_connections_refused_total{{reason=\"{reason}\"}}");
    running.metric(&name).await.parse().unwrap()
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let config = ServerConfig { read_timeout: 4 * SHORT, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut used = inside(&running).await;
    assert_eq!(read_all(&mut used).await, "");
    let mut unused = running.connect().await;
    assert_eq!(read_all(&mut unused).await, "");
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_cut_off() {
    let config = ServerConfig { read_timeout: 4 * SHORT, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    for (declared, frame) in [("content-length: 1000000", "x"), ("transfer-encoding: chunked", "1\r\nx\r\n")]
    {
        let mut slow = running.connect().await;
        let head = "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
        slow.write_all(format!("{head}{declared}\r\n\r\n").as_bytes()).await.unwrap();
        let (mut from, mut to) = slow.split();
        // Never silent for as long as it may be.
        let trickle = async {
            while to.write_all(frame.as_bytes()).await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let answer = tokio::select! {
            () = trickle => panic!("the connection ends without an answer"),
            answer = read_one(&mut from) => answer,
        };
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\r\nconnection: close"), "{answer}");
        let message = body_of(&answer)["detail"].as_str().unwrap().to_owned();
        assert!(
            message.starts_with("Only ") && message.ends_with("send at least 16384 a second"),
            "{message}"
        );
    }
}

/// A client for which the system buffers next to nothing.
async fn slow_reader(running: &Running, buffer: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    socket.connect(running.address).await.unwrap()
}

/// A request with an answer of some megabytes, more than the system buffers.
fn large_request() -> String {
    post(&json!({"query": vec!["a"; 8000]}).to_string(), "")
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let config = ServerConfig { write_timeout: 4 * SHORT, max_inputs: 8000, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut slow = slow_reader(&running, 4096).await;
    slow.write_all(large_request().as_bytes()).await.unwrap();
    let mut quick = running.connect().await;
    quick.write_all(large_request().replace("host: a", "connection: close").as_bytes()).await.unwrap();
    let whole = read_all(&mut quick).await;
    assert!(whole.starts_with("HTTP/1.1 200 ") && whole.len() > 4_000_000, "{}", whole.len());
    until("answered", || async { running.metric("danaus_http_requests_in_flight").await == "1" }).await;
    // Nothing is read until the server has given up; what the system still had is less than the answer.
    tokio::time::sleep(20 * SHORT).await;
    let mut rest = Vec::new();
    let end = bounded(slow.read_to_end(&mut rest)).await;
    assert!(rest.len() < whole.len(), "{end:?}, {} bytes", rest.len());
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_gets_its_answer() {
    // A fraction of the time that the answer takes at two megabytes a second.
    let config = ServerConfig { write_timeout: 10 * SHORT, max_inputs: 8000, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut slow = slow_reader(&running, 64 * 1024).await;
    slow.write_all(large_request().replace("host: a", "connection: close").as_bytes()).await.unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 20 * 1024]);
    loop {
        let count = bounded(slow.read(&mut buffer)).await.unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        match count {
            0 => break,
            _ => tokio::time::sleep(SHORT / 10).await,
        }
    }
    assert_eq!(body_of(&String::from_utf8(bytes).unwrap())["count"], json!(8000));
}

#[tokio::test]
async fn bytes_in_flight_are_limited_over_all_requests() {
    let gate = Gate::new(0);
    let config = ServerConfig { max_inflight_bytes: 1000, max_inputs: 10_000, ..ServerConfig::default() };
    let running = start_ready(config, service_on(Arc::clone(&gate) as _)).await;
    // Larger than the limit, and taken: it is alone.
    let body = query(&"x ".repeat(600));
    let mut alone = running.connect().await;
    let truncated = body.replace('}', ", \"truncate\": true}");
    alone.write_all(post(&truncated, "connection: close\r\n").as_bytes()).await.unwrap();
    gate.until_batches(1).await;
    let held = truncated.len();
    let second = query("second");
    let message = format!(
        "The server is busy: other requests and their answers have {held} bytes in flight, and the {} of this one would pass \
         the limit of 1000; try again in about 1 s",
        second.len()
    );
    let refused = running.exchange(&post(&second, "connection: close\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    for header in ["\r\nretry-after: 1\r\n", "\r\nx-ratelimit-reset: 1\r\n"] {
        assert!(refused.contains(header), "no {header:?} in {refused}");
    }
    assert_eq!(body_of(&refused), error_json(&message, "rate_limit_error", "overloaded"));
    // One whose length is not declared is refused when it comes.
    let chunked = "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n\
                   transfer-encoding: chunked\r\n\r\n";
    let request = format!("{chunked}{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    assert!(running.exchange(&request).await.starts_with("HTTP/1.1 429 "));
    let metrics = running.exchange("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(metrics.contains("danaus_requests_rejected_total{reason=\"inflight_bytes\"} 2\n"), "{metrics}");
    // What needs no body goes on.
    assert!(running.get("/health").await.starts_with("HTTP/1.1 200 "));
    gate.open();
    assert!(read_all(&mut alone).await.starts_with("HTTP/1.1 200 "));
    until("room", || async {
        running.exchange(&post_and_close("second")).await.contains(&expected_json("second"))
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_not_read_count_until_they_are() {
    let config = ServerConfig { max_inflight_bytes: 100_000, max_inputs: 8000, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut slow = slow_reader(&running, 4096).await;
    slow.write_all(large_request().replace("host: a", "connection: close").as_bytes()).await.unwrap();
    until("the answer is there", || async {
        running.exchange(&post_and_close("a")).await.starts_with("HTTP/1.1 429 ")
    })
    .await;
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{}", &answer[..100]);
    until("room", || async { running.exchange(&post_and_close("a")).await.starts_with("HTTP/1.1 200 ") })
        .await;
}

/// Nothing that a request held is lost when it fails, or when its client leaves.
#[tokio::test]
async fn what_was_held_is_free_again_whatever_becomes_of_a_request() {
    let config = ServerConfig { max_inflight_bytes: 400, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    for _ in 0..20 {
        let malformed = format!("{{{}", " ".repeat(300));
        assert!(
            running.exchange(&post(&malformed, "connection: close\r\n")).await.starts_with("HTTP/1.1 400 ")
        );
        let mut leaving = running.connect().await;
        let request = post(&query(&"x".repeat(300)), "");
        leaving.write_all(&request.as_bytes()[..request.len() - 5]).await.unwrap();
        drop(leaving);
        let answers =
            || async { running.exchange(&post(&query(&"y".repeat(300)), "connection: close\r\n")).await };
        until("room", || async { answers().await.starts_with("HTTP/1.1 200 ") }).await;
    }
}

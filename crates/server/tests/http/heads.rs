//! Heads that cannot be taken: too large, not HTTP, or too late.

use std::sync::Arc;
use std::time::Duration;

use danaus_server::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::running::*;
use crate::support::{Gate, error_json, expected_json, query, service, service_on};

const SHORT: Duration = Duration::from_millis(400);

const TOO_LARGE: &str =
    "The request's head has more than 65536 bytes, which is the limit: send shorter header fields";

/// A head of that many bytes.
fn head_of(bytes: usize, begin: &str) -> String {
    let (begin, end) = (format!("{begin} HTTP/1.1\r\nhost: a\r\nx: "), "\r\n\r\n");
    format!("{begin}{}{end}", "y".repeat(bytes - begin.len() - end.len()))
}

/// The last answer on a connection, which ends with it.
async fn refused(stream: &mut (impl AsyncRead + Unpin), status: u16) -> serde_json::Value {
    let answer = read_all(stream).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:.500}");
    for header in
        ["\r\nconnection: close\r\n", "\r\nx-request-id: ", "\r\ncontent-type: application/json\r\n"]
    {
        assert!(answer.contains(header), "no {header:?} in {answer:.500}");
    }
    body_of(&answer)
}

#[tokio::test]
async fn a_head_may_have_64_kib_and_no_more() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let mut open = running.connect().await;
    for _ in 0..2 {
        open.write_all(head_of(65536, "GET /info").as_bytes()).await.unwrap();
        assert!(read_one(&mut open).await.starts_with("HTTP/1.1 200 "));
    }
    // The same on a connection that was used before as on a new one, and a client that sends megabytes first hears of it.
    for size in [65537, 8 << 20] {
        for mut stream in [open, running.connect().await] {
            stream.write_all(head_of(size, "GET /info").as_bytes()).await.unwrap();
            let body = refused(&mut stream, 431).await;
            assert_eq!(body, error_json(TOO_LARGE, "invalid_request_error", "head_too_large"));
        }
        open = running.connect().await;
    }
    let metrics = running.get("/metrics").await;
    for line in [
        "danaus_requests_rejected_total{reason=\"head_too_large\"} 4\n",
        "danaus_http_requests_total{method=\"GET\",route=\"/info\",status=\"431\"} 4\n",
    ] {
        assert!(metrics.contains(line), "no {line:?} in {metrics}");
    }
}

#[tokio::test]
async fn the_error_has_the_form_of_the_api() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let fields: String = (0..101).map(|index| format!("x-{index}: y\r\n")).collect();
    let message = "The request's head has 101 fields, over the limit of 100: send fewer";
    let details =
        json!({"message": message, "type": "invalid_request_error", "param": null, "code": "head_too_large"});
    let mut stream = running.connect().await;
    stream.write_all(format!("POST /v1/embeddings HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.unwrap();
    assert_eq!(refused(&mut stream, 431).await, json!({"error": details}));
    let mut stream = running.connect().await;
    stream.write_all(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.unwrap();
    assert_eq!(refused(&mut stream, 431).await, json!({"error": message, "error_type": "Validation"}));
    // One fewer is taken.
    let request =
        format!("GET /health HTTP/1.1\r\n{}connection: close\r\n\r\n", &fields["x-0: y\r\n".len() * 2..]);
    assert!(running.exchange(&request).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_is_no_http_is_told_so() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let cases: [(&[u8], &str); 8] = [
        (b"\x16\x03\x01\x02\x00\x01", "invalid token"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "invalid HTTP version"),
        (b"GET /health HTTP/1.1\r\nhost a\r\n\r\n", "invalid header name"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", "invalid target"),
        (b"POST /embed HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "invalid Content-Length"),
        (
            b"POST /embed HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "two different values of Content-Length",
        ),
        (
            b"POST /embed HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            "a Transfer-Encoding that is not chunked alone",
        ),
        (b"POST /embed HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "a Transfer-Encoding in HTTP/1.0"),
    ];
    for (bytes, why) in cases {
        let mut stream = running.connect().await;
        stream.write_all(bytes).await.unwrap();
        let message = format!("The request's head is not HTTP/1.1: {why}");
        let expected = error_json(&message, "invalid_request_error", "malformed_head");
        assert_eq!(refused(&mut stream, 400).await, expected, "{}", bytes.escape_ascii());
    }
    let metrics = running.get("/metrics").await;
    for line in [
        "danaus_requests_rejected_total{reason=\"malformed_head\"} 8\n",
        "danaus_http_requests_total{method=\"other\",route=\"unknown\",status=\"400\"} 3\n",
    ] {
        assert!(metrics.contains(line), "no {line:?} in {metrics}");
    }
}

#[tokio::test]
async fn a_head_that_is_late_is_told_so_on_any_request_of_a_connection() {
    let config = ServerConfig { read_timeout: SHORT, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let begun = "POST /embed HTTP/1.1\r\nhost: ";
    let message = format!(
        "Only {} bytes of the request's head in 0.4 s, and not its end: send the whole head within that time",
        begun.len()
    );
    let expected = error_json(&message, "invalid_request_error", "request_timeout");
    let sized = post(&query("a"), "");
    let (head, body) = sized.split_once("\r\n\r\n").unwrap();
    let length = format!("content-length: {}", body.len());
    let chunked = format!(
        "{}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        head.replace(&length, "transfer-encoding: chunked"),
        body.len()
    );
    for before in [vec![], vec![&sized], vec![&chunked, &sized, &chunked]] {
        let mut stream = running.connect().await;
        for request in before {
            stream.write_all(request.as_bytes()).await.unwrap();
            assert!(read_one(&mut stream).await.contains(&expected_json("a")));
        }
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(refused(&mut stream, 408).await, expected);
    }
    assert_eq!(running.metric("danaus_requests_rejected_total{reason=\"request_timeout\"}").await, "3");
}

#[tokio::test]
async fn answers_come_in_order_and_the_wait_for_them_is_not_the_clients() {
    let gate = Gate::new(0);
    let config = ServerConfig { read_timeout: SHORT, ..ServerConfig::default() };
    let running = start_ready(config, service_on(Arc::clone(&gate) as _)).await;
    let mut stream = running.connect().await;
    stream.write_all(format!("{}GET /info\r\n", post(&query("first"), "")).as_bytes()).await.unwrap();
    gate.until_batches(1).await;
    // Longer than a client may be silent, half a head or not.
    let mut half = running.connect().await;
    half.write_all(format!("{}GET /inf", post(&query("half"), "")).as_bytes()).await.unwrap();
    tokio::time::sleep(2 * SHORT).await;
    gate.open();
    let answers = read_all(&mut stream).await;
    let (first, second) = answers.split_once("HTTP/1.1 400 ").expect("two answers");
    assert!(first.starts_with("HTTP/1.1 200 ") && first.contains(&expected_json("first")), "{first}");
    assert!(second.contains("The request's head is not HTTP/1.1"), "{second}");
    assert!(read_one(&mut half).await.contains(&expected_json("half")));
    half.write_all(b"o HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_all(&mut half).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_refused_client_is_waited_for_but_not_for_ever() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"no HTTP\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    bounded(stream.read_to_end(&mut answer)).await.unwrap();
    // It sends on without an end: the server closes nevertheless.
    let sending = async { while stream.write_all(&[b'x'; 1024]).await.is_ok() {} };
    bounded(sending).await;
}

#[tokio::test]
async fn a_late_client_that_sends_on_can_read_its_answer() {
    let running =
        start_ready(ServerConfig { read_timeout: SHORT, ..ServerConfig::default() }, service()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /info HTTP/1.1\r\nx: ").await.unwrap();
    // Beyond the answer, which is not read yet.
    for _ in 0..40 {
        stream.write_all(b"y").await.unwrap();
        tokio::time::sleep(SHORT / 20).await;
    }
    refused(&mut stream, 408).await;
}

#[tokio::test]
async fn a_refused_client_is_waited_for_as_long_however_its_head_came() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /x HTTP/1.1\r\nno ").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.write_all(b"field\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    bounded(stream.read_to_end(&mut answer)).await.unwrap();
    // Far within the read time-out.
    let sending = async { while stream.write_all(&[b'x'; 1024]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(15), sending).await.unwrap();
}

/// Sends a request to nowhere, its body in eight parts.
async fn send_to_nowhere(stream: &mut tokio::net::TcpStream, pause: Duration) {
    let part = " ".repeat(1 << 20);
    let head = format!("POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 8 * part.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(pause).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
}

/// Most clients read no answer before they have sent everything.
#[tokio::test]
async fn an_answer_that_needs_no_body_waits_for_it_and_the_connection_goes_on() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let mut stream = running.connect().await;
    for _ in 0..2 {
        send_to_nowhere(&mut stream, Duration::from_millis(10)).await;
        assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 404 "));
        stream.write_all(b"GET /info HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_a_slow_body_can_be_read_after_it() {
    let running = start_ready(ServerConfig::default(), service()).await;
    let mut stream = running.connect().await;
    send_to_nowhere(&mut stream, Duration::from_millis(400)).await;
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_whose_request_was_answered_early_is_not_waited_for_in_vain() {
    let config = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let running = start_ready(config, service()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"POST /nowhere HTTP/1.1\r\ncontent-length: 5000000\r\n\r\nand no more").await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 404 "));
    // The connection is open on this side; its place is free again far within the read time-out.
    let others = async {
        while !running
            .exchange("GET /info HTTP/1.1\r\nconnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200 ")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), others).await.unwrap();
}

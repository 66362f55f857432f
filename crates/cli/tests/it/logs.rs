//! What the log says about requests, and what it never says.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::common::{danaus_with, small_model};
use crate::server::Server;

/// Appears in what clients send, and nowhere else.
const SECRET: &str = "Schmetterling\u{1f98b}";

/// What of it would be seen, if it were not logged as a whole, or not as it is.
const TRACES_OF_IT: [&str; 4] = ["schmetter", "\u{1f98b}", "1f98b", "ud83e"];

/// Every route that takes a text, with requests that are right and requests that are wrong; the secret is in each of them.
fn requests() -> Vec<(&'static str, Value)> {
    let long = format!("{SECRET} ").repeat(400);
    vec![
        ("/embed", json!({"query": SECRET})),
        ("/embed", json!({"query": [SECRET, 7]})),
        ("/embed", json!({"query": SECRET, "pooling": SECRET})),
        ("/embed", json!({"query": long})),
        ("/embed", json!({"query": long, "truncate": true})),
        ("/embed", json!({"inputs": SECRET})),
        ("/embed", json!({"inputs": SECRET, "prompt_name": SECRET})),
        ("/embed/batch", json!([SECRET, ""])),
        ("/embed/batch", json!({SECRET: SECRET})),
        ("/", json!({"inputs": [SECRET]})),
        ("/", json!({"inputs": long})),
        ("/v1/embeddings", json!({"input": SECRET, "model": SECRET, "user": SECRET})),
        ("/v1/embeddings", json!({"input": [SECRET], "encoding_format": SECRET})),
        ("/api/v1/embeddings", json!({"input": {SECRET: SECRET}})),
        ("/embeddings", json!({"input": [1, 2, 3], "user": SECRET})),
        ("/tokenize", json!({"inputs": SECRET})),
        ("/tokenize", json!({"inputs": [[SECRET]]})),
        ("/similarity", json!({"inputs": {"source_sentence": SECRET, "sentences": [SECRET]}})),
        ("/similarity", json!({"inputs": {"source_sentence": SECRET, "sentences": []}})),
        ("/Schmetterling", json!(SECRET)),
        ("/embed?query=Schmetterling", json!(SECRET)),
    ]
}

/// Sends bytes as they are, and waits for the answer's end.
fn send_raw(server: &Server, request: &str) -> String {
    let mut stream = server.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn at_every_level_requests_are_told_apart_and_no_text_of_theirs_is_logged() {
    for format in ["json", "text"] {
        let args = format!("serve --host 127.0.0.1 --port 0 --log-level trace --log-format {format}");
        let mut server = Server::start(&mut danaus_with(small_model(), &args));
        server.wait_until_ready();
        let before = server.log().lines().count();
        for (index, (path, body)) in requests().iter().enumerate() {
            let (_, answer) = server.post_with(path, body, &[("x-request-id", &format!("request-{index}"))]);
            assert!(answer.is_object() || answer.is_array(), "{answer}");
        }
        server.get("/docs/Schmetterling");
        // What no client of ours sends: no JSON, a body that ends early, an API key.
        let head = "POST /embed HTTP/1.1\r\nHost: x\r\nX-Request-Id: raw\r\nConnection: close\r\n\
                    Authorization: Bearer Schmetterling\r\nContent-Type: application/json\r\nContent-Length:";
        assert!(
            send_raw(&server, &format!("{head} {}\r\n\r\n{SECRET}", SECRET.len()))
                .starts_with("HTTP/1.1 400")
        );
        drop(server.connect().write_all(format!("{head} 99\r\n\r\n{SECRET}").as_bytes()));
        assert!(
            send_raw(&server, &format!("{SECRET} / HTTP/1.1\r\n{SECRET}\r\n\r\n"))
                .starts_with("HTTP/1.1 400")
        );
        server.signal("TERM");
        assert_eq!(server.exit_code(), Some(0));
        let log = server.log();
        for part in TRACES_OF_IT {
            let line = log.lines().find(|line| line.to_lowercase().contains(part));
            assert_eq!(line, None, "{part:?} at {format}");
        }
        for index in 0..requests().len() {
            let id = format!("request-{index}");
            let lines: Vec<&str> = log.lines().filter(|line| about(line, &id)).collect();
            assert!(lines.iter().any(|line| line.contains("answered")), "{id}: {lines:?}");
        }
        let answered = log.lines().skip(before).filter(|line| line.contains("answered"));
        for line in answered {
            assert!(line.contains("id=\"") || line.contains("\"id\":\""), "{line}");
        }
    }
}

/// Whether a line is about the request with an id.
fn about(line: &str, id: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(line) => line["span"]["id"] == id,
        Err(_) => line.contains(&format!("id=\"{id}\"")),
    }
}

#[test]
fn an_answered_request_is_one_line_with_its_id_status_and_reason() {
    let mut server = Server::of(small_model(), "--log-format json");
    server.post_with("/embed", &json!({"query": "a"}), &[("x-request-id", "good")]);
    server.post_with("/embed", &json!({"query": 7}), &[("x-request-id", "bad")]);
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0));
    let log = server.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str| {
        let found: Vec<&Value> = lines.iter().filter(|line| line["span"]["id"] == id).collect();
        assert_eq!(found.len(), 1, "{id} in\n{log}");
        found[0].clone()
    };
    let (good, bad) = (of("good"), of("bad"));
    assert_eq!(
        (&good["route"], &good["status"], &good["code"]),
        (&json!("/embed"), &json!("200"), &Value::Null)
    );
    assert_eq!(
        (&bad["route"], &bad["status"], &bad["code"]),
        (&json!("/embed"), &json!("422"), &json!("invalid_field"))
    );
}

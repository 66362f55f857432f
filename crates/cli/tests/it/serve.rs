//! `danaus serve`: starting, answering, options.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{bits, danaus, danaus_with, embed_lines, run, run_with, small_config, small_model};
use crate::server::{Server, vectors};

/// A folder whose `config.json` is a pipe: a model that loads when its test writes there.
fn slow_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        small_model().join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("config.json")).status().unwrap();
    assert!(made.success());
    folder
}

#[test]
fn the_port_is_open_before_the_model_is_loaded() {
    let model = slow_model();
    let server = Server::start(&mut danaus_with(model.path(), "serve --host 127.0.0.1 --port 0"));
    for _ in 0..3 {
        let (status, body) = server.get("/health");
        assert_eq!((status, &body["status"]), (503, &json!("loading")), "{body}");
    }
    let (status, body) = server.post("/embed", &json!({"query": "too early"}));
    assert_eq!((status, &body["error"]["code"]), (503, &json!("model_loading")), "{body}");
    std::fs::write(model.path().join("config.json"), small_config().to_string()).unwrap();
    server.wait_until_ready();
    assert_eq!(server.embed(&["now"]).len(), 1);
}

#[test]
fn a_shutdown_does_not_wait_for_the_model() {
    let model = slow_model();
    let mut server = Server::start(&mut danaus_with(model.path(), "serve --host 127.0.0.1 --port 0"));
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

#[test]
fn the_server_and_the_command_line_give_the_same_bits() {
    let texts = ["What is machine learning?", "", "naïve façade — 日本語 🦋", "x"];
    let server = Server::of(small_model(), "");
    let expected = embed_lines("", &(texts.join("\n") + "\n"));
    let (status, body) = server.post("/embed", &json!({"query": texts}));
    assert_eq!(status, 200, "{body}");
    for (vector, expected) in vectors(&body).iter().zip(&expected) {
        assert_eq!(bits(vector), expected.bits());
    }
    assert_eq!(body["tokens"], json!(expected.iter().map(|row| row.tokens).collect::<Vec<_>>()));
    for (text, expected) in texts.iter().zip(&expected) {
        assert_eq!(bits(&server.embed(&[text])[0]), expected.bits(), "{text:?} alone");
    }
    let (status, info) = server.get("/info");
    assert_eq!((status, &info["model"]), (200, &json!("small-model")), "{info}");
}

/// The shape of the real model, and requests that come together.
#[test]
fn the_synthetic_80m_model_serves() {
    let server = Server::start(&mut danaus(&[
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--model",
        "synthetic:2k",
    ]));
    server.wait_until_ready();
    let texts: Vec<String> = (0..4).map(|i| format!("request number {i} of several")).collect();
    let got: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let requests: Vec<_> =
            texts.iter().map(|text| scope.spawn(|| server.embed(&[text.as_str()]).swap_remove(0))).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let mut embed = danaus(&["embed", "--model", "synthetic:2k"]);
    let expected = run_with(&mut embed, texts.join("\n").as_bytes()).exits(0);
    for (got, expected) in got.iter().zip(crate::common::rows(&expected.stdout)) {
        assert_eq!(got.len(), 768);
        assert_eq!(bits(got), expected.bits());
    }
    let (_, health) = server.get("/health");
    assert!(health["warning"].as_str().is_some_and(|warning| warning.contains("no meaning")), "{health}");
    assert!(server.log().contains("carry no meaning"), "{}", server.log());
}

#[test]
fn the_port_is_that_of_the_option_or_the_environment() {
    let by_variable = |name: &str, args: &str| {
        let (port, other) = (free_port(), free_port());
        let mut command = danaus_with(small_model(), &format!("serve --host 127.0.0.1 {args}"));
        if args.contains("--port") {
            command.arg(port.to_string()).env(name, other.to_string());
        } else {
            command.env(name, port.to_string());
        }
        assert_eq!(Server::start(&mut command).address.port(), port, "{name}, {args}");
    };
    for name in ["PORT", "DANAUS_PORT"] {
        by_variable(name, "");
        by_variable(name, "--port");
    }
    // Neither may be half right.
    for (port, shown) in
        [("http", "\"http\""), ("70000", "\"70000\""), ("-1", "\"-1\""), ("80 80", "\"80 80\"")]
    {
        let mut serve = danaus_with(small_model(), "serve");
        run(serve.env("PORT", port)).fails(2, &["PORT", shown, "0 to 65535"]);
        run(danaus(&["health"]).env("PORT", port)).fails(2, &["PORT", shown]);
    }
    let (port, mut empty) = (free_port().to_string(), danaus_with(small_model(), "serve --host 127.0.0.1"));
    let server = Server::start(empty.env("DANAUS_PORT", "").env("PORT", &port));
    assert_eq!(server.address.port().to_string(), port);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_that_is_taken_and_an_address_that_is_not_ours() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The default model, which is not there: the port is the first thing that fails.
    run(&mut danaus(&["serve", "--host", "127.0.0.1", "--port", &port]))
        .fails(1, &[&format!("port {port} of 127.0.0.1 is taken"), "--port"]);
    run(&mut danaus(&["serve", "--host", "192.0.2.1", "--port", "0"]))
        .fails(1, &["cannot listen on 192.0.2.1"]);
    run(&mut danaus(&["serve", "--host", "not a host", "--port", "0"]))
        .fails(1, &["cannot listen on not a host"]);
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "config.json", "No such file"]);
    std::fs::write(&config, "{\"hidden_size\": ").unwrap();
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "config.json", "JSON"]);
    std::fs::write(&config, small_config().to_string()).unwrap();
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "model.safetensors"]);
    std::fs::write(folder.path().join("model.safetensors"), "not a checkpoint").unwrap();
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "not a checkpoint"]);
    let whole = std::fs::read(small_model().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), &whole[..whole.len() - 100]).unwrap();
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "model.safetensors"]);
    let mut wrong = small_config();
    wrong["hidden_size"] = json!(128);
    std::fs::write(&config, wrong.to_string()).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), &whole).unwrap();
    run(&mut serve(folder.path())).fails(1, &["cannot be loaded", "hidden_size", "128", "64"]);
}

fn serve(model: &Path) -> std::process::Command {
    danaus_with(model, "serve --host 127.0.0.1 --port 0")
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_ends_the_server() {
    let tiny = crate::common::workspace().join("tests/fixtures/tiny-64");
    run(&mut serve(&tiny)).fails(1, &["token ids up to 30521", "ends at 511", "--tokenizer"]);
}

/// 32,768 tokens, the longest text of any M2-BERT, for a model that takes 300.
#[test]
fn a_very_long_text_is_refused_or_cut() {
    let text = vec!["word"; 32_766].join(" ");
    let server = Server::of(small_model(), "");
    let (status, body) = server.post("/embed", &json!({"query": ["short", text]}));
    assert_eq!((status, &body["error"]["code"]), (422, &json!("text_too_long")), "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("query[1]") && message.contains("limit of 300"), "{message}");
    let cut = |server: &Server, body: Value| {
        let (status, body) = server.post("/embed", &body);
        assert_eq!(
            (status, &body["truncated"], &body["tokens"]),
            (200, &json!([true]), &json!([300])),
            "{body}"
        );
        bits(&vectors(&body)[0])
    };
    let asked = cut(&server, json!({"query": text, "truncate": true}));
    drop(server);
    let server = Server::of(small_model(), "--auto-truncate");
    assert_eq!(cut(&server, json!({"query": text})), asked);
    assert_eq!(embed_lines("--auto-truncate", &text)[0].bits(), asked);
    let (status, _) = server.post("/embed", &json!({"query": text, "truncate": false}));
    assert_eq!(status, 422);
}

#[test]
fn limits_are_what_the_options_say() {
    let server = Server::of(small_model(), "--max-inputs 2 --max-body 1 --pooling cls");
    assert_eq!(server.embed(&["a", "b"]).len(), 2);
    let (status, body) = server.post("/embed", &json!({"query": ["a", "b", "c"]}));
    assert_eq!(status, 413, "{body}");
    let (status, body) = server.post("/embed", &json!({"query": "x".repeat(1 << 20)}));
    assert_eq!(status, 413, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("1048576"), "{body}");
    let expected = embed_lines("--pooling cls", "a\n");
    assert_eq!(bits(&server.embed(&["a"])[0]), expected[0].bits());
}

/// Extreme values are taken for what they say, and break nothing.
#[test]
fn limits_without_limit() {
    let most = usize::MAX.to_string();
    let args = ["max-batch-tokens", "max-body", "max-inputs", "max-queued-tokens", "filter-cache"]
        .map(|name| format!("--{name} {most}"))
        .join(" ");
    let server = Server::of(small_model(), &format!("{args} --request-timeout 1e18 --shutdown-timeout 1e18"));
    assert_eq!(bits(&server.embed(&["a"])[0]), embed_lines("", "a\n")[0].bits());
    let smallest = "--max-batch-tokens 1 --max-queued-tokens 1 --filter-cache 0 --threads 1";
    let mut server = Server::of(small_model(), smallest);
    assert_eq!(bits(&server.embed(&["a"])[0]), embed_lines("", "a\n")[0].bits());
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn clients_that_leave_do_no_harm() {
    let mut server = Server::of(small_model(), "");
    let head = |length: usize| {
        format!(
            "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let body = json!({"query": vec!["some words that take a while"; 2000]}).to_string();
    for round in 0..3 {
        // In the middle of the head, of the body, and before the answer.
        server.connect().write_all(b"POST /embed HT").unwrap();
        server.connect().write_all((head(body.len()) + &body[..body.len() / 2]).as_bytes()).unwrap();
        server.connect().write_all((head(body.len()) + &body).as_bytes()).unwrap();
        // And one that sends what is no HTTP at all.
        let mut stream = server.connect();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"), "{answer:?}");
        assert_eq!(server.embed(&["still there"]).len(), 1, "round {round}");
    }
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let mut server = Server::of(small_model(), "--log-format json --log-level debug");
    server.embed(&["a"]);
    server.post("/embed", &json!({"query": []}));
    server.get("/nowhere");
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0));
    let log = server.log();
    let mut messages = Vec::new();
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(object[key].is_string(), "no {key} in {line}");
        }
        messages.push(object["message"].as_str().unwrap().to_owned());
    }
    let logged = |start: &str| messages.iter().filter(|message| message.starts_with(start)).count();
    assert_eq!((logged("listening"), logged("model ready"), logged("finishing")), (1, 1, 1), "{log}");
    assert!(logged("answered") >= 3, "{log}");
}

#[test]
fn a_failure_is_a_json_log_line_too_whatever_the_level() {
    for level in ["info", "error", "off", "danaus_server=debug"] {
        let args = ["serve", "--port", "0", "--log-format", "json", "--log-level", level];
        let run = run(&mut danaus(&args)).exits(1);
        let last: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "ERROR", "{}", run.stderr);
        assert!(last["message"].as_str().unwrap().contains("HF_HUB_OFFLINE"), "{}", run.stderr);
        for line in run.stderr.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

#[test]
fn health_asks_the_server_of_this_machine() {
    let model = slow_model();
    let server = Server::start(&mut danaus_with(model.path(), "serve --port 0 --padding none"));
    let health = || {
        let mut health = danaus(&["health"]);
        // A proxy that nobody listens at, as some platforms set one for the way out.
        health.env("http_proxy", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
        run(health.env("PORT", server.address.port().to_string()))
    };
    health().fails(1, &["answers 503", "loading"]);
    std::fs::write(model.path().join("config.json"), small_config().to_string()).unwrap();
    server.wait_until_ready();
    assert!(health().exits(0).text().contains("healthy"));
    run(danaus(&["health", "--port"]).arg(free_port().to_string())).fails(1, &["no server answers"]);
}

/// A server that still prepares fast padding answers texts, and so is healthy.
#[test]
fn health_says_how_far_a_preparation_is() {
    let body =
        r#"{"status":"preparing","model":"m","done":12,"total":90,"seconds_left":240.5,"longest_fast":64}"#;
    for (status, code) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]).unwrap();
            connection.write_all(answer.as_bytes()).unwrap();
        });
        let run = run(danaus(&["health", "--port"]).arg(port.to_string())).exits(code);
        server.join().unwrap();
        if code == 0 {
            assert_eq!(run.text(), format!("{body}\n"));
            for part in ["is being prepared", "done=12", "total=90", "seconds_left=240.5", "longest_fast=64"]
            {
                assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
            }
        } else {
            assert!(
                run.stderr.contains("answers 503") && run.stderr.contains("\"done\":12"),
                "{}",
                run.stderr
            );
        }
    }
}

//! How the server listens: TLS, Unix sockets; and what its clients may do to it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::CertifiedKey;
use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::common::{
    DANAUS, PATIENCE, Process, bare, bits, danaus, danaus_with, embed_lines, eventually, run, small_model,
};
use crate::server::{Server, vectors};

/// A certificate for "localhost" and its key, in files.
struct Files {
    folder: tempfile::TempDir,
    pem: String,
}

impl Files {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = Self { folder: tempfile::tempdir().unwrap(), pem: cert.pem() };
        std::fs::write(files.cert(), &files.pem).unwrap();
        std::fs::write(files.key(), signing_key.serialize_pem()).unwrap();
        files
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A client that trusts this certificate only.
    fn agent(&self) -> ureq::Agent {
        let roots = RootCerts::new_with_certs(&[Certificate::from_pem(self.pem.as_bytes()).unwrap()]);
        let tls = TlsConfig::builder().root_certs(roots).build();
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).tls_config(tls);
        config.timeout_global(Some(PATIENCE)).build().into()
    }
}

fn serve(more: &str) -> Command {
    danaus_with(small_model(), &format!("serve --host 127.0.0.1 --port 0 {more}"))
}

fn serve_tls(cert: &Path, key: &Path) -> Command {
    let mut command = serve("");
    command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    command
}

#[test]
fn tls_to_a_client_that_verifies_it() {
    let files = Files::new();
    let mut server = Server::start(&mut serve_tls(&files.cert(), &files.key()));
    let (port, agent) = (server.address.port(), files.agent());
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let ready = eventually(PATIENCE, || {
        let answer = agent.get(url("/health")).call().unwrap();
        (answer.status() == 200).then_some(())
    });
    ready.expect("never ready");
    assert!(server.log().contains("documentation at https://127.0.0.1:"), "{}", server.log());
    for texts in [vec!["over TLS"], vec!["a text among many"; 1000]] {
        let body = json!({"query": texts}).to_string();
        let request = agent.post(url("/embed")).header("Content-Type", "application/json");
        let answer = request.send(body).unwrap().into_body().read_to_string().unwrap();
        let vector = &vectors(&serde_json::from_str(&answer).unwrap())[texts.len() - 1];
        assert_eq!(bits(vector), embed_lines("", &format!("{}\n", texts[0]))[0].bits());
    }
    // One that trusts other certificates is not served.
    Files::new().agent().get(url("/health")).call().unwrap_err();
    // Nor is one without TLS, which hears why.
    let (status, body) = server.get("/health");
    assert_eq!((status, &body["error"]["code"]), (400, &json!("tls_required")), "{body}");
    let health = || {
        let mut health = danaus(&["health", "--port"]);
        health.arg(port.to_string());
        health
    };
    run(&mut health()).fails(1, &["answers 400", "This port speaks TLS"]);
    assert!(run(health().arg("--tls")).exits(0).text().contains("healthy"));
    // As in a container: its variables are those of the server.
    let (cert, key) = (files.cert(), files.key());
    let same = run(health().env("DANAUS_TLS_CERT", cert).env("DANAUS_TLS_KEY", key)).exits(0);
    assert!(same.text().contains("healthy"));
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    run(health().arg("--tls")).fails(1, &["no server answers at https://"]);
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_start() {
    let (files, others) = (Files::new(), Files::new());
    let (cert, key) = (files.cert(), files.key());
    for (option, other) in [("--tls-cert", "--tls-key"), ("--tls-key", "--tls-cert")] {
        run(serve(option).arg(&cert)).fails(2, &[other]);
    }
    let missing = files.folder.path().join("missing.pem");
    run(&mut serve_tls(&missing, &key)).fails(1, &["missing.pem", "cannot be read", "No such file"]);
    run(&mut serve_tls(&cert, &missing)).fails(1, &["missing.pem", "cannot be read", "No such file"]);
    std::fs::write(&missing, "").unwrap();
    run(&mut serve_tls(&missing, &key)).fails(1, &["missing.pem", "has no certificate in it"]);
    run(&mut serve_tls(&cert, &missing)).fails(1, &["missing.pem", "has no key in it"]);
    run(&mut serve_tls(&cert, &others.key())).fails(1, &["key.pem", "made together"]);
}

/// A server on a socket.
struct SocketServer {
    process: Process,
    path: PathBuf,
}

impl SocketServer {
    fn start(path: &Path) -> Self {
        let mut command = danaus_with(small_model(), "serve --uds");
        let process = Process::spawn(command.arg(path).stdin(Stdio::null()).stderr(Stdio::null()));
        let server = Self { process, path: path.to_owned() };
        let ready = eventually(PATIENCE, || (server.health().code == Some(0)).then_some(()));
        ready.expect("never ready");
        server
    }

    fn health(&self) -> crate::common::Run {
        run(danaus(&["health", "--uds"]).arg(&self.path))
    }

    fn embed(&self, text: &str) -> Vec<u32> {
        let body = json!({"query": text}).to_string();
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(request(&body, "Connection: close\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        bits(&vectors(&body_of(&answer))[0])
    }
}

fn request(body: &str, more: &str) -> String {
    let head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    format!("{head}{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn body_of(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn a_unix_socket_serves_is_asked_for_its_health_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    run(danaus(&["health", "--uds"]).arg(&path))
        .fails(1, &["no server answers at the socket", "No such file"]);
    let mut server = SocketServer::start(&path);
    assert_eq!(server.embed("by socket"), embed_lines("", "by socket\n")[0].bits());
    assert!(server.health().exits(0).text().contains("healthy"));
    // A second server is refused, and the first one goes on.
    run(danaus_with(small_model(), "serve --uds").arg(&path)).fails(1, &["danaus.sock", "in use", "--uds"]);
    assert_eq!(server.embed("by socket"), embed_lines("", "by socket\n")[0].bits());
    server.process.signal("TERM");
    assert_eq!(server.process.wait(PATIENCE).and_then(|status| status.code()), Some(0));
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_server_that_was_killed_is_replaced_and_other_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    let mut killed = SocketServer::start(&path);
    killed.process.signal("KILL");
    killed.process.wait(PATIENCE).expect("it ends");
    assert!(path.exists());
    run(danaus(&["health", "--uds"]).arg(&path)).fails(1, &["no server answers", "refused"]);
    let server = SocketServer::start(&path);
    assert_eq!(server.embed("again"), embed_lines("", "again\n")[0].bits());
    drop(server);
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "precious").unwrap();
    run(danaus_with(small_model(), "serve --uds").arg(&file)).fails(1, &["notes.txt", "is no socket"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    // A model that cannot be loaded leaves no socket behind.
    let unused = folder.path().join("unused.sock");
    run(danaus_with(folder.path(), "serve --uds").arg(&unused)).fails(1, &["cannot be loaded"]);
    assert!(!unused.exists());
    // One socket, no TLS.
    let args = ["serve", "--uds", "a.sock", "--tls-cert", "a.pem", "--tls-key", "b.pem"];
    run(&mut danaus(&args)).fails(2, &["--uds", "--tls-cert"]);
}

#[test]
fn connections_over_the_limit_hear_of_it() {
    let server = Server::of(small_model(), "--max-connections 3");
    let mut held: Vec<TcpStream> = Vec::new();
    // The connection that asked whether the server is ready may take a place for a moment longer.
    let full = eventually(PATIENCE, || {
        let mut stream = server.connect();
        stream.write_all(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        if status == *b"HTTP/1.1 200" {
            held.push(stream);
        }
        (held.len() == 3).then_some(())
    });
    assert!(full.is_some(), "{} connections are held", held.len());
    let (status, body) = server.post("/embed", &json!({"query": "a"}));
    assert_eq!((status, &body["error"]["code"]), (503, &json!("too_many_connections")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("the limit is 3"), "{body}");
    // The health check of a container goes on.
    let port = server.address.port().to_string();
    run(danaus(&["health", "--port"]).arg(port)).exits(0);
    drop(held);
    let room = eventually(PATIENCE, || {
        let (status, _) = server.post("/embed", &json!({"query": "a"}));
        (status == 200).then_some(())
    });
    room.expect("no room after they left");
}

#[test]
fn fewer_connections_where_the_system_allows_no_more() {
    let limited = |files: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit {files}; exec \"$0\" \"$@\"");
        bare(&mut command).args(["-c", &script, DANAUS, "serve", "--host", "127.0.0.1", "--port", "0"]);
        command.arg("--model").arg(small_model());
        let server = Server::start(&mut command);
        server.wait_until_ready();
        let limit = server.get("/info").1["limits"]["max_connections"].as_u64();
        (limit, server.log().contains("ulimit -n"))
    };
    // What the user may raise is raised.
    assert_eq!(limited("-Sn 200"), (Some(4096), false));
    assert_eq!(limited("-n 200"), (Some(72), true));
}

#[test]
fn slow_writers_slow_readers_and_idle_connections_end() {
    let server = Server::of(small_model(), "--read-timeout 2 --write-timeout 2 --max-inputs 8000");
    // Idle.
    let mut answer = Vec::new();
    server.connect().read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty());
    // Half a head.
    let mut late = server.connect();
    late.write_all(b"POST /embed HTTP/1.1\r\n").unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    let message =
        "Only 22 bytes of the request's head in 2 s, and not its end: send the whole head within that time";
    let error = json!({"message": message, "type": "invalid_request_error", "code": "request_timeout"});
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, json!({"error": error, "detail": message}));
    // A byte now and then.
    let mut slow = server.connect();
    slow.write_all(request(&"x".repeat(10_000), "").split_at(200).0.as_bytes()).unwrap();
    let mut writer = slow.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut status = [0; 12];
    slow.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
    drop(slow);
    trickle.join().unwrap();
    // An answer of megabytes that nobody reads.
    let body = json!({"query": vec!["a"; 8000]});
    let (_, whole) = server.post("/embed", &body);
    assert_eq!(whole["count"], 8000);
    let mut deaf = server.connect();
    deaf.write_all(request(&body.to_string(), "").as_bytes()).unwrap();
    let freed = eventually(PATIENCE, || (!established(&server, &deaf)).then_some(()));
    freed.expect("the connection is never given up");
    let mut rest = Vec::new();
    match deaf.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(rest.len() < whole.to_string().len(), "{}", rest.len());
    assert_eq!(server.embed(&["still there"]).len(), 1);
}

/// Whether the server still has its end of a connection.
fn established(server: &Server, client: &TcpStream) -> bool {
    let port = |address: std::net::SocketAddr| format!("0100007F:{:04X}", address.port());
    let ends = [port(server.address), port(client.local_addr().unwrap())];
    // Local and remote address, and the state, of which 1 is an open connection.
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    connections.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1..4).is_some_and(|fields| fields == [&ends[0], &ends[1], "01"])
    })
}

#[test]
fn bytes_in_flight_have_a_limit() {
    let server = Server::of(small_model(), "--max-inflight-bytes 1");
    // The half of a body of a megabyte, which stays.
    let large = json!({"query": "x ".repeat(500_000), "truncate": true}).to_string();
    let mut half = server.connect();
    half.write_all(&request(&large, "").as_bytes()[..900_000]).unwrap();
    let held = eventually(PATIENCE, || (server.metric("danaus_inflight_bytes") > 850_000.0).then_some(()));
    held.expect("half a body is never held");
    let body = json!({"query": vec!["y".repeat(1000); 300]});
    let (status, refused) = server.post("/embed", &body);
    assert_eq!(status, 429, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("limit of 1048576"), "{refused}");
    half.write_all(&request(&large, "").as_bytes()[900_000..]).unwrap();
    let mut status = [0; 12];
    half.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

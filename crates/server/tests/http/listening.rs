//! TLS and Unix sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use danaus_server::{ListenError, Listener, ServerConfig, Tls, TlsError};
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::running::*;
use crate::support::{error_json, expected_json, query, service, until};

/// A certificate for "localhost" and its key, in files.
struct Files {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = Self { folder, certificate: cert.der().clone() };
        std::fs::write(files.cert(), cert.pem()).unwrap();
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
    fn connector(&self, version: &'static SupportedProtocolVersion) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

async fn start_tls(files: &Files, config: ServerConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Tls::from_files(&files.cert(), &files.key()).unwrap();
    let running = start_on(Listener::tls(listener, tls), address, config, || Ok(service()));
    until("ready", || async {
        let request = "GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        exchange(files, address, request).await.starts_with("HTTP/1.1 200 ")
    })
    .await;
    running
}

async fn connect(files: &Files, address: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    bounded(files.connector(&TLS13).connect(name, stream)).await.unwrap()
}

async fn exchange(files: &Files, address: SocketAddr, request: &str) -> String {
    let mut stream = connect(files, address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

#[tokio::test]
async fn tls_of_both_versions() {
    let files = Files::new();
    let running = start_tls(&files, ServerConfig::default()).await;
    for version in [&TLS12, &TLS13] {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = bounded(files.connector(version).connect(name, stream)).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
        // Several requests on one connection, one of them larger than a TLS record.
        let large = format!("{}{}", query("a"), " ".repeat(100_000));
        for body in [query("a"), large, query("a")] {
            stream.write_all(post(&body, "").as_bytes()).await.unwrap();
            let answer = read_one(&mut stream).await;
            assert!(answer.contains(&expected_json("a")), "{answer}");
        }
    }
    running.stop.send(()).unwrap();
    bounded(running.result).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wrong_head_is_told_so_by_tls_and_on_a_unix_socket() {
    let message = "The request's head is not HTTP/1.1: invalid header name";
    let expected = error_json(message, "invalid_request_error", "malformed_head");
    let request = "GET /health HTTP/1.1\r\nno field\r\n\r\n";
    let files = Files::new();
    let running = start_tls(&files, ServerConfig::default()).await;
    assert_eq!(body_of(&exchange(&files, running.address, request).await), expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    let _running = start_unix(&path).await;
    assert_eq!(body_of(&exchange_unix(&path, request).await), expected);
}

#[tokio::test]
async fn plain_http_at_a_tls_port_is_told_so() {
    let files = Files::new();
    let running = start_tls(&files, ServerConfig::default()).await;
    let answer = running.exchange(&post(&query("secret"), "")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let message = "This port speaks TLS: use https:// instead of http://";
    assert_eq!(body_of(&answer), error_json(message, "invalid_request_error", "tls_required"));
    for path in ["/health", "/metrics", "/info"] {
        assert!(running.get(path).await.starts_with("HTTP/1.1 400 "), "{path}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_holds_up_nobody_and_ends() {
    let files = Files::new();
    let config = ServerConfig { read_timeout: Duration::from_millis(300), ..ServerConfig::default() };
    let running = start_tls(&files, config).await;
    let mut silent = Vec::new();
    for begin in [&b""[..], &b"\x16"[..], &b"\x16\x03\x01\x02\x00\x01"[..]] {
        let mut stream = running.connect().await;
        stream.write_all(begin).await.unwrap();
        silent.push(stream);
    }
    let answer = exchange(&files, running.address, &post_and_close("a")).await;
    assert!(answer.contains(&expected_json("a")), "{answer}");
    for mut stream in silent {
        let mut rest = Vec::new();
        // The end, in whichever form: there is nothing to say to somebody who does not speak.
        let _ = bounded(stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    // What begins like TLS and is none.
    let mut wrong = running.connect().await;
    wrong.write_all(b"\x16 this is no handshake").await.unwrap();
    let _ = bounded(wrong.read_to_end(&mut Vec::new())).await;
    let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let metrics = exchange(&files, running.address, request).await;
    assert!(metrics.contains("danaus_connections_refused_total{reason=\"tls_handshake\"} 4\n"), "{metrics}");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let files = Files::new();
    let hour = Duration::from_secs(3600);
    let config = ServerConfig { read_timeout: hour, shutdown_timeout: hour, ..ServerConfig::default() };
    let running = start_tls(&files, config).await;
    let mut silent = running.connect().await;
    let mut kept = connect(&files, running.address).await;
    kept.write_all(post(&query("a"), "").as_bytes()).await.unwrap();
    assert!(read_one(&mut kept).await.contains(&expected_json("a")));
    running.stop.send(()).unwrap();
    bounded(running.result).await.unwrap().unwrap();
    assert_eq!(read_all(&mut kept).await, "");
    let _ = bounded(silent.read(&mut [0])).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so_by_tls_too() {
    let files = Files::new();
    let config = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let running = start_tls(&files, config).await;
    let inside = async {
        loop {
            let mut stream = connect(&files, running.address).await;
            stream.write_all(b"GET /info HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            if read_one(&mut stream).await.starts_with("HTTP/1.1 200 ") {
                return stream;
            }
        }
    };
    let _inside = bounded(inside).await;
    let answer = exchange(&files, running.address, &post(&query("a"), "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("the limit is 1"), "{answer}");
}

#[track_caller]
fn refused(cert: &Path, key: &Path, parts: &[&str]) -> TlsError {
    let error = Tls::from_files(cert, key).unwrap_err();
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    error
}

#[test]
fn certificates_and_keys_that_are_wrong_are_refused_with_what_is_wrong() {
    let (files, others) = (Files::new(), Files::new());
    let (cert, key) = (files.cert(), files.key());
    let path = |name: &str, text: &str| {
        let path = files.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let missing = files.folder.path().join("missing.pem");
    let (empty, folder) = (path("empty.pem", ""), files.folder.path());
    refused(&missing, &key, &["the certificate", "missing.pem", "cannot be read", "No such file"]);
    refused(&cert, &missing, &["the key", "missing.pem", "cannot be read", "No such file"]);
    refused(folder, &key, &["the certificate", "cannot be read", "directory"]);
    refused(&empty, &key, &["empty.pem", "has no certificate in it", "expected a PEM file"]);
    refused(&cert, &empty, &["empty.pem", "has no key in it", "no password"]);
    // The two in each other's place.
    refused(&key, &cert, &["key.pem", "has no certificate in it"]);
    let error = refused(&cert, &others.key(), &["is not that of the first certificate in", "made together"]);
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error:?}");
    let text = std::fs::read_to_string(&cert).unwrap();
    let cut = path("cut.pem", &text[..text.len() / 2]);
    refused(&cut, &key, &["cut.pem", "is not PEM"]);
    let hollow = path("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    refused(&hollow, &key, &["cannot be used for TLS", "hollow.pem"]);
    let protected = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    refused(&cert, &path("protected.pem", protected), &["protected.pem", "no password"]);
}

/// A chain, and other things in the file, as certificate authorities hand them out.
#[test]
fn a_chain_with_comments_is_taken() {
    let files = Files::new();
    let issuer =
        CertificateParams::new(Vec::new()).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let own = std::fs::read_to_string(files.cert()).unwrap();
    std::fs::write(files.cert(), format!("Bag Attributes\n{own}\nissuer:\n{}", issuer.pem())).unwrap();
    Tls::from_files(&files.cert(), &files.key()).unwrap();
}

async fn start_unix(path: &Path) -> Running {
    let listener = Listener::unix(path).await.unwrap();
    let running = start_on(listener, ([127, 0, 0, 1], 0).into(), ServerConfig::default(), || Ok(service()));
    until("ready", || async {
        let request = "GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        exchange_unix(path, request).await.starts_with("HTTP/1.1 200 ")
    })
    .await;
    running
}

async fn exchange_unix(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_removed_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    for _ in 0..2 {
        let running = start_unix(&path).await;
        let answer = exchange_unix(&path, &post_and_close("a")).await;
        assert!(answer.contains(&expected_json("a")), "{answer}");
        let error = Listener::unix(&path).await.unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error:?}");
        assert!(exchange_unix(&path, &post_and_close("a")).await.contains(&expected_json("a")));
        running.stop.send(()).unwrap();
        bounded(running.result).await.unwrap().unwrap();
        assert!(!path.exists());
    }
}

/// As on a port: connections that the system has made and the server has not looked at yet.
#[tokio::test]
async fn a_shutdown_answers_whoever_has_connected_to_a_unix_socket_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    let running = start_unix(&path).await;
    shut_down_after_connecting(running, |request| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut stream, request).unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("danaus.sock");
    // The standard library's listener leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::unix(&path).await.unwrap();
    // One that took our place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(other);
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for there in [&file, &link, &folder.path().to_owned()] {
        let error = Listener::unix(there).await.unwrap_err();
        assert!(matches!(error, ListenError::NoSocket { .. }), "{error:?}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let nowhere = Listener::unix(&folder.path().join("no/folder")).await.unwrap_err().to_string();
    assert!(nowhere.contains("No such file") && nowhere.contains("may write to"), "{nowhere}");
    let long = Listener::unix(&folder.path().join("x".repeat(200))).await.unwrap_err().to_string();
    assert!(long.contains("100 bytes"), "{long}");
}

//! A running server, and raw requests to it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use danaus_server::{Listener, ServerConfig, Service, serve};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{query, until};

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub result: JoinHandle<anyhow::Result<()>>,
}

pub async fn start(
    config: ServerConfig,
    load: impl FnOnce() -> anyhow::Result<Service> + Send + 'static,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    start_on(listener.into(), address, config, load)
}

/// Serves where connections come from `address`.
pub fn start_on(
    listener: Listener,
    address: SocketAddr,
    config: ServerConfig,
    load: impl FnOnce() -> anyhow::Result<Service> + Send + 'static,
) -> Running {
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    Running { address, stop, result: tokio::spawn(serve(listener, config, load, shutdown)) }
}

pub async fn start_ready(config: ServerConfig, service: Service) -> Running {
    let running = start(config, || Ok(service)).await;
    until("ready", || async { running.get("/health").await.starts_with("HTTP/1.1 200") }).await;
    running
}

impl Running {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the port is open")
    }

    pub async fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
    }

    /// Sends a request and reads until the server closes.
    pub async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    pub async fn metric(&self, name: &str) -> String {
        let metrics = self.get("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
    }

    pub async fn until_queued(&self, texts: &str) {
        until(&format!("{texts} texts queued"), || async {
            self.metric("danaus_queue_texts").await == texts
        })
        .await;
    }
}

pub async fn until_closed(address: SocketAddr) {
    until("the port is closed", || async { TcpStream::connect(address).await.is_err() }).await;
}

pub fn post(body: &str, more_headers: &str) -> String {
    let length = body.len();
    format!(
        "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{more_headers}content-length: {length}\r\n\r\n{body}"
    )
}

pub fn post_and_close(text: &str) -> String {
    post(&query(text), "connection: close\r\n")
}

pub async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    bounded(stream.read_to_end(&mut bytes)).await.expect("a response, not a broken connection");
    String::from_utf8(bytes).expect("UTF-8")
}

/// Waits for an answer to a request that was whole before a shutdown: its result, or that there is a shutdown.
async fn answered(mut stream: impl AsyncRead + Unpin) {
    let answer = read_all(&mut stream).await;
    let answered = ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|status| answer.starts_with(status));
    assert!(answered, "{answer:?}");
}

/// A shutdown answers whoever has connected before it: `connect` makes a connection, sends that request and must not await,
/// since nothing of the server runs until the test does.
pub async fn shut_down_after_connecting<S: AsyncRead + Unpin>(
    running: Running,
    connect: impl Fn(&[u8]) -> S,
) {
    let request = post_and_close("before");
    let connected: Vec<S> = (0..20).map(|_| connect(request.as_bytes())).collect();
    running.stop.send(()).unwrap();
    for stream in connected {
        answered(stream).await;
    }
    bounded(running.result).await.unwrap().unwrap();
}

/// One response with a `content-length`, from a connection that stays open.
pub async fn read_one(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if body.len() == length.parse::<usize>().expect("a number") {
                return text;
            }
        }
        let mut buffer = [0; 4096];
        let count = bounded(stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the connection ended after {text:?}");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

pub async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("an answer")
}

pub fn body_of(response: &str) -> Value {
    let (_, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("JSON")
}

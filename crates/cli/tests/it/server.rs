//! A running `danaus serve`, and talking to it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{PATIENCE, Process, danaus_with, eventually};

/// A server, killed when dropped.
pub struct Server {
    process: Process,
    log: Log,
    pub address: SocketAddr,
}

/// What a process has written to standard error so far.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<String>>,
    /// Whether that was all.
    ended: Arc<AtomicBool>,
}

impl Log {
    fn of(stderr: impl std::io::Read + Send + 'static) -> Self {
        let log = Self::default();
        let Self { lines, ended } = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *lines.lock().unwrap() += &(line + "\n");
            }
            ended.store(true, Ordering::Release);
        });
        log
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().clone()
    }
}

impl Server {
    /// Starts a command that serves, on a free port where `args` name none, and waits until its port is open.
    pub fn start(command: &mut Command) -> Self {
        let mut process =
            Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
        let log = Log::of(process.child().stderr.take().unwrap());
        let address = eventually(PATIENCE, || {
            let ended = process.child().try_wait().unwrap().is_some();
            log.text().lines().find_map(listening).map(Some).or(ended.then_some(None))
        });
        let address = address.flatten();
        let mut address = address.unwrap_or_else(|| panic!("it does not listen:\n{}", log.text()));
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Self { process, log, address }
    }

    /// Serves a model on a free port, and waits until it is ready.
    pub fn of(model: &Path, args: &str) -> Self {
        let server = Self::start(&mut danaus_with(model, &format!("serve --host 127.0.0.1 --port 0 {args}")));
        server.wait_until_ready();
        server
    }

    pub fn wait_until_ready(&self) {
        let ready = eventually(PATIENCE, || (self.get("/health").0 == 200).then_some(()));
        ready.unwrap_or_else(|| panic!("it is never ready:\n{}", self.log()));
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until the log has `text`.
    pub fn wait_for_log(&self, text: &str) {
        let found = eventually(PATIENCE, || self.log().contains(text).then_some(()));
        found.unwrap_or_else(|| panic!("no {text:?} in\n{}", self.log()));
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for the process to end, and for the last of its log, and returns its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.process.wait(PATIENCE);
        eventually(PATIENCE, || self.log.ended.load(Ordering::Acquire).then_some(()));
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.log())).code()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(format!("http://{}{path}", self.address)).call())
    }

    /// Status and body of a POST.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_with(path, body, &[])
    }

    /// Status and body of a POST with these headers.
    pub fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = agent().post(format!("http://{}{path}", self.address));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        answer(request.header("Content-Type", "application/json").send(body.to_string()))
    }

    /// The embeddings of texts.
    #[track_caller]
    pub fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let (status, body) = self.post("/embed", &json!({"query": texts}));
        assert_eq!(status, 200, "{body}");
        vectors(&body)
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = agent().get(format!("http://{}/metrics", self.address)).call().unwrap();
        let metrics = metrics.into_body().read_to_string().unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in:\n{metrics}")).parse().unwrap()
    }
}

/// The embeddings in the answer of `/embed`, as they were sent.
pub fn vectors(body: &Value) -> Vec<Vec<f32>> {
    // By way of text: a number of a `Value` has been rounded to float64 and not to float32.
    serde_json::from_str(&body["embeddings"].to_string()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The address in the log line that says that the port is open.
fn listening(line: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        line["message"].as_str().filter(|message| message.starts_with("listening"))?;
        return line["address"].as_str()?.parse().ok();
    }
    line.split_once(" listening: ")?.1.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false);
    config.timeout_global(Some(PATIENCE)).timeout_connect(Some(Duration::from_secs(10))).build().into()
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut response = result.unwrap_or_else(|error| panic!("{error}"));
    let body = response.body_mut().read_to_string().unwrap();
    let value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    (response.status().as_u16(), value)
}

//! Models of the hub: none to be had, downloading one, and serving it without a network.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{bits, danaus, embed_lines, rows, run, run_with, run_within, small_model};
use crate::server::Server;

const DEFAULT_MODEL: &str = "togethercomputer/m2-bert-80M-32k-retrieval";

/// Within 30 s it must be clear that there is no model; and some time for the process to start and end.
const GIVES_UP: Duration = Duration::from_secs(35);

/// `danaus` that may ask the hub at `endpoint`, and has its cache in `home`.
fn with_hub(args: &[&str], endpoint: &str, home: &Path) -> Command {
    let mut command = danaus(args);
    command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", endpoint).env("HF_HOME", home);
    command
}

/// Everything that starts with a model.
const USES: [&[&str]; 3] = [&["serve", "--port", "0"], &["embed"], &["download"]];

/// Runs all of `USES` at the same time, and asserts that each fails in time, with what was tried and the ways out.
fn assert_gives_up(endpoint: &str, reasons: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("hub").display().to_string();
    let mut parts = vec![DEFAULT_MODEL, &cache, "HF_ENDPOINT", "--model", "synthetic", "danaus download"];
    parts.extend(reasons);
    std::thread::scope(|scope| {
        for args in USES {
            let (parts, home) = (&parts, home.path());
            scope.spawn(move || {
                run_within(&mut with_hub(args, endpoint, home), b"a\n", GIVES_UP).fails(1, parts);
            });
        }
    });
}

#[test]
fn a_hub_that_cannot_be_reached() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    assert_gives_up(&endpoint, &[&endpoint, "refused"]);
}

/// It accepts connections, and that is all it does.
#[test]
fn a_hub_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    assert_gives_up(&endpoint, &[&endpoint, "nothing arrived"]);
}

#[test]
fn no_network_wanted() {
    let home = tempfile::tempdir().unwrap();
    for args in USES {
        let mut command = danaus(args);
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.path());
        let parts = [DEFAULT_MODEL, "HF_HUB_OFFLINE", "--model", "synthetic", home.path().to_str().unwrap()];
        run_with(&mut command, b"a\n").fails(1, &parts);
    }
}

#[test]
fn an_endpoint_that_is_none() {
    let home = tempfile::tempdir().unwrap();
    for endpoint in
        ["huggingface", "not a url", "::::", "ftp://127.0.0.1", "http://", "/", "http://127.0.0.1:99999"]
    {
        let run = run_within(&mut with_hub(&["download"], endpoint, home.path()), b"", GIVES_UP);
        run.fails(1, &["HF_ENDPOINT"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written() {
    let hub = Hub::serving("owner/small");
    let mut command =
        with_hub(&["download", "--model", "owner/small"], &hub.endpoint, Path::new("/dev/null/home"));
    run_within(&mut command, b"", GIVES_UP).fails(1, &["/dev/null/home"]);
}

#[test]
fn only_models_of_the_hub_can_be_downloaded() {
    run(&mut danaus(&["download", "--model", "synthetic"])).fails(1, &["synthetic:32k is no hub model"]);
    run(danaus(&["download", "--model"]).arg(small_model())).fails(1, &["is no hub model"]);
}

#[test]
fn download_then_serve_without_a_network() {
    let hub = Hub::serving("owner/small");
    let home = tempfile::tempdir().unwrap();
    let download = || run(&mut with_hub(&["download", "--model", "owner/small"], &hub.endpoint, home.path()));
    let first = download().exits(0);
    assert_eq!(first.text().matches("(content verified)").count(), 2, "{}", first.text());
    assert!(first.text().contains(&format!("owner/small at commit {COMMIT}")), "{}", first.text());
    assert_eq!(hub.downloads("model.safetensors"), 1);
    let second = download().exits(0);
    assert_eq!(second.text(), first.text());
    assert_eq!(hub.downloads("model.safetensors"), 1, "it is there already");
    drop(hub);
    // No network any more: neither said nor there.
    for offline in ["1", "0"] {
        let args = ["serve", "--host", "127.0.0.1", "--port", "0", "--model", "owner/small"];
        let mut serve = with_hub(&args, "http://127.0.0.1:9", home.path());
        let server = Server::start(serve.env("HF_HUB_OFFLINE", offline));
        server.wait_until_ready();
        let (_, info) = server.get("/info");
        assert_eq!((&info["model"], &info["revision"]), (&json!("owner/small"), &json!(COMMIT)), "{info}");
        assert_eq!(bits(&server.embed(&["cached"])[0]), embed_lines("", "cached\n")[0].bits());
        let args = ["embed", "--model", "owner/small"];
        let mut embed = with_hub(&args, "http://127.0.0.1:9", home.path());
        let run = run_with(embed.env("HF_HUB_OFFLINE", offline), b"cached\n").exits(0);
        assert_eq!(rows(&run.stdout), embed_lines("", "cached\n"));
    }
}

#[test]
fn a_model_is_downloaded_when_it_is_needed_at_the_revision_that_is_asked_for() {
    let hub = Hub::serving("owner/small");
    let home = tempfile::tempdir().unwrap();
    let args = ["embed", "--model", "owner/small", "--revision"];
    let missing = run_with(with_hub(&args, &hub.endpoint, home.path()).arg("no-such-branch"), b"a\n");
    missing.fails(1, &["owner/small", "no revision no-such-branch"]);
    run_with(with_hub(&args, &hub.endpoint, home.path()).arg("../main"), b"a\n").fails(1, &["../main"]);
    let got = run_with(with_hub(&args, &hub.endpoint, home.path()).arg(COMMIT), b"a\n").exits(0);
    assert_eq!(rows(&got.stdout), embed_lines("", "a\n"));
    let other = ["embed", "--model", "owner/other"];
    run_with(&mut with_hub(&other, &hub.endpoint, home.path()), b"a\n")
        .fails(1, &["no repository owner/other"]);
}

/// One bit on the disk has changed.
#[test]
fn a_damaged_file_is_named_and_downloaded_again() {
    let hub = Hub::serving("owner/small");
    let home = tempfile::tempdir().unwrap();
    let download = || run(&mut with_hub(&["download", "--model", "owner/small"], &hub.endpoint, home.path()));
    let first = download().exits(0);
    let file = cached(&home, "model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let second = download().exits(0);
    assert!(second.stderr.contains("model.safetensors is damaged"), "{}", second.stderr);
    assert_eq!(second.text(), first.text());
    assert_eq!(hub.downloads("model.safetensors"), 2);
    assert!(std::fs::read(&file).unwrap() == whole);
    // Cut short, it cannot even be loaded: serving says so, and what to do.
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let args = ["serve", "--port", "0", "--model", "owner/small"];
    let mut serve = with_hub(&args, "http://127.0.0.1:9", home.path());
    run(serve.env("HF_HUB_OFFLINE", "1")).fails(1, &["model.safetensors is damaged", "danaus download"]);
    download().exits(0);
    assert!(std::fs::read(&file).unwrap() == whole);
}

/// The content of a file of the cache.
fn cached(home: &TempDir, name: &str) -> PathBuf {
    let snapshot = home.path().join("hub/models--owner--small/snapshots").join(COMMIT);
    snapshot.join(name).canonicalize().unwrap()
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The hub, as far as one repository with the small model goes. Ends with the test.
struct Hub {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
    address: std::net::SocketAddr,
}

struct Repository {
    id: &'static str,
    files: HashMap<&'static str, Vec<u8>>,
}

impl Hub {
    fn serving(id: &'static str) -> Self {
        let content = |name| (name, std::fs::read(small_model().join(name)).unwrap());
        let files = HashMap::from([content("config.json"), content("model.safetensors")]);
        let repository = Repository { id, files };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some((path, from)) = read_request(&stream) else { break };
                log.lock().unwrap().push(format!("{path} from {}", from.as_deref().unwrap_or("?")));
                repository.answer(&stream, &path, from.as_deref());
            }
        });
        Self { endpoint: format!("http://{address}"), requests, address }
    }

    /// How often a file was downloaded from its start, and not only asked for its size.
    fn downloads(&self, name: &str) -> usize {
        let request = format!("/{name} from bytes=0-");
        self.requests.lock().unwrap().iter().filter(|line| line.ends_with(&request)).count()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // A request that is none ends the thread.
        drop(TcpStream::connect(self.address));
    }
}

/// Path and range of a request.
fn read_request(stream: &TcpStream) -> Option<(String, Option<String>)> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then(|| value.to_owned())
    });
    Some((path, range))
}

impl Repository {
    fn answer(&self, stream: &TcpStream, path: &str, range: Option<&str>) {
        let of_branch = format!("/api/models/{}/revision/main", self.id);
        let of_commit = format!("/api/models/{}/revision/{COMMIT}", self.id);
        if path == of_branch || path == of_commit {
            let siblings: Vec<_> = self.files.keys().map(|name| json!({"rfilename": name})).collect();
            let info = json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return respond(stream, "200 OK", "", info.as_bytes());
        }
        let prefix = format!("/{}/resolve/{COMMIT}/", self.id);
        let file = path.strip_prefix(&prefix).and_then(|name| self.files.get(name));
        let Some(content) = file else { return respond(stream, "404 Not Found", "", b"Not Found") };
        let range = range.and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-");
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().unwrap_or(content.len() - 1).min(content.len() - 1);
        let headers = format!(
            "Content-Range: bytes {start}-{end}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
            content.len(),
            sha256(content),
        );
        respond(stream, "206 Partial Content", &headers, &content[start..=end]);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn respond(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    // Fails where the client wants no more.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

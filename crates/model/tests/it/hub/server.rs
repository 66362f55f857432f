//! A server that speaks the hub's protocol over real sockets, and fails as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files of this size or more are kept outside of git and served by redirect, as large ones are on the hub.
const LARGE: usize = 10_000;

/// A hub with one repository.
pub struct Server {
    pub endpoint: String,
    hub: Arc<Mutex<Hub>>,
}

/// What the hub holds, and how it misbehaves.
#[derive(Default)]
pub struct Hub {
    pub id: String,
    /// Commit of each branch or tag.
    pub revisions: BTreeMap<String, String>,
    /// Files of each commit.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// The token without which access is refused.
    pub token: Option<String>,
    /// What goes wrong with the next requests for contents, one each; then all is well.
    pub faults: Vec<Fault>,
    /// An answer to everything.
    pub always: Option<Always>,
    /// The ETag of large files, where it is not their hash.
    pub etag: Option<String>,
    /// Every request: method, path and range.
    pub requests: Vec<String>,
}

/// What goes wrong with the content of a file. Requests for metadata (a range of one byte) are not affected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing.
    Fine,
    /// The connection ends after so many bytes of content.
    Drop(usize),
    /// So many bytes are sent as if they were all, without a length.
    Shorten(usize),
    /// One byte is another.
    Corrupt,
    /// The range is ignored: all of the file comes, with status 200.
    IgnoreRange,
    /// So many bytes are sent, then nothing more, on an open connection.
    Stall(usize),
    /// An answer of that status.
    Status(u16),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Always {
    /// Never an answer.
    Silence,
    Status(u16),
    /// A redirect that does not say where to.
    LostRedirect,
    /// A web page.
    Page,
}

struct Request {
    path: String,
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

impl Server {
    /// Starts a hub with one repository `owner/model`, whose branch `main` holds `files`.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let hub = Arc::new(Mutex::new(Hub { id: "owner/model".into(), ..Hub::default() }));
        hub.lock().unwrap().commit("main", files);
        let (served, address) = (Arc::clone(&hub), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (hub, address) = (Arc::clone(&served), address.clone());
                std::thread::spawn(move || serve(&stream.unwrap(), &hub, &address));
            }
        });
        Self { endpoint, hub }
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Hub) -> T) -> T {
        change(&mut self.hub.lock().unwrap())
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<String> {
        self.change(|hub| std::mem::take(&mut hub.requests))
    }
}

impl Hub {
    /// Makes a commit of those files and points the revision to it; returns its name.
    pub fn commit(&mut self, revision: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let commit = hex(&Sha1::digest(format!("{revision} {}", self.commits.len())));
        self.commits.insert(commit.clone(), files);
        self.revisions.insert(revision.into(), commit.clone());
        commit
    }

    fn files(&self, revision: &str) -> Option<(String, &BTreeMap<String, Vec<u8>>)> {
        let commit = self.revisions.get(revision).cloned().unwrap_or_else(|| revision.to_owned());
        Some((commit.clone(), self.commits.get(&commit)?))
    }

    fn next_fault(&mut self) -> Fault {
        if self.faults.is_empty() { Fault::Fine } else { self.faults.remove(0) }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub fn git_sha1(content: &[u8]) -> String {
    hex(&Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat()))
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, token: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            "range" => {
                let (start, end) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((start.parse().ok()?, end.parse().ok()));
            }
            _ => {}
        }
    }
    Some(request)
}

fn serve(mut stream: &TcpStream, hub: &Mutex<Hub>, endpoint: &str) {
    let Some(request) = read(stream) else { return };
    let (always, allowed) = {
        let mut hub = hub.lock().unwrap();
        hub.requests.push(format!(
            "{} {}",
            request.path,
            request.range.map_or(String::new(), |r| format!("{r:?}"))
        ));
        (hub.always, hub.token.is_none() || hub.token == request.token || request.path.starts_with("/cdn/"))
    };
    let answer = match always {
        Some(Always::Silence) => {
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        Some(Always::Status(status)) => simple(status, "", b"{}"),
        Some(Always::LostRedirect) => simple(302, "X-Repo-Commit: c\r\nETag: \"e\"\r\n", b""),
        Some(Always::Page) => simple(200, "", b"<html>welcome to the wireless network</html>"),
        None if !allowed => simple(401, "", b"{}"),
        None => {
            let hub = &mut hub.lock().unwrap();
            respond(&request, hub, endpoint)
        }
    };
    let _ = stream.write_all(&answer.head);
    let _ = stream.write_all(&answer.body);
    if answer.stall {
        std::thread::sleep(Duration::from_secs(60));
    }
}

struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
    stall: bool,
}

fn simple(status: u16, headers: &str, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status} Text\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    Answer { head: head.into(), body: body.into(), stall: false }
}

fn respond(request: &Request, hub: &mut Hub, endpoint: &str) -> Answer {
    let (api, files) = (format!("/api/models/{}/revision/", hub.id), format!("/{}/resolve/", hub.id));
    if let Some(revision) = request.path.strip_prefix(&api) {
        let Some((commit, files)) = hub.files(&revision.replace("%2F", "/")) else {
            return simple(404, "", b"{}");
        };
        let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
        let info = json!({"id": hub.id, "sha": commit, "private": false, "siblings": siblings});
        simple(200, "Content-Type: application/json\r\n", info.to_string().as_bytes())
    } else if let Some(rest) = request.path.strip_prefix(&files) {
        resolve(request, hub, rest, endpoint)
    } else if let Some(hash) = request.path.strip_prefix("/cdn/") {
        let contents = hub.commits.values().flat_map(BTreeMap::values);
        let Some(content) = contents.into_iter().find(|content| sha256(content) == hash).cloned() else {
            return simple(404, "", b"");
        };
        send(request, hub, &content, "ETag: \"of-the-cdn\"\r\n")
    } else {
        simple(404, "", b"{}")
    }
}

/// `/owner/model/resolve/REVISION/FILE`: the content, or a redirect to it.
fn resolve(request: &Request, hub: &mut Hub, rest: &str, endpoint: &str) -> Answer {
    let found = rest.split_once('/').and_then(|(revision, name)| {
        let (commit, files) = hub.files(&revision.replace("%2F", "/"))?;
        Some((commit, files.get(name)?.clone()))
    });
    let Some((commit, content)) = found else { return simple(404, "X-Error-Code: EntryNotFound\r\n", b"") };
    let commit = format!("X-Repo-Commit: {commit}\r\n");
    if content.len() < LARGE {
        return send(request, hub, &content, &format!("{commit}ETag: \"{}\"\r\n", git_sha1(&content)));
    }
    let hash = sha256(&content);
    let etag = hub.etag.clone().unwrap_or_else(|| hash.clone());
    let headers = format!(
        "{commit}Location: {}/cdn/{hash}\r\nX-Linked-ETag: \"{etag}\"\r\nX-Linked-Size: {}\r\nETag: \"of-the-pointer\"\r\n",
        // By another name of this machine, so that it is another host.
        endpoint.replace("127.0.0.1", "localhost"),
        content.len()
    );
    simple(302, &headers, b"")
}

/// Sends content or a range of it, with the next fault.
fn send(request: &Request, hub: &mut Hub, content: &[u8], headers: &str) -> Answer {
    let is_metadata = request.range == Some((0, Some(0)));
    let fault = if is_metadata { Fault::Fine } else { hub.next_fault() };
    let (start, end) = match request.range {
        Some((start, _)) if start >= content.len() => return simple(416, "", b""),
        Some((start, end)) if fault != Fault::IgnoreRange => {
            (start, end.map_or(content.len(), |end| content.len().min(end + 1)))
        }
        _ => (0, content.len()),
    };
    let status =
        if start == 0 && end == content.len() && request.range.is_none() || fault == Fault::IgnoreRange {
            200
        } else {
            206
        };
    let mut body = content[start..end].to_vec();
    let range = format!("Content-Range: bytes {start}-{}/{}\r\n", end - 1, content.len());
    let mut answer = simple(status, &format!("{headers}{range}"), &body);
    match fault {
        Fault::Fine | Fault::IgnoreRange => {}
        Fault::Drop(bytes) => body.truncate(bytes),
        Fault::Corrupt => body[5] ^= 1,
        Fault::Status(status) => return simple(status, "", b"{}"),
        Fault::Stall(bytes) => {
            body.truncate(bytes);
            answer.stall = true;
        }
        Fault::Shorten(bytes) => {
            body.truncate(bytes);
            answer.head =
                format!("HTTP/1.1 {status} Text\r\nConnection: close\r\n{headers}{range}\r\n").into();
        }
    }
    answer.body = body;
    answer
}

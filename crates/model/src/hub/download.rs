//! Downloading a model into the cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::HumanBytes;

use super::progress::{Activity, Report};
use super::verify::{discard, verify, verify_noting};
use super::{CachedRepo, HubError, HubOptions, MAIN, Snapshot, checked, is_commit};
#[cfg(doc)]
use crate::PADDING_FILES;
use crate::load::{Choice, choose_checkpoint, is_padding_file};

/// Attempts in a row that may fail without a byte having arrived.
const BARREN_ATTEMPTS: u32 = 3;

/// Attempts in all: a server that never sends a file's end must not be asked forever.
const ATTEMPTS: u32 = 50;

/// Asks the hub for the newest commit of the revision and gets what the cache lacks of it: `config.json`, one checkpoint,
/// `model.safetensors` where there is one, and what was prepared for fast padding ([`PADDING_FILES`]). Every file is checked, those too that were there already. An
/// interrupted download resumes, now or the next time.
///
/// # Errors
/// See [`HubError`]. Where nothing arrives for [`HubOptions::patience`], it gives up.
pub fn download(id: &str, revision: Option<&str>, options: &HubOptions) -> Result<Snapshot, HubError> {
    let revision = checked(id, revision)?.to_owned();
    if options.offline {
        let snapshot = super::cached(id, Some(&revision), options)?;
        let (id, cache) = (id.to_owned(), options.cache_dir.clone());
        let snapshot = snapshot.ok_or(HubError::Offline { id, revision, cache })?;
        verify(&snapshot.config)?;
        verify(&snapshot.checkpoint)?;
        return Ok(snapshot);
    }
    let activity = Arc::new(Activity::new());
    let job = Job { id: id.to_owned(), revision, options: options.clone(), activity: Arc::clone(&activity) };
    let (patience, stalled) =
        (options.patience, job.unreachable(format!("nothing arrived for {:?}", options.patience)));
    let broken = job.protocol("the hub client failed on its answer");
    let (sender, receiver) = channel();
    // The client knows no timeouts, so it runs on a thread of its own, which is left behind when it hangs.
    std::thread::Builder::new()
        .name("hub-download".to_owned())
        .spawn(move || sender.send(job.run()))
        .map_err(|error| HubError::Cache { path: options.cache_dir.clone(), error })?;
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(broken),
            Err(RecvTimeoutError::Timeout) if activity.idle() > patience => return Err(stalled),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// One download, on its own thread.
struct Job {
    id: String,
    revision: String,
    options: HubOptions,
    activity: Arc<Activity>,
}

impl Job {
    fn run(&self) -> Result<Snapshot, HubError> {
        let api = self.api()?;
        let info = self.info(&api)?;
        let commit = info.sha;
        if !is_commit(&commit) {
            return Err(self.protocol(format!("it names the commit {commit:?}")));
        }
        let names: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let checkpoint = self.checkpoint(&names, &commit)?;
        let config = self.file(&api, &commit, "config.json")?;
        let checkpoint = self.file(&api, &commit, &checkpoint)?;
        for name in names.iter().filter(|name| is_padding_file(name)) {
            // The model works without it, slower.
            if let Err(error) = self.file(&api, &commit, name) {
                tracing::warn!("{name} is not used: {error}");
            }
        }
        self.point_revision_to(&commit)?;
        Ok(Snapshot { id: self.id.clone(), commit, config, checkpoint })
    }

    fn api(&self) -> Result<Api, HubError> {
        let builder = ApiBuilder::from_cache(Cache::new(self.options.cache_dir.clone()))
            .with_endpoint(self.options.endpoint.clone())
            .with_token(self.options.token.clone())
            .with_user_agent("danaus", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            // Its own retry writes on from the wrong place after a failure before the first byte.
            .with_retries(0);
        builder.build().map_err(|error| self.explain(error))
    }

    /// Which commit the revision is, and which files it has.
    fn info(&self, api: &Api) -> Result<RepoInfo, HubError> {
        let repo = |revision: &str| {
            api.repo(Repo::with_revision(self.id.clone(), RepoType::Model, revision.to_owned()))
        };
        match self.retrying(|| repo(&self.revision).info()) {
            Err(error) if status(&error) == Some(404) => {
                let (id, revision, endpoint) =
                    (self.id.clone(), self.revision.clone(), self.options.endpoint.clone());
                let has_main = self.revision != MAIN && repo(MAIN).info().is_ok();
                Err(if has_main {
                    HubError::NoRevision { id, revision }
                } else {
                    HubError::NoRepository { id, endpoint }
                })
            }
            result => result.map_err(|error| self.explain(error)),
        }
    }

    /// Which file of the repository is the checkpoint.
    fn checkpoint(&self, names: &[String], commit: &str) -> Result<String, HubError> {
        let problem = match choose_checkpoint(names) {
            Choice::File(name) if names.iter().any(|name| name == "config.json") => return Ok(name),
            Choice::File(_) => "has no config.json".to_owned(),
            Choice::None => {
                "has no checkpoint: expected model.safetensors, pytorch_model.bin or model.bin".to_owned()
            }
            Choice::Sharded(index) => {
                format!(
                    "has a checkpoint in several files ({index}), which is not supported: expected one file"
                )
            }
            Choice::Ambiguous(files) => {
                format!("has several files that could be the checkpoint: {}", files.join(", "))
            }
        };
        Err(HubError::NoModel { id: self.id.clone(), commit: commit.to_owned(), problem })
    }

    /// Makes sure that the cache has a file of the commit, and that it is whole. Files are asked for by commit, so that
    /// all are of the same one even if the branch moves meanwhile.
    fn file(&self, api: &Api, commit: &str, name: &str) -> Result<PathBuf, HubError> {
        let cache = CachedRepo::new(&self.id, &self.options);
        let link = cache.snapshot_folder(commit).join(name);
        if self.is_whole(&link) {
            return Ok(link);
        }
        // A link to a blob that is gone would be in the way.
        let _ = std::fs::remove_file(&link);
        let repo = api.repo(Repo::with_revision(self.id.clone(), RepoType::Model, commit.to_owned()));
        let metadata =
            self.retrying(|| api.metadata(&repo.url(name))).map_err(|error| self.explain(error))?;
        if !metadata.etag().chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
            return Err(self.protocol(format!("it gives {name} the ETag {:?}", metadata.etag())));
        }
        let blob = cache.blob(metadata.etag());
        if self.is_whole(&blob) && make_link(&blob, &link).is_ok() {
            return Ok(link);
        }
        tracing::info!(
            "downloading {name} ({}) of {} from {}",
            HumanBytes(metadata.size() as u64),
            self.id,
            self.options.endpoint
        );
        self.retrying(|| {
            let report = Report::new(name, &self.activity, self.options.progress);
            repo.download_with_progress(name, report).inspect_err(|error| discard_useless_part(error, &blob))
        })
        .map_err(|error| self.explain(error))?;
        let got = std::fs::metadata(&link).map(|file| file.len()).unwrap_or(0);
        if got != metadata.size() as u64 {
            return Err(discard(&link, format!("it has {got} bytes, and the hub has {}", metadata.size())));
        }
        verify_noting(&link, &|| self.activity.note(0))?;
        Ok(link)
    }

    /// Whether a file is in the cache with the content that its name promises. A damaged one is removed.
    fn is_whole(&self, file: &Path) -> bool {
        file.is_file()
            && verify_noting(file, &|| self.activity.note(0))
                .inspect_err(|damage| tracing::warn!("{damage}"))
                .is_ok()
    }

    /// Notes which commit the revision is, for the next time without a network.
    fn point_revision_to(&self, commit: &str) -> Result<(), HubError> {
        let cache = CachedRepo::new(&self.id, &self.options);
        // The client makes one for the commit that it was asked for; the other tools do not.
        let _ = std::fs::remove_file(cache.ref_file(commit));
        if self.revision == commit {
            return Ok(());
        }
        let repo = Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone());
        let written = Cache::new(self.options.cache_dir.clone()).repo(repo).create_ref(commit);
        written.map_err(|error| HubError::Cache { path: cache.ref_file(&self.revision), error })
    }

    /// Tries again what may succeed then, as long as bytes arrive in between, and a few times if none do.
    fn retrying<T>(&self, attempt: impl Fn() -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut barren = 0;
        let mut attempts = 0;
        loop {
            let before = self.activity.bytes();
            let error = match attempt() {
                Ok(value) => {
                    self.activity.note(0);
                    return Ok(value);
                }
                Err(error) => error,
            };
            attempts += 1;
            barren = if self.activity.bytes() > before { 0 } else { barren + 1 };
            if !is_transient(&error) || barren >= BARREN_ATTEMPTS || attempts >= ATTEMPTS {
                return Err(error);
            }
            tracing::warn!("{error}; trying again");
            std::thread::sleep(Duration::from_millis(250 << barren));
        }
    }

    fn explain(&self, error: ApiError) -> HubError {
        match (status(&error), error) {
            (Some(status @ (401 | 403)), _) => {
                let (id, with_token) = (self.id.clone(), self.options.token.is_some());
                HubError::Refused { status, id, with_token }
            }
            (Some(429), _) => {
                self.unreachable("it answered 429, too many requests: wait, or set HF_TOKEN".to_owned())
            }
            (Some(404), _) => self.protocol("it lists a file, and answers 404 when asked for it"),
            (Some(status), _) => self.unreachable(format!("it answered {status}")),
            (None, ApiError::LockAcquisition(path)) => HubError::Locked { path },
            (None, ApiError::IoError(error)) if !is_network(&error) => {
                HubError::Cache { path: self.options.cache_dir.clone(), error }
            }
            (None, error @ (ApiError::IoError(_) | ApiError::TooManyRetries(_))) => {
                self.unreachable(error.to_string())
            }
            (None, ApiError::RequestError(error)) if !is_answer(&error) => {
                self.unreachable(error.to_string())
            }
            (None, error) => self.protocol(error.to_string()),
        }
    }

    fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable {
            id: self.id.clone(),
            revision: self.revision.clone(),
            endpoint: self.options.endpoint.clone(),
            reason,
            cache: self.options.cache_dir.clone(),
        }
    }

    fn protocol(&self, reason: impl Into<String>) -> HubError {
        HubError::Protocol { endpoint: self.options.endpoint.clone(), reason: reason.into() }
    }
}

/// Links a snapshot's file to a blob that the cache has already, as the other tools do.
#[cfg(unix)]
fn make_link(blob: &Path, link: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (link.parent(), blob.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(folder)?;
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), link)
}

/// Elsewhere a link may need privileges: the file is downloaded again.
#[cfg(not(unix))]
fn make_link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Removes a partial file that is longer than it should be, or as long: the hub has no range to resume it with.
fn discard_useless_part(error: &ApiError, blob: &Path) {
    if matches!(error, ApiError::InvalidResume) || status(error) == Some(416) {
        let _ = std::fs::remove_file(blob.with_extension("part"));
    }
}

/// The HTTP status of an answer that is an error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the same request may succeed when it is made again.
fn is_transient(error: &ApiError) -> bool {
    match (status(error), error) {
        (Some(status), _) => matches!(status, 408 | 416 | 429 | 500..),
        (None, ApiError::RequestError(error)) => !is_answer(error),
        (None, ApiError::IoError(error)) => is_network(error),
        (None, error) => matches!(error, ApiError::InvalidResume),
    }
}

/// Whether an error is about what the server answered, rather than about reaching it.
fn is_answer(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    !matches!(
        error,
        E::Io(_)
            | E::Timeout(_)
            | E::HostNotFound
            | E::ConnectionFailed
            | E::Tls(_)
            | E::Rustls(_)
            | E::InvalidProxyUrl
    )
}

/// Whether an error came from the connection, and not from the disk.
fn is_network(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::UnexpectedEof
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::ConnectionRefused
            | K::BrokenPipe
            | K::TimedOut
            | K::Interrupted
            | K::Other
    )
}

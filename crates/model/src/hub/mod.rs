//! Models from the Hugging Face hub, in the cache that all of its tools share.
//!
//! The cache holds, for each repository, `blobs/ETAG` (contents), `snapshots/COMMIT/FILE` (links to them) and
//! `refs/REVISION` (a commit). The `hf-hub` crate downloads; what it does not do is here: reading the environment as
//! the Python tools do, working without a network, giving up when nothing arrives, retrying, and checking contents.

mod download;
mod error;
mod progress;
mod verify;

use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, Repo, RepoType};

pub use download::download;
pub use error::HubError;
pub use verify::{Verified, verify};

use crate::load::{Choice, choose_checkpoint};

/// The hub itself, where no mirror is named.
const ENDPOINT: &str = "https://huggingface.co";

/// The branch that is meant where no revision is named.
const MAIN: &str = "main";

/// How to reach the hub, and where its cache is.
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// Address of the hub or a mirror, without a slash at its end.
    pub endpoint: String,
    /// Access token for private and gated repositories. It is sent to the endpoint, and once per large file also to the
    /// host that the endpoint redirects to, which the `hf-hub` crate asks for the file's size.
    pub token: Option<String>,
    /// Folder of the cache.
    pub cache_dir: PathBuf,
    /// Use the cache only.
    pub offline: bool,
    /// Show a progress bar on standard error; log lines otherwise.
    pub progress: bool,
    /// Give up when nothing arrives for so long.
    pub patience: Duration,
}

impl HubOptions {
    /// Options from the variables that the hub's Python tools read: `HF_ENDPOINT`, `HF_TOKEN` (else the file that
    /// `HF_TOKEN_PATH` names, else `token` in `HF_HOME`), `HF_HUB_CACHE` (else `hub` in `HF_HOME`, which is
    /// `~/.cache/huggingface` where not set), and `HF_HUB_OFFLINE`. The progress bar is shown where standard error is a
    /// terminal.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self { progress: std::io::stderr().is_terminal(), ..Self::from_variables(variable) }
    }

    /// Options from any source of variables; an empty one counts as not set.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let folder = |name: &str| variable(name).map(|path| expand_home(&path, variable("HOME").as_deref()));
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let cache = folder("XDG_CACHE_HOME")
                .unwrap_or_else(|| expand_home("~/.cache", variable("HOME").as_deref()));
            cache.join("huggingface")
        });
        let cache_dir = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored_token = || std::fs::read_to_string(token_file).ok().map(|token| token.trim().to_owned());
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(stored_token);
        let offline = variable("HF_HUB_OFFLINE").or_else(|| variable("TRANSFORMERS_OFFLINE"));
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            offline: offline.is_some_and(|value| is_true(&value)),
            progress: false,
            patience: Duration::from_secs(20),
        }
    }
}

impl fmt::Debug for HubOptions {
    /// Everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("progress", &self.progress)
            .field("patience", &self.patience)
            .finish()
    }
}

/// `path` with a leading `~` replaced by the user's home, as the Python tools do.
fn expand_home(path: &str, home: Option<&str>) -> PathBuf {
    let Some(rest) = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return PathBuf::from(path);
    };
    let home = home.map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_else(|| PathBuf::from("."));
    home.join(rest.trim_start_matches('/'))
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// A model in the cache: one commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Hub id.
    pub id: String,
    /// The commit.
    pub commit: String,
    /// Its `config.json`.
    pub config: PathBuf,
    /// Its checkpoint.
    pub checkpoint: PathBuf,
}

/// Gets a model from the cache, without any network, or downloads it.
///
/// # Errors
/// See [`HubError`].
pub fn fetch(id: &str, revision: Option<&str>, options: &HubOptions) -> Result<Snapshot, HubError> {
    match cached(id, revision, options)? {
        Some(snapshot) => Ok(snapshot),
        None => download(id, revision, options),
    }
}

/// The model as the cache holds it; `None` where it holds no complete one of that revision. Needs no network.
///
/// # Errors
/// An id or a revision that cannot be one.
pub fn cached(id: &str, revision: Option<&str>, options: &HubOptions) -> Result<Option<Snapshot>, HubError> {
    let revision = checked(id, revision)?;
    let cache = CachedRepo::new(id, options);
    let commit = match std::fs::read_to_string(cache.ref_file(revision)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => revision.to_owned(),
    };
    Ok(is_commit(&commit).then(|| cache.snapshot(&commit)).flatten())
}

/// The cache's folders of one repository.
struct CachedRepo {
    id: String,
    folder: PathBuf,
}

impl CachedRepo {
    fn new(id: &str, options: &HubOptions) -> Self {
        let name = Repo::new(id.to_owned(), RepoType::Model).folder_name();
        Self { id: id.to_owned(), folder: Cache::new(options.cache_dir.clone()).path().join(name) }
    }

    fn ref_file(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The model of a commit, where its files are all there.
    fn snapshot(&self, commit: &str) -> Option<Snapshot> {
        let folder = self.snapshot_folder(commit);
        let names: Vec<String> = std::fs::read_dir(&folder)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| folder.join(name).is_file())
            .collect();
        match choose_checkpoint(&names) {
            Choice::File(name) if names.iter().any(|name| name == "config.json") => Some(Snapshot {
                id: self.id.clone(),
                commit: commit.to_owned(),
                config: folder.join("config.json"),
                checkpoint: folder.join(name),
            }),
            _ => None,
        }
    }
}

/// Whether `id` is one that the hub gives to a repository: `owner/name`.
pub(crate) fn is_repository_id(id: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.contains("..")
            && !part.contains("--")
    };
    id.len() <= 96 && id.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

/// Checks id and revision, which go into paths and addresses; returns the revision.
fn checked<'a>(id: &str, revision: Option<&'a str>) -> Result<&'a str, HubError> {
    if !is_repository_id(id) {
        return Err(HubError::InvalidId { id: id.to_owned() });
    }
    let revision = revision.unwrap_or(MAIN);
    let is_name =
        revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."))
            && revision.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+".contains(c));
    if !is_name {
        return Err(HubError::InvalidRevision { revision: revision.to_owned() });
    }
    Ok(revision)
}

/// Whether `text` is a commit, as git names it.
fn is_commit(text: &str) -> bool {
    is_hexadecimal(text, 40)
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The link of a snapshot to a blob, and the blob; the same where the cache has no links.
fn blob_of(file: &Path) -> std::io::Result<PathBuf> {
    file.canonicalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        HubOptions::from_variables(value)
    }

    #[test]
    fn without_variables_it_is_the_hub_and_the_users_cache() {
        let options = options(&[("HOME", "/home/user")]);
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert_eq!(options.cache_dir, Path::new("/home/user/.cache/huggingface/hub"));
        assert!(!options.offline && !options.progress);
        assert!(options.patience < Duration::from_secs(30));
    }

    #[test]
    fn the_cache_is_where_the_other_tools_have_it() {
        let cases = [
            (&[("HF_HOME", "/models")][..], "/models/hub"),
            (&[("HF_HOME", "/models"), ("XDG_CACHE_HOME", "/cache")], "/models/hub"),
            (&[("XDG_CACHE_HOME", "/cache")], "/cache/huggingface/hub"),
            (&[("HF_HUB_CACHE", "/shared"), ("HF_HOME", "/models")], "/shared"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HOME", "~/models"), ("HOME", "/home/user")], "/home/user/models/hub"),
            (&[("HF_HOME", "~"), ("HOME", "/home/user")], "/home/user/hub"),
            (&[("HF_HOME", "~user/models"), ("HOME", "/home/user")], "~user/models/hub"),
            (
                &[("HF_HOME", ""), ("HF_HUB_CACHE", " "), ("HOME", "/home/user")],
                "/home/user/.cache/huggingface/hub",
            ),
        ];
        for (variables, expected) in cases {
            assert_eq!(options(variables).cache_dir, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn the_token_comes_from_a_variable_or_a_file() {
        let home = tempfile::tempdir().unwrap();
        let (home, file) = (home.path().to_str().unwrap(), home.path().join("token"));
        assert_eq!(options(&[("HF_HOME", home)]).token, None);
        std::fs::write(&file, "hf_stored\n").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token.as_deref(), Some("hf_stored"));
        assert_eq!(
            options(&[("HF_HOME", "/gone"), ("HF_TOKEN_PATH", file)]).token.as_deref(),
            Some("hf_stored")
        );
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", " hf_set\n")]).token.as_deref(), Some("hf_set"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", "")]).token.as_deref(), Some("hf_stored"));
        std::fs::write(file, " \n").unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token, None);
    }

    #[test]
    fn mirrors_and_offline_are_understood() {
        assert_eq!(options(&[("HF_ENDPOINT", "https://mirror/path/")]).endpoint, "https://mirror/path");
        for (value, offline) in
            [("1", true), ("true", true), ("YES", true), ("ON", true), ("0", false), ("no", false)]
        {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert!(options(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn ids_are_those_that_the_hub_gives() {
        for id in [crate::DEFAULT_MODEL, "a/b", "hazyresearch/M2-BERT-2K-Retrieval-Encoder-V1", "o_1/n.a-m_e"]
        {
            assert!(is_repository_id(id), "{id}");
        }
        let long = format!("a/{}", "b".repeat(100));
        for id in [
            "", "a", "a/", "/b", "a/b/c", "a b/c", "../b", "a/..", "a/b..c", "a/b--c", "-a/b", "a/.b", "é/b",
            &long,
        ] {
            assert!(!is_repository_id(id), "{id}");
        }
    }
}

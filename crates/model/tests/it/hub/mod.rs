//! Downloads against a local hub, over real sockets.

mod errors;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use danaus_model::hub::{self, Snapshot, Verified};
use danaus_model::{
    HubError, HubOptions, LoadError, LoadOptions, LoadedModel, ModelSource, load, load_folder,
};
use tempfile::TempDir;

use crate::common::{assert_same, fixture, logged};
use server::{Fault, Server, git_sha1, sha256};

/// A hub that holds the fixture tiny-64, and an empty cache.
struct Setting {
    server: Server,
    cache: TempDir,
    options: HubOptions,
}

const ID: &str = "owner/model";

fn content(file: &str) -> Vec<u8> {
    std::fs::read(fixture("tiny-64").join(file)).unwrap()
}

fn files(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|name| ((*name).to_owned(), content(name))).collect()
}

impl Setting {
    fn new() -> Self {
        let mut all = files(&["config.json", "model.safetensors", "pytorch_model.bin"]);
        all.insert("README.md".into(), b"# A model".to_vec());
        all.insert("onnx/model.bin".into(), b"not for us".to_vec());
        Self::with(all)
    }

    fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let server = Server::start(files);
        let cache = tempfile::tempdir().unwrap();
        let options = HubOptions {
            endpoint: server.endpoint.clone(),
            token: None,
            cache_dir: cache.path().join("hub"),
            offline: false,
            progress: false,
            patience: Duration::from_secs(20),
        };
        Self { server, cache, options }
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("hub/models--owner--model")
    }

    fn blob(&self, file: &str) -> PathBuf {
        let content = content(file);
        let name = if content.len() < 10_000 { git_sha1(&content) } else { sha256(&content) };
        self.repository().join("blobs").join(name)
    }

    fn commit(&self, revision: &str) -> String {
        self.server.change(|hub| hub.revisions[revision].clone())
    }

    fn fetch(&self) -> Result<Snapshot, HubError> {
        hub::fetch(ID, None, &self.options)
    }

    fn download(&self) -> Result<Snapshot, HubError> {
        hub::download(ID, None, &self.options)
    }

    fn load(&self, revision: Option<&str>) -> Result<LoadedModel, LoadError> {
        load(&LoadOptions {
            source: ModelSource::Hub(ID.into()),
            revision: revision.map(str::to_owned),
            hub: self.options.clone(),
        })
    }

    /// The message of an error, with what changes from run to run replaced.
    fn message<T: std::fmt::Debug>(&self, result: Result<T, HubError>) -> String {
        let message = result.unwrap_err().to_string();
        let cache = self.cache.path().to_str().unwrap();
        message.replace(&self.options.endpoint, "ENDPOINT").replace(cache, "CACHE")
    }

    fn assert_whole(&self, snapshot: &Snapshot) {
        assert_eq!(std::fs::read(&snapshot.config).unwrap(), content("config.json"));
        assert!(std::fs::read(&snapshot.checkpoint).unwrap() == content("model.safetensors"));
        let left: Vec<_> = names_in(&self.repository().join("blobs"));
        assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_model_is_downloaded_once_and_loads_from_the_cache_without_a_network() {
    let mut setting = Setting::new();
    let model = setting.load(None).unwrap();
    assert_eq!(model.id, ID);
    assert_eq!(model.revision, Some(setting.commit("main")));
    assert_same(&model.weights, &load_folder(&fixture("tiny-64")).unwrap().weights);
    let requests = setting.server.requests().join("\n");
    for unneeded in ["pytorch_model.bin", "README.md", "onnx"] {
        assert!(!requests.contains(unneeded), "{unneeded} is not fetched: {requests}");
    }
    setting.options.endpoint = "http://127.0.0.1:9".into();
    let again = setting.load(None).unwrap();
    assert_eq!(again.revision, model.revision);
    setting.options.offline = true;
    assert_same(&setting.load(None).unwrap().weights, &model.weights);
    assert_same(&setting.load(Some("main")).unwrap().weights, &model.weights);
    assert_same(&setting.load(model.revision.as_deref()).unwrap().weights, &model.weights);
    assert_eq!(setting.server.requests(), [""; 0]);
}

#[test]
fn the_cache_is_laid_out_as_the_other_tools_have_it() {
    let setting = Setting::new();
    setting.fetch().unwrap();
    let (repository, commit) = (setting.repository(), setting.commit("main"));
    assert_eq!(names_in(&repository.join("refs")), ["main"]);
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), commit);
    let snapshot = repository.join("snapshots").join(&commit);
    assert_eq!(names_in(&snapshot), ["config.json", "model.safetensors"]);
    #[cfg(unix)]
    for file in ["config.json", "model.safetensors"] {
        let target = std::fs::read_link(snapshot.join(file)).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(setting.blob(file).file_name().unwrap()));
    }
}

#[test]
fn a_snapshot_that_another_tool_made_is_used() {
    let mut setting = Setting::new();
    let commit = setting.commit("main");
    let snapshot = setting.repository().join("snapshots").join(&commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(setting.repository().join("refs")).unwrap();
    std::fs::write(setting.repository().join("refs/main"), format!("{commit}\n")).unwrap();
    std::fs::copy(fixture("tiny-64/config.json"), snapshot.join("config.json")).unwrap();
    assert_eq!(hub::cached(ID, None, &setting.options).unwrap(), None, "it is not complete");
    std::fs::copy(fixture("tiny-64/pytorch_model.bin"), snapshot.join("pytorch_model.bin")).unwrap();
    setting.options.offline = true;
    let model = setting.load(None).unwrap();
    assert_same(&model.weights, &load_folder(&fixture("tiny-64")).unwrap().weights);
    assert_eq!(
        hub::verify(&snapshot.join("config.json")).unwrap(),
        Verified::Unknown,
        "it is no link to a blob"
    );
}

#[test]
fn the_preferred_checkpoint_is_fetched() {
    for (names, expected) in [
        (&["model.bin", "model.safetensors", "pytorch_model.bin"][..], "model.safetensors"),
        (&["model.bin", "pytorch_model.bin"], "pytorch_model.bin"),
        (&["model.bin", "other.pt"], "model.bin"),
        (&["other.pt"], "other.pt"),
    ] {
        let mut all: BTreeMap<_, _> =
            names.iter().map(|name| ((*name).to_owned(), content("pytorch_model.bin"))).collect();
        all.insert("config.json".into(), content("config.json"));
        let setting = Setting::with(all);
        assert!(setting.fetch().unwrap().checkpoint.ends_with(expected));
        setting.load(None).unwrap();
    }
}

#[test]
fn branches_tags_and_commits_are_revisions() {
    let setting = Setting::new();
    let old = setting.commit("main");
    let new = setting.server.change(|hub| {
        let files = files(&["config.json", "pytorch_model.bin"]);
        hub.commit("refs/pr/1", files.clone());
        hub.commit("v1.0", files.clone());
        hub.commit("main", files)
    });
    for (revision, commit) in [
        ("main", new.clone()),
        ("v1.0", setting.commit("v1.0")),
        ("refs/pr/1", setting.commit("refs/pr/1")),
        (&old, old.clone()),
    ] {
        let snapshot = hub::fetch(ID, Some(revision), &setting.options).unwrap();
        assert_eq!(snapshot.commit, commit);
        assert!(snapshot.checkpoint.to_str().unwrap().contains(&commit));
        let cached = hub::cached(ID, Some(revision), &setting.options).unwrap();
        assert_eq!(cached, Some(snapshot));
    }
    let gone = hub::fetch(ID, Some("gone"), &setting.options);
    assert_eq!(
        setting.message(gone),
        "the repository owner/model has no revision gone (404): expected a branch, a tag or a commit"
    );
    for bad in ["", "a b", "../up", "a/../b", "/a", "a?b", "a#b", "-\n"] {
        let error = setting.message(hub::fetch(ID, Some(bad), &setting.options));
        assert!(error.ends_with("is no revision: expected a branch, a tag or a commit"), "{error}");
    }
    let error = setting.message(hub::fetch("../etc", None, &setting.options));
    assert_eq!(error, "\"../etc\" is no hub id: expected owner/name");
}

#[test]
fn a_branch_that_moved_is_followed_by_download_and_not_by_fetch() {
    let setting = Setting::new();
    let old = setting.fetch().unwrap();
    setting.server.requests();
    let mut changed = files(&["config.json", "model.safetensors"]);
    changed.insert("README.md".into(), b"new".to_vec());
    let new = setting.server.change(|hub| hub.commit("main", changed));
    assert_eq!(setting.fetch().unwrap(), old);
    assert_eq!(setting.server.requests(), [""; 0]);
    let snapshot = setting.download().unwrap();
    assert_eq!(snapshot.commit, new);
    setting.assert_whole(&snapshot);
    let requests = setting.server.requests();
    #[cfg(unix)]
    assert!(
        requests.iter().all(|request| request.ends_with("(0, Some(0))") || request.starts_with("/api/")),
        "contents that the cache has are not fetched again: {requests:?}"
    );
    assert_eq!(setting.fetch().unwrap(), snapshot);
}

/// The ranges that contents were asked for from, in order.
fn ranges(requests: &[String]) -> Vec<&str> {
    let contents =
        requests.iter().filter(|request| request.starts_with("/cdn/") && !request.ends_with("(0, Some(0))"));
    contents.map(|request| request.split_once(' ').unwrap().1).collect()
}

#[test]
fn a_dropped_connection_is_resumed_where_it_ended() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.faults = vec![Fault::Fine, Fault::Drop(100_000), Fault::Drop(50_000)]);
    let (snapshot, log) = logged(|| setting.fetch());
    setting.assert_whole(&snapshot.unwrap());
    drop(log);
    let requests = setting.server.requests();
    assert_eq!(ranges(&requests), ["(0, None)", "(100000, None)", "(150000, None)"]);
}

#[test]
fn a_connection_that_drops_before_the_first_byte_loses_nothing() {
    let setting = Setting::new();
    setting.server.change(|hub| {
        hub.faults =
            vec![Fault::Fine, Fault::Drop(100_000), Fault::Drop(0), Fault::Status(503), Fault::Drop(1)];
    });
    setting.assert_whole(&setting.fetch().unwrap());
    let requests = setting.server.requests();
    assert_eq!(
        ranges(&requests),
        ["(0, None)", "(100000, None)", "(100000, None)", "(100000, None)", "(100001, None)"]
    );
}

#[test]
fn an_interrupted_download_is_resumed_the_next_time() {
    let setting = Setting::new();
    setting.server.change(|hub| {
        hub.faults = vec![Fault::Fine, Fault::Drop(100_000), Fault::Drop(0), Fault::Drop(0), Fault::Drop(0)];
    });
    let error = setting.message(setting.fetch());
    assert!(error.starts_with("cannot download owner/model (revision main) from ENDPOINT: "), "{error}");
    setting.server.requests();
    setting.assert_whole(&setting.fetch().unwrap());
    assert_eq!(ranges(&setting.server.requests()), ["(100000, None)"]);
}

#[test]
fn a_part_that_is_complete_or_too_long_is_begun_anew() {
    for extra in [0, 5] {
        let setting = Setting::new();
        let blob = setting.blob("model.safetensors");
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        let mut part = content("model.safetensors");
        part.extend_from_slice(&vec![0; extra]);
        std::fs::write(blob.with_extension("part"), part).unwrap();
        setting.assert_whole(&setting.fetch().unwrap());
    }
}

/// What is left of a damaged file: nothing, so that the next download starts clean.
fn assert_removed(setting: &Setting) {
    let snapshot = setting.repository().join("snapshots").join(setting.commit("main"));
    assert!(!names_in(&snapshot).contains(&"model.safetensors".to_owned()));
    assert!(!setting.blob("model.safetensors").exists());
}

#[test]
fn a_corrupt_file_is_named_and_removed() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.faults = vec![Fault::Fine, Fault::Corrupt]);
    let error = setting.message(setting.fetch());
    let file =
        format!("CACHE/hub/models--owner--model/snapshots/{}/model.safetensors", setting.commit("main"));
    assert!(error.starts_with(&format!("{file} is damaged: its 443624 bytes hash to ")), "{error}");
    assert!(error.contains(&format!("and the hub has {}", sha256(&content("model.safetensors")))), "{error}");
    assert!(error.contains("run `danaus download`"), "{error}");
    assert_removed(&setting);
    setting.assert_whole(&setting.fetch().unwrap());
}

#[test]
fn a_small_corrupt_file_is_found_by_its_git_hash() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.faults = vec![Fault::Corrupt]);
    let error = setting.message(setting.fetch());
    assert!(error.contains("config.json is damaged"), "{error}");
    assert!(error.contains(&format!("and the hub has {}", git_sha1(&content("config.json")))), "{error}");
    setting.assert_whole(&setting.fetch().unwrap());
}

#[test]
fn a_truncated_file_is_named_and_removed() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.faults = vec![Fault::Fine, Fault::Shorten(100_000)]);
    let error = setting.message(setting.fetch());
    assert!(
        error.contains("model.safetensors is damaged: it has 100000 bytes, and the hub has 443624"),
        "{error}"
    );
    assert_removed(&setting);
    setting.assert_whole(&setting.fetch().unwrap());
}

#[test]
fn a_server_that_ignores_ranges_cannot_spoil_a_resumed_file() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.faults = vec![Fault::Fine, Fault::Drop(100_000), Fault::IgnoreRange]);
    let error = setting.message(setting.fetch());
    assert!(
        error.contains("model.safetensors is damaged: it has 543624 bytes, and the hub has 443624"),
        "{error}"
    );
    assert_removed(&setting);
    setting.assert_whole(&setting.fetch().unwrap());
}

#[test]
fn a_file_damaged_in_the_cache_is_named_when_loading_and_fetched_anew_after() {
    let setting = Setting::new();
    setting.fetch().unwrap();
    let blob = setting.blob("model.safetensors");
    let whole = std::fs::read(&blob).unwrap();
    let mut no_number = whole.clone();
    no_number[400_000..400_004].copy_from_slice(&f32::NAN.to_le_bytes());
    for damaged in [&whole[..1000], &no_number, b""] {
        std::fs::write(&blob, damaged).unwrap();
        let error = setting.load(None).unwrap_err().to_string();
        assert!(error.contains("model.safetensors is damaged: its ") && error.contains("hash to"), "{error}");
        assert_removed(&setting);
        setting.load(None).unwrap();
    }
}

#[test]
fn download_checks_what_the_cache_has_and_repairs_it() {
    let mut setting = Setting::new();
    let snapshot = setting.download().unwrap();
    assert_eq!(hub::verify(&snapshot.checkpoint).unwrap(), Verified::Content);
    assert_eq!(hub::verify(&snapshot.config).unwrap(), Verified::Content);
    let blob = setting.blob("model.safetensors");
    let mut damaged = std::fs::read(&blob).unwrap();
    damaged[400_000] ^= 1;
    std::fs::write(&blob, &damaged).unwrap();
    let (repaired, log) = logged(|| setting.download());
    setting.assert_whole(&repaired.unwrap());
    drop(log);
    std::fs::write(&blob, &damaged).unwrap();
    setting.options.offline = true;
    let error = setting.message(setting.download());
    assert!(error.contains("model.safetensors is damaged"), "{error}");
    let error = setting.message(setting.download());
    assert!(error.contains("is not in the cache"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_blob_that_is_gone_is_replaced() {
    let setting = Setting::new();
    setting.fetch().unwrap();
    std::fs::remove_file(setting.blob("model.safetensors")).unwrap();
    assert_eq!(hub::cached(ID, None, &setting.options).unwrap(), None);
    setting.assert_whole(&setting.fetch().unwrap());
}

#[test]
fn a_mirror_with_other_etags_is_checked_by_size() {
    let setting = Setting::new();
    setting.server.change(|hub| {
        hub.etag = Some("0123-other".into());
        hub.faults = vec![Fault::Fine, Fault::Shorten(1000)];
    });
    let error = setting.message(setting.fetch());
    assert!(error.contains("it has 1000 bytes, and the hub has 443624"), "{error}");
    let snapshot = setting.fetch().unwrap();
    setting.assert_whole(&snapshot);
    assert_eq!(hub::verify(&snapshot.checkpoint).unwrap(), Verified::Unknown);
}

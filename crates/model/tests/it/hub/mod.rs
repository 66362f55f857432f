//! Downloads against a local hub, over real sockets.

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
use server::{Always, Fault, Server, git_sha1, sha256};

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

#[test]
fn refusals_say_what_to_do() {
    let mut setting = Setting::new();
    setting.server.change(|hub| hub.token = Some("hf_secret".into()));
    assert_eq!(
        setting.message(setting.fetch()),
        "the hub refuses access to owner/model (401): if it is private, set HF_TOKEN to a token that may read it; the \
         hub answers the same for a repository that does not exist, so check the spelling too"
    );
    setting.options.token = Some("hf_wrong".into());
    let error = setting.message(setting.fetch());
    assert!(
        error.contains("(401): the token may be wrong or expired: set HF_TOKEN to a valid one"),
        "{error}"
    );
    assert!(!error.contains("hf_wrong") && !format!("{:?}", setting.options).contains("hf_wrong"));
    setting.options.token = Some("hf_secret".into());
    setting.assert_whole(&setting.fetch().unwrap());

    let setting = Setting::new();
    setting.server.change(|hub| hub.always = Some(Always::Status(403)));
    let error = setting.message(setting.fetch());
    assert!(
        error.contains("(403): the model may be gated: accept its terms on its page, and set HF_TOKEN"),
        "{error}"
    );
}

#[test]
fn a_repository_that_does_not_exist_is_named() {
    let setting = Setting::new();
    assert_eq!(
        setting.message(hub::fetch("owner/modle", None, &setting.options)),
        "there is no repository owner/modle at ENDPOINT (404): check its spelling"
    );
    assert_eq!(
        setting.message(hub::fetch("owner/modle", Some("v1"), &setting.options)),
        "there is no repository owner/modle at ENDPOINT (404): check its spelling"
    );
}

#[test]
fn a_repository_without_a_model_is_an_error_that_says_what_it_lacks() {
    let cases = [
        (&["model.safetensors"][..], "has no config.json"),
        (&["config.json"], "has no checkpoint: expected model.safetensors, pytorch_model.bin or model.bin"),
        (
            &["config.json", "model.safetensors.index.json"],
            "has a checkpoint in several files (model.safetensors.index.json)",
        ),
        (&["config.json", "a.pt", "b.bin"], "has several files that could be the checkpoint: a.pt, b.bin"),
    ];
    for (names, problem) in cases {
        let setting = Setting::with(names.iter().map(|name| ((*name).to_owned(), b"{}".to_vec())).collect());
        let error = setting.message(setting.fetch());
        let expected = format!("the repository owner/model (commit {}) {problem}", setting.commit("main"));
        assert!(error.starts_with(&expected), "{error}");
    }
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

/// What every failure to reach the hub says, whatever its reason.
fn assert_ways_out(error: &str) {
    for way in ["--model the folder", "HF_ENDPOINT", "`danaus download`", "--model synthetic", "CACHE/hub"] {
        assert!(error.contains(way), "{way}: {error}");
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let mut setting = Setting::new();
    setting.options.patience = Duration::from_millis(300);
    setting.server.change(|hub| hub.always = Some(Always::Silence));
    let error = setting.message(setting.fetch());
    assert!(
        error.starts_with(
            "cannot download owner/model (revision main) from ENDPOINT: nothing arrived for 300ms. The cache CACHE/hub \
             does not hold it either. Ways out: "
        ),
        "{error}"
    );
    assert_ways_out(&error);
}

#[test]
fn a_download_that_stalls_is_given_up_and_resumes_later() {
    let mut setting = Setting::new();
    setting.options.patience = Duration::from_millis(1500);
    setting.server.change(|hub| hub.faults = vec![Fault::Fine, Fault::Stall(100_000)]);
    let error = setting.message(setting.fetch());
    assert!(error.contains("nothing arrived for 1.5s"), "{error}");
    let part = setting.blob("model.safetensors").with_extension("part");
    assert_eq!(std::fs::metadata(part).unwrap().len(), 100_000);
}

#[test]
fn an_address_that_nobody_listens_at_is_given_up() {
    let mut setting = Setting::new();
    for endpoint in ["http://127.0.0.1:9", "http://name.invalid"] {
        setting.options.endpoint = endpoint.into();
        let error = setting.message(setting.fetch());
        assert!(error.starts_with("cannot download owner/model (revision main) from ENDPOINT: "), "{error}");
        assert_ways_out(&error);
    }
}

#[test]
fn offline_without_the_model_says_the_ways_out() {
    let mut setting = Setting::new();
    setting.options.offline = true;
    let error = setting.message(hub::fetch(ID, Some("v2"), &setting.options));
    assert!(
        error.starts_with(
            "owner/model (revision v2) is not in the cache CACHE/hub, and HF_HUB_OFFLINE forbids downloading it. Ways out: "
        ),
        "{error}"
    );
    assert_ways_out(&error);
    assert_eq!(setting.server.requests(), [""; 0]);
}

#[test]
fn passing_errors_are_tried_again_and_lasting_ones_reported() {
    let setting = Setting::new();
    setting.server.change(|hub| {
        hub.faults = vec![Fault::Status(503), Fault::Fine, Fault::Status(429), Fault::Status(500)]
    });
    setting.assert_whole(&setting.fetch().unwrap());
    for (status, expected) in
        [(503, "it answered 503"), (429, "it answered 429, too many requests: wait, or set HF_TOKEN")]
    {
        let setting = Setting::new();
        setting.server.change(|hub| hub.always = Some(Always::Status(status)));
        let error = setting.message(setting.fetch());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_no_hub_is_said_to_be_none() {
    let mut setting = Setting::new();
    setting.server.change(|hub| hub.always = Some(Always::Page));
    let error = setting.message(setting.fetch());
    assert!(error.starts_with("ENDPOINT does not answer as the Hugging Face hub does: "), "{error}");
    assert!(error.ends_with("Check HF_ENDPOINT"), "{error}");
    for etag in ["../../../escaped", "W/weak", "a\"b/c"] {
        setting.server.change(|hub| {
            hub.always = None;
            hub.etag = Some(etag.to_owned());
        });
        let error = setting.message(setting.fetch());
        assert!(error.contains("it gives model.safetensors the ETag"), "{error}");
    }
    for endpoint in ["localhost:1", "not an address", "ftp://localhost"] {
        setting.options.endpoint = endpoint.into();
        let error = setting.message(setting.fetch());
        assert!(
            error.starts_with("ENDPOINT does not answer") || error.starts_with("cannot download"),
            "{error}"
        );
    }
}

#[test]
fn a_redirect_to_nowhere_is_an_error() {
    let setting = Setting::new();
    setting.server.change(|hub| hub.always = Some(Always::LostRedirect));
    let error = setting.message(setting.fetch());
    assert!(error.starts_with("ENDPOINT does not answer as the Hugging Face hub does: "), "{error}");
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

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut setting = Setting::new();
    let file = setting.cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    setting.options.cache_dir = file;
    let error = setting.message(setting.fetch());
    assert!(error.starts_with("cannot read or write the cache CACHE/file: "), "{error}");
}

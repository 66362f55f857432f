//! What is said when a model cannot be had.

use std::time::Duration;

use danaus_model::hub;

use super::server::{Always, Fault};
use super::{ID, Setting};

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

/// What every failure to reach the hub says, whatever its reason.
fn assert_ways_out(error: &str) {
    let without_download =
        if cfg!(feature = "builtin-model") { "--model builtin" } else { "--model synthetic" };
    for way in ["--model the folder", "HF_ENDPOINT", "`danaus download`", without_download, "CACHE/hub"] {
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
fn a_cache_that_cannot_be_written_is_named() {
    let mut setting = Setting::new();
    let file = setting.cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    setting.options.cache_dir = file;
    let error = setting.message(setting.fetch());
    assert!(error.starts_with("cannot read or write the cache CACHE/file: "), "{error}");
}

//! Models of the hub: none to be had, downloading one, and serving it without a network.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::common::{bits, danaus, embed_lines, rows, run, run_with, run_within, small_model};
use crate::fake_hub::{Always, Server as Hub};
use crate::padding::{only_file, prepare};
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
    let mut parts = vec![DEFAULT_MODEL, &cache, "HF_ENDPOINT", "--model builtin", "danaus download"];
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
        let parts = [DEFAULT_MODEL, "HF_HUB_OFFLINE", "--model builtin", home.path().to_str().unwrap()];
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
    let hub = Hub::start(small_files());
    let file = tempfile::NamedTempFile::new().unwrap();
    let home = file.path().join("home");
    let mut command = with_hub(&["download", "--model", ID], &hub.endpoint, &home);
    run_within(&mut command, b"", GIVES_UP).fails(1, &[home.to_str().unwrap()]);
}

#[test]
fn something_else_than_the_hub() {
    let hub = Hub::start(small_files());
    let home = tempfile::tempdir().unwrap();
    for always in [Always::Page, Always::LostRedirect, Always::Status(204)] {
        hub.change(|hub| hub.always = Some(always));
        let mut command = with_hub(&["download", "--model", ID], &hub.endpoint, home.path());
        run_within(&mut command, b"", GIVES_UP).fails(1, &[&hub.endpoint, "HF_ENDPOINT"]);
    }
    hub.change(|hub| (hub.always, hub.token) = (None, Some("secret".to_owned())));
    let download = |token: &str| {
        let mut command =
            with_hub(&["download", "--model", ID, "--log-level", "trace"], &hub.endpoint, home.path());
        let run = run(command.env("HF_TOKEN", token));
        assert!(token.is_empty() || !run.stderr.contains(token), "the token is in the log:\n{}", run.stderr);
        run
    };
    download("").fails(1, &["refuses access", "401", "HF_TOKEN"]);
    download("another").fails(1, &["refuses access", "401", "wrong or expired"]);
    download("secret").exits(0);
}

#[test]
fn only_models_of_the_hub_can_be_downloaded() {
    run(&mut danaus(&["download", "--model", "synthetic"])).fails(1, &["synthetic:32k is no hub model"]);
    run(danaus(&["download", "--model"]).arg(small_model())).fails(1, &["is no hub model"]);
}

#[test]
fn download_then_serve_without_a_network() {
    let hub = Hub::start(small_files());
    let home = tempfile::tempdir().unwrap();
    let commit = hub.change(|hub| hub.revisions["main"].clone());
    let download =
        || run(&mut with_hub(&["download", "--model", ID], &hub.endpoint, home.path())).exits(0).text();
    let first = download();
    assert_eq!(first.matches("(content verified)").count(), 2, "{first}");
    assert!(first.contains(&format!("{ID} at commit {commit}")), "{first}");
    assert_eq!(contents_sent(&hub), 1);
    assert_eq!(download(), first);
    assert_eq!(contents_sent(&hub), 0, "it is there already");
    // No network any more: said so, or not.
    for offline in ["1", "0"] {
        let without_network = |args: &[&str]| {
            let mut command = with_hub(args, "http://127.0.0.1:9", home.path());
            command.args(["--model", ID]).env("HF_HUB_OFFLINE", offline);
            command
        };
        let server = Server::start(&mut without_network(&["serve", "--host", "127.0.0.1", "--port", "0"]));
        server.wait_until_ready();
        let (_, info) = server.get("/info");
        assert_eq!((&info["model"], &info["revision"]), (&json!(ID), &json!(commit)), "{info}");
        assert_eq!(bits(&server.embed(&["cached"])[0]), embed_lines("", "cached\n")[0].bits());
        let run = run_with(&mut without_network(&["embed"]), b"cached\n").exits(0);
        assert_eq!(rows(&run.stdout), embed_lines("", "cached\n"));
    }
}

/// What was prepared once lies next to the model on the hub, under the name that `danaus prepare --out FOLDER` gave it.
#[test]
fn what_is_prepared_comes_with_the_model() {
    let (home, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut files = small_files();
    prepare("", cache.path());
    let prepared = only_file(cache.path());
    let name = prepared.file_name().unwrap().to_str().unwrap().to_owned();
    let contents = std::fs::read(&prepared).unwrap();
    files.insert(name.clone(), contents.clone());
    let hub = Hub::start(files);
    let commit = hub.change(|hub| hub.revisions["main"].clone());
    let embed = |cache: &Path| {
        let mut command =
            with_hub(&["embed", "--padding", "fast", "--model", ID], &hub.endpoint, home.path());
        run_with(command.arg("--padding-cache").arg(cache), b"a text\n").exits(0)
    };
    let first = embed(&home.path().join("none"));
    assert!(first.stderr.contains("fast padding is prepared"), "{}", first.stderr);
    assert!(!home.path().join("none").exists());
    // One that is cut short is not used, nor written to: what is in the cache is.
    let file = home.path().join("hub/models--owner--model/snapshots").join(commit).join(&name);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &contents[..contents.len() / 2]).unwrap();
    let second = embed(cache.path());
    assert!(second.stderr.contains(&format!("file={}", prepared.display())), "{}", second.stderr);
    assert_eq!(rows(&second.stdout), rows(&first.stdout));
    assert_eq!(std::fs::read(&file).unwrap(), contents[..contents.len() / 2]);
}

#[test]
fn a_model_is_downloaded_when_it_is_needed_at_the_revision_that_is_asked_for() {
    let hub = Hub::start(small_files());
    let home = tempfile::tempdir().unwrap();
    let commit = hub.change(|hub| hub.revisions["main"].clone());
    // The branch has moved on to something that is no model.
    hub.change(|hub| hub.commit("main", BTreeMap::new()));
    let embed = |args: &[&str]| {
        run_with(with_hub(&["embed", "--model"], &hub.endpoint, home.path()).args(args), b"a\n")
    };
    embed(&[ID]).fails(1, &[ID, "has no checkpoint"]);
    embed(&[ID, "--revision", "no-such-branch"]).fails(1, &[ID, "no revision no-such-branch"]);
    embed(&[ID, "--revision", "../main"]).fails(1, &["../main"]);
    embed(&["owner/other"]).fails(1, &["no repository owner/other"]);
    assert_eq!(rows(&embed(&[ID, "--revision", &commit]).exits(0).stdout), embed_lines("", "a\n"));
}

/// One bit on the disk has changed.
#[test]
fn a_damaged_file_is_named_and_downloaded_again() {
    let hub = Hub::start(small_files());
    let home = tempfile::tempdir().unwrap();
    let download = || run(&mut with_hub(&["download", "--model", ID], &hub.endpoint, home.path())).exits(0);
    let first = download();
    let file = first
        .text()
        .lines()
        .find_map(|line| line.split_once("model.safetensors ("))
        .map(|(folder, _)| std::fs::canonicalize(format!("{folder}model.safetensors")).unwrap());
    let file = file.unwrap_or_else(|| panic!("{}", first.text()));
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, damaged).unwrap();
    contents_sent(&hub);
    let second = download();
    assert!(second.stderr.contains("model.safetensors is damaged"), "{}", second.stderr);
    assert_eq!(second.text(), first.text());
    assert_eq!(contents_sent(&hub), 1);
    assert!(std::fs::read(&file).unwrap() == whole);
    // Cut short, it cannot even be loaded: serving says so, and what to do.
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let mut serve = with_hub(&["serve", "--port", "0", "--model", ID], "http://127.0.0.1:9", home.path());
    run(serve.env("HF_HUB_OFFLINE", "1")).fails(1, &["model.safetensors is damaged", "danaus download"]);
    download();
    assert!(std::fs::read(&file).unwrap() == whole);
}

/// The repository of the hub that the tests start.
const ID: &str = "owner/model";

/// The small model's files.
fn small_files() -> BTreeMap<String, Vec<u8>> {
    let file = |name: &str| (name.to_owned(), std::fs::read(small_model().join(name)).unwrap());
    BTreeMap::from([file("config.json"), file("model.safetensors")])
}

/// How often the hub has sent the checkpoint since the last call, where it was not only asked for its size.
fn contents_sent(hub: &Hub) -> usize {
    let is_content = |line: &&String| line.starts_with("/cdn/") && !line.ends_with("(0, Some(0))");
    hub.requests().iter().filter(is_content).count()
}

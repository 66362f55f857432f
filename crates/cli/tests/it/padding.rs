//! Fast padding: `danaus prepare` and `danaus verify`, and what the others make of a model that is prepared or not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use danaus_engine::padding::distance;
use serde_json::{Value, json};

use crate::common::{
    Embedded, PATIENCE, Run, SMALL_LENGTH, bits, danaus, danaus_with, eventually, rows, run, run_with,
    small_config, small_model,
};
use crate::server::Server;

/// The bound where none is given.
pub const BOUND: f64 = 1e-3;

/// Texts of several lengths that have far fields.
const TEXTS: [&str; 4] = [
    "What is machine learning?",
    "x",
    "The river had risen during the night, and the lower bridge was closed to traffic until the late afternoon.",
    "",
];

/// `danaus` with a model and a folder for what is prepared.
pub fn with_cache(model: &Path, args: &str, cache: &Path) -> std::process::Command {
    let mut command = danaus_with(model, args);
    command.arg("--padding-cache").arg(cache);
    command
}

pub fn prepare(args: &str, cache: &Path) -> Run {
    run(&mut with_cache(small_model(), &format!("prepare {args}"), cache)).exits(0)
}

pub fn embed(args: &str, cache: &Path) -> (Vec<Embedded>, String) {
    let lines = TEXTS.join("\n") + "\n";
    let mut command = with_cache(small_model(), &format!("embed {args}"), cache);
    let run = run_with(&mut command, lines.as_bytes()).exits(0);
    (rows(&run.stdout), run.stderr)
}

pub fn info(model: &Path, args: &str, cache: &Path) -> Value {
    let run = run(&mut with_cache(model, &format!("info --json {args}"), cache)).exits(0);
    serde_json::from_slice(&run.stdout).unwrap()
}

/// The only file in a folder.
#[track_caller]
pub fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// The small model, which says what padding it was trained with.
pub fn trained_with(padding: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("model.safetensors");
    std::os::unix::fs::symlink(small_model().join("model.safetensors"), checkpoint).unwrap();
    let mut config = small_config();
    config["danaus_padding"] = json!(padding);
    config["danaus_synthetic_seed"] = json!(1);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn what_is_prepared_is_reused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("deeper/cache");
    let first = prepare("", &cache);
    let file = only_file(&cache);
    let text = first.text();
    assert_eq!(text.lines().last(), file.to_str(), "{text}");
    assert!(text.contains("0.001") || text.contains("1e-3"), "the bound: {text}");
    assert!(first.stderr.contains("preparing fast padding"), "{}", first.stderr);
    let identity = |file: &Path| {
        let metadata = std::fs::metadata(file).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    let (written, content) = (identity(&file), std::fs::read(&file).unwrap());
    let second = prepare("", &cache);
    assert_eq!(second.text(), text);
    assert!(!second.stderr.contains("preparing fast padding"), "{}", second.stderr);
    assert_eq!(identity(&only_file(&cache)), written, "it was written again");
    // On other threads, what is measured is the same.
    let forced = prepare("--force --threads 1", &cache);
    assert_eq!(forced.text(), text);
    assert_ne!(identity(&only_file(&cache)), written, "it was not written again");
    assert!(std::fs::read(&file).unwrap() == content);
    // Another dtype and another bound have their own.
    prepare("--dtype int8", &cache);
    prepare("--padding-error 0.01", &cache);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 3);
}

#[test]
fn unprepared_texts_are_exact_with_a_warning_and_prepared_ones_within_the_bound() {
    let cache = tempfile::tempdir().unwrap();
    let (exact, _) = embed("--padding max-length", cache.path());
    let (plain, _) = embed("--padding none", cache.path());
    let (unprepared, log) = embed("--padding fast", cache.path());
    assert_eq!(unprepared, exact);
    assert!(log.contains("fast padding is not prepared"), "{log}");
    let rows = SMALL_LENGTH.div_ceil(100);
    for part in [
        &format!("as {SMALL_LENGTH} rows, {rows} times as many as a text of 100 tokens has"),
        "Run danaus prepare once, and it is fast",
        "--padding none gives other vectors, which are wrong for a model that was trained on padded texts",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "embedding prepares nothing");
    prepare("", cache.path());
    let (fast, log) = embed("--padding fast", cache.path());
    assert!(!log.contains("not prepared") && log.contains("fast padding is prepared"), "{log}");
    for ((fast, exact), plain) in fast.iter().zip(&exact).zip(&plain) {
        let errors = [fast, plain].map(|row| distance(&row.embedding, &exact.embedding));
        assert!(
            errors[0] > 0.0 && errors[0] <= BOUND && errors[1] > BOUND,
            "{} tokens: {errors:?}",
            fast.tokens
        );
    }
    // Nobody prepared this.
    let (other, log) = embed("--padding fast --padding-error 0.01", cache.path());
    assert!(log.contains("fast padding is not prepared"), "{log}");
    assert_eq!(other, exact);
}

#[test]
fn a_damaged_file_is_not_used_and_made_anew() {
    let cache = tempfile::tempdir().unwrap();
    prepare("", cache.path());
    let file = only_file(cache.path());
    let whole = std::fs::read(&file).unwrap();
    let (exact, _) = embed("--padding max-length", cache.path());
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], b"", b"not even one", &changed] {
        std::fs::write(&file, damaged).unwrap();
        let (rows, log) = embed("--padding fast", cache.path());
        assert_eq!(rows, exact);
        for part in ["WARN", file.to_str().unwrap(), "cannot be used", "fast padding is not prepared"] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        assert!(std::fs::read(&file).unwrap() == damaged, "only preparing writes");
        let prepared = prepare("", cache.path());
        assert!(prepared.stderr.contains("cannot be used"), "{}", prepared.stderr);
        assert!(std::fs::read(only_file(cache.path())).unwrap() == whole);
    }
}

#[test]
fn verify_measures_each_text() {
    let cache = tempfile::tempdir().unwrap();
    let long: String = (0..200).map(|number| format!("{number} ")).collect();
    let lines = format!("{}\n\n{}\n \n{long}\n", TEXTS[0], TEXTS[2]);
    let verify = |args: &str| {
        let mut command = with_cache(small_model(), &format!("verify {args}"), cache.path());
        run_with(&mut command, lines.as_bytes())
    };
    verify("").fails(1, &["fast padding is not prepared", "danaus prepare"]);
    prepare("", cache.path());
    let text = verify("").exits(0).text();
    let shown: Vec<&str> = text.lines().collect();
    // A heading, a line for each text that is not blank, and one for each pooling.
    assert_eq!(shown.len(), 1 + 3 + 3, "{text}");
    for (line, pooling) in shown[4..].iter().zip(["mean", "cls", "model"]) {
        let expected =
            format!("{pooling}: 2 of 3 texts are computed fast, 2 of these within 1e-3; the largest");
        assert!(line.starts_with(&expected), "{text}");
    }
    let measured: Value = serde_json::from_slice(&verify("--json").exits(0).stdout).unwrap();
    let measured = measured.as_array().unwrap();
    assert_eq!(measured.len(), 3, "{measured:?}");
    for (line, shown) in measured.iter().zip(&shown[1..]) {
        let (tokens, rows) = (line["tokens"].as_u64().unwrap(), line["rows"][0].as_u64().unwrap());
        let equal = format!("{:.3}", line["equal_pairs"].as_f64().unwrap());
        let columns: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(columns[..3], [tokens.to_string(), equal, rows.to_string()], "{shown}");
        let exact = rows == SMALL_LENGTH as u64;
        assert_eq!(exact, tokens > 150, "{line}");
        for (error, column) in line["errors"].as_array().unwrap().iter().zip(&columns[3..]) {
            let error = error.as_f64().unwrap();
            assert!(error <= BOUND && (error == 0.0) == exact, "{line}");
            assert_eq!(*column, if exact { "exact".to_owned() } else { format!("{error:.1e}") });
        }
        // What is exact anyway is not computed.
        for time in ["fast_ms", "exact_ms"] {
            assert!(if exact { line[time].is_null() } else { line[time].as_f64() > Some(0.0) }, "{line}");
        }
    }
    let most: Value = serde_json::from_slice(&verify("--json --most 1").exits(0).stdout).unwrap();
    assert_eq!(most.as_array().map(Vec::len), Some(1), "{most}");
}

#[test]
fn verify_reads_files_and_says_what_is_wrong_with_them() {
    let cache = tempfile::tempdir().unwrap();
    prepare("", cache.path());
    let [one, two, blank, none] = ["one", "two", "blank", "none"].map(|name| cache.path().join(name));
    std::fs::write(&one, "a text\nanother text\n").unwrap();
    std::fs::write(&two, "a third text, without an end of line").unwrap();
    std::fs::write(&blank, "\n \n").unwrap();
    let verify =
        |files: &[&PathBuf]| run(with_cache(small_model(), "verify --json", cache.path()).args(files));
    let measured: Value = serde_json::from_slice(&verify(&[&one, &two]).exits(0).stdout).unwrap();
    let tokens: Vec<_> = measured.as_array().unwrap().iter().map(|line| line["tokens"].as_u64()).collect();
    assert_eq!(tokens, [Some(4), Some(4), Some(11)]);
    verify(&[&one, &none]).fails(1, &[none.to_str().unwrap(), "cannot be read", "No such file"]);
    verify(&[&blank]).fails(1, &["there is no text to measure"]);
    verify(&[]).fails(1, &["there is no text to measure"]);
    std::fs::write(&blank, b"\xff\n").unwrap();
    verify(&[&blank]).fails(1, &[blank.to_str().unwrap(), "UTF-8"]);
}

#[test]
fn info_shows_what_is_prepared() {
    let cache = tempfile::tempdir().unwrap();
    let unprepared = info(small_model(), "--padding fast", cache.path());
    let why = unprepared["fast_padding"].as_str().unwrap_or_default();
    assert!(why.contains("danaus prepare") && why.contains("does not exist"), "{unprepared}");
    prepare("", cache.path());
    let prepared = &info(small_model(), "--padding fast", cache.path())["fast_padding"];
    assert_eq!(prepared["bound"], json!(BOUND));
    assert!(prepared["megabytes"].as_f64() > Some(0.0), "{prepared}");
    let ranges = prepared["ranges"].as_array().unwrap();
    assert!(ranges.len() > 3, "{prepared}");
    for range in ranges {
        let number = |key: &str| range[key].as_u64().unwrap();
        assert!(number("shortest") <= number("longest") && number("longest") <= number("window"), "{range}");
        assert_eq!(range["errors"].as_array().map(Vec::len), Some(3), "{range}");
    }
    std::fs::write(only_file(cache.path()), "damaged").unwrap();
    let damaged = info(small_model(), "--padding fast", cache.path());
    assert!(damaged["fast_padding"].as_str().is_some_and(|why| why.contains("cannot be used")), "{damaged}");
    for other in ["--padding none", "--padding max-length", ""] {
        assert_eq!(info(small_model(), other, cache.path()).get("fast_padding"), None, "{other}");
    }
}

#[test]
fn the_padding_is_the_models_own_where_none_is_given() {
    let cache = tempfile::tempdir().unwrap();
    let padding = |model: &Path, args: &str| info(model, args, cache.path())["padding"].clone();
    assert_eq!(padding(small_model(), ""), "none");
    assert_eq!(padding(trained_with("none").path(), ""), "none");
    let padded = trained_with("max-length");
    assert_eq!(padding(padded.path(), ""), "fast");
    assert_eq!(padding(padded.path(), "--padding none"), "none");
    // A checkpoint that says nothing is a published one.
    assert_eq!(padding(&crate::common::workspace().join("tests/fixtures/tiny-96"), ""), "fast");
    run(&mut danaus_with(trained_with("left").path(), "info")).fails(1, &["danaus_padding is \"left\""]);
    for (args, warned) in [("--padding none", true), ("", false), ("--padding max-length", false)] {
        let run = run(&mut with_cache(padded.path(), &format!("info {args}"), cache.path())).exits(0);
        assert_eq!(run.stderr.contains("embedded without padding"), warned, "{args}: {}", run.stderr);
    }
    // The same numbers in another folder: what was prepared for them serves both.
    let variable = |args| {
        let mut command = danaus_with(padded.path(), args);
        command.env("DANAUS_PADDING_CACHE", cache.path());
        run(&mut command).exits(0)
    };
    variable("prepare");
    assert!(variable("info --json").text().contains("\"bound\""));
    assert!(info(small_model(), "--padding fast", cache.path())["fast_padding"]["bound"].is_number());
}

#[test]
fn bounds_and_what_to_do_meanwhile_are_checked() {
    for bound in ["0", "-1", "1e-7", "1.5", "nan", "inf", "small"] {
        let argument = format!("--padding-error={bound}");
        run(&mut danaus(&["info", &argument])).fails(2, &["--padding-error", "from 1e-6 to 1"]);
    }
    run(&mut danaus(&["prepare", "--padding-memory", "0"])).fails(2, &["--padding-memory", "1 or more"]);
    run(&mut danaus(&["serve", "--padding-wait", "later"])).fails(2, &["'later'", "exact, refuse"]);
    run(&mut danaus(&["verify", "--most", "0"])).fails(2, &["--most", "1 or more"]);
}

/// Waits until fast padding is prepared, and returns what `/info` says of it.
fn prepared_info(server: &Server) -> Value {
    let shown = eventually(PATIENCE, || {
        let (_, mut info) = server.get("/info");
        (!info["fast_padding"].is_null()).then(|| info["fast_padding"].take())
    });
    shown.unwrap_or_else(|| panic!("it is never prepared:\n{}", server.log()))
}

fn assert_same_vectors(server: &Server, expected: &[Embedded]) {
    for (vector, expected) in server.embed(&TEXTS).iter().zip(expected) {
        assert_eq!(bits(vector), expected.bits());
    }
}

#[test]
fn a_server_prepares_in_the_background_and_keeps_it_for_the_next_start() {
    let cache = tempfile::tempdir().unwrap();
    let args = format!("--padding fast --padding-wait refuse --padding-cache {}", cache.path().display());
    let server = Server::of(small_model(), &args);
    // Refused until it is prepared, and never anything else.
    let answered = eventually(PATIENCE, || {
        let (status, body) = server.post("/embed", &json!({"query": TEXTS}));
        let refused = status == 503 && body["error"]["code"] == "padding_preparing";
        assert!(refused || status == 200, "{status}: {body}");
        let (status, health) = server.get("/health");
        let said = (status, health["status"].as_str().unwrap_or_default());
        assert!([(503, "preparing"), (200, "healthy")].contains(&said), "{status}: {health}");
        assert!(status == 200 || health["total"].is_u64(), "{health}");
        (!refused).then_some(())
    });
    answered.unwrap_or_else(|| panic!("it is never prepared:\n{}", server.log()));
    // What there is of it so far is shown, and in the end all of it.
    assert_eq!(prepared_info(&server)["bound"], json!(BOUND));
    server.wait_for_log("fast padding is ready");
    let healthy = eventually(PATIENCE, || (server.get("/health").0 == 200).then_some(()));
    healthy.unwrap_or_else(|| panic!("it is never healthy:\n{}", server.log()));
    assert_eq!(server.get("/info").1["preparation"], Value::Null);
    let shown = prepared_info(&server);
    only_file(cache.path());
    let (expected, log) = embed("--padding fast", cache.path());
    assert!(!log.contains("not prepared"), "{log}");
    assert_same_vectors(&server, &expected);
    drop(server);
    let server = Server::of(small_model(), &args);
    // It need not wait this time.
    assert_same_vectors(&server, &expected);
    assert_eq!(prepared_info(&server), shown);
    assert!(!server.log().contains("preparing fast padding"), "{}", server.log());
}

#[test]
fn a_server_that_cannot_keep_what_it_prepared_serves_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "in the way").unwrap();
    let cache = file.join("cache");
    let server = Server::of(small_model(), &format!("--padding fast --padding-cache {}", cache.display()));
    server.wait_for_log("cannot be kept");
    assert!(prepared_info(&server)["ranges"].is_array());
    let prepared = tempfile::tempdir().unwrap();
    prepare("", prepared.path());
    assert_same_vectors(&server, &embed("--padding fast", prepared.path()).0);
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

/// A damaged file holds up no start, and is replaced.
#[test]
fn a_server_replaces_a_damaged_file() {
    let cache = tempfile::tempdir().unwrap();
    prepare("", cache.path());
    let file = only_file(cache.path());
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let server =
        Server::of(small_model(), &format!("--padding fast --padding-cache {}", cache.path().display()));
    server.wait_for_log("cannot be used");
    server.wait_for_log("fast padding is ready");
    assert!(std::fs::read(only_file(cache.path())).unwrap() == whole);
    let (status, body) = server.post("/embed", &json!({"query": TEXTS[0], "padding": "none"}));
    assert_eq!(status, 200, "{body}");
    let (status, body) = server.post("/embed", &json!({"query": TEXTS[0], "padding": "left"}));
    let detail = body["detail"].as_str().unwrap_or_default();
    assert!(status == 422 && detail.contains("none, max-length, fast"), "{status}: {body}");
}

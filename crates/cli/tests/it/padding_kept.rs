//! What is prepared for fast padding is shared with other machines, kept while it is made, and gone on from.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{PATIENCE, Process, danaus, eventually, rows, run, run_with, small_config, small_model};
use crate::padding::{BOUND, embed, info, only_file, prepare, trained_with, with_cache};

/// The only file of far fields in a folder, whatever a killed process left beside it.
#[track_caller]
fn only_safetensors(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// What is prepared on one machine is used on another: as a file of any name, in a folder, or next to the model.
#[test]
fn what_is_prepared_can_be_shared() {
    let folder = tempfile::tempdir().unwrap();
    let [cache, none, shared] = ["cache", "none", "deep/shared"].map(|name| folder.path().join(name));
    prepare("", &cache);
    let (expected, _) = embed("--padding fast", &cache);
    let own = only_file(&cache);
    let file = shared.join("any.name");
    let prepared = prepare(&format!("--out {}", file.display()), &none);
    assert_eq!(prepared.text().lines().last(), file.to_str());
    assert!(!none.exists(), "nothing is written to the cache");
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&own).unwrap());
    // What is there is not prepared again.
    let again = prepare(&format!("--out {}", file.display()), &none);
    assert!(again.text() == prepared.text() && !again.stderr.contains("preparing"), "{}", again.stderr);
    let fast = |place: &Path| embed(&format!("--padding fast --padding-file {}", place.display()), &none);
    let (rows, log) = fast(&file);
    assert!(rows == expected && log.contains("fast padding is prepared"), "{log}");
    // In a folder it has its own name, whether it was written there or copied.
    let (rows, log) = fast(&cache);
    assert!(rows == expected && log.contains("fast padding is prepared"), "{log}");
    assert!(fast(&shared).1.contains("fast padding is not prepared"));
    let into = prepare(&format!("--out {}", shared.display()), &none);
    let named = shared.join(own.file_name().unwrap());
    assert_eq!(into.text().lines().last(), named.to_str());
    assert!(std::fs::read(&named).unwrap() == std::fs::read(&own).unwrap());
    assert_eq!(fast(&shared).0, expected);
    // One that is not there.
    let (exact, _) = embed("--padding max-length", &none);
    let (rows, log) = fast(&folder.path().join("no"));
    assert!(rows == exact && log.contains("fast padding is not prepared"), "{log}");
    // Another model's, and a damaged one: no command uses it, or overwrites it unasked.
    let refused = |args: &str, why: &str| {
        let before = std::fs::read(&file).unwrap();
        for command in ["embed --padding fast --padding-file", "prepare --out"] {
            let line = format!("{command} {} {args}", file.display());
            let stderr = run(&mut with_cache(small_model(), &line, &none)).exits(1).stderr;
            assert!(stderr.contains(why) && stderr.contains("danaus prepare --force --out"), "{stderr}");
        }
        assert!(std::fs::read(&file).unwrap() == before);
    };
    refused("--padding-error 0.01", "cannot be used");
    refused("--dtype int8", "cannot be used");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    refused("", "its contents are damaged");
    assert_eq!(prepare(&format!("--force --out {}", file.display()), &none).text(), prepared.text());
}

#[test]
fn a_file_next_to_a_folders_model_is_found_by_itself() {
    let model = trained_with("max-length");
    let cache = tempfile::tempdir().unwrap();
    let show = || info(model.path(), "", cache.path())["fast_padding"].take();
    assert!(show().as_str().is_some_and(|why| why.contains("danaus prepare")));
    let out = model.path().display();
    let mut command = with_cache(model.path(), &format!("prepare --out {out}"), cache.path());
    let file = PathBuf::from(run(&mut command).exits(0).text().lines().last().unwrap());
    assert_eq!(file.parent(), Some(model.path()));
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
    assert_eq!(show()["bound"], json!(BOUND));
    // It stands before the cache's, and --padding-file before it.
    prepare("", cache.path());
    std::fs::write(&file, "damaged").unwrap();
    assert!(show().as_str().is_some_and(|why| why.contains(file.to_str().unwrap())));
    let given = format!("--padding-file {}", cache.path().display());
    assert_eq!(info(model.path(), &given, cache.path())["fast_padding"]["bound"], json!(BOUND));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(show()["bound"], json!(BOUND));
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_first_pass() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "in the way").unwrap();
    let below = file.join("below");
    let out = format!("prepare --out {}", below.display());
    for (args, cache) in [(&*out, folder.path().join("cache")), ("prepare", below.clone())] {
        let run = run(&mut with_cache(small_model(), args, &cache));
        let run = run.fails(1, &["what is to be prepared could not be kept", file.to_str().unwrap()]);
        assert!(!run.stderr.contains("preparing fast padding"), "{}", run.stderr);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

/// A model whose passes take long enough to be interrupted between two ranges.
fn longer_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small_config();
    (config["max_position_embeddings"], config["long_conv_l_max"]) = (json!(8192), json!(8192));
    let shape = folder.path().join("shape.json");
    std::fs::write(&shape, config.to_string()).unwrap();
    let mut synth = danaus(&["synth", "--force", "--filters", "smooth", "--config"]);
    run(synth.arg(&shape).arg("--out").arg(folder.path().join("model"))).exits(0);
    folder
}

/// Passes that the first line of progress in a log announces.
fn passes(log: &str) -> usize {
    let line = log.lines().find(|line| line.contains("done=1 ")).unwrap_or_else(|| panic!("{log}"));
    let (_, rest) = line.split_once("total=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_killed_preparation_goes_on_from_what_it_kept() {
    let folder = longer_model();
    let [model, cache, whole] = ["model", "cache", "whole"].map(|name| folder.path().join(name));
    let prepare = |cache: &Path| with_cache(&model, "prepare --threads 1", cache);
    let first = run(&mut prepare(&whole)).exits(0);
    let mut command = prepare(&cache);
    let mut killed = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let kept = eventually(PATIENCE, || {
        let mut files = std::fs::read_dir(&cache).ok()?.map(|entry| entry.unwrap().path());
        files.find(|file| file.extension().is_some_and(|extension| extension == "safetensors"))
    });
    let kept = kept.expect("the first range is never kept");
    killed.signal("KILL");
    assert!(
        killed.wait(PATIENCE).is_some_and(|status| status.code().is_none()),
        "it ended before it was killed"
    );
    let ranges = |cache: &Path| -> Vec<Value> {
        info(&model, "--padding fast", cache)["fast_padding"]["ranges"].as_array().unwrap().clone()
    };
    let (some, all) = (ranges(&cache), ranges(&whole));
    assert!(!some.is_empty() && some.len() < all.len(), "{} of {} ranges", some.len(), all.len());
    // What was kept serves at once, and whoever needs all of it is told.
    let embed = |cache: &Path| {
        let mut command = with_cache(&model, "embed --padding fast", cache);
        let run = run_with(&mut command, b"What is machine learning?\n").exits(0);
        (rows(&run.stdout), run.stderr)
    };
    let (partly, log) = embed(&cache);
    assert!(log.contains("fast padding is partly prepared"), "{log}");
    assert_eq!(partly, embed(&whole).0);
    let second = run(&mut prepare(&cache)).exits(0);
    assert!(second.stderr.contains("fast padding is partly prepared"), "{}", second.stderr);
    let [of_all, of_rest] = [&first, &second].map(|run| passes(&run.stderr));
    assert!(of_rest < of_all, "{of_rest} passes instead of {of_all}");
    assert_eq!(ranges(&cache), all);
    assert!(std::fs::read(&kept).unwrap() == std::fs::read(only_safetensors(&whole)).unwrap());
}

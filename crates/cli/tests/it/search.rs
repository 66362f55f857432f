//! `danaus search`: the files that say what is asked.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Run, danaus, run, small_model};

/// Documents that share hardly a word with the queries.
const DOCUMENTS: [(&str, &str); 6] = [
    (
        "archive.txt",
        "Bundle a number of files into one, and make it smaller by compression, for storage or transfer.",
    ),
    (
        "backup.txt",
        "Saves copies of your data to another disk at night, so that nothing is lost when hardware breaks.",
    ),
    (
        "network.txt",
        "Shows which programs have open sockets, on which ports they listen and who is connected to them.",
    ),
    (
        "deep/spelling.txt",
        "Looks up each word of a document in a dictionary and suggests corrections for those that are misspelt.",
    ),
    ("deep/music.txt", "A player for songs and albums with playlists, an equaliser and radio stations."),
    (
        "deep/weather.txt",
        "Displays temperature, wind and the chance of rain of the coming days for your town.",
    ),
];

fn library() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deep")).unwrap();
    for (name, text) in DOCUMENTS {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn search(folder: &Path, args: &[&str]) -> Run {
    run(danaus(&["search"]).args(args).current_dir(folder))
}

fn found(run: &Run) -> Vec<Value> {
    run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_built_in_model_finds_what_is_meant_in_other_words() {
    let folder = library();
    for (query, file) in [
        ("pack several documents together in a zip", "./archive.txt"),
        ("listen to audio tracks", "./deep/music.txt"),
        ("will it be sunny tomorrow?", "./deep/weather.txt"),
        ("which process uses TCP port 8080?", "./network.txt"),
        ("check my orthography", "./deep/spelling.txt"),
    ] {
        let found = found(&search(folder.path(), &["--json", query]).exits(0));
        assert_eq!(found.len(), 5);
        assert_eq!(found[0]["file"], file, "{query}: {found:#?}");
        let scores: Vec<_> = found.iter().map(|found| found["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|one, other| one >= other), "{scores:?}");
    }
}

#[test]
fn a_files_best_passage_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let filler = format!("{}\n\n", "Something about the price of bread in the shops of a town. ".repeat(12));
    fs::write(folder.path().join("long.txt"), format!("{filler}{filler}{}\n", DOCUMENTS[4].1)).unwrap();
    let shown = search(folder.path(), &["songs", "long.txt", "--most", "1"]).exits(0).text();
    let (place, text) = shown.trim_end().split_once('\n').unwrap();
    assert!(place.ends_with("  long.txt:5"), "{shown}");
    assert_eq!(text.trim(), DOCUMENTS[4].1);
}

#[test]
fn what_is_no_text_is_skipped_and_hidden_files_are_not_looked_at() {
    let folder = library();
    fs::write(folder.path().join("binary"), [0, 1, 2, 3]).unwrap();
    fs::write(folder.path().join("latin"), b"caf\xe9").unwrap();
    fs::write(folder.path().join("empty"), b"").unwrap();
    fs::create_dir(folder.path().join("target")).unwrap();
    fs::write(folder.path().join("target/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55")
        .unwrap();
    fs::write(folder.path().join("target/songs.txt"), b"songs").unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    fs::write(folder.path().join(".git/HEAD"), b"songs").unwrap();
    let run = search(folder.path(), &["--json", "songs", "--most", "100", ".", "backup.txt"]).exits(0);
    assert_eq!(found(&run).len(), DOCUMENTS.len());
    // "empty" is a text of no words.
    assert!(run.stderr.contains("files=7") && run.stderr.contains("skipped=2"), "{}", run.stderr);
}

#[test]
fn any_model_can_search() {
    let folder = library();
    let mut command = danaus(&["search", "songs", "--json", "--model"]);
    let run = run(command.arg(small_model()).current_dir(folder.path())).exits(0);
    assert_eq!(found(&run).len(), 5);
}

#[test]
fn where_there_is_nothing_to_find_the_message_says_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    search(folder.path(), &["songs"]).fails(
        1,
        &["there is no text in . (0 files were skipped): expected files of UTF-8 text of up to 8 MiB"],
    );
    search(folder.path(), &["songs", "gone"]).fails(
        1,
        &["gone cannot be read (is it a part of the query? that has to be in quotes)", "No such file"],
    );
    fs::write(folder.path().join("binary"), [0, 1, 2, 3]).unwrap();
    search(folder.path(), &["songs", "binary"]).fails(1, &["binary is no UTF-8 text"]);
    search(folder.path(), &["songs"]).fails(1, &["(1 files were skipped)"]);
    search(folder.path(), &[""]).fails(2, &["<QUERY>"]);
    search(folder.path(), &[]).fails(2, &["<QUERY>"]);
    search(folder.path(), &["songs", "--most", "0"]).fails(2, &["expected a whole number, 1 or more"]);
}

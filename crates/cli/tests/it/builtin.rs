//! The model that comes with the program.

use std::path::Path;

use serde_json::Value;

use crate::common::{danaus, danaus_with, rows, run, run_with};
use crate::server::Server;

#[test]
fn it_needs_nothing_but_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = danaus_with(Path::new("builtin"), "embed");
    let run = run_with(command.current_dir(folder.path()), b"monarch\nWhat is machine learning?\n").exits(0);
    let rows = rows(&run.stdout);
    assert_eq!(rows.iter().map(|row| row.embedding.len()).collect::<Vec<_>>(), [384, 384]);
    assert!(run.stderr.contains("padding=none"), "{}", run.stderr);
    assert!(!run.stderr.contains("WARN"), "{}", run.stderr);
}

#[test]
fn it_is_served_by_its_name() {
    let server = Server::of(Path::new("builtin"), "");
    assert_eq!(server.get("/health").1["model"], "builtin");
    let vectors = server.embed(&["a cat", "a kitten", "the national budget"]);
    let cosine = |one: usize, other: usize| -> f32 {
        vectors[one].iter().zip(&vectors[other]).map(|(a, b)| a * b).sum()
    };
    assert!(cosine(0, 1) > cosine(0, 2) + 0.2, "{} {}", cosine(0, 1), cosine(0, 2));
}

#[test]
fn it_is_among_the_ways_out_where_the_default_model_cannot_be_had() {
    run(&mut danaus(&["serve", "--port", "0"]))
        .fails(1, &["HF_HUB_OFFLINE forbids downloading it", "--model builtin"]);
}

#[test]
fn info_describes_it() {
    let run = run(&mut danaus(&["info", "--json", "--model", "builtin"])).exits(0);
    let info: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&info["dimension"], &info["max_tokens"]), (&384.into(), &2048.into()));
    assert_eq!(info["padding"], "none");
}

//! `danaus info`.

use serde_json::{Value, json};

use crate::common::{SMALL_DIMENSION, SMALL_LENGTH, danaus, danaus_with, run, small_model};

#[test]
fn the_model_the_machine_and_the_build() {
    let run_json =
        run(&mut danaus_with(small_model(), "info --json --threads 2 --padding max-length")).exits(0);
    let info: Value = serde_json::from_slice(&run_json.stdout).unwrap();
    for (key, value) in [
        ("model", json!(small_model())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("dimension", json!(SMALL_DIMENSION)),
        ("max_tokens", json!(SMALL_LENGTH)),
        ("layers", json!(2)),
        ("device", json!("cpu")),
        ("dtype", json!(if danaus_engine::Isa::best().has_bf16() { "bf16" } else { "f32" })),
        ("threads", json!(2)),
        ("padding", json!("max-length")),
        ("synthetic", json!(true)),
        ("revision", json!(null)),
    ] {
        assert_eq!(info[key], value, "{key}");
    }
    assert!(info["cores"].as_u64().is_some_and(|cores| cores > 0), "{info}");
    assert!(info["instruction_set"].as_str().is_some_and(|name| !name.is_empty()), "{info}");
    assert_eq!(info["instruction_sets"][0], info["instruction_set"], "the best one");
    let text = run(&mut danaus_with(small_model(), "info")).exits(0).text();
    for (name, value) in [("dimension", "64"), ("max tokens", "300"), ("synthetic", "true")] {
        assert!(
            text.lines()
                .any(|line| line.split_once("  ").is_some_and(|(n, v)| n == name && v.trim() == value)),
            "{text}"
        );
    }
}

#[test]
fn a_fixture_is_not_synthetic() {
    let tiny = crate::common::workspace().join("tests/fixtures/tiny-96");
    let info: Value =
        serde_json::from_slice(&run(&mut danaus_with(&tiny, "info --json")).exits(0).stdout).unwrap();
    assert_eq!(
        (&info["synthetic"], &info["dimension"], &info["max_tokens"]),
        (&json!(false), &json!(96), &json!(80))
    );
}

/// Asking is no reason to download a gigabyte.
#[test]
fn a_model_that_is_not_here_is_not_downloaded() {
    let home = tempfile::tempdir().unwrap();
    for (args, offline) in [(["info", "--json"], "0"), (["info", "--json"], "1")] {
        let mut info = danaus(&args);
        // Where it is asked all the same, it is refused, and that would be another answer.
        info.env("HF_HUB_OFFLINE", offline)
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .env("HF_HOME", home.path());
        let info: Value = serde_json::from_slice(&run(&mut info).exits(0).stdout).unwrap();
        assert_eq!(info["model"], "togethercomputer/m2-bert-80M-32k-retrieval");
        assert!(info["unavailable"].as_str().is_some_and(|why| why.contains("danaus download")), "{info}");
        assert_eq!(info["cache"], json!(home.path().join("hub")));
    }
    run(&mut danaus(&["info", "--model", "synthetic:2k", "--tokenizer", "x"])).fails(2, &["--tokenizer"]);
}

//! `danaus synth`, and the checkpoints of the fixtures.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::{Run, danaus, danaus_with, rows, run, run_with, small_config, workspace};

fn synth(config: &Path, seed: &str, out: &Path) -> Run {
    run(danaus(&["synth", &format!("--seed={seed}"), "--config"]).arg(config).arg("--out").arg(out))
}

fn read(folder: &Path) -> [Vec<u8>; 2] {
    ["config.json", "model.safetensors"].map(|file| std::fs::read(folder.join(file)).unwrap())
}

/// A folder with a small configuration in `config`.
fn with_config(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config"), config.to_string()).unwrap();
    folder
}

#[test]
fn files_are_a_function_of_configuration_and_seed() {
    let folder = with_config(&small_config());
    let [config, a, b, c] = ["config", "a", "b", "deeper/c"].map(|name| folder.path().join(name));
    assert_eq!(synth(&config, "7", &a).exits(0).text(), format!("{}\n", a.display()));
    synth(&config, "7", &b).exits(0);
    synth(&config, "8", &c).exits(0);
    assert!(read(&a) == read(&b));
    let (of_7, of_8) = (read(&a), read(&c));
    assert!(of_7[1] != of_8[1] && of_7[1].len() == of_8[1].len());
    let mut default = danaus(&["synth", "--config"]);
    let plain = folder.path().join("plain");
    run(default.arg(&config).arg("--out").arg(&plain)).exits(0);
    synth(&config, "1", &b).fails(1, &["exists"]);
    let one = folder.path().join("one");
    synth(&config, "1", &one).exits(0);
    assert!(read(&plain) == read(&one), "the seed is 1 where none is given");
    let written: Value = serde_json::from_slice(&of_7[0]).unwrap();
    for (key, value) in small_config().as_object().unwrap() {
        assert_eq!(&written[key], value, "{key}");
    }
}

#[test]
fn filters_are_of_the_family_and_strength_that_are_asked_for() {
    let folder = with_config(&small_config());
    let config = folder.path().join("config");
    let made = |name: &str, args: &[&str]| {
        let out = folder.path().join(name);
        let mut command = danaus(&["synth", "--config"]);
        run(command.arg(&config).args(args).arg("--out").arg(&out)).exits(0);
        read(&out)
    };
    let plain = made("plain", &[]);
    assert!(plain == made("rough", &["--filters", "rough", "--strength", "1"]));
    let written = String::from_utf8(plain[0].clone()).unwrap();
    assert!(!written.contains("danaus_synthetic_filters"), "{written}");
    let (smooth, strong) =
        (made("smooth", &["--filters=smooth"]), made("strong", &["--filters=smooth", "--strength=4"]));
    for (one, other) in [(&plain, &smooth), (&smooth, &strong)] {
        assert!(one[1] != other[1] && one[1].len() == other[1].len());
    }
    let written: Value = serde_json::from_slice(&strong[0]).unwrap();
    assert_eq!(
        (&written["danaus_synthetic_filters"], &written["danaus_synthetic_strength"]),
        (&json!("smooth"), &json!(4.0))
    );
    let out = folder.path().join("smooth");
    run_with(&mut danaus_with(&out, "embed --input ids"), b"[101, 2054, 102]\n").exits(0);
}

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = with_config(&small_config());
    let [config, out] = ["config", "out"].map(|name| folder.path().join(name));
    synth(&config, "7", &out).exits(0);
    let before = read(&out);
    synth(&config, "8", &out).fails(1, &["exists", out.to_str().unwrap()]);
    assert!(read(&out) == before);
    let mut forced = danaus(&["synth", "--seed", "8", "--force", "--config"]);
    run(forced.arg(&config).arg("--out").arg(&out)).exits(0);
    assert!(read(&out) != before);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    // Something else that is in the way.
    synth(&config, "8", &config).fails(1, &[config.to_str().unwrap()]);
}

#[test]
fn configurations_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (key, value, reason) in [
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!(66), "multiple of monarch_mlp_nblocks"),
        ("hidden_size", json!("wide"), "hidden_size"),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers"),
        ("vocab_size", json!(1 << 24), "parameters"),
        ("hyena_emb_dim", json!(4), "odd"),
        ("hidden_act", json!("relu"), "gelu"),
        ("bidirectional", json!(false), "bidirectional"),
    ] {
        let mut config = small_config();
        config[key] = value;
        if reason == "parameters" {
            config["hidden_size"] = json!(1 << 16);
        }
        let folder = with_config(&config);
        synth(&folder.path().join("config"), "1", &out).fails(1, &["config", reason]);
    }
    for (content, reason) in [("", "JSON"), ("[]", "JSON"), ("{\"hidden_size\": 64", "JSON")] {
        let path = folder.path().join("config");
        std::fs::write(&path, content).unwrap();
        synth(&path, "1", &out).fails(1, &[path.to_str().unwrap(), reason]);
    }
    synth(Path::new("80m-4k"), "1", &out).fails(1, &["80m-2k, 80m-8k, 80m-32k", "No such file"]);
    synth(folder.path(), "1", &out).fails(1, &["80m-2k"]);
    synth(Path::new("80m-2k"), "-1", &out).fails(2, &["--seed"]);
    let below_a_file = folder.path().join("config/out");
    synth(Path::new("80m-2k"), "1", &below_a_file).fails(1, &[below_a_file.to_str().unwrap()]);
    assert!(!out.exists());
}

/// A named shape is that of `synthetic:2k`, and so are its vectors.
#[test]
fn the_80m_shape() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m2-bert");
    synth(Path::new("80m-2k"), "1", &out).exits(0);
    let embed = |model: &Path| {
        let run =
            run_with(&mut danaus_with(model, "embed --input ids"), b"[101, 2054, 2003, 102]\n").exits(0);
        assert!(run.stderr.contains("synthetic") && run.stderr.contains("no meaning"), "{}", run.stderr);
        rows(&run.stdout)[0].bits()
    };
    assert_eq!(embed(&out), embed(Path::new("synthetic:2k")));
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    pooling: String,
    pad_to: Option<usize>,
    embedding: Vec<f64>,
}

/// The fixtures' models, and the seeds that made them.
const FIXTURES: [(&str, &str); 3] = [("tiny-64", "1"), ("tiny-96", "2"), ("tiny-2-blocks", "3")];

/// Largest difference of any component that float32 may have.
const TOLERANCE: f64 = 2e-6;

/// Asserts that a model gives the vectors of a fixture, unpadded and padded, `mean` and `cls`.
fn assert_golden(model: &Path, fixture: &Path) {
    let golden = std::fs::read_to_string(fixture.join("embeddings.json")).unwrap();
    let golden: Golden = serde_json::from_str(&golden).unwrap();
    for pooling in ["mean", "cls"] {
        for padding in ["none", "max-length"] {
            let of_this =
                |case: &&Case| case.pooling == pooling && case.pad_to.is_some() == (padding != "none");
            let cases: Vec<&Case> = golden.cases.iter().filter(of_this).collect();
            assert!(!cases.is_empty());
            let input: String = cases.iter().map(|case| format!("{:?}\n", case.ids)).collect();
            let mut command = danaus_with(
                model,
                &format!("embed --input ids --dtype f32 --pooling {pooling} --padding {padding}"),
            );
            let got = rows(&run_with(&mut command, input.as_bytes()).exits(0).stdout);
            assert_eq!(got.len(), cases.len());
            for (got, case) in got.iter().zip(&cases) {
                assert_eq!((got.tokens, got.embedding.len()), (case.ids.len(), case.embedding.len()));
                let errors =
                    got.embedding.iter().zip(&case.embedding).map(|(a, b)| (f64::from(*a) - b).abs());
                let error = errors.fold(0.0, f64::max);
                assert!(error <= TOLERANCE, "{}, {pooling}, {padding}: {error:e} off", model.display());
            }
        }
    }
}

#[test]
fn synthetic_checkpoints_are_those_of_the_fixtures() {
    for (name, seed) in FIXTURES {
        let fixture = workspace().join("tests/fixtures").join(name);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        synth(&fixture.join("config.json"), seed, &out).exits(0);
        assert_golden(&out, &fixture);
    }
}

#[test]
fn either_checkpoint_file_alone_gives_the_fixtures_vectors() {
    for (name, _) in FIXTURES {
        let fixture = workspace().join("tests/fixtures").join(name);
        for file in ["model.safetensors", "pytorch_model.bin"] {
            let folder = tempfile::tempdir().unwrap();
            for file in ["config.json", file] {
                std::fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
            }
            assert_golden(folder.path(), &fixture);
        }
    }
}

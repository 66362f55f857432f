//! Folders: which file is the checkpoint, and the fixtures from both of their files.

use std::path::Path;

use danaus_model::{load_checkpoint, load_folder, read_config};
use serde_json::Value;

use crate::common::{Checkpoint, FIXTURES, assert_same, fixture, folder_with, logged, safetensors_file};

#[test]
fn fixtures_load_the_same_from_both_files() {
    for (name, _) in FIXTURES {
        let (safetensors, log) =
            logged(|| load_folder(folder_with(name, &["config.json", "model.safetensors"]).path()));
        assert_eq!(log, "", "classifier and leftovers are ignored without a word");
        let (torch, log) =
            logged(|| load_folder(folder_with(name, &["config.json", "pytorch_model.bin"]).path()));
        assert_eq!(log, "");
        let (safetensors, torch) = (safetensors.unwrap(), torch.unwrap());
        assert_eq!(safetensors.config, torch.config);
        assert_same(&safetensors.weights, &torch.weights);
        assert!(!safetensors.synthetic);
        for word in [&safetensors.weights.embeddings.word, &torch.weights.embeddings.word] {
            assert!(format!("{word:?}").contains("stored F32"), "the table stays in the file: {word:?}");
            assert!(word.as_f32().is_some(), "and is read where it lies");
        }
    }
}

#[test]
fn the_id_is_the_folders_name() {
    assert_eq!(load_folder(&fixture("tiny-64")).unwrap().id, "tiny-64");
    assert_eq!(load_folder(&fixture("tiny-64/../tiny-96/.")).unwrap().id, "tiny-96");
}

#[test]
fn the_content_decides_the_format_and_never_the_name() {
    let folder = folder_with("tiny-64", &["config.json"]);
    let expected = load_folder(&fixture("tiny-64")).unwrap();
    for stored in ["model.safetensors", "pytorch_model.bin"] {
        for name in [
            "model.safetensors",
            "pytorch_model.bin",
            "model.bin",
            "epoch-3.pt",
            "weights.bin",
            "m.safetensors",
        ] {
            let file = folder.path().join(name);
            std::fs::copy(fixture("tiny-64").join(stored), &file).unwrap();
            assert_same(&load_folder(folder.path()).unwrap().weights, &expected.weights);
            std::fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn the_preferred_file_is_taken() {
    let folder = folder_with("tiny-64", &["config.json", "model.safetensors"]);
    for (name, next) in [
        ("other.pt", "model.bin"),
        ("model.bin", "pytorch_model.bin"),
        ("pytorch_model.bin", "model.safetensors"),
    ] {
        std::fs::rename(folder.path().join("model.safetensors"), folder.path().join(next)).unwrap();
        std::fs::write(folder.path().join(name), "not a checkpoint").unwrap();
        load_folder(folder.path()).unwrap_or_else(|error| panic!("{next} before {name}: {error}"));
        std::fs::remove_file(folder.path().join(name)).unwrap();
        std::fs::rename(folder.path().join(next), folder.path().join("model.safetensors")).unwrap();
    }
}

fn error(folder: &Path) -> String {
    load_folder(folder).unwrap_err().to_string().replace(folder.to_str().unwrap(), "FOLDER")
}

#[test]
fn what_is_lacking_is_named() {
    let folder = folder_with("tiny-64", &["config.json"]);
    assert_eq!(
        error(folder.path()),
        "FOLDER holds no checkpoint: expected model.safetensors, pytorch_model.bin, model.bin, or one file that ends in \
         .safetensors, .bin or .pt"
    );
    std::fs::write(folder.path().join("b.pt"), "").unwrap();
    std::fs::write(folder.path().join("a.bin"), "").unwrap();
    assert_eq!(
        error(folder.path()),
        "FOLDER holds several files that could be the checkpoint (a.bin, b.pt): rename the right one to \
         model.safetensors or pytorch_model.bin"
    );
    std::fs::write(folder.path().join("model.safetensors.index.json"), "{}").unwrap();
    assert_eq!(
        error(folder.path()),
        "FOLDER/model.safetensors.index.json says that the checkpoint is split into several files, which is not \
         supported: expected one file; load the model in PyTorch and save it again as one model.safetensors"
    );
    let folder = folder_with("tiny-64", &["model.safetensors"]);
    assert_eq!(
        error(folder.path()),
        "cannot read FOLDER/config.json: No such file or directory (os error 2)"
    );
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(error(folder.path()).starts_with("FOLDER/config.json: not a JSON object"));
    std::fs::write(folder.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert!(
        error(folder.path())
            .starts_with("cannot read FOLDER/config.json: stream did not contain valid UTF-8")
    );
    let gone = folder.path().join("gone");
    assert!(error(&gone).starts_with("cannot read FOLDER/config.json: No such file"));
}

#[test]
fn what_is_no_checkpoint_is_an_error_that_says_what_it_is() {
    let folder = folder_with("tiny-64", &["config.json"]);
    let file = folder.path().join("model.safetensors");
    let cases: [(&[u8], &str); 12] = [
        (b"", "not a checkpoint: it is empty"),
        (b"PK", "not a checkpoint: its first bytes are of neither format"),
        (b"hello", "not a checkpoint: its first bytes are of neither format"),
        (b"\x08\0\0\0\0\0\0\0", "not a checkpoint: its first bytes are of neither format"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
            "not a checkpoint: it is a Git LFS pointer",
        ),
        (b"<!DOCTYPE html>", "not a checkpoint: it looks like a web page"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a checkpoint in PyTorch's old format"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0}.", "a checkpoint in PyTorch's old format"),
        (b"PK\x03\x04 and nothing of a zip", "a damaged or unusual PyTorch zip file"),
        (
            b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "a damaged or unusual PyTorch zip file: it is a zip file without an entry data.pkl",
        ),
        (b"\xff\xff\xff\xff\0\0\0\0{}", "a damaged or unusual safetensors file: header too large"),
        (
            b"\x40\0\0\0\0\0\0\0{}",
            "a damaged or unusual safetensors file: its header does not fit in its 10 bytes",
        ),
    ];
    for (content, expected) in cases {
        std::fs::write(&file, content).unwrap();
        let error = error(folder.path());
        assert!(error.starts_with(&format!("FOLDER/model.safetensors: {expected}")), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(
        error(folder.path()),
        "FOLDER/model.safetensors: cannot read the checkpoint: not a regular file"
    );
    std::fs::remove_dir(&file).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone", &file).unwrap();
        assert!(error(folder.path()).contains("cannot read the checkpoint: No such file"));
    }
}

#[test]
fn headers_that_lie_are_errors() {
    let header =
        |info: &str| safetensors_file(&format!("{{\"embeddings.word_embeddings.weight\":{info}}}"), &[0; 16]);
    let cases = [
        (header(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#), ""),
        (header(r#"{"dtype":"F32","shape":[4],"data_offsets":[4,20]}"#), "invalid offset"),
        (header(r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#), "invalid offset"),
        (
            header(r#"{"dtype":"F32","shape":[5],"data_offsets":[0,16]}"#),
            "invalid shape, data type, or offset",
        ),
        (
            header(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#),
            "bytes are not what its header describes",
        ),
        (
            header(r#"{"dtype":"F32","shape":[8],"data_offsets":[0,32]}"#),
            "bytes are not what its header describes",
        ),
        (header(r#"{"dtype":"F99","shape":[4],"data_offsets":[0,16]}"#), "invalid JSON in header"),
        (header(r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#), "invalid JSON in header"),
        (header(r#"{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,16]}"#), "overflow"),
        (header(r#"{"dtype":"F32","shape":[0,9223372036854775807,9],"data_offsets":[0,0]}"#), ""),
        (
            header(
                r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#,
            ),
            "invalid offset",
        ),
        (safetensors_file(&"[".repeat(100_000), b""), ""),
        (safetensors_file(&format!("{{\"a\":{}", "{\"a\":".repeat(100_000)), b""), "invalid JSON in header"),
    ];
    let folder = folder_with("tiny-64", &["config.json"]);
    for (content, expected) in cases {
        std::fs::write(folder.path().join("model.safetensors"), content).unwrap();
        let error = error(folder.path());
        assert!(error.starts_with("FOLDER/model.safetensors: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn one_file_loads_with_a_configuration_from_anywhere() {
    let (config, weights) = load_checkpoint(
        read_config(&fixture("tiny-96/config.json")).unwrap(),
        &fixture("tiny-96/pytorch_model.bin"),
    )
    .unwrap();
    let folder = load_folder(&fixture("tiny-96")).unwrap();
    assert_eq!(config, folder.config);
    assert_same(&weights, &folder.weights);
    let (stated, _) = load_checkpoint(config.clone(), &fixture("tiny-96/model.safetensors")).unwrap();
    assert_eq!(stated, config);
    let error = load_checkpoint(config, &fixture("tiny-64/model.safetensors")).unwrap_err().to_string();
    assert!(error.contains("config.json says that"), "{error}");
}

#[test]
fn a_folder_says_itself_that_it_is_synthetic() {
    assert!(!Checkpoint::small().load().unwrap().synthetic);
    assert!(Checkpoint::small().stating("danaus_synthetic_seed", 7.into()).load().unwrap().synthetic);
}

#[test]
fn a_folder_says_itself_which_padding_its_model_was_trained_with() {
    let real = Checkpoint::small();
    let synthetic = real.clone().stating("danaus_synthetic_seed", 7.into());
    let padded = |model: &Checkpoint, padding: Value| {
        model.clone().stating("danaus_padding", padding).load().unwrap().padded
    };
    // Where it says nothing, all published models are.
    assert!(real.load().unwrap().padded && padded(&real, Value::Null));
    assert!(!synthetic.load().unwrap().padded && !padded(&synthetic, Value::Null));
    for model in [&real, &synthetic] {
        assert!(padded(model, "max-length".into()));
        assert!(!padded(model, "none".into()));
    }
    assert_eq!(
        real.stating("danaus_padding", "left".into()).load_error(),
        "config.json: danaus_padding is \"left\", which is not supported: \"none\" or \"max-length\""
    );
}

/// Far fields are kept by it: what makes the same vectors must have the same, in whichever file it is.
#[test]
fn a_models_digest_is_that_of_its_numbers() {
    let digest =
        |file: &str| load_folder(folder_with("tiny-64", &["config.json", file]).path()).unwrap().digest();
    let safetensors = digest("model.safetensors");
    assert_eq!(digest("pytorch_model.bin"), safetensors);
    let small = || Checkpoint::small();
    let expected = small().load().unwrap().digest();
    assert_ne!(expected, safetensors);
    let renamed = small().renamed(|name| format!("bert.{name}")).load().unwrap().digest();
    assert_eq!(renamed, expected, "names are no numbers");
    for name in small().tensors.keys() {
        let mut changed = small();
        // The lowest bit of the last value.
        let bytes = &mut changed.tensors.get_mut(name).unwrap().bytes;
        let last = bytes.len() - 4;
        bytes[last] ^= 1;
        assert_ne!(changed.load().unwrap().digest(), expected, "{name}");
    }
    let other = small().stating("layer_norm_eps", 1e-5.into()).load().unwrap().digest();
    assert_ne!(other, expected);
}

//! Synthetic weights against the NumPy generator that defines them.

use std::path::Path;

use danaus_model::synthetic::uniform;
use danaus_model::{
    LoadError, ModelConfig, SyntheticFilters, Tensor, load_folder, synthetic, write_synthetic,
};
use sha2::{Digest, Sha256};

use crate::common::{FIXTURES, assert_same, bits, fixture, small_config, tensors};

/// SHA-256 of tensors as little-endian float32, from NumPy: max_tokens, seed, name, hash.
const HASHES: [(usize, u64, &str, &str); 18] = [
    (
        32_768,
        1,
        "embeddings.word_embeddings.weight",
        "ac2ce4df5896402dacc542c0848a9424c7b38f0e7a655ab85cdf5dc079cee98d",
    ),
    (
        32_768,
        1,
        "embeddings.position_embeddings.weight",
        "7434a470f50195c9ee84264cf1c4dd7ecb535434d6b8745b5904cee6d3681f74",
    ),
    (
        32_768,
        1,
        "embeddings.token_type_embeddings.weight",
        "1fb710cf73fc1a9ecf530bdb3e4e9f795e51a8fee058ba3836455a2b7d9fd87d",
    ),
    (
        32_768,
        1,
        "embeddings.LayerNorm.weight",
        "f2dcc37b3a374cc8d86ac953bf259a62414366b10d0bef23568d27896f86ebec",
    ),
    (32_768, 1, "pooler.dense.weight", "efdcbe520e8f3f8d15d86acd3cb3fbfaa84742e5753d87226c26833b00216288"),
    (
        32_768,
        1,
        "encoder.layer.0.attention.in_linear.weight",
        "09a2455dde791dee3d445d48adbaa50c9a45cac68a0757c0ffedc214690feade",
    ),
    (
        32_768,
        1,
        "encoder.layer.3.attention.filter_fn.implicit_filter.1.freq",
        "74264b422806a9e768786e5108790da2a3c3a6bfaf57e7cd1e29bdab939df9db",
    ),
    (
        32_768,
        1,
        "encoder.layer.11.attention.filter_fn2.bias",
        "3d93987051fd93a4f2b6cc7d052e53729b02360f014f42d2357e5b78274c6d67",
    ),
    (
        32_768,
        1,
        "encoder.layer.7.attention.filter_fn.pos_emb.t",
        "9812054ac692ab4a31d5ed95639061260f1e065cd9c3ccf4e01a84d72ae1e619",
    ),
    (
        32_768,
        1,
        "encoder.layer.7.attention.filter_fn.modulation.deltas",
        "f7e0c0fe25409183ecca5f0ac4c17f69893d1a6499ce30fc09a42e21a329148d",
    ),
    (
        32_768,
        1,
        "encoder.layer.5.attention.filter_fn2.implicit_filter_rev.6.weight",
        "c44caed126bc607653527b752d0164ae9c3c317fbe25777d4fac563725e812f1",
    ),
    (
        32_768,
        1,
        "encoder.layer.2.attention.short_filter.weight",
        "d1d7bbc28528c62c1a621eb71ee07d265236344896c19fae08813ed385ec51e0",
    ),
    (
        32_768,
        1,
        "encoder.layer.5.mlp.wo.weight",
        "39126a30738cc7e5cbb937745781f89794449c1057537c1aa78165a9bcf6f6c5",
    ),
    (
        32_768,
        1,
        "encoder.layer.9.mlp.gated_layers.weight",
        "3a3a291cc9f583e5c9e01bd2d6270fddde94c962aecd83294bab4bb8f90189e5",
    ),
    (
        2048,
        u64::MAX,
        "embeddings.LayerNorm.weight",
        "ac89ff8be4d7975eb17dccc4a482be9c35b98ca63d47daa67856d9aa52b18d49",
    ),
    (
        2048,
        u64::MAX,
        "pooler.dense.weight",
        "acca74d4074d81ffcb1fbecb7a2ef5ae328bfce8c39c9e00a9914595d70d89b1",
    ),
    (
        2048,
        u64::MAX,
        "encoder.layer.0.attention.in_linear.weight",
        "6ba5286e631d6c4efc847b84a474d5cfc60a6d562a7cedd692e432d12dbb5049",
    ),
    (
        2048,
        u64::MAX,
        "encoder.layer.3.attention.filter_fn.implicit_filter.1.freq",
        "8844485b92efca16d88f03e19b45c356d5fa203d84fc69ad340c3e950bc922c0",
    ),
];

fn write_rough(config: &ModelConfig, seed: u64, out: &Path, force: bool) -> Result<(), LoadError> {
    write_synthetic(config, seed, SyntheticFilters::default(), out, force)
}

fn sha256(tensor: &Tensor) -> String {
    let bytes: Vec<u8> = tensor.to_vec().iter().flat_map(|value| value.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn tensors_of_the_80m_shape_have_numpys_bits() {
    let models = [(32_768, 1), (2048, u64::MAX)].map(|(max_tokens, seed)| {
        ((max_tokens, seed), tensors(&synthetic(&ModelConfig::m2_bert_80m(max_tokens), seed).weights))
    });
    for (max_tokens, seed, name, hash) in HASHES {
        let (_, model) = models.iter().find(|(key, _)| *key == (max_tokens, seed)).unwrap();
        assert_eq!(sha256(&model[name]), hash, "{name}");
    }
}

/// Sine and cosine may differ in the last bit between libraries, so positional features are compared by units in the
/// last place: values of `encoder.layer.4.attention.filter_fn.pos_emb.z` from NumPy, by index.
#[test]
fn positional_features_are_numpys_to_the_last_place() {
    let long = [
        (0, 0xbc02f0cd),
        (1, 0x3f7ee73f),
        (2, 0x3f8064fe),
        (3, 0x3bf8e3c5),
        (4, 0xbbec5eee),
        (5, 0x3c0579fa),
        (54613, 0x3c148356),
        (81920, 0x3f010b3f),
        (163835, 0x3f80a459),
        (163836, 0x3f800a8f),
        (163837, 0x3f80b525),
        (163838, 0xbc16ac39),
        (163839, 0xbac8a10f),
    ];
    let short = [
        (0, 0x3b1e828f),
        (1, 0x3f8119c7),
        (2, 0x3f8144c0),
        (3, 0x3a8370ae),
        (4, 0x3bf6b407),
        (5, 0x3b75d8dc),
        (3413, 0x3bc0bc9e),
        (5120, 0x3f02136a),
        (10235, 0x3f806592),
        (10236, 0x3f7eabd5),
        (10237, 0x3f7ec225),
        (10238, 0x3c15f9fe),
        (10239, 0xbb6b45e8),
    ];
    for (max_tokens, seed, expected) in [(32_768, 1, long), (2048, u64::MAX, short)] {
        let config =
            ModelConfig { num_hidden_layers: 5, vocab_size: 8, ..ModelConfig::m2_bert_80m(max_tokens) };
        let features = bits(&synthetic(&config, seed).weights.layers[4].filter.features);
        for (index, expected) in expected {
            let got: u32 = features[index];
            assert!(got.abs_diff(expected) <= 1, "index {index}: {got:#x}, expected {expected:#x}");
        }
    }
}

#[test]
fn the_stream_is_numpys() {
    let expected = [0.06670606f32, 0.29636848, 0.053452253, -0.82649994, 0.8030542];
    assert_eq!(uniform("ids.7", 3, 5), expected);
    let long = uniform("ids.7", 3, 200_000);
    assert_eq!(&long[..5], expected, "values do not depend on how many there are");
    assert!(long.iter().all(|x| (-1.0..1.0).contains(x)));
    assert!(uniform("ids.7", 3, 0).is_empty());
}

/// The fixtures were written by the NumPy generator, for three shapes with an odd and a small number of features.
#[test]
fn fixtures_are_reproduced() {
    for (name, seed) in FIXTURES {
        let loaded = load_folder(&fixture(name)).unwrap();
        let (stored, made) = (tensors(&loaded.weights), tensors(&synthetic(&loaded.config, seed).weights));
        assert_eq!(stored.len(), made.len());
        for (tensor, stored) in &stored {
            let tolerance = if tensor.ends_with("pos_emb.z") { 1 } else { 0 };
            let (stored, made) = (bits(stored), bits(&made[tensor]));
            assert_eq!(stored.len(), made.len());
            let differs = stored.iter().zip(&made).any(|(one, other)| one.abs_diff(*other) > tolerance);
            assert!(!differs, "{name}: {tensor}");
        }
    }
}

#[test]
fn a_written_model_loads_as_the_one_that_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a/b");
    let config = ModelConfig { hyena_w: 4.0, layer_norm_eps: 1e-6, pool_all: true, ..small_config() };
    write_rough(&config, 11, &out, false).unwrap();
    let loaded = load_folder(&out).unwrap();
    assert!(loaded.synthetic, "it is known to be synthetic");
    assert_eq!((loaded.id.as_str(), &loaded.revision, &loaded.config), ("b", &None, &config));
    assert_same(&loaded.weights, &synthetic(&config, 11).weights);
    let mut names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"], "nothing temporary is left");
}

#[test]
fn a_model_without_position_table_is_written_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = ModelConfig { use_positional_encodings: false, ..small_config() };
    write_rough(&config, 1, folder.path(), false).unwrap();
    assert!(load_folder(folder.path()).unwrap().weights.embeddings.position.is_none());
}

#[test]
fn existing_files_are_overwritten_only_when_forced() {
    for name in ["config.json", "model.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), "precious").unwrap();
        let error = write_rough(&small_config(), 1, folder.path(), false).unwrap_err().to_string();
        assert!(error.ends_with("exists already: choose another folder, or force overwriting"), "{error}");
        assert!(error.contains(name));
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        write_rough(&small_config(), 1, folder.path(), true).unwrap();
        load_folder(folder.path()).unwrap();
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write_rough(&small_config(), 1, &file, false).unwrap_err().to_string();
    assert!(error.starts_with("cannot write"), "{error}");
    let invalid = ModelConfig { monarch_mlp_nblocks: 3, ..small_config() };
    let out = folder.path().join("out");
    let error = write_rough(&invalid, 1, &out, false).unwrap_err().to_string();
    assert!(error.contains("hidden_size is 8, which is not supported"), "{error}");
    assert!(!out.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_written_file_is_readable_like_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    write_rough(&small_config(), 1, folder.path(), false).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&folder.path().join(name)), mode(&plain), "{name}");
    }
}

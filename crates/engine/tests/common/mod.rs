//! What tests share: fixtures, the comparison that names the worst component, and files of far fields.
#![allow(dead_code)] // each test binary uses its part

#[cfg(feature = "wgpu")]
pub mod adapters;
pub mod faulty;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use danaus_engine::padding::{Budget, FarFields, Probes, Store, prepare};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Padding, Pooling, finish};
use danaus_model::{
    FilterFamily, LoadedModel, ModelConfig, Tokenizer, load_checkpoint, read_config, synthetic,
    synthetic_with,
};
use danaus_simd::Isa;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
pub struct Embeddings {
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub ids: Option<Vec<u32>>,
    pub length: Option<usize>,
    pub pooling: String,
    pub pad_to: Option<usize>,
    pub embedding: Vec<f32>,
}

#[derive(Deserialize)]
pub struct Stages {
    pub ids: Vec<u32>,
    pub stages: Vec<Stage>,
    pub last_hidden_state: Vec<f32>,
}

#[derive(Deserialize)]
pub struct Stage {
    pub stage: String,
    pub values: Vec<f32>,
}

impl Case {
    pub fn tokens(&self) -> usize {
        self.ids.as_ref().map(Vec::len).or(self.length).unwrap()
    }

    /// The ids of an 80M case follow from its length where they are not listed.
    pub fn ids(&self) -> Vec<u32> {
        self.ids.clone().unwrap_or_else(|| golden_ids(self.tokens()))
    }

    pub fn pooling(&self) -> Pooling {
        match self.pooling.as_str() {
            "pooler" => Pooling::Model,
            name => name.parse().unwrap(),
        }
    }

    pub fn padding(&self) -> Padding {
        if self.pad_to.is_some() { Padding::MaxLength } else { Padding::None }
    }
}

pub fn golden_ids(tokens: usize) -> Vec<u32> {
    let draws = synthetic::uniform(&format!("ids.{tokens}"), 1, tokens);
    draws.into_iter().map(|u| 1000 + ((f64::from(u) + 1.0) / 2.0 * 29522.0).floor() as u32).collect()
}

/// In `DANAUS_FIXTURES` for tests that run where the sources are not, else in the repository.
pub fn fixture(path: &str) -> PathBuf {
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    std::env::var_os("DANAUS_FIXTURES").map_or_else(here, PathBuf::from).join(path)
}

pub fn read<T: for<'de> Deserialize<'de>>(path: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

/// One of the tiny fixtures, from one of its files.
pub fn tiny_model(name: &str, file: &str) -> LoadedModel {
    let config = read_config(&fixture(&format!("{name}/config.json"))).unwrap();
    let (config, weights) = load_checkpoint(config, &fixture(&format!("{name}/{file}"))).unwrap();
    LoadedModel { id: file.to_owned(), revision: None, config, weights, synthetic: true, padded: true }
}

/// A backend on the instruction set that `DANAUS_ISA` names, or else the CPU's best.
pub fn backend(model: &LoadedModel) -> CpuBackend {
    let instruction_set = std::env::var("DANAUS_ISA").ok();
    let options = BackendOptions { dtype: Dtype::F32, instruction_set, ..BackendOptions::default() };
    CpuBackend::new(model, &options).unwrap()
}

/// A backend for each instruction set of this machine.
pub fn backends(model: &LoadedModel) -> Vec<CpuBackend> {
    let options = |isa: Isa| BackendOptions {
        dtype: Dtype::F32,
        instruction_set: Some(isa.name().to_owned()),
        ..BackendOptions::default()
    };
    Isa::available().into_iter().map(|isa| CpuBackend::new(model, &options(isa)).unwrap()).collect()
}

pub fn embed(backend: &dyn Backend, ids: &[u32], pooling: Pooling, padding: Padding) -> Vec<f32> {
    let pooled = backend.embed(&[backend.text(ids, pooling, padding)]).unwrap().remove(0);
    finish(pooled, None, true).unwrap()
}

pub fn largest_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let errors = got.iter().zip(expected).map(|(&g, &e)| (f64::from(g) - f64::from(e)).abs());
    errors.fold(0.0, |worst, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) })
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A shape that tests run in milliseconds, with the real vocabulary.
pub fn small_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        hyena_filter_order: 16,
        max_position_embeddings: 300,
        long_conv_l_max: 300,
        ..ModelConfig::m2_bert_80m(2048)
    }
}

/// The probe texts of a model with the real vocabulary.
pub fn probes() -> Probes {
    Probes::new(&Tokenizer::bert_base_uncased(), 30_528)
}

/// Far fields of any size whose errors are within `bound`.
pub fn within(bound: f64) -> Budget {
    Budget { error: bound, bytes: usize::MAX }
}

/// Prepares fast padding for a model with the real vocabulary.
pub fn prepared(backend: &dyn Backend, bound: f64) -> Arc<FarFields> {
    prepare(backend, &probes(), within(bound), None, &mut |_, _| ()).unwrap()
}

/// A small model whose filters are as smooth as trained ones are expected to be: most texts have a far field.
pub fn smooth_model() -> LoadedModel {
    synthetic_with(&small_config(), 5, FilterFamily::Smooth.into())
}

/// Texts of that many tokens that are no probes: English, code, and random tokens.
pub fn other_texts(tokens: usize) -> [Vec<u32>; 3] {
    static IDS: OnceLock<[Vec<u32>; 2]> = OnceLock::new();
    let [english, code] = IDS.get_or_init(|| {
        let english = std::fs::read_to_string(fixture("english/texts.txt")).unwrap();
        [&english[..], include_str!("mod.rs")].map(|text| {
            let ids = Tokenizer::bert_base_uncased().encode_ids(text, usize::MAX).unwrap();
            ids[1..ids.len() - 1].to_vec()
        })
    });
    let part = |ids: &Vec<u32>| {
        let inside = tokens.saturating_sub(2);
        let from = 31 * tokens % (ids.len() - inside);
        [&[101][..], &ids[from..from + inside], &[102]].concat()[..tokens].to_vec()
    };
    [part(english), part(code), golden_ids(tokens)]
}

/// What stands for the digest of a model.
pub const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A store in an empty folder of that name, which does not exist yet.
pub fn far_field_store(folder: &str, bound: f64) -> Store {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("far-fields").join(folder);
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).unwrap();
    } else if folder.exists() {
        std::fs::remove_file(&folder).unwrap();
    }
    Store::new(&folder, DIGEST, "f32", bound)
}

/// Rewrites what a store's file says of itself as if it had been written so, and leaves its tensors as they are.
pub fn with_header(store: &Store, edit: impl FnOnce(&mut Value)) {
    with_metadata(store, |metadata, data| {
        let notes = &mut metadata["__metadata__"]["danaus_far_fields"];
        let (_, header) = notes.as_str().unwrap().split_once(' ').unwrap();
        let mut header = serde_json::from_str(header).unwrap();
        edit(&mut header);
        let header = header.to_string();
        let digest = Sha256::new().chain_update(&header).chain_update(data).finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        *notes = json!(format!("{digest} {header}"));
    });
}

/// Rewrites the JSON at the beginning of a store's file; `edit` also gets what follows.
pub fn with_metadata(store: &Store, edit: impl FnOnce(&mut Value, &[u8])) {
    let file = std::fs::read(store.path()).unwrap();
    let (length, rest) = file.split_first_chunk().unwrap();
    let (json, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut metadata = serde_json::from_slice(json).unwrap();
    edit(&mut metadata, data);
    let mut json = metadata.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    std::fs::write(store.path(), [&(json.len() as u64).to_le_bytes(), &json[..], data].concat()).unwrap();
}

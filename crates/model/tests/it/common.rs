//! Fixtures, and small checkpoints made by hand.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use danaus_model::{
    FilterMlp, LayerNorm, Linear, LoadError, LoadedModel, LongFilter, ModelConfig, Tensor, Weights,
    load_folder,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The fixture models and the seeds of their weights.
pub const FIXTURES: [(&str, u64); 3] = [("tiny-64", 1), ("tiny-96", 2), ("tiny-2-blocks", 3)];

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// A folder with only the named files of a fixture.
pub fn folder_with(name: &str, files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Every tensor of a model by its name in a checkpoint, frequencies under all six names.
pub fn tensors(weights: &Weights) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    let mut put = |name: String, tensor: &Tensor| assert!(all.insert(name, tensor.clone()).is_none());
    let embeddings = &weights.embeddings;
    put("embeddings.word_embeddings.weight".into(), &embeddings.word);
    embeddings.position.iter().for_each(|table| put("embeddings.position_embeddings.weight".into(), table));
    put("embeddings.token_type_embeddings.weight".into(), &embeddings.token_type);
    put_norm(&mut put, "embeddings.LayerNorm", &embeddings.layer_norm);
    put_linear(&mut put, "pooler.dense", &weights.pooler);
    for (index, layer) in weights.layers.iter().enumerate() {
        let (mixer, mlp) = (format!("encoder.layer.{index}.attention"), format!("encoder.layer.{index}.mlp"));
        put_linear(&mut put, &format!("{mixer}.in_linear"), &layer.in_linear);
        put_linear(&mut put, &format!("{mixer}.short_filter"), &layer.short_filter);
        put_linear(&mut put, &format!("{mixer}.out_linear"), &layer.out_linear);
        put_filter(&mut put, &format!("{mixer}.filter_fn"), &layer.filter);
        put_filter(&mut put, &format!("{mixer}.filter_fn2"), &layer.residual_filter);
        put(format!("{mlp}.gated_layers.weight"), &layer.gated_layers);
        put_linear(&mut put, &format!("{mlp}.wo"), &layer.wo);
        put_norm(&mut put, &format!("{mlp}.layernorm"), &layer.layer_norm);
    }
    all
}

fn put_linear(put: &mut impl FnMut(String, &Tensor), name: &str, linear: &Linear) {
    put(format!("{name}.weight"), &linear.weight);
    put(format!("{name}.bias"), &linear.bias);
}

fn put_norm(put: &mut impl FnMut(String, &Tensor), name: &str, norm: &LayerNorm) {
    put(format!("{name}.weight"), &norm.weight);
    put(format!("{name}.bias"), &norm.bias);
}

fn put_filter(put: &mut impl FnMut(String, &Tensor), name: &str, filter: &LongFilter) {
    put(format!("{name}.bias"), &filter.skip);
    put(format!("{name}.pos_emb.z"), &filter.features);
    put(format!("{name}.pos_emb.t"), &filter.time);
    put(format!("{name}.modulation.deltas"), &filter.deltas);
    put_mlp(put, &format!("{name}.implicit_filter"), &filter.forward);
    put_mlp(put, &format!("{name}.implicit_filter_rev"), &filter.reverse);
}

fn put_mlp(put: &mut impl FnMut(String, &Tensor), name: &str, mlp: &FilterMlp) {
    for (layer, index) in mlp.sine_layers.iter().zip([0, 2, 4]) {
        put_linear(put, &format!("{name}.{index}"), &layer.linear);
        put(format!("{name}.{}.freq", index + 1), &layer.frequency);
    }
    put(format!("{name}.6.weight"), &mlp.output);
}

/// Asserts that two models have the same tensors, bit for bit.
pub fn assert_same(one: &Weights, other: &Weights) {
    let (one, other) = (tensors(one), tensors(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, tensor) in &one {
        assert_eq!(tensor.shape(), other[name].shape(), "{name}");
        assert!(bits(tensor) == bits(&other[name]), "{name} differs");
    }
}

pub fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec().into_iter().map(f32::to_bits).collect()
}

/// The smallest sensible configuration.
pub fn small_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 40,
        hidden_size: 8,
        num_hidden_layers: 2,
        intermediate_size: 12,
        max_position_embeddings: 10,
        long_conv_l_max: 10,
        hyena_filter_order: 6,
        monarch_mlp_nblocks: 2,
        ..ModelConfig::m2_bert_80m(10)
    }
}

/// One tensor to be written: dtype as safetensors names it, shape, bytes.
#[derive(Clone)]
pub struct Stored {
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self::new("F32", shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn new(dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { dtype, shape: shape.to_vec(), bytes }
    }
}

/// A checkpoint that can be spoilt before it is written.
#[derive(Clone)]
pub struct Checkpoint {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    /// Synthetic weights of the small configuration, as a checkpoint keeps them: one frequency per filter.
    pub fn small() -> Self {
        let config = small_config();
        let model = danaus_model::synthetic(&config, 7);
        let kept = |name: &str| !name.ends_with(".freq") || name.ends_with("implicit_filter.1.freq");
        let stored = tensors(&model.weights)
            .into_iter()
            .filter(|(name, _)| kept(name))
            .map(|(name, tensor)| (name, Stored::f32(tensor.shape(), &tensor.to_vec())))
            .collect();
        Self { config: json!(config), tensors: stored }
    }

    /// Renames every tensor.
    pub fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        self
    }

    /// Adds tensors that hold ones, under full names.
    pub fn with(mut self, name: &str, tensor: Stored) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name).unwrap();
        self
    }

    pub fn without_keys(mut self, keys: &[&str]) -> Self {
        for key in keys {
            self.config.as_object_mut().unwrap().remove(*key).unwrap();
        }
        self
    }

    pub fn stating(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The bytes of a safetensors file.
    pub fn safetensors(&self) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in &self.tensors {
            let start = data.len();
            data.extend_from_slice(&tensor.bytes);
            let info =
                json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), info);
        }
        safetensors_file(&Value::Object(header).to_string(), &data)
    }

    /// Writes config.json and model.safetensors into a folder.
    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), self.safetensors()).unwrap();
        folder
    }

    pub fn load(&self) -> Result<LoadedModel, LoadError> {
        load_folder(self.write().path())
    }

    /// The message of the error that loading ends in, without the path.
    pub fn load_error(&self) -> String {
        let folder = self.write();
        let message = load_folder(folder.path()).unwrap_err().to_string();
        message.replace(&format!("{}/", folder.path().display()), "")
    }
}

pub fn safetensors_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// What `run` returns, and what it logged.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, String) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .without_time()
        .finish();
    let result = tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (result, text)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

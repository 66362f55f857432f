//! What the fuzz targets share: a small real model, and checkpoints written to a file.

use std::path::PathBuf;
use std::sync::Arc;

use danaus_engine::{
    Backend, BackendOptions, Device, Dtype, EngineError, Padding, Pooling, load_backend,
};
use danaus_model::{ConfigFile, LoadedModel, ModelConfig, load_checkpoint};

/// The longest text of the small model, in tokens: short, so that a text over it is short too.
pub const MAX_TOKENS: usize = 64;

/// A model that takes microseconds, computed by the code that computes real ones.
pub fn small_backend() -> Arc<dyn Backend> {
    let config = ModelConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        hyena_filter_order: 8,
        ..ModelConfig::m2_bert_80m(MAX_TOKENS)
    };
    backend_of(&danaus_model::synthetic(&config, 1)).expect("a model that the CPU backend takes")
}

/// On one thread of the CPU, in float32: what the target is not about must not vary.
fn backend_of(model: &LoadedModel) -> Result<Arc<dyn Backend>, EngineError> {
    let (device, dtype, threads) = (Device::Cpu, Dtype::F32, Some(1));
    load_backend(model, &BackendOptions { device, dtype, threads, ..BackendOptions::default() })
}

/// The most parameters of a model that is also computed with. Larger ones only take time.
const COMPUTED_PARAMETERS: usize = 1 << 18;

/// Loads a checkpoint of those bytes. An error must be one that a person can read; a model that loads must compute, whatever
/// comes out.
pub fn load(config: ConfigFile, checkpoint: &[u8]) {
    let file = scratch_file();
    std::fs::write(&file, checkpoint).expect("a file in the temporary folder");
    let (config, weights) = match load_checkpoint(config, &file) {
        Ok(loaded) => loaded,
        Err(error) => return assert_readable(&error.to_string()),
    };
    let c = &config;
    let per_layer = c.hidden_size * (4 * c.hidden_size + c.intermediate_size + c.hyena_filter_order);
    let tables = c.hidden_size * (c.vocab_size + c.max_position_embeddings + c.long_conv_l_max);
    if tables + c.num_hidden_layers * per_layer > COMPUTED_PARAMETERS {
        return;
    }
    let ids: Vec<u32> = (0..c.max_tokens().min(5)).map(|id| (id % c.vocab_size) as u32).collect();
    let model =
        LoadedModel { id: "fuzzed".into(), revision: None, config, weights, synthetic: true, padded: false };
    let embed = |backend: Arc<dyn Backend>| backend.embed(&[backend.text(&ids, Pooling::Mean, Padding::None)]);
    match backend_of(&model).and_then(embed) {
        Ok(vectors) => assert_eq!(vectors[0].len(), model.config.hidden_size),
        Err(error) => assert_readable(&error.to_string()),
    }
}

/// An error message has something to say, and does not repeat a whole file.
pub fn assert_readable(message: &str) {
    assert!((10..3000).contains(&message.len()), "{} bytes: {message:.3000}", message.len());
}

/// One file for each process; a model that was loaded from it is gone before the next is written.
fn scratch_file() -> PathBuf {
    std::env::temp_dir().join(format!("danaus-fuzz-{}", std::process::id()))
}

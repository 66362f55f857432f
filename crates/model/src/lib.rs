//! M2-BERT models as data: configuration, checkpoints, the hub they come from, the tokenizer, and synthetic weights.
//!
//! Knows no kernel: what to compute with a [`Weights`] is the engine's matter.

mod architecture;
mod builtin;
mod bytes;
mod checkpoint;
mod config;
mod digest;
mod error;
mod families;
pub mod hub;
mod load;
mod resolve;
mod source;
pub mod synthetic;
mod tensor;
mod threads;
mod tokenizer;
mod weights;
mod write;

pub use config::{ConfigError, ConfigFile, ModelConfig};
pub use error::{CheckpointError, LoadError};
pub use families::{FilterFamily, FilterFamilyError, Strength, StrengthError, SyntheticFilters};
pub use hub::{HubError, HubOptions};
pub use load::{PADDING_FILES, load_checkpoint, load_folder, read_config};
pub use source::{
    DEFAULT_MODEL, LoadOptions, ModelSource, ModelSourceError, SYNTHETIC_SEED, SyntheticSize, load,
    load_snapshot,
};
pub use tensor::Tensor;
pub use threads::use_threads;
pub use tokenizer::{Encoding, Tokenizer, TokenizerError, truncate, truncate_start};
pub use weights::{Embeddings, FilterMlp, Layer, LayerNorm, Linear, LongFilter, SineLayer, Weights};
pub use write::{check_writable, write_file, write_synthetic};

/// A model that is ready to be computed with.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// What to call it: the hub id, the folder's name, `builtin`, or `synthetic:32k` (`synthetic:32k:smooth`).
    pub id: String,
    /// The hub's commit, where it came from there.
    pub revision: Option<String>,
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights, validated.
    pub weights: Weights,
    /// Whether the weights are synthetic, so that vectors carry no meaning.
    pub synthetic: bool,
    /// Whether it was trained on texts padded to its length, as the published models were: `danaus_padding` in its
    /// `config.json` says so, or that it was not; where that is absent, all but synthetic ones are taken to be.
    pub padded: bool,
}

/// A model of any shape with synthetic weights: a pure function of `config` and `seed`.
///
/// # Panics
/// Where `config` is not valid (see [`ModelConfig::validate`]).
pub fn synthetic(config: &ModelConfig, seed: u64) -> LoadedModel {
    synthetic_with(config, seed, SyntheticFilters::default())
}

/// As [`synthetic()`], with long filters of some other family or strength.
///
/// # Panics
/// Where `config` is not valid (see [`ModelConfig::validate`]).
pub fn synthetic_with(config: &ModelConfig, seed: u64, filters: SyntheticFilters) -> LoadedModel {
    if let Err(error) = config.validate() {
        panic!("synthetic weights of an invalid configuration: {error}");
    }
    LoadedModel {
        id: "synthetic".to_owned(),
        revision: None,
        config: config.clone(),
        weights: synthetic::weights(config, seed, filters),
        synthetic: true,
        padded: false,
    }
}

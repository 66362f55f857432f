//! The shape of a model, as `config.json` gives it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Sizes and switches of an M2-BERT encoder. Fields are named as the keys of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of a hidden state (H).
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Width inside the state mixer's MLP, after the gate (I).
    pub intermediate_size: usize,
    /// Rows of the token-type table.
    pub type_vocab_size: usize,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f64,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Whether the position table is added to the token embeddings.
    pub use_positional_encodings: bool,
    /// Longest input of the long convolutions (L).
    pub long_conv_l_max: usize,
    /// Positional features that a filter's MLP reads (E), odd: time, then cosines and sines.
    pub hyena_emb_dim: usize,
    /// Width of a filter's MLP (F).
    pub hyena_filter_order: usize,
    /// Initial frequency of the filters' sines.
    pub hyena_w: f64,
    /// Factor on the argument of the filters' sines.
    pub hyena_w_mod: f64,
    /// Whether the long convolutions look ahead too. Only `true` is supported.
    pub bidirectional: bool,
    /// Whether a second long convolution of the layer's input is added. Only `true` is supported.
    pub residual_long_conv: bool,
    /// A training variant of the mixer. Only `false` is supported.
    pub hyena_training_additions: bool,
    /// Whether the MLP is gated. Only `true` is supported.
    pub use_glu_mlp: bool,
    /// Whether the MLP's matrices are block-diagonal. Only `true` is supported.
    pub use_monarch_mlp: bool,
    /// Diagonal blocks in the MLP's matrices (N).
    pub monarch_mlp_nblocks: usize,
    /// The id of `[PAD]`.
    pub pad_token_id: u32,
    /// The published sentence embedding is the first token's hidden state.
    pub use_cls_token: bool,
    /// The published sentence embedding is the mean of the hidden states, through the pooler.
    pub pool_all: bool,
    /// Activation of the MLP. Only `gelu` is supported.
    pub hidden_act: String,
}

/// A configuration that cannot be computed with, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("not a JSON object: {0}")]
    NotAnObject(String),
    /// A value of the wrong type.
    #[error("{key} is {value}: expected {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value that this encoder does not implement, or that makes no sense.
    #[error("{key} is {value}, which is not supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What is supported.
        supported: String,
    },
}

/// A `config.json`: the model's configuration, and which sizes the file states. Those of the others come from
/// M2-BERT-80M with 32,768 tokens, until a checkpoint's shapes decide.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    pub(crate) values: ModelConfig,
    pub(crate) stated: BTreeSet<&'static str>,
    pub(crate) synthetic: bool,
    pub(crate) padded: bool,
}

/// The key of a `config.json` that says that its checkpoint is synthetic, and from which seed.
pub(crate) const SYNTHETIC_SEED_KEY: &str = "danaus_synthetic_seed";

/// The keys of a `config.json` that say which filters a synthetic checkpoint has, where they are not the default.
pub(crate) const SYNTHETIC_FILTERS_KEYS: [&str; 2] =
    ["danaus_synthetic_filters", "danaus_synthetic_strength"];

/// The key of a `config.json` that says which padding a model was trained with: `none` or `max-length`.
const PADDING_KEY: &str = "danaus_padding";

/// Upper bound of a model's parameters: 16 GiB in float32.
const MAX_PARAMETERS: usize = 1 << 32;

impl ModelConfig {
    /// M2-BERT-80M, for texts of up to `max_tokens` tokens: 2,048, 8,192 and 32,768 are published.
    pub fn m2_bert_80m(max_tokens: usize) -> Self {
        Self {
            vocab_size: 30528,
            hidden_size: 768,
            num_hidden_layers: 12,
            intermediate_size: 3072,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            max_position_embeddings: max_tokens,
            use_positional_encodings: true,
            long_conv_l_max: max_tokens,
            hyena_emb_dim: 5,
            hyena_filter_order: 128,
            hyena_w: 10.0,
            hyena_w_mod: 1.0,
            bidirectional: true,
            residual_long_conv: true,
            hyena_training_additions: false,
            use_glu_mlp: true,
            use_monarch_mlp: true,
            monarch_mlp_nblocks: 4,
            pad_token_id: 0,
            use_cls_token: false,
            pool_all: false,
            hidden_act: "gelu".to_owned(),
        }
    }

    /// The longest text, in tokens, special tokens included.
    pub fn max_tokens(&self) -> usize {
        if self.use_positional_encodings {
            self.long_conv_l_max.min(self.max_position_embeddings)
        } else {
            self.long_conv_l_max
        }
    }

    /// Checks that this encoder can be computed with this configuration.
    ///
    /// # Errors
    /// The first key whose value is not supported.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_architecture()?;
        self.validate_sizes()?;
        self.validate_relations()
    }

    fn validate_architecture(&self) -> Result<(), ConfigError> {
        let switches = [
            ("bidirectional", self.bidirectional, true),
            ("residual_long_conv", self.residual_long_conv, true),
            ("hyena_training_additions", self.hyena_training_additions, false),
            ("use_glu_mlp", self.use_glu_mlp, true),
            ("use_monarch_mlp", self.use_monarch_mlp, true),
        ];
        for (key, value, supported) in switches {
            if value != supported {
                return Err(unsupported(
                    key,
                    value,
                    format!("only {supported} is, as in the M2-BERT-80M models"),
                ));
            }
        }
        if self.hidden_act != "gelu" {
            return Err(unsupported(
                "hidden_act",
                self.hidden_act.as_str(),
                "only \"gelu\" (the exact one, by erf) is",
            ));
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        // Far above any published model, and low enough that no product of three overflows.
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
            ("long_conv_l_max", self.long_conv_l_max, 1 << 24),
            ("hyena_emb_dim", self.hyena_emb_dim, 1 << 10),
            ("hyena_filter_order", self.hyena_filter_order, 1 << 14),
            ("monarch_mlp_nblocks", self.monarch_mlp_nblocks, 1 << 16),
        ];
        for (key, size, most) in sizes {
            if size == 0 || size > most {
                return Err(unsupported(key, size, format!("expected 1 to {most}")));
            }
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(unsupported(
                "layer_norm_eps",
                self.layer_norm_eps,
                "expected a finite number, 0 or more",
            ));
        }
        for (key, value) in [("hyena_w", self.hyena_w), ("hyena_w_mod", self.hyena_w_mod)] {
            if !(value as f32).is_finite() {
                return Err(unsupported(key, value, "expected a number that fits in float32"));
            }
        }
        Ok(())
    }

    fn validate_relations(&self) -> Result<(), ConfigError> {
        let blocks = self.monarch_mlp_nblocks;
        for (key, size) in [("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)]
        {
            if !size.is_multiple_of(blocks) {
                let supported = format!("expected a multiple of monarch_mlp_nblocks, which is {blocks}");
                return Err(unsupported(key, size, supported));
            }
        }
        if self.hyena_emb_dim.is_multiple_of(2) {
            let supported = "expected an odd number (time, then pairs of cosine and sine)";
            return Err(unsupported("hyena_emb_dim", self.hyena_emb_dim, supported));
        }
        if self.pad_token_id as usize >= self.vocab_size {
            let supported = format!("expected an id below vocab_size, which is {}", self.vocab_size);
            return Err(unsupported("pad_token_id", self.pad_token_id, supported));
        }
        let parameters = self.parameters();
        if parameters > MAX_PARAMETERS {
            let supported = format!(
                "with the other sizes it makes {parameters} parameters, and at most {MAX_PARAMETERS} are supported"
            );
            return Err(unsupported("hidden_size", self.hidden_size, supported));
        }
        Ok(())
    }

    /// The sizes that tensors' shapes tell too, by their keys.
    pub(crate) fn sizes_mut(&mut self) -> [(&'static str, &mut usize); 10] {
        [
            ("vocab_size", &mut self.vocab_size),
            ("hidden_size", &mut self.hidden_size),
            ("num_hidden_layers", &mut self.num_hidden_layers),
            ("intermediate_size", &mut self.intermediate_size),
            ("type_vocab_size", &mut self.type_vocab_size),
            ("max_position_embeddings", &mut self.max_position_embeddings),
            ("long_conv_l_max", &mut self.long_conv_l_max),
            ("hyena_emb_dim", &mut self.hyena_emb_dim),
            ("hyena_filter_order", &mut self.hyena_filter_order),
            ("monarch_mlp_nblocks", &mut self.monarch_mlp_nblocks),
        ]
    }

    /// Number of parameters of a model of this shape, computed tensors included; each size must be within its bound.
    fn parameters(&self) -> usize {
        let (h, f) = (self.hidden_size, self.hyena_filter_order);
        let tables = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * h;
        let filters =
            2 * (self.long_conv_l_max * (self.hyena_emb_dim + 1) + 2 * f * (self.hyena_emb_dim + 2 * f + h));
        let mlp = 3 * h * (self.intermediate_size / self.monarch_mlp_nblocks);
        tables + h * h + self.num_hidden_layers * (4 * h * h + filters + mlp)
    }
}

impl ConfigFile {
    /// Reads the text of a `config.json`. Keys that no encoder reads are ignored, and `null` counts as absent.
    ///
    /// # Errors
    /// Text that is not a JSON object, a value of the wrong type, or an architecture that is not supported. Sizes are
    /// checked later, when those that are not stated are known.
    pub fn parse(json: &str) -> Result<Self, ConfigError> {
        let object: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| ConfigError::NotAnObject(error.to_string()))?;
        let mut values = ModelConfig::m2_bert_80m(32_768);
        let stated = read_values(&object, &mut values)?;
        values.validate_architecture()?;
        let synthetic = object.contains_key(SYNTHETIC_SEED_KEY);
        Ok(Self { values, stated, synthetic, padded: padded(&object)?.unwrap_or(!synthetic) })
    }

    /// The configuration where there is no checkpoint to ask: M2-BERT-80M's values for keys that are not stated.
    ///
    /// # Errors
    /// The first key whose value is not supported.
    pub fn into_config(self) -> Result<ModelConfig, ConfigError> {
        self.values.validate()?;
        Ok(self.values)
    }
}

impl From<ModelConfig> for ConfigFile {
    /// A file that states every key.
    fn from(mut values: ModelConfig) -> Self {
        let stated = values.sizes_mut().into_iter().map(|(key, _)| key).collect();
        Self { values, stated, synthetic: false, padded: true }
    }
}

/// Whether the model was trained on texts padded to its length, where `object` says so.
fn padded(object: &Map<String, Value>) -> Result<Option<bool>, ConfigError> {
    match object.get(PADDING_KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if name == "none" => Ok(Some(false)),
        Some(Value::String(name)) if name == "max-length" => Ok(Some(true)),
        Some(value) => Err(unsupported(PADDING_KEY, value.clone(), "\"none\" or \"max-length\"")),
    }
}

/// Overwrites what `object` states; returns which sizes it states.
fn read_values(
    object: &Map<String, Value>,
    c: &mut ModelConfig,
) -> Result<BTreeSet<&'static str>, ConfigError> {
    let mut stated = BTreeSet::new();
    for (key, field) in c.sizes_mut() {
        if read(object, key, field, "a whole number, 1 or more")? {
            stated.insert(key);
        }
    }
    let switches = [
        ("use_positional_encodings", &mut c.use_positional_encodings),
        ("bidirectional", &mut c.bidirectional),
        ("residual_long_conv", &mut c.residual_long_conv),
        ("hyena_training_additions", &mut c.hyena_training_additions),
        ("use_glu_mlp", &mut c.use_glu_mlp),
        ("use_monarch_mlp", &mut c.use_monarch_mlp),
        ("use_cls_token", &mut c.use_cls_token),
        ("pool_all", &mut c.pool_all),
    ];
    for (key, field) in switches {
        read(object, key, field, "true or false")?;
    }
    let numbers = [
        ("layer_norm_eps", &mut c.layer_norm_eps),
        ("hyena_w", &mut c.hyena_w),
        ("hyena_w_mod", &mut c.hyena_w_mod),
    ];
    for (key, field) in numbers {
        read(object, key, field, "a number")?;
    }
    read(object, "pad_token_id", &mut c.pad_token_id, "a token id")?;
    read(object, "hidden_act", &mut c.hidden_act, "a string")?;
    Ok(stated)
}

/// Overwrites `field` where `object` has `key`; says whether it has.
fn read<T: DeserializeOwned>(
    object: &Map<String, Value>,
    key: &'static str,
    field: &mut T,
    expected: &'static str,
) -> Result<bool, ConfigError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => {
            *field = T::deserialize(value).map_err(|_| ConfigError::WrongType {
                key,
                value: shortened(value),
                expected,
            })?;
            Ok(true)
        }
    }
}

/// `value` as JSON, cut where it is long: it comes from outside and goes into an error message.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn unsupported(key: &'static str, value: impl Into<Value>, supported: impl Into<String>) -> ConfigError {
    ConfigError::Unsupported { key, value: shortened(&value.into()), supported: supported.into() }
}

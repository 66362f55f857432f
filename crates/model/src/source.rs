//! Which model to load, and loading it from wherever it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::families::FilterFamily;
use crate::hub::{self, HubError, HubOptions, Snapshot};
use crate::load::{described, load_checkpoint, load_folder, read_config};
use crate::{LoadedModel, builtin, synthetic_with};

/// The hub id of the model that is used where none is named.
pub const DEFAULT_MODEL: &str = "togethercomputer/m2-bert-80M-32k-retrieval";

/// Seed of the models that [`ModelSource::Synthetic`] names.
pub const SYNTHETIC_SEED: u64 = 1;

/// Where a model comes from. Reads from text as `builtin`, `synthetic`, `synthetic:2k`, `synthetic:8k`, `synthetic:32k` (each
/// of the three also with a family of filters, as in `synthetic:2k:smooth`), the path of a folder that exists, or a hub id
/// `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The small model that comes with the program: 384 dimensions, 2,048 tokens, real vectors.
    Builtin,
    /// M2-BERT-80M's shape with weights from [`SYNTHETIC_SEED`] and filters of that family: vectors carry no meaning.
    Synthetic(SyntheticSize, FilterFamily),
    /// A folder with `config.json` and a checkpoint.
    Folder(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub(String),
}

/// The longest text that a synthetic model takes: the sizes of the published models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyntheticSize {
    /// 2,048 tokens.
    K2,
    /// 8,192 tokens.
    K8,
    /// 32,768 tokens.
    #[default]
    K32,
}

impl SyntheticSize {
    /// Number of tokens.
    pub fn max_tokens(self) -> usize {
        match self {
            SyntheticSize::K2 => 2048,
            SyntheticSize::K8 => 8192,
            SyntheticSize::K32 => 32_768,
        }
    }

    /// The size that is called `name`.
    fn named(name: &str) -> Option<Self> {
        [Self::K2, Self::K8, Self::K32].into_iter().find(|size| size.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            SyntheticSize::K2 => "2k",
            SyntheticSize::K8 => "8k",
            SyntheticSize::K32 => "32k",
        }
    }
}

/// A model source that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{input:?} {problem}: expected a hub id (owner/name, such as {DEFAULT_MODEL}), a folder with config.json and a \
     checkpoint, builtin, or synthetic (synthetic:2k, synthetic:8k, synthetic:32k; then, for filters of one family, :init, \
     :smooth, :mid or :rough)"
)]
pub struct ModelSourceError {
    input: String,
    problem: &'static str,
}

impl FromStr for ModelSource {
    type Err = ModelSourceError;

    fn from_str(input: &str) -> Result<Self, ModelSourceError> {
        let error = |problem| ModelSourceError { input: input.to_owned(), problem };
        match input {
            builtin::NAME => return Ok(ModelSource::Builtin),
            "synthetic" => {
                return Ok(ModelSource::Synthetic(SyntheticSize::default(), FilterFamily::default()));
            }
            _ => {}
        }
        if let Some(kind) = input.strip_prefix("synthetic:") {
            return synthetic_kind(kind).map_err(error);
        }
        match Path::new(input) {
            path if path.is_dir() => Ok(ModelSource::Folder(path.to_owned())),
            path if path.exists() => Err(error("is a file, not the folder that holds it")),
            _ if hub::is_repository_id(input) => Ok(ModelSource::Hub(input.to_owned())),
            _ => Err(error("is neither a folder that exists nor a hub id")),
        }
    }
}

/// The synthetic model of that size, or of that size and family: `2k`, `2k:smooth`. Else, what is wrong.
fn synthetic_kind(kind: &str) -> Result<ModelSource, &'static str> {
    let (size, family) = match kind.split_once(':') {
        Some((size, family)) => (size, Some(family)),
        None => (kind, None),
    };
    let size = SyntheticSize::named(size).ok_or("is no size of a synthetic model")?;
    let family = match family {
        Some(name) => name.parse().map_err(|_| "names no family of filters")?,
        None => FilterFamily::default(),
    };
    Ok(ModelSource::Synthetic(size, family))
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelSource::Builtin => f.write_str(builtin::NAME),
            ModelSource::Synthetic(size, family) => {
                write!(f, "synthetic:{}", size.name())?;
                if *family == FilterFamily::default() { Ok(()) } else { write!(f, ":{family}") }
            }
            ModelSource::Folder(path) => path.display().fmt(f),
            ModelSource::Hub(id) => f.write_str(id),
        }
    }
}

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the model comes from.
    pub source: ModelSource,
    /// Branch, tag or commit of a hub repository; `main` where `None`. Means nothing for other sources.
    pub revision: Option<String>,
    /// How to reach the hub, and where its cache is.
    pub hub: HubOptions,
}

/// Loads a model. One from the hub that the cache holds needs no network; else it is downloaded.
///
/// # Errors
/// See [`LoadError`]. A hub that cannot be reached is one within 30 seconds.
pub fn load(options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    match &options.source {
        ModelSource::Builtin => builtin::load(),
        ModelSource::Synthetic(size, family) => {
            let config = ModelConfig::m2_bert_80m(size.max_tokens());
            let model = synthetic_with(&config, SYNTHETIC_SEED, (*family).into());
            Ok(LoadedModel { id: options.source.to_string(), ..model })
        }
        ModelSource::Folder(path) => load_folder(path),
        ModelSource::Hub(id) => {
            let snapshot = hub::fetch(id, options.revision.as_deref(), &options.hub)?;
            load_snapshot(&snapshot)
        }
    }
}

/// Loads a model from the hub's cache.
///
/// # Errors
/// A damaged file, which is then removed from the cache, or one of another model.
pub fn load_snapshot(snapshot: &Snapshot) -> Result<LoadedModel, LoadError> {
    let loaded = read_config(&snapshot.config).and_then(|config| {
        described(snapshot.id.clone(), config, |config| load_checkpoint(config, &snapshot.checkpoint))
    });
    let model = loaded.map_err(|error| blame_damage(snapshot, error))?;
    Ok(LoadedModel { revision: Some(snapshot.commit.clone()), ..model })
}

/// Where a file of the cache is not what the hub has, that is the error, and not what came of it.
fn blame_damage(snapshot: &Snapshot, error: LoadError) -> LoadError {
    for file in [&snapshot.config, &snapshot.checkpoint] {
        if let Err(damage @ HubError::Corrupt { .. }) = hub::verify(file) {
            return damage.into();
        }
    }
    error
}

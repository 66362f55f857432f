//! From a folder or a checkpoint file to validated weights.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::LoadedModel;
use crate::architecture::{FREQUENCY_NAMES, Source, assemble};
use crate::bytes::Bytes;
use crate::checkpoint::{Checkpoint, FACTORS};
use crate::config::{ConfigFile, ModelConfig};
use crate::error::{CheckpointError, LoadError};
use crate::resolve::resolve;
use crate::synthetic::{Values, decay_rates, positional_features, time};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// Upper bound of a `config.json`'s size.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Checkpoint files in order of preference.
pub(crate) const PREFERRED: [&str; 3] = ["model.safetensors", "pytorch_model.bin", "model.bin"];

/// Loads the model in a folder: its `config.json`, and its checkpoint, which is `model.safetensors`,
/// `pytorch_model.bin`, `model.bin`, or the only file that ends in `.safetensors`, `.bin` or `.pt`.
///
/// # Errors
/// Files that are lacking, cannot be read, are damaged, or are of another model.
pub fn load_folder(path: &Path) -> Result<LoadedModel, LoadError> {
    let config = read_config(&path.join("config.json"))?;
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let id = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned();
    described(id, config, |config| load_checkpoint(config, &find_checkpoint(path)?))
}

/// The model that `load` loads, with what its `config.json` says beside the sizes.
pub(crate) fn described(
    id: String,
    config: ConfigFile,
    load: impl FnOnce(ConfigFile) -> Result<(ModelConfig, Weights), LoadError>,
) -> Result<LoadedModel, LoadError> {
    let (synthetic, padded) = (config.synthetic, config.padded);
    let (config, weights) = load(config)?;
    Ok(LoadedModel { id, revision: None, config, weights, synthetic, padded })
}

/// Reads a `config.json`.
///
/// # Errors
/// A file that cannot be read, is no JSON object, or describes another architecture.
pub fn read_config(path: &Path) -> Result<ConfigFile, LoadError> {
    let mut json = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_BYTES).read_to_string(&mut json))
        .map_err(|error| LoadError::Io { action: "read", path: path.to_owned(), error })?;
    ConfigFile::parse(&json).map_err(|error| LoadError::Config { path: path.to_owned(), error })
}

/// Loads one checkpoint file, safetensors or a PyTorch zip: its content decides. Sizes that `config` does not state come
/// from the tensors. Returns the configuration with all sizes, and the weights, which stay in the memory-mapped file.
///
/// # Errors
/// A file that cannot be read or is damaged; a tensor that is missing, of another shape or type than expected, or not
/// finite.
pub fn load_checkpoint(
    config: impl Into<ConfigFile>,
    file: &Path,
) -> Result<(ModelConfig, Weights), LoadError> {
    Bytes::open(file)
        .and_then(|bytes| load_bytes(config.into(), bytes, file))
        .map_err(|error| LoadError::Checkpoint { path: file.to_owned(), error })
}

/// Loads a checkpoint from `bytes`; `file` is what to call it.
pub(crate) fn load_bytes(
    config: ConfigFile,
    bytes: Bytes,
    file: &Path,
) -> Result<(ModelConfig, Weights), CheckpointError> {
    let checkpoint = Checkpoint::new(bytes)?;
    let config = resolve(config, &checkpoint)?;
    let mut reader =
        Reader { config: &config, checkpoint: &checkpoint, used: Vec::new(), missing: Vec::new() };
    let weights = assemble(&config, &mut reader)?;
    if !reader.missing.is_empty() {
        return Err(CheckpointError::Missing { names: reader.missing });
    }
    let used: BTreeSet<&str> = reader.used.iter().map(|(name, _)| name.as_str()).collect();
    warn_of_unknown(&checkpoint, &used, file);
    check_finite(&reader.used)?;
    Ok((config, weights))
}

/// Takes tensors from a checkpoint, and computes those that need not be in one.
struct Reader<'a> {
    config: &'a ModelConfig,
    checkpoint: &'a Checkpoint,
    used: Vec<(String, Tensor)>,
    missing: Vec<String>,
}

impl Reader<'_> {
    fn stored(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, CheckpointError> {
        let tensor = self.checkpoint.tensor(name, shape)?;
        if let Some(tensor) = &tensor {
            self.used.push((name.to_owned(), tensor.clone()));
        }
        Ok(tensor)
    }

    /// Notes that a tensor is missing; what stands in for it is never seen, because loading fails in the end.
    fn missing(&mut self, name: String) -> Tensor {
        self.missing.push(name);
        Tensor::from_vec(&[0], Vec::new())
    }
}

impl Source for Reader<'_> {
    type Error = CheckpointError;

    fn tensor(&mut self, name: &str, shape: &[usize], values: Values) -> Result<Tensor, CheckpointError> {
        if let Some(tensor) = self.stored(name, shape)? {
            return Ok(tensor);
        }
        let computed = match values {
            Values::Features => positional_features(self.config.long_conv_l_max, self.config.hyena_emb_dim),
            Values::Time => time(self.config.long_conv_l_max),
            Values::Decay => decay_rates(self.config.hidden_size),
            Values::Uniform { .. } | Values::Positions { .. } | Values::FilterWeight { .. } => {
                return Ok(self.missing(name.to_owned()));
            }
        };
        Ok(Tensor::from_vec(shape, computed))
    }

    /// One vector under six names, of which a checkpoint keeps any: those that it lacks are the first that it has.
    fn frequencies(
        &mut self,
        filter: &str,
        shape: &[usize],
        _: Values,
    ) -> Result<[Tensor; 6], CheckpointError> {
        let mut found = [const { None }; 6];
        for (tensor, name) in found.iter_mut().zip(FREQUENCY_NAMES) {
            *tensor = self.stored(&format!("{filter}{name}"), shape)?;
        }
        let shared = match found.iter().flatten().next() {
            Some(first) => first.clone(),
            None => self.missing(format!("{filter}{}", FREQUENCY_NAMES[0])),
        };
        Ok(found.map(|tensor| tensor.unwrap_or_else(|| shared.clone())))
    }
}

/// Logs a warning that names the tensors of the checkpoint that the model has no place for.
fn warn_of_unknown(checkpoint: &Checkpoint, used: &BTreeSet<&str>, file: &Path) {
    const SHOWN: usize = 20;
    let is_used = |name: &str| {
        used.contains(name) || name.strip_suffix(FACTORS).is_some_and(|name| used.contains(name))
    };
    let unknown: Vec<&str> = checkpoint
        .names()
        .filter(|name| !is_used(name) && !is_ignored(name))
        .flat_map(|name| checkpoint.stored_names(name))
        .collect();
    if unknown.is_empty() {
        return;
    }
    let more = unknown.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    tracing::warn!(
        "{}: {} tensors are of no use to this model and were ignored: {}{more}",
        file.display(),
        unknown.len(),
        unknown[..unknown.len().min(SHOWN)].join(", "),
    );
}

/// Whether a tensor is one that training or another task leaves behind, of no use to an encoder.
fn is_ignored(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    ["classifier.", "cls.", "dropout."].iter().any(|prefix| name.starts_with(prefix))
        || ["position_ids", "token_type_ids"].contains(&last)
        || name.contains("flashfft")
}

fn check_finite(tensors: &[(String, Tensor)]) -> Result<(), CheckpointError> {
    let found = tensors.par_iter().find_map_first(|(name, tensor)| {
        tensor.first_non_finite().map(|(index, value)| (name.clone(), index, value))
    });
    match found {
        Some((name, index, value)) => Err(CheckpointError::NonFinite { name, index, value }),
        None => Ok(()),
    }
}

/// The checkpoint file of a folder.
pub(crate) fn find_checkpoint(folder: &Path) -> Result<PathBuf, LoadError> {
    let names = file_names(folder)?;
    match choose_checkpoint(&names) {
        Choice::File(name) => Ok(folder.join(name)),
        Choice::None => Err(LoadError::NoCheckpoint { folder: folder.to_owned() }),
        Choice::Sharded(name) => Err(LoadError::Sharded { index: folder.join(name) }),
        Choice::Ambiguous(files) => Err(LoadError::AmbiguousCheckpoint { folder: folder.to_owned(), files }),
    }
}

fn file_names(folder: &Path) -> Result<Vec<String>, LoadError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries =
        entries.map_err(|error| LoadError::Io { action: "read", path: folder.to_owned(), error })?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Which of some files is the checkpoint.
pub(crate) enum Choice {
    File(String),
    None,
    Sharded(String),
    Ambiguous(Vec<String>),
}

/// How the names of files begin that hold what was prepared for fast padding. They end with `.safetensors`, and are no checkpoints.
pub const PADDING_FILES: &str = "far-fields-";

/// Whether a file's name says that it holds what was prepared for fast padding.
pub(crate) fn is_padding_file(name: &str) -> bool {
    name.starts_with(PADDING_FILES) && name.ends_with(".safetensors") && !name.contains(['/', '\\'])
}

/// Chooses the checkpoint among the files of a folder or a repository.
pub(crate) fn choose_checkpoint(names: &[String]) -> Choice {
    if let Some(preferred) = PREFERRED.iter().find(|preferred| names.iter().any(|name| name == *preferred)) {
        return Choice::File((*preferred).to_owned());
    }
    let is_index =
        |name: &&String| name.ends_with(".safetensors.index.json") || name.ends_with(".bin.index.json");
    if let Some(index) = names.iter().find(is_index) {
        return Choice::Sharded(index.clone());
    }
    let is_candidate = |name: &&String| {
        let suffixes = [".safetensors", ".bin", ".pt"];
        suffixes.iter().any(|suffix| name.ends_with(suffix)) && !name.contains('/') && !is_padding_file(name)
    };
    let mut candidates: Vec<String> = names.iter().filter(is_candidate).cloned().collect();
    candidates.sort();
    match candidates.len() {
        0 => Choice::None,
        1 => Choice::File(candidates.swap_remove(0)),
        _ => Choice::Ambiguous(candidates),
    }
}

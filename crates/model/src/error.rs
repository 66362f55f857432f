//! Why a model cannot be loaded.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::hub::HubError;

/// Why a model could not be loaded or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The `config.json` is wrong, or describes another architecture.
    #[error("{}: {error}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ConfigError,
    },
    /// The checkpoint is malformed, or not one of this model.
    #[error("{}: {error}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        error: CheckpointError,
    },
    /// The folder holds no file that could be the checkpoint.
    #[error(
        "{} holds no checkpoint: expected model.safetensors, pytorch_model.bin, model.bin, or one file that ends in \
         .safetensors, .bin or .pt",
        folder.display()
    )]
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds several files that could be the checkpoint.
    #[error(
        "{} holds several files that could be the checkpoint ({}): rename the right one to model.safetensors or \
         pytorch_model.bin",
        folder.display(),
        files.join(", ")
    )]
    AmbiguousCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// Their names.
        files: Vec<String>,
    },
    /// The folder holds a checkpoint in several files.
    #[error(
        "{} says that the checkpoint is split into several files, which is not supported: expected one file; load the \
         model in PyTorch and save it again as one model.safetensors",
        index.display()
    )]
    Sharded {
        /// The index file.
        index: PathBuf,
    },
    /// A file that would be overwritten.
    #[error("{} exists already: choose another folder, or force overwriting", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The program was built without its small model.
    #[error(
        "this build of danaus has no built-in model: it was made without the feature builtin-model; give --model another one"
    )]
    NoBuiltin,
    /// The model could not be got from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// What is wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read the checkpoint: {0}")]
    Read(io::Error),
    /// The file is in no known format.
    #[error("not a checkpoint: {0}. Expected a safetensors file, or a zip file written by torch.save")]
    Unrecognised(String),
    /// A pickle of PyTorch before 1.6.
    #[error(
        "a checkpoint in PyTorch's old format (a bare pickle, from before version 1.6), which is not supported; convert \
         it on a machine with PyTorch, only if you trust the file: python -c \"import torch; \
         torch.save(torch.load('OLD', map_location='cpu', weights_only=True), 'pytorch_model.bin')\""
    )]
    LegacyPickle,
    /// The container is damaged.
    #[error("a damaged or unusual {format}: {reason}")]
    Malformed {
        /// Of which format it is.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The pickle in a PyTorch file holds something other than tensors.
    #[error("a damaged or unusual PyTorch file: its data.pkl, at byte {at}: {reason}")]
    Pickle {
        /// Where.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// The pickle in a PyTorch file wants something from a Python module.
    #[error(
        "the PyTorch file asks for {name}, which a file of tensors does not need, so it was not read further (nothing of \
         it was executed). Save only the model's state_dict, or convert the file to safetensors"
    )]
    ForbiddenGlobal {
        /// The name, with its module.
        name: String,
    },
    /// A tensor that reaches beyond its storage.
    #[error("tensor {name} reaches beyond its data: the file is damaged")]
    OutOfBounds {
        /// Its name in the file.
        name: String,
    },
    /// A tensor that has more elements than it is stored with, which would let a small file fill the memory.
    #[error(
        "tensor {name} has {elements} elements and a storage of {stored}, which it repeats: expected one that holds each \
         element; call contiguous() on it before it is saved"
    )]
    Repeated {
        /// Its name in the file.
        name: String,
        /// How many it has.
        elements: usize,
        /// How many are stored.
        stored: usize,
    },
    /// Two tensors that are the same once their prefixes are gone.
    #[error("tensors {first} and {second} stand for the same weight: expected one of them")]
    Duplicate {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// Tensors that the model needs and the file lacks.
    #[error("{}", describe_missing(names))]
    Missing {
        /// Their names, without prefixes.
        names: Vec<String>,
    },
    /// A tensor of another shape than the configuration asks for.
    #[error("tensor {name} has shape {got:?}: expected {expected:?}")]
    Shape {
        /// Its name in the file.
        name: String,
        /// What the configuration asks for.
        expected: Vec<usize>,
        /// What the file has.
        got: Vec<usize>,
    },
    /// A tensor stored in a type that weights cannot have.
    #[error("tensor {name} has type {dtype}: expected float32, float16 or bfloat16")]
    Dtype {
        /// Its name in the file.
        name: String,
        /// Its type as the file names it.
        dtype: String,
    },
    /// A weight that is not a finite number.
    #[error("tensor {name} has the value {value} at index {index}: expected finite numbers")]
    NonFinite {
        /// Its name, without prefixes.
        name: String,
        /// Which element, in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A configuration that says something else than a tensor's shape.
    #[error("config.json says that {key} is {stated}, but {evidence}")]
    Contradiction {
        /// The key.
        key: &'static str,
        /// Its value.
        stated: usize,
        /// Which tensor says what.
        evidence: String,
    },
    /// The sizes that the tensors have cannot be computed with.
    #[error("with the sizes that the tensors have: {0}")]
    Config(ConfigError),
}

/// "tensor a is missing", or the first few of many.
fn describe_missing(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names {
        [name] => format!("tensor {name} is missing"),
        names => {
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let more = names.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{} tensors of an M2-BERT model are missing: {shown}{more}", names.len())
        }
    }
}

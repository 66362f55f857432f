//! The encoder: from token ids to embeddings, on a chosen device.

// What unit tests share with the others names this crate as they do.
#[cfg(test)]
extern crate self as danaus_engine;

mod backend;
mod cpu;
mod device;
mod embedding;
pub mod gpu;
mod machine;
mod names;
pub mod padding;
mod profile;

pub use backend::{AcceleratorInfo, Backend, BackendInfo, Rechecks, Text};
pub use cpu::{CpuBackend, Observer};
pub use device::{BackendOptions, Device, Dtype, load_backend};
pub use embedding::{Padding, Pooling, finish};
pub use machine::measure_peaks;
pub use profile::{Profile, Stage};

pub use danaus_kernels::{Caches, Peaks, Rates};
pub use danaus_simd::{Isa, IsaParseError};

/// Why a backend could not be made, or would not embed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A text without tokens.
    #[error("text {index} of the batch has no tokens: expected at least one")]
    EmptyText {
        /// Position in the batch.
        index: usize,
    },
    /// A text over the model's length.
    #[error("text {index} of the batch has {tokens} tokens: the model takes at most {max_tokens}")]
    TextTooLong {
        /// Position in the batch.
        index: usize,
        /// Its length.
        tokens: usize,
        /// The model's.
        max_tokens: usize,
    },
    /// An id that the model has no row for.
    #[error("text {index} of the batch has token id {id}: the vocabulary has ids 0 to {}", vocabulary - 1)]
    UnknownToken {
        /// Position in the batch.
        index: usize,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A vector with a component that is no number, or infinite: the model's weights are too large for float32.
    #[error(
        "the model gives a vector that is not finite: its weights are too large, or not those of such a model"
    )]
    NonFinite,
    /// A pass that was given up before one of its layers, because its caller wanted that.
    #[error("the pass was stopped between two layers")]
    Stopped,
    /// A GPU has not enough memory for a text now; it may later, and for others.
    #[error(
        "the GPU has not enough memory for text {index} of the batch, of {rows} tokens with its padding: {reason}"
    )]
    OutOfMemory {
        /// Position in the batch.
        index: usize,
        /// Its length, padding included.
        rows: usize,
        /// What the device says.
        reason: String,
    },
    /// A device or dtype that this build or this machine does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A configuration that cannot be computed with.
    #[error("{0}")]
    InvalidModel(String),
}

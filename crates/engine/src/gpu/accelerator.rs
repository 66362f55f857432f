//! What a GPU does of a backend's work.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::padding::FarField;

/// What an accelerator is, for people and for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The interface it is driven by: `cuda`, `metal` or `vulkan`.
    pub device: &'static str,
    /// Its own name, such as `NVIDIA H200`.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// The type of weights and activations in the matrix products: `f32`, `bf16` or `f16`.
    pub dtype: &'static str,
    /// Its memory in bytes, where the interface tells.
    pub memory_bytes: Option<u64>,
}

/// A text as an accelerator takes it.
#[derive(Debug, Clone)]
pub struct PaddedText<'a> {
    /// Token ids, at least one.
    pub ids: &'a [u32],
    /// Tokens and padding behind them, at least the tokens and at most the model's length.
    pub rows: usize,
    /// What padding behind these rows adds to the long convolutions.
    pub far_field: Option<Arc<FarField>>,
    /// Which vector is wanted.
    pub pooled: Pooled,
}

/// The vector that is made of a text's last hidden states `[T, H]`. (What a model's pooler makes of it takes no GPU.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooled {
    /// Their mean over the text's tokens.
    Mean,
    /// The first one.
    First,
}

/// Why an accelerator has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The caller wanted it so.
    #[error("the pass was stopped between two layers")]
    Stopped,
    /// There is not enough memory for this pass; others may succeed.
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    /// The device or its driver failed or did not answer in time: nothing more can be expected of it.
    #[error("{0}")]
    Failed(String),
}

/// A model on a GPU.
///
/// Implementations promise that a text's vector depends on that text alone, to the last bit: not on the batch, nor on its
/// place in it.
pub trait Accelerator: Send + Sync + Debug {
    /// What it is.
    fn description(&self) -> &Description;

    /// Whether it computes a text that is padded to the model's whole length in about the time that the CPU takes for a window with a
    /// sketch. Then such texts are computed exactly here.
    fn is_faster_than_sketches(&self) -> bool {
        false
    }

    /// See [`Backend::batch_tokens`](crate::Backend::batch_tokens).
    fn batch_tokens(&self) -> usize {
        crate::backend::BATCH_TOKENS
    }

    /// One vector `[H]` per text, in order, not normalised. Ids are valid and texts no longer than the model takes.
    ///
    /// Before each of a pass's steps (two a layer), `between` is called, where it is given: other texts may be embedded then.
    /// Where it breaks, the rest is not computed. Those others come from another thread, as may any pass: nothing that they
    /// need may be held meanwhile, or be a thread's own.
    ///
    /// # Errors
    /// See [`DeviceError`]. Never panics on account of the device.
    fn embed(
        &self,
        texts: &[PaddedText<'_>],
        between: Option<&mut dyn FnMut() -> ControlFlow<()>>,
    ) -> Result<Vec<Vec<f32>>, DeviceError>;
}

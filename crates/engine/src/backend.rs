//! What a device must offer to serve a model.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::padding::{FarFields, Window, WindowEncoder};
use crate::{EngineError, Padding, Pooling};

/// One text of a batch: its token ids (`[CLS] … [SEP]`, not padded), what surrounds them, and how hidden states become one vector.
/// [`Backend::text`] makes it.
#[derive(Debug, Clone)]
pub struct Text<'a> {
    /// Token ids, 1 to [`Backend::max_tokens`] of them.
    pub ids: &'a [u32],
    /// How the last hidden states become one vector.
    pub pooling: Pooling,
    /// What the encoder computes of it, as [`Backend::window`] decided. It stays the same whatever far fields are set meanwhile.
    pub window: Window,
}

/// Where and how a backend computes, for logs, `/health` and `/info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// `cpu`, `cuda`, `metal` or `vulkan`.
    pub device: &'static str,
    /// Instruction set of the CPU kernels: `avx512`, `avx2` or `portable`.
    pub instruction_set: &'static str,
    /// Type of weights and activations in the matrix products: `f32`, `bf16`, `f16` or `int8`.
    pub dtype: &'static str,
    /// CPU threads that one forward pass uses.
    pub threads: usize,
    /// The GPU, where there is one.
    pub accelerator: Option<AcceleratorInfo>,
    /// Steps of a pass, before each of which [`Backend::embed_stepwise`] stops, and which take about as long as each other.
    pub steps: usize,
}

/// The GPU of a backend that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceleratorInfo {
    /// Its own name, such as `NVIDIA H200`.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// Its memory in bytes, where the interface tells.
    pub memory_bytes: Option<u64>,
    /// Texts of fewer rows are computed on the CPU, which answers them sooner.
    pub crossover: usize,
    /// Type of weights and activations in the matrix products of those.
    pub cpu_dtype: &'static str,
}

/// How often answers of a GPU were computed again on the CPU, to see whether they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rechecks {
    /// Answers that agreed.
    pub agreed: u64,
    /// Answers that did not.
    pub differed: u64,
}

/// [`Backend::batch_tokens`] of a CPU, and of GPUs that say nothing else.
pub(crate) const BATCH_TOKENS: usize = 2048;

/// One loaded model on one device.
///
/// Implementations promise that a text's vector depends on that text alone: the same bits alone, in any batch, in any
/// order, at any thread count, on one machine and dtype. (Where a GPU is [given up](Backend::demoted), the CPU's bits follow.)
pub trait Backend: Send + Sync {
    /// Where and how this backend computes.
    fn info(&self) -> &BackendInfo;

    /// Why its GPU is no longer used and all texts are computed on the CPU, once that is so.
    fn demoted(&self) -> Option<&str> {
        None
    }

    /// How its GPU's answers compared with the CPU's, where some are computed on both.
    fn rechecks(&self) -> Rechecks {
        Rechecks::default()
    }

    /// Compares with the CPU what the test of its GPU at the start left out, because it takes the CPU long: beside the work of
    /// others, with whom it takes turns.
    fn finish_self_test(&self) {}

    /// Length of the vectors that [`embed`](Backend::embed) returns.
    fn dimension(&self) -> usize;

    /// The longest text, in tokens, special tokens included.
    fn max_tokens(&self) -> usize;

    /// What the encoder is to compute for a text: decided once, and handed to [`embed`](Backend::embed) with the text.
    /// [`Padding::Fast`] is exact, and as dear, for texts that no [far field](Backend::set_far_fields) serves.
    fn window(&self, ids: &[u32], pooling: Pooling, padding: Padding) -> Window;

    /// A text with its [window](Backend::window).
    fn text<'a>(&self, ids: &'a [u32], pooling: Pooling, padding: Padding) -> Text<'a> {
        Text { ids, pooling, window: self.window(ids, pooling, padding) }
    }

    /// Tokens of a batch, padding included, beyond which more at once gain little here: what they gain, a text that comes then loses by
    /// waiting.
    fn batch_tokens(&self) -> usize {
        BATCH_TOKENS
    }

    /// Encodes windows, for preparing [`Padding::Fast`].
    fn windows(&self) -> &dyn WindowEncoder;

    /// What fast padding computes with now, once it is set.
    fn far_fields(&self) -> Option<Arc<FarFields>>;

    /// Lets [`Padding::Fast`] be fast from now on for the texts that `far_fields` serves. They replace those that were set before;
    /// texts that have their window already keep it.
    fn set_far_fields(&self, far_fields: Arc<FarFields>);

    /// Embeds a batch: one pooled vector `[H]` per text, in order, **not** normalised
    /// (see [`finish`](crate::finish)).
    ///
    /// Blocks the calling thread; calls from several threads share the device. A model whose weights are too large gives
    /// vectors with components that are not finite, which [`finish`](crate::finish) refuses.
    ///
    /// # Errors
    /// An empty text, one longer than [`max_tokens`](Backend::max_tokens), or an id outside the vocabulary:
    /// nothing is computed then. [`EngineError::OutOfMemory`] on GPUs.
    fn embed(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Like [`embed`](Backend::embed), to the same bits, but calls `between` before each step of a pass (two a layer), when the
    /// device is free: other texts may be embedded there. Where it breaks, the rest is not computed.
    ///
    /// # Errors
    /// Those of `embed`, or [`EngineError::Stopped`].
    fn embed_stepwise(
        &self,
        texts: &[Text<'_>],
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, EngineError>;
}

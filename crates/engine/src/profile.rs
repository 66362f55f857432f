//! Where the time of forward passes goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A part of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking up, summing and normalising the embeddings.
    Embeddings,
    /// The mixer's first product.
    InLinear,
    /// The short convolution and the gate after it.
    ShortConvolution,
    /// Long filters made for one pass.
    Filters,
    /// Both long convolutions, with gate and skip.
    LongConvolution,
    /// What padding beyond a window adds to them.
    FarField,
    /// The mixer's last product.
    OutLinear,
    /// The MLP's first product, with GELU and gate.
    Gated,
    /// The MLP's second product, with the residual.
    Down,
    /// LayerNorm.
    LayerNorm,
    /// Activations brought to the products' precision.
    Encoding,
    /// One vector from a text's hidden states.
    Pooling,
}

impl Stage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Stage; 12] = [
        Stage::Embeddings,
        Stage::InLinear,
        Stage::ShortConvolution,
        Stage::Filters,
        Stage::LongConvolution,
        Stage::FarField,
        Stage::OutLinear,
        Stage::Gated,
        Stage::Down,
        Stage::LayerNorm,
        Stage::Encoding,
        Stage::Pooling,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embeddings => "embeddings",
            Stage::InLinear => "in_linear",
            Stage::ShortConvolution => "short_conv",
            Stage::Filters => "filters",
            Stage::LongConvolution => "long_conv",
            Stage::FarField => "far_field",
            Stage::OutLinear => "out_linear",
            Stage::Gated => "mlp_gated",
            Stage::Down => "mlp_down",
            Stage::LayerNorm => "layer_norm",
            Stage::Encoding => "encoding",
            Stage::Pooling => "pooling",
        }
    }
}

/// Time spent in each stage, summed over threads. Counting goes on until the value is dropped; it may be read meanwhile.
#[derive(Debug, Default)]
pub struct Profile {
    nanoseconds: [AtomicU64; Stage::ALL.len()],
}

impl Profile {
    /// Time spent in `stage`, summed over threads.
    pub fn time(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.nanoseconds[stage as usize].load(Ordering::Relaxed))
    }

    /// Starts from zero again.
    pub fn reset(&self) {
        self.nanoseconds.iter().for_each(|time| time.store(0, Ordering::Relaxed));
    }
}

/// Tells a profile how long each stage of one thread's work took; without a profile, nothing.
#[derive(Debug)]
pub(crate) struct Clock<'a> {
    profile: Option<&'a Profile>,
    last: Option<Instant>,
}

impl<'a> Clock<'a> {
    pub fn start(profile: Option<&'a Profile>) -> Self {
        Self { profile, last: profile.map(|_| Instant::now()) }
    }

    /// The time since the last lap, or the start, was `stage`'s.
    pub fn lap(&mut self, stage: Stage) {
        if let (Some(profile), Some(last)) = (self.profile, self.last) {
            let now = Instant::now();
            let spent = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
            profile.nanoseconds[stage as usize].fetch_add(spent, Ordering::Relaxed);
            self.last = Some(now);
        }
    }
}

//! Padding a text to the model's length, for little more than the text itself costs.
//!
//! The padding of different texts has nearly the same hidden states. So what the padding beyond a window contributes to the
//! window's convolutions (its *far field*) is measured once, as the mean over probe texts of about the same length, and added
//! to passes that compute the window alone. `docs/padding.md` derives it and its error.

mod far_field;
mod plan;
mod prepare;
mod probes;
mod segments;
mod sketch;
mod status;
mod store;
mod values;

use std::sync::Arc;

#[cfg(doc)]
use crate::Pooling;
use crate::{EngineError, Padding};

pub use far_field::{FarField, Recording, Shape};
pub use plan::{Bin, FarFields, equal_pairs};
pub use prepare::{distance, prepare};
pub use probes::Probes;
pub use segments::{SegmentTaps, Segments};
pub(crate) use segments::{Span, Way};
pub(crate) use sketch::Sampled;
pub use sketch::{Samples, Sketch};
pub use status::{Preparation, Progress};
pub use store::{Store, StoreError};

/// What an encoder computes of a padded text: its first `rows` rows, with the far field of what follows.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// How the text is padded: [`Padding::MaxLength`] where it is computed exactly, also if fast padding was asked for.
    pub padding: Padding,
    /// Tokens and padding that are computed, at least the text's tokens.
    pub rows: usize,
    /// What the padding behind them adds; `None` for nothing.
    pub far_field: Option<Arc<FarField>>,
    /// What the text changes in that; `None` for nothing.
    pub sketch: Option<Arc<Sketch>>,
}

impl Window {
    /// The first `rows` rows, as if nothing followed.
    pub fn alone(rows: usize) -> Self {
        Self { rows, ..Self::default() }
    }

    /// All of a text that is padded to the model's length.
    pub fn exact(max_tokens: usize) -> Self {
        Self { padding: Padding::MaxLength, ..Self::alone(max_tokens) }
    }

    /// Rows that are computed, a sketch's included.
    pub fn cost(&self) -> usize {
        self.rows + self.sketch.as_ref().map_or(0, |sketch| sketch.rows())
    }
}

/// What is recorded of a pass.
#[derive(Debug, Default)]
pub struct Record {
    /// Each is filled with the far field of its own, smaller window, as the pass's text saw it.
    pub far_fields: Vec<Recording>,
    /// Each is filled with those of its own window, where the pass is of the model's full length.
    pub samples: Vec<Samples>,
}

/// What preparing fast padding asks of a device.
pub trait WindowEncoder: Send + Sync {
    /// The type of weights and activations in the matrix products of the passes it encodes with.
    fn dtype(&self) -> &'static str;

    /// The sizes of the far field of a window.
    fn shape(&self, window: usize) -> Shape;

    /// What segments of the model's length do to each other.
    fn segment_taps(&self) -> SegmentTaps;

    /// Encodes one text in a window: its vectors by pooling, in the order of [`Pooling::ALL`], not normalised.
    ///
    /// # Errors
    /// As [`Backend::embed`](crate::Backend::embed).
    fn encode(&self, ids: &[u32], window: Window, record: &mut Record) -> Result<Vec<Vec<f32>>, EngineError>;
}

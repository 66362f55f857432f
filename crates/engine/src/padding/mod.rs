//! Padding a text to the model's length, for little more than the text itself costs. `docs/padding.md` derives it and its error.
//!
//! Terms, in the order in which they build on each other:
//!
//! - A *window* is what is computed of a padded text in full: the text, and padding up to the window's end.
//! - A *recorded pass* is the exact pass of another text of about that length, padded to the model's length.
//! - The *far field* of a window is what the padding behind it added to its convolutions in the recorded pass.
//! - The padding behind a window is divided into *cells*, and one position of each, its *sample*, is computed beside the window. A
//!   *sketch* is what that takes: how a sample's states differ from the recorded ones stands for how its whole cell's do.
//! - *Running sums* of the filters say what a cell of any size does.
//! - *Probes* are the texts that passes are recorded of and errors are measured with. The *plan* ([`FarFields`]) has a window with
//!   its far field, sketch and measured errors for each range of lengths that it serves.

mod cells;
mod far_field;
mod plan;
mod prepare;
mod probes;
mod record;
mod running_sums;
mod sketch;
mod status;
mod store;
mod values;

use std::sync::Arc;

#[cfg(doc)]
use crate::Pooling;
use crate::{EngineError, Padding};

pub use cells::Cells;
pub use far_field::FarField;
pub(crate) use far_field::Knots;
pub use plan::{Bin, FarFields, equal_pairs};
pub use prepare::{Budget, distance, encode, prepare};
pub use probes::Probes;
pub(crate) use record::Place;
pub use record::WindowRecord;
pub use running_sums::RunningSums;
pub use sketch::Sketch;
pub(crate) use sketch::convolve;
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

/// What preparing fast padding asks of a device.
pub trait WindowEncoder: Send + Sync {
    /// The type of weights and activations in the matrix products of the passes it encodes with.
    fn dtype(&self) -> &'static str;

    /// Layers, and channels of the hidden states.
    fn shape(&self) -> (usize, usize);

    /// The running sums of the model's filters.
    fn running_sums(&self) -> RunningSums;

    /// Encodes one text in a window: its vectors by pooling, in the order of [`Pooling::ALL`], not normalised. `record` can only be
    /// filled by a pass of the model's full length.
    ///
    /// # Errors
    /// As [`Backend::embed`](crate::Backend::embed).
    fn encode(
        &self,
        ids: &[u32],
        window: Window,
        record: &mut [WindowRecord],
    ) -> Result<Vec<Vec<f32>>, EngineError>;
}

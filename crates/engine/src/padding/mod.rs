//! Padding a text to the model's length, for little more than the text itself costs.
//!
//! The padding of different texts has nearly the same hidden states. So what the padding beyond a window contributes to the
//! window's convolutions (its *far field*) is measured once, as the mean over probe texts of about the same length, and added
//! to passes that compute the window alone. `docs/padding.md` derives it and its error.

mod far_field;
mod plan;
mod prepare;
mod probes;
mod store;

use std::sync::Arc;

use crate::EngineError;
#[cfg(doc)]
use crate::Pooling;

pub use far_field::{FarField, Recording, Shape};
pub use plan::{Bin, FarFields, is_repetitive};
pub use prepare::{Progress, distance, prepare};
pub use probes::Probes;
pub use store::{Store, StoreError};

/// What an encoder computes of a padded text: its first `rows` rows, with the far field of what follows.
#[derive(Debug, Clone)]
pub struct Window {
    /// Tokens and padding that are computed, at least the text's tokens.
    pub rows: usize,
    /// What the padding behind them adds; `None` for nothing.
    pub far_field: Option<Arc<FarField>>,
}

/// What preparing fast padding asks of a device.
pub trait WindowEncoder: Send + Sync {
    /// The sizes of the far field of a window.
    fn shape(&self, window: usize) -> Shape;

    /// Encodes one text in a window: its vectors by pooling, in the order of [`Pooling::ALL`], not normalised. Each of
    /// `recordings` is filled with the far field of its own, smaller window, as this text saw it.
    ///
    /// # Errors
    /// As [`Backend::embed`](crate::Backend::embed).
    fn encode(
        &self,
        ids: &[u32],
        window: Window,
        recordings: &mut [Recording],
    ) -> Result<Vec<Vec<f32>>, EngineError>;
}

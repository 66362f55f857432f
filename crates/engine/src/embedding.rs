//! From hidden states to the vector a user gets: names of the choices, and the last step.

use std::fmt;
use std::str::FromStr;

use crate::EngineError;
use crate::names::{self, Named};

/// How a text's last hidden states `[T, H]` become one vector `[H]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pooling {
    /// Mean over the text's tokens, `[CLS]` and `[SEP]` included.
    #[default]
    Mean,
    /// The first token's hidden state.
    Cls,
    /// What the model's configuration says its published `sentence_embedding` is.
    Model,
}

/// What surrounds a text when it enters the encoder (whose mixer does not mask padding, so that it changes the result).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Padding {
    /// Nothing: a text's vector depends on its tokens alone.
    #[default]
    None,
    /// `[PAD]` up to the model's length, as the published models were trained; pooled over the text's tokens.
    MaxLength,
    /// As `MaxLength`, to a stated error, for little more than the text itself costs.
    Fast,
}

impl Pooling {
    /// All of them, in the order of their numbers.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::Model];

    /// The names that [`FromStr`] takes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().map(|&(name, _)| name)
    }
}

impl Padding {
    /// The names that [`FromStr`] takes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().map(|&(name, _)| name)
    }
}

impl Named for Pooling {
    const WHAT: &'static str = "pooling";
    const TABLE: &'static [(&'static str, Self)] =
        &[("mean", Self::Mean), ("cls", Self::Cls), ("model", Self::Model)];
}

impl FromStr for Pooling {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        names::parse(name)
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names::write(*self, f)
    }
}

impl Named for Padding {
    const WHAT: &'static str = "padding";
    const TABLE: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("max-length", Self::MaxLength), ("fast", Self::Fast)];
}

impl FromStr for Padding {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        names::parse(name)
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names::write(*self, f)
    }
}

/// Turns a pooled vector `[H]` into the embedding a user gets: its first `dimensions` components (all where `None`),
/// scaled to unit length where `normalize` says so. A vector of zeros stays as it is.
///
/// The sum of squares is taken in float64, in index order.
///
/// # Errors
/// [`EngineError::NonFinite`].
pub fn finish(
    mut pooled: Vec<f32>,
    dimensions: Option<usize>,
    normalize: bool,
) -> Result<Vec<f32>, EngineError> {
    if !pooled.iter().all(|component| component.is_finite()) {
        return Err(EngineError::NonFinite);
    }
    pooled.truncate(dimensions.unwrap_or(usize::MAX));
    if normalize {
        let norm = pooled.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            pooled.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }
    Ok(pooled)
}

//! From hidden states to the vector a user gets: names of the choices, and the last step.

use std::fmt;
use std::str::FromStr;

use crate::EngineError;

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
}

impl Pooling {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&'static str; 3] = ["mean", "cls", "model"];
}

impl Padding {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&'static str; 2] = ["none", "max-length"];
}

impl FromStr for Pooling {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::Cls),
            "model" => Ok(Pooling::Model),
            _ => Err(format!("unknown pooling {name:?}: expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

impl FromStr for Padding {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Padding::None),
            "max-length" => Ok(Padding::MaxLength),
            _ => Err(format!("unknown padding {name:?}: expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Model => "model",
        })
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Padding::None => "none",
            Padding::MaxLength => "max-length",
        })
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

//! Which window a text is computed in.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FarField, Window};
use crate::Pooling;

/// How much below the bound the largest error of the probes must be: other texts have larger ones.
pub(super) const MARGIN: f64 = 1.15;

/// A range of lengths, the window that its texts are computed in, and how far that moves their vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Fewest tokens of a text.
    pub shortest: usize,
    /// Most tokens of a text, at most the window.
    pub longest: usize,
    /// Rows that are computed: the text, and padding up to there.
    pub window: usize,
    /// Probe texts that its far field is the mean of.
    pub probes: usize,
    /// By pooling, in the order of [`Pooling::ALL`]: the largest 1 - cosine to the exact vector among the probe texts, each
    /// with the mean of the others as its far field.
    pub errors: [f64; 3],
}

/// What fast padding computes with: far fields for ranges of lengths, with their measured errors.
#[derive(Debug, Clone)]
pub struct FarFields {
    bound: f64,
    max_tokens: usize,
    bins: Vec<(Bin, Arc<FarField>)>,
}

/// The share of pairs of a text's tokens that are equal, from which on the text is too unlike the probes: what its tokens do to
/// the padding adds up instead of averaging out. In prose and code it is 0.01 to 0.1.
const REPETITIVE: f64 = 0.125;

/// Whether a text consists of so few different tokens (lines drawn with hyphens, one word again and again) that a far
/// field of other texts does not fit it: it is computed exactly.
pub fn is_repetitive(ids: &[u32]) -> bool {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let equal: usize = sorted.chunk_by(|a, b| a == b).map(|run| run.len() * (run.len() - 1)).sum();
    equal as f64 > REPETITIVE * (ids.len() * ids.len().saturating_sub(1)) as f64
}

impl Bin {
    fn lengths(&self) -> RangeInclusive<usize> {
        self.shortest..=self.longest
    }

    /// Whether texts of its lengths may be computed in it.
    pub fn serves(&self, pooling: Pooling, bound: f64) -> bool {
        self.errors[pooling as usize] * MARGIN <= bound
    }
}

impl FarFields {
    /// `bound` is the largest permitted error, in 1 - cosine.
    pub(super) fn new(bound: f64, max_tokens: usize, bins: Vec<(Bin, Arc<FarField>)>) -> Self {
        Self { bound, max_tokens, bins }
    }

    /// The largest permitted error, in 1 - cosine.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// The length that texts are padded to.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The ranges of lengths, in order.
    pub fn bins(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter().map(|(bin, _)| bin)
    }

    pub(super) fn far_fields(&self) -> impl ExactSizeIterator<Item = &(Bin, Arc<FarField>)> {
        self.bins.iter()
    }

    /// Memory of all far fields, in bytes.
    pub fn bytes(&self) -> usize {
        self.bins.iter().map(|(_, far_field)| size_of_val(far_field.values())).sum()
    }

    /// The smallest window whose measured error is within the bound; `None` where the text must be computed exactly.
    pub fn window(&self, tokens: usize, pooling: Pooling) -> Option<Window> {
        let fitting = self.bins.iter().filter(|(bin, _)| bin.lengths().contains(&tokens));
        let (bin, far_field) =
            fitting.filter(|(bin, _)| bin.serves(pooling, self.bound)).min_by_key(|(bin, _)| bin.window)?;
        Some(Window { rows: bin.window, far_field: Some(Arc::clone(far_field)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_again_and_again_is_repetitive_and_prose_is_not() {
        assert!(is_repetitive(&[7; 40]));
        assert!(is_repetitive(&[101, 7, 7, 102]));
        let half: Vec<u32> = (0..100).map(|index| if index % 2 == 0 { 7 } else { index }).collect();
        assert!(is_repetitive(&half));
        let fifth: Vec<u32> = (0..100).map(|index| if index % 5 == 0 { 7 } else { 1000 + index }).collect();
        assert!(
            !is_repetitive(&fifth)
                && !is_repetitive(&[101, 102])
                && !is_repetitive(&[5])
                && !is_repetitive(&[])
        );
    }
}

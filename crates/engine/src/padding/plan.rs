//! Which window a text is computed in.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FarField, RunningSums, Sketch, Window};
use crate::{Padding, Pooling};

/// A range of lengths, the window that its texts are computed in, and how far that moves their vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Fewest tokens of a text.
    pub shortest: usize,
    /// Most tokens of a text, at most the window.
    pub longest: usize,
    /// Rows that are computed: the text, and padding up to there.
    pub window: usize,
    /// Rows of padding beyond the window that are computed to stand for all of it; 0 where what it adds is the recorded passes' mean.
    pub sketch: usize,
    /// Recorded passes that its far field is the mean of.
    pub probes: usize,
    /// Probe texts that its errors were measured with: texts of other words than those that were recorded.
    pub tests: usize,
    /// By pooling, in the order of [`Pooling::ALL`]: the largest 1 - cosine to the exact vector among the tests.
    pub errors: [f64; 3],
    /// By pooling: it serves texts of which at most this share of all pairs of tokens are equal; `None` where it serves no text.
    pub most_equal: [Option<f64>; 3],
}

/// What a window computes with.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub far_field: Arc<FarField>,
    pub sketch: Option<Arc<Sketch>>,
}

/// What fast padding computes with: far fields and sketches for ranges of lengths, with their measured errors.
#[derive(Debug, Clone)]
pub struct FarFields {
    bound: f64,
    max_tokens: usize,
    /// Longest texts that were looked at; longer ones may be served yet.
    prepared_to: usize,
    bins: Vec<(Bin, Fields)>,
}

/// The share of pairs of a text's tokens that are equal. The more there are, the more do a text's tokens to the padding
/// together, and the further is it from other texts: in prose and code it is 0.01 to 0.1, in a table drawn with hyphens 0.3.
pub fn equal_pairs(ids: &[u32]) -> f64 {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let equal: usize = sorted.chunk_by(|a, b| a == b).map(|run| run.len() * (run.len() - 1)).sum();
    let pairs = ids.len() * ids.len().saturating_sub(1);
    if pairs == 0 { 0.0 } else { equal as f64 / pairs as f64 }
}

impl Bin {
    fn lengths(&self) -> RangeInclusive<usize> {
        self.shortest..=self.longest
    }

    /// Whether texts of which that share of pairs are equal may be computed in it.
    pub fn serves(&self, pooling: Pooling, equal: f64) -> bool {
        self.most_equal[pooling as usize].is_some_and(|most| equal <= most)
    }
}

impl FarFields {
    /// None yet. `bound` is the largest permitted error, in 1 - cosine.
    pub(super) fn new(bound: f64, max_tokens: usize) -> Self {
        Self { bound, max_tokens, prepared_to: 0, bins: Vec::new() }
    }

    /// Those that serve texts of up to `prepared_to` tokens, as far as any can.
    pub(super) fn with_bins(self, prepared_to: usize, bins: impl IntoIterator<Item = (Bin, Fields)>) -> Self {
        let mut all = self.bins;
        all.extend(bins);
        all.sort_by_key(|(bin, _)| (bin.shortest, bin.window, bin.sketch));
        Self { prepared_to, bins: all, ..self }
    }

    /// The largest permitted error, in 1 - cosine.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// The length that texts are padded to.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The longest texts that were looked at: half the model's length, once it is prepared.
    pub fn prepared_to(&self) -> usize {
        self.prepared_to
    }

    /// Whether all lengths were looked at.
    pub fn is_complete(&self) -> bool {
        self.prepared_to >= self.max_tokens / 2
    }

    /// The ranges of lengths, in order.
    pub fn bins(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter().map(|(bin, _)| bin)
    }

    pub(super) fn fields(&self) -> impl ExactSizeIterator<Item = &(Bin, Fields)> {
        self.bins.iter()
    }

    /// What the ranges compute with, each once: several of them may share a window.
    pub(super) fn distinct(&self) -> Vec<&Fields> {
        let mut distinct: Vec<&Fields> = Vec::new();
        for (_, fields) in &self.bins {
            if !distinct.iter().any(|other| other.is(fields)) {
                distinct.push(fields);
            }
        }
        distinct
    }

    /// The running sums of the filters, where a sketch needs them.
    pub(super) fn running_sums(&self) -> Option<&Arc<RunningSums>> {
        self.bins.iter().find_map(|(_, fields)| fields.sketch.as_ref()).map(|sketch| sketch.sums())
    }

    /// Memory of all far fields and sketches, in bytes.
    pub fn bytes(&self) -> usize {
        let sums = self.running_sums().map_or(0, |sums| sums.bytes());
        sums + self.distinct().into_iter().map(Fields::bytes).sum::<usize>()
    }

    /// Memory with some more, of which nothing is there yet.
    pub(super) fn bytes_with(&self, fields: &Fields) -> usize {
        let sums = fields.sketch.as_ref().filter(|_| self.running_sums().is_none());
        self.bytes() + fields.bytes() + sums.map_or(0, |sketch| sketch.sums().bytes())
    }

    /// The cheapest window that serves texts of so many tokens, of whose pairs the share `equal` are equal; `None`
    /// where they must be computed exactly.
    pub fn window(&self, tokens: usize, equal: f64, pooling: Pooling) -> Option<Window> {
        let fitting = self.bins.iter().filter(|(bin, _)| bin.lengths().contains(&tokens));
        let serving = fitting.filter(|(bin, _)| bin.serves(pooling, equal));
        let (bin, fields) = serving.min_by_key(|(bin, _)| bin.window + bin.sketch)?;
        Some(fields.window(bin.window))
    }

    /// The largest n for which texts of 2 to n tokens are all served, where they repeat nothing and their mean is asked for; 0
    /// where there is none.
    pub fn longest_fast(&self) -> usize {
        let is_fast = |&tokens: &usize| self.window(tokens, 0.0, Pooling::Mean).is_some();
        (2..=self.max_tokens).take_while(is_fast).last().unwrap_or(0)
    }
}

impl Fields {
    /// Whether both are the same ones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.far_field, &other.far_field)
    }

    pub fn window(&self, rows: usize) -> Window {
        let (far_field, sketch) = (Some(Arc::clone(&self.far_field)), self.sketch.clone());
        Window { padding: Padding::Fast, rows, far_field, sketch }
    }

    /// Rows of its sketch.
    pub fn rows(&self) -> usize {
        self.sketch.as_ref().map_or(0, |sketch| sketch.rows())
    }

    /// Memory of its own, in bytes.
    pub fn bytes(&self) -> usize {
        self.far_field.bytes() + self.sketch.as_ref().map_or(0, |sketch| sketch.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pairs_are_counted() {
        for (ids, expected) in [
            (&[][..], 0.0),
            (&[7], 0.0),
            (&[7, 8], 0.0),
            (&[7, 7], 1.0),
            (&[7, 8, 7], 1.0 / 3.0),
            (&[1, 2, 1, 2], 1.0 / 3.0),
        ] {
            assert_eq!(equal_pairs(ids), expected, "{ids:?}");
        }
    }
}

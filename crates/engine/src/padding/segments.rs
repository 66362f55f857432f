//! Segments of the sequence, and what one does to another.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

use super::values::Values;

/// Segments of the model's whole length. Filters are functions of the position as a share of it, and about as smooth.
const WHOLE: usize = 256;

/// Segments behind a window that a sketch computes: further away, filters have decayed.
const BEHIND: usize = 96;

/// The sequence in segments of equal size, the 256th part of the model's length, from a window's end in both directions: those
/// inside the window, of which the first one may reach over the sequence's beginning, and some behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    size: usize,
    window: usize,
    behind: usize,
}

impl Segments {
    /// The division for a window of a model of `max_tokens` positions.
    ///
    /// # Panics
    /// Where the window is larger than that.
    pub fn new(window: usize, max_tokens: usize) -> Self {
        let size = max_tokens.div_ceil(WHOLE);
        Self { size, window, behind: BEHIND.min((max_tokens - window) / size) }
    }

    /// Positions of a segment.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Segments inside the window.
    pub fn inside(&self) -> usize {
        self.window.div_ceil(self.size)
    }

    /// Segments behind the window.
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// All segments.
    pub fn count(&self) -> usize {
        self.inside() + self.behind
    }

    /// Where segments begin and end, of those inside the window or all.
    pub fn edges(&self) -> Vec<usize> {
        let beyond = self.inside() * self.size;
        (0..=self.count()).map(|index| (self.window + index * self.size).saturating_sub(beyond)).collect()
    }

    /// Positions that stand for the segments behind the window: their middles.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let first = self.window + self.size / 2;
        let size = self.size;
        (0..self.behind).map(move |index| first + index * size)
    }
}

/// What a state of one in all positions of a segment adds to a long convolution in a position of another, on average, by how many
/// segments that is further on, in bfloat16: `[layer, branch, 2D + 1, H]` for distances of -D to D.
#[derive(Debug, Clone)]
pub struct SegmentTaps {
    max_tokens: usize,
    layers: usize,
    width: usize,
    values: Values,
}

impl SegmentTaps {
    /// D.
    pub const FURTHEST: usize = WHOLE - 1;

    /// Those of a model of `max_tokens` positions and H channels.
    ///
    /// # Panics
    /// Where there are not as many values as whole layers need.
    pub fn new(max_tokens: usize, width: usize, values: &[f32]) -> Self {
        let layer = Self::len(1, width);
        assert!(values.len().is_multiple_of(layer), "{} values, {layer} a layer", values.len());
        Self { max_tokens, layers: values.len() / layer, width, values: Values::rounded(values) }
    }

    pub(super) fn mapped(
        (max_tokens, layers, width): (usize, usize, usize),
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
    ) -> Option<Self> {
        Some(Self { max_tokens, layers, width, values: Values::mapped(Self::len(layers, width), file, bytes)? })
    }

    fn len(layers: usize, width: usize) -> usize {
        2 * layers * (2 * Self::FURTHEST + 1) * width
    }

    /// The segments around a window.
    pub fn segments(&self, window: usize) -> Segments {
        Segments::new(window, self.max_tokens)
    }

    /// The tensor's shape.
    pub(super) fn shape(&self) -> [usize; 4] {
        [self.layers, 2, 2 * Self::FURTHEST + 1, self.width]
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The bits of a branch's values `[2D + 1, H]`.
    pub(crate) fn branch(&self, layer: usize, branch: usize) -> &[u16] {
        let len = (2 * Self::FURTHEST + 1) * self.width;
        &self.values()[(2 * layer + branch) * len..][..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_join_and_have_their_samples() {
        for max_tokens in [1, 5, 100, 300, 2048, 8192, 32768] {
            for window in [1, 2, 3, 100, 128, 150, 1000, 16384].into_iter().filter(|&window| window <= max_tokens) {
                let segments = Segments::new(window, max_tokens);
                let (edges, size) = (segments.edges(), segments.size());
                assert_eq!((edges.len(), edges[0], edges[segments.inside()]), (segments.count() + 1, 0, window));
                assert!(edges.is_sorted_by(|a, b| a < b) && edges[segments.count()] <= max_tokens, "{edges:?}");
                assert!(edges.windows(2).skip(1).all(|edges| edges[1] - edges[0] == size), "{edges:?}");
                for (sample, edges) in segments.samples().zip(edges.windows(2).skip(segments.inside())) {
                    assert!((edges[0]..edges[1]).contains(&sample), "{sample} {edges:?}");
                }
                assert!(segments.count() <= SegmentTaps::FURTHEST + 1);
            }
        }
    }
}

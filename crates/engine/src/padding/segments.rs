//! The model's length in segments that grow with their distance from the text, and what one segment does to another.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

use super::values::Values;

/// Positions of the first segment.
const FIRST: usize = 8;

/// The quotient of the ends of a segment and of the one before it.
const GROWTH: f64 = 1.25;

/// A division of the positions 0 to L, the model's length, into N segments: a function of L alone. Windows end where segments do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    edges: Vec<usize>,
}

impl Segments {
    /// The division of `max_tokens` positions.
    pub fn new(max_tokens: usize) -> Self {
        let ends = std::iter::successors(Some(FIRST as f64), |end| Some(end * GROWTH));
        let mut edges: Vec<_> = std::iter::once(0)
            // A rest that is shorter than the last segment belongs to it.
            .chain(ends.map(|end| end.round() as usize).take_while(|&end| 10 * end < 9 * max_tokens))
            .collect();
        edges.push(max_tokens);
        Self { edges }
    }

    /// Where segments begin and end: N + 1 positions, 0 to L.
    pub fn edges(&self) -> &[usize] {
        &self.edges
    }

    /// N.
    pub fn count(&self) -> usize {
        self.edges.len() - 1
    }

    /// The position that stands for segment `index`.
    pub fn sample(&self, index: usize) -> usize {
        (self.edges[index] + self.edges[index + 1]) / 2
    }

    /// How many segments are inside a window; `None` where it ends within one.
    pub fn inside(&self, window: usize) -> Option<usize> {
        self.edges.binary_search(&window).ok()
    }
}

/// What a state of one in all positions of a segment adds to a long convolution in a position of another, on average, in bfloat16:
/// `[layer, branch, to, from, H]`.
#[derive(Debug, Clone)]
pub struct SegmentTaps {
    segments: Segments,
    layers: usize,
    width: usize,
    values: Values,
}

impl SegmentTaps {
    /// Those of a model with that many channels.
    ///
    /// # Panics
    /// Where there are not as many values as whole layers need.
    pub fn new(segments: Segments, width: usize, values: &[f32]) -> Self {
        let layer = Self::len(&segments, 1, width);
        assert!(values.len().is_multiple_of(layer), "{} values, {layer} a layer", values.len());
        Self { segments, layers: values.len() / layer, width, values: Values::rounded(values) }
    }

    pub(super) fn mapped(
        (segments, layers, width): (Segments, usize, usize),
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
    ) -> Option<Self> {
        let values = Values::mapped(Self::len(&segments, layers, width), file, bytes)?;
        Some(Self { segments, layers, width, values })
    }

    fn len(segments: &Segments, layers: usize, width: usize) -> usize {
        2 * layers * segments.count().pow(2) * width
    }

    /// The segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Layers and channels.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.layers, self.width)
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The bits of a branch's values `[N * N, H]`, those that lead to one segment together.
    pub(crate) fn branch(&self, layer: usize, branch: usize) -> &[u16] {
        let len = self.segments.count().pow(2) * self.width;
        let start = (2 * layer + branch) * len;
        &self.values()[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_every_position_once_and_have_their_samples() {
        for max_tokens in [1, 5, 8, 9, 10, 100, 300, 2048, 8192, 32768] {
            let segments = Segments::new(max_tokens);
            let edges = segments.edges();
            assert_eq!((edges[0], edges[segments.count()]), (0, max_tokens));
            assert!(edges.is_sorted_by(|a, b| a < b), "{edges:?}");
            for index in 0..segments.count() {
                assert!((edges[index]..edges[index + 1]).contains(&segments.sample(index)));
                assert_eq!(segments.inside(edges[index]), Some(index));
            }
        }
        assert_eq!(Segments::new(32768).count(), 38);
        assert_eq!(Segments::new(32768).inside(9), None);
    }
}

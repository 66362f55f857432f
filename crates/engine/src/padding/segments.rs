//! Segments of the sequence, and what one does to another.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::SegmentRows;
use danaus_simd::MappedFile;

use super::values::Values;

/// Segments of the model's whole length. Filters are functions of the position as a share of it, and about as smooth.
const WHOLE: usize = 256;

/// Segments behind a window that a sketch computes: further away, filters have decayed.
const BEHIND: usize = 96;

/// Finer segments inside the window that make one behind it: where exactly the text ends matters.
const FINER: usize = 4;

/// The largest window that is sketched, in positions: far fields of larger ones would be too large.
const LARGEST: usize = 4096;

/// The sequence around a window's end in segments of equal size: behind it 256ths of the model's length; inside it
/// quarters of these, of which the first one may reach over the sequence's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    finer: usize,
    window: usize,
    behind: usize,
}

impl Segments {
    /// The division for a window of a model of `max_tokens` positions.
    ///
    /// # Panics
    /// Where the window is larger than that.
    pub fn new(window: usize, max_tokens: usize) -> Self {
        let finer = max_tokens.div_ceil(WHOLE * FINER);
        Self { finer, window, behind: BEHIND.min((max_tokens - window) / (FINER * finer)) }
    }

    /// The largest window that is sketched, of a model of `max_tokens` positions.
    pub fn largest_window(max_tokens: usize) -> usize {
        LARGEST.min(max_tokens / 2)
    }

    /// Positions of a segment behind the window.
    pub fn size(&self) -> usize {
        FINER * self.finer
    }

    /// Positions of a segment inside the window.
    pub fn finer(&self) -> usize {
        self.finer
    }

    /// Segments inside the window.
    pub fn inside(&self) -> usize {
        self.window.div_ceil(self.finer)
    }

    /// Segments behind the window.
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// All segments.
    pub fn count(&self) -> usize {
        self.inside() + self.behind
    }

    /// Where segments inside the window begin and end.
    pub fn edges(&self) -> Vec<usize> {
        let first = self.inside() * self.finer - self.window;
        (0..=self.inside()).map(|index| (index * self.finer).saturating_sub(first)).collect()
    }

    /// Positions that stand for the segments behind the window: their middles.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let (size, first) = (self.size(), self.window + self.size() / 2);
        (0..self.behind).map(move |index| first + index * size)
    }
}

/// What a state of one in all positions of a segment adds to a long convolution in a position of another, on average, in bfloat16:
/// `[layer, branch, rows, H]`.
#[derive(Debug, Clone)]
pub struct SegmentTaps {
    max_tokens: usize,
    layers: usize,
    width: usize,
    values: Values,
}

/// Which segments taps lead from and to; those inside a window are counted from its beginning, those behind it from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Between segments behind the window.
    Behind,
    /// From segments inside the window to those behind it.
    Out,
    /// From segments behind the window to those inside it.
    In,
}

/// The positions that a row of taps leads between.
pub(crate) struct Span {
    /// How many positions the first of those it leads to is further on than the first of those it leads from.
    pub distance: isize,
    /// Positions that it leads to.
    pub to: usize,
    /// Positions that it leads from.
    pub from: usize,
}

impl SegmentTaps {
    /// Those of a model of `max_tokens` positions and H channels.
    ///
    /// # Panics
    /// Where there are not as many values as whole layers need.
    pub fn new(max_tokens: usize, width: usize, values: &[f32]) -> Self {
        let layer = 2 * Self::rows(max_tokens) * width;
        assert!(values.len().is_multiple_of(layer), "{} values, {layer} a layer", values.len());
        Self { max_tokens, layers: values.len() / layer, width, values: Values::rounded(values) }
    }

    pub(super) fn mapped(
        (max_tokens, layers, width): (usize, usize, usize),
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
    ) -> Option<Self> {
        let values = Values::mapped(2 * layers * Self::rows(max_tokens) * width, file, bytes)?;
        Some(Self { max_tokens, layers, width, values })
    }

    /// Segments inside a window and behind it, if these could not be apart, in finer ones.
    fn furthest(max_tokens: usize) -> usize {
        Segments::new(Segments::largest_window(max_tokens), max_tokens).inside() + FINER * BEHIND
    }

    /// Rows of a branch: those between segments behind the window for distances of less than the number of these in either
    /// direction, then those out of the window and into it for every distance of finer segments.
    fn rows(max_tokens: usize) -> usize {
        2 * BEHIND - 1 + 2 * Self::furthest(max_tokens)
    }

    /// What each row of a branch leads between.
    pub(crate) fn spans(max_tokens: usize) -> impl Iterator<Item = Span> {
        let segments = Segments::new(0, max_tokens);
        let (size, finer, behind) = (segments.size(), segments.finer(), BEHIND as isize);
        let apart = move |distance: isize| Span { distance: distance * size as isize, to: size, from: size };
        let out = move |distance| Span { distance: ((distance + 1) * finer) as isize, to: size, from: finer };
        let back =
            move |distance| Span { distance: -(((distance + 1) * finer) as isize), to: finer, from: size };
        let furthest = Self::furthest(max_tokens);
        (1 - behind..behind).map(apart).chain((0..furthest).map(out)).chain((0..furthest).map(back))
    }

    /// The segments around a window.
    pub fn segments(&self, window: usize) -> Segments {
        Segments::new(window, self.max_tokens)
    }

    /// The rows of the taps of these segments.
    pub(crate) fn way(&self, segments: Segments, way: Way) -> SegmentRows {
        let (inside, step) = (segments.inside(), FINER as isize);
        let start = 2 * BEHIND - 1;
        match way {
            Way::Behind => SegmentRows { first: BEHIND - 1, to: 1, from: -1 },
            Way::Out => SegmentRows { first: (start + inside).saturating_sub(1), to: step, from: -1 },
            Way::In => {
                let first = (start + Self::furthest(self.max_tokens) + inside).saturating_sub(1);
                SegmentRows { first, to: -1, from: step }
            }
        }
    }

    /// The tensor's shape.
    pub(super) fn shape(&self) -> [usize; 4] {
        [self.layers, 2, Self::rows(self.max_tokens), self.width]
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The bits of a branch's values `[rows, H]`.
    pub(crate) fn branch(&self, layer: usize, branch: usize) -> &[u16] {
        let len = Self::rows(self.max_tokens) * self.width;
        &self.values()[(2 * layer + branch) * len..][..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_join_and_have_their_samples() {
        for max_tokens in [1, 5, 100, 300, 2048, 8192, 32768] {
            let windows = [1, 2, 3, 100, 128, 150, 1000, 2000].into_iter();
            for window in windows.filter(|&window| window <= Segments::largest_window(max_tokens)) {
                let segments = Segments::new(window, max_tokens);
                let edges = segments.edges();
                assert_eq!((edges.len(), edges[0]), (segments.inside() + 1, 0));
                assert!(edges.is_sorted_by(|a, b| a < b) && edges[segments.inside()] == window, "{edges:?}");
                assert!(edges.windows(2).skip(1).all(|edges| edges[1] - edges[0] == segments.finer()));
                let samples: Vec<_> = segments.samples().collect();
                assert!(samples.iter().all(|&sample| (window..max_tokens).contains(&sample)), "{samples:?}");
            }
        }
    }

    /// Every pair of segments has taps, those of its distance and sizes.
    #[test]
    fn taps_lead_between_their_segments() {
        for (max_tokens, windows) in
            [(300, [1, 2, 149, 150]), (2048, [8, 9, 700, 1024]), (32768, [8, 33, 1024, 2048])]
        {
            let spans: Vec<_> = SegmentTaps::spans(max_tokens).collect();
            assert_eq!(spans.len(), SegmentTaps::rows(max_tokens));
            let taps = SegmentTaps::new(max_tokens, 1, &vec![0.0; 2 * spans.len()]);
            for window in windows {
                let segments = taps.segments(window);
                // Positions of a segment, the first one inside the window as far as it would reach.
                let place = |behind: bool, index: usize| match behind {
                    true => ((window + index * segments.size()) as isize, segments.size()),
                    false => {
                        let before = (segments.inside() - index) * segments.finer();
                        (window as isize - before as isize, segments.finer())
                    }
                };
                let ways = [(Way::Behind, true, true), (Way::Out, true, false), (Way::In, false, true)];
                for (way, to_behind, from_behind) in ways {
                    let count = |behind| if behind { segments.behind() } else { segments.inside() };
                    for to in 0..count(to_behind) {
                        for from in 0..count(from_behind) {
                            let ((a, a_size), (b, b_size)) = (place(to_behind, to), place(from_behind, from));
                            let span = &spans[taps.way(segments, way).row(to, from)];
                            assert_eq!(
                                (span.distance, span.to, span.from),
                                (a - b, a_size, b_size),
                                "{way:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

//! A sketch of the padding behind a window: a few of its positions that stand for all, computed with each text.
//!
//! What texts do differently to the padding is mostly what all of a text's tokens do together, which changes slowly from one
//! position of the padding to the next. So a sketch follows one position of each segment through the layers, and adds to the
//! window what those positions do as if their segments were like them. What that neglects is measured once with probe texts, and
//! added as their mean.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

use super::far_field::mean;
use super::segments::Way;
use super::values::{Values, widened};
use super::{Recording, SegmentTaps, Segments};

/// What a pass records of each of N segments: this many rows `[N, H]` a layer.
const SAMPLED: usize = 7;

/// Rows of a layer of a sketch.
const STORED: usize = 5;

/// What is recorded of a segment, by its place among the [`SAMPLED`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sampled {
    /// Of a sample: how far the short convolution departs from a steady one; x1's, x2's and v's are three places.
    Departures,
    /// What a branch convolves: inside the window the mean over the segment's positions, behind it its sample's; two places.
    States,
    /// Of a sample: the result of a branch's long convolution; two places.
    Results,
}

impl Sampled {
    pub fn place(self, branch: usize) -> usize {
        branch
            + match self {
                Self::Departures => 0,
                Self::States => 3,
                Self::Results => 5,
            }
    }
}

/// What one exact pass saw of the segments, in float32: `[layer, SAMPLED, N, H]`.
#[derive(Debug, Clone)]
pub struct Samples {
    segments: Segments,
    width: usize,
    values: Vec<f32>,
}

/// A sketch's constants: for each of its positions, layer by layer, how far the short convolution departs from a steady one (three
/// times H) and what the two long convolutions have over those of segments, in bfloat16: `[layer, 5, segments behind, H]`.
#[derive(Debug, Clone)]
pub struct Sketch {
    taps: Arc<SegmentTaps>,
    segments: Segments,
    values: Values,
}

impl Samples {
    /// One of a window, to be written to by a pass of the model that `taps` are of.
    pub fn new(taps: &SegmentTaps, window: usize) -> Self {
        let ([layers, .., width], segments) = (taps.shape(), taps.segments(window));
        Self { segments, width, values: vec![0.0; layers * SAMPLED * segments.count() * width] }
    }

    /// The mean of samples of one model.
    ///
    /// # Panics
    /// Where there are none, or they have different sizes.
    pub fn mean<'a>(samples: impl IntoIterator<Item = &'a Samples>) -> Self {
        let samples: Vec<_> = samples.into_iter().collect();
        assert!(samples.iter().all(|other| other.values.len() == samples[0].values.len()), "one model");
        let values: Vec<_> = samples.iter().map(|samples| &samples.values[..]).collect();
        Self { segments: samples[0].segments, width: samples[0].width, values: mean(&values) }
    }

    /// The segments.
    pub(crate) fn segments(&self) -> Segments {
        self.segments
    }

    /// A layer's rows, each place's `[N, H]`.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> impl Iterator<Item = &mut [f32]> {
        let len = self.segments.count() * self.width;
        self.values[layer * SAMPLED * len..][..SAMPLED * len].chunks_exact_mut(len)
    }

    /// What segments add to others in a branch: `[targets, H]`.
    fn convolve(&self, taps: &SegmentTaps, (layer, branch): (usize, usize), way: Way) -> Vec<f32> {
        let (inside, behind) = (self.segments.inside(), self.segments.behind());
        let (targets, sources) = match way {
            Way::Behind => (behind, inside..self.segments.count()),
            Way::Out => (behind, 0..inside),
            Way::In => (inside, inside..self.segments.count()),
        };
        let (rows, taps) = (taps.way(self.segments, way), taps.branch(layer, branch));
        let mut sums = vec![0.0; targets * self.width];
        for (target, sum) in sums.chunks_exact_mut(self.width).enumerate() {
            for (source, segment) in sources.clone().enumerate() {
                let states = self.row(layer, Sampled::States.place(branch), segment);
                let terms = taps[rows.row(target, source) * self.width..].iter().zip(states);
                sum.iter_mut().zip(terms).for_each(|(sum, (&tap, state))| *sum += widened(tap) * state);
            }
        }
        sums
    }

    fn row(&self, layer: usize, place: usize, segment: usize) -> &[f32] {
        let row = (layer * SAMPLED + place) * self.segments.count() + segment;
        &self.values[row * self.width..][..self.width]
    }
}

impl Sketch {
    /// The sketch that is right for the mean of some passes: `samples` and `far` are theirs, of one window, and `far` is
    /// lessened by what the sketch adds itself.
    pub fn new(taps: &Arc<SegmentTaps>, samples: &Samples, far: &mut Recording) -> Self {
        let segments = samples.segments;
        assert!(segments == taps.segments(far.shape().window), "samples of the window");
        let ([layers, .., width], inside) = (taps.shape(), segments.inside());
        let mut values = Vec::with_capacity(layers * STORED * segments.behind() * width);
        for layer in 0..layers {
            for part in 0..3 {
                let places =
                    (inside..segments.count()).map(|segment| (Sampled::Departures.place(part), segment));
                places.for_each(|(place, segment)| values.extend(samples.row(layer, place, segment)));
            }
            for branch in 0..2 {
                let at = (layer, branch);
                let mut sums = samples.convolve(taps, at, Way::Behind);
                let out = samples.convolve(taps, at, Way::Out);
                sums.iter_mut().zip(out).for_each(|(sum, out)| *sum += out);
                for (segment, sum) in (inside..).zip(sums.chunks_exact(width)) {
                    let result = samples.row(layer, Sampled::Results.place(branch), segment);
                    values.extend(result.iter().zip(sum).map(|(y, sum)| y - sum));
                }
                let sums = samples.convolve(taps, at, Way::In);
                let far = far.branch_mut(layer, branch);
                for (edges, sum) in segments.edges().windows(2).zip(sums.chunks_exact(width)) {
                    for row in far[edges[0] * width..edges[1] * width].chunks_exact_mut(width) {
                        row.iter_mut().zip(sum).for_each(|(far, sum)| *far -= sum);
                    }
                }
            }
        }
        Self { taps: Arc::clone(taps), segments, values: Values::rounded(&values) }
    }

    pub(super) fn mapped(
        taps: &Arc<SegmentTaps>,
        window: usize,
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
    ) -> Option<Self> {
        let ([layers, .., width], segments) = (taps.shape(), taps.segments(window));
        let values = Values::mapped(layers * STORED * segments.behind() * width, file, bytes)?;
        Some(Self { taps: Arc::clone(taps), segments, values })
    }

    /// What segments do to each other.
    pub fn taps(&self) -> &Arc<SegmentTaps> {
        &self.taps
    }

    /// The segments around its window.
    pub fn segments(&self) -> Segments {
        self.segments
    }

    /// Positions that are computed with the text.
    pub fn rows(&self) -> usize {
        self.segments.behind()
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The sizes of the values.
    pub(super) fn shape(&self) -> [usize; 4] {
        let [layers, .., width] = self.taps.shape();
        [layers, STORED, self.rows(), width]
    }

    /// The bits of a layer's departures `[rows, H]` of x1, x2 and v.
    pub(crate) fn departures(&self, layer: usize) -> [&[u16]; 3] {
        [0, 1, 2].map(|place| self.place(layer, place))
    }

    /// The bits of what a branch's convolution has over that of segments, `[rows, H]`.
    pub(crate) fn results(&self, layer: usize, branch: usize) -> &[u16] {
        self.place(layer, 3 + branch)
    }

    fn place(&self, layer: usize, place: usize) -> &[u16] {
        let [_, places, rows, width] = self.shape();
        &self.values.bits()[(layer * places + place) * rows * width..][..rows * width]
    }
}

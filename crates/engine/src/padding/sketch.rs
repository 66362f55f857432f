//! A sketch of the padding beyond a window: a few of its positions that stand for all, computed with each text.
//!
//! What texts do differently to the padding is mostly what all of a text's tokens do together, which changes slowly from one
//! position of the padding to the next. So a sketch follows one position of each segment through the layers, and adds to the
//! window what those positions do as if their segments were like them. What that neglects is measured once with probe texts, and
//! added as their mean.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

use super::far_field::mean;
use super::values::{Values, widened};
use super::{Recording, SegmentTaps, Segments};

/// What a pass records of each segment: this many rows `[N, H]` a layer.
const SAMPLED: usize = 9;

/// Rows of a layer of a sketch.
const STORED: usize = 5;

/// What is recorded of a segment, by its place among the [`SAMPLED`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sampled {
    /// Of its sample: how far the short convolution departs from a steady one; x1's, x2's and v's are three places.
    Departures,
    /// Of its sample: what a branch convolves; two places.
    States,
    /// Of all its positions: the mean of the same; two places.
    Means,
    /// Of its sample: the result of a branch's long convolution; two places.
    Results,
}

impl Sampled {
    pub fn place(self, branch: usize) -> usize {
        branch
            + match self {
                Self::Departures => 0,
                Self::States => 3,
                Self::Means => 5,
                Self::Results => 7,
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
/// times H) and what the two long convolutions have over those of segments, in bfloat16: `[layer, 5, N - inside, H]`.
#[derive(Debug, Clone)]
pub struct Sketch {
    taps: Arc<SegmentTaps>,
    /// Segments that the window consists of.
    inside: usize,
    values: Values,
}

impl Samples {
    /// One to be written to by a pass of the model that `taps` are of.
    pub fn new(taps: &SegmentTaps) -> Self {
        let ((layers, width), segments) = (taps.sizes(), taps.segments().clone());
        let values = vec![0.0; layers * SAMPLED * segments.count() * width];
        Self { segments, width, values }
    }

    /// The mean of samples of one model.
    ///
    /// # Panics
    /// Where there are none, or they have different sizes.
    pub fn mean<'a>(samples: impl IntoIterator<Item = &'a Samples>) -> Self {
        let samples: Vec<_> = samples.into_iter().collect();
        assert!(samples.iter().all(|other| other.values.len() == samples[0].values.len()), "one model");
        let values: Vec<_> = samples.iter().map(|samples| &samples.values[..]).collect();
        Self { segments: samples[0].segments.clone(), width: samples[0].width, values: mean(&values) }
    }

    /// The segments, and a layer's rows, each place's `[N, H]`.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> (&Segments, impl Iterator<Item = &mut [f32]>) {
        let len = self.segments.count() * self.width;
        let values = &mut self.values[layer * SAMPLED * len..][..SAMPLED * len];
        (&self.segments, values.chunks_exact_mut(len))
    }

    fn row(&self, layer: usize, place: usize, segment: usize) -> &[f32] {
        let row = (layer * SAMPLED + place) * self.segments.count() + segment;
        &self.values[row * self.width..][..self.width]
    }
}

impl Sketch {
    /// The sketch that is right for the mean of some passes: `samples` and `far` are theirs, and `far` is lessened by what the
    /// sketch adds itself. `None` where the window does not end where a segment does.
    pub fn new(taps: &Arc<SegmentTaps>, samples: &Samples, far: &mut Recording) -> Option<Self> {
        let segments = taps.segments();
        let inside = segments.inside(far.shape().window)?;
        let (layers, width) = taps.sizes();
        let rows = segments.count() - inside;
        let mut values = vec![0.0; layers * STORED * rows * width];
        let mut sum = vec![0.0; width];
        for (layer, values) in values.chunks_exact_mut(STORED * rows * width).enumerate() {
            for place in 0..3 {
                for row in 0..rows {
                    let departures = samples.row(layer, Sampled::Departures.place(place), inside + row);
                    values[(place * rows + row) * width..][..width].copy_from_slice(departures);
                }
            }
            for branch in 0..2 {
                let sampled = BranchSamples { taps, samples, layer, branch, inside };
                for row in 0..rows {
                    sampled.convolve(inside + row, 0..segments.count(), &mut sum);
                    let result = samples.row(layer, Sampled::Results.place(branch), inside + row);
                    let out = &mut values[((3 + branch) * rows + row) * width..][..width];
                    out.iter_mut().zip(result.iter().zip(&sum)).for_each(|(out, (y, sum))| *out = y - sum);
                }
                let far = far.branch_mut(layer, branch);
                for (segment, edges) in segments.edges()[..=inside].windows(2).enumerate() {
                    sampled.convolve(segment, inside..segments.count(), &mut sum);
                    for row in far[edges[0] * width..edges[1] * width].chunks_exact_mut(width) {
                        row.iter_mut().zip(&sum).for_each(|(far, sum)| *far -= sum);
                    }
                }
            }
        }
        Some(Self { taps: Arc::clone(taps), inside, values: Values::rounded(&values) })
    }

    pub(super) fn mapped(
        taps: &Arc<SegmentTaps>,
        window: usize,
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
    ) -> Option<Self> {
        let inside = taps.segments().inside(window)?;
        let (layers, width) = taps.sizes();
        let len = layers * STORED * (taps.segments().count() - inside) * width;
        Some(Self { taps: Arc::clone(taps), inside, values: Values::mapped(len, file, bytes)? })
    }

    /// What segments do to each other.
    pub fn taps(&self) -> &Arc<SegmentTaps> {
        &self.taps
    }

    /// Segments that the window consists of.
    pub fn inside(&self) -> usize {
        self.inside
    }

    /// Positions that are computed with the text.
    pub fn rows(&self) -> usize {
        self.taps.segments().count() - self.inside
    }

    /// Those positions.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let segments = self.taps.segments();
        (self.inside..segments.count()).map(|index| segments.sample(index))
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The sizes of the values.
    pub(super) fn shape(&self) -> [usize; 4] {
        let (layers, width) = self.taps.sizes();
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

/// Samples of one branch, to be convolved by segments.
struct BranchSamples<'a> {
    taps: &'a SegmentTaps,
    samples: &'a Samples,
    layer: usize,
    branch: usize,
    inside: usize,
}

impl BranchSamples<'_> {
    /// What `sources` add to segment `target`: those inside the window with the mean of their positions, the others as their
    /// samples.
    fn convolve(&self, target: usize, sources: Range<usize>, sum: &mut [f32]) {
        let (width, count) = (sum.len(), self.taps.segments().count());
        let taps = self.taps.branch(self.layer, self.branch);
        sum.fill(0.0);
        for source in sources {
            let place = if source < self.inside { Sampled::Means } else { Sampled::States };
            let states = self.samples.row(self.layer, place.place(self.branch), source);
            let taps = &taps[(target * count + source) * width..][..width];
            let terms = taps.iter().zip(states);
            sum.iter_mut().zip(terms).for_each(|(sum, (&tap, state))| *sum += widened(tap) * state);
        }
    }
}


//! Running sums of the long filters, with which cells of any size are convolved.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::Matrix;
use danaus_simd::MappedFile;

use super::cells::step;
use super::values::Values;

/// The sums of a model's long filters up to each distance that is a whole number of steps, for all layers and both branches.
///
/// Row `zero + x` has the sum of all taps up to the distance of x steps, averaged over the positions of a step around it, so that what
/// a filter does from one position to the next counts as little as it does on average. Row `zero` has the sum of all taps before
/// distance 0. Sums are 16-bit integers with a scale for each channel, and lie together by [`CHUNK`](Self::CHUNK) channels, since a pass
/// reads all of a chunk's at once.
#[derive(Debug, Clone)]
pub struct RunningSums {
    max_tokens: usize,
    layers: usize,
    width: usize,
    /// `[layer, branch, chunk, rows, n]`
    sums: Values<i16>,
    /// What the integers count: `[layer, branch, H]`.
    scales: Values<f32>,
}

/// The running sums of a chunk of a layer's branch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BranchSums<'a> {
    /// `[rows, n]`
    pub sums: Matrix<'a, i16>,
    /// The row of distance 0.
    pub zero: usize,
    /// `[n]`
    pub scales: &'a [f32],
}

impl RunningSums {
    /// Channels whose sums lie together; the last chunk may have fewer.
    pub(crate) const CHUNK: usize = 48;

    /// Those of a model of `max_tokens` positions and H channels.
    ///
    /// # Panics
    /// Where the sums are not as many as whole layers need.
    pub(crate) fn new(max_tokens: usize, width: usize, sums: Vec<i16>, scales: Vec<f32>) -> Self {
        let layer = 2 * Self::rows(max_tokens) * width;
        assert!(sums.len().is_multiple_of(layer) && scales.len() / (2 * width) == sums.len() / layer);
        let layers = sums.len() / layer;
        Self {
            max_tokens,
            layers,
            width,
            sums: Values::Computed(sums.into()),
            scales: Values::Computed(scales.into()),
        }
    }

    pub(super) fn mapped(
        (max_tokens, layers, width): (usize, usize, usize),
        file: &Arc<MappedFile>,
        [sums, scales]: [Range<usize>; 2],
    ) -> Option<Self> {
        let sums = Values::mapped(2 * layers * Self::rows(max_tokens) * width, file, sums)?;
        let scales = Values::mapped(2 * layers * width, file, scales)?;
        Some(Self { max_tokens, layers, width, sums, scales })
    }

    /// The distances of a branch's rows, in positions: for each row, those that it is the average over.
    pub(crate) fn distances(max_tokens: usize) -> impl Iterator<Item = Range<isize>> {
        let (zero, step) = (Self::zero(max_tokens) as isize, step(max_tokens) as isize);
        (-zero..=zero).map(move |row| match row {
            0 => -1..0,
            row => row * step - step / 2..row * step - step / 2 + step,
        })
    }

    /// Layers and channels.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.layers, self.width)
    }

    fn zero(max_tokens: usize) -> usize {
        max_tokens.div_ceil(step(max_tokens))
    }

    fn rows(max_tokens: usize) -> usize {
        2 * Self::zero(max_tokens) + 1
    }

    /// The tensors: integers, and scales.
    pub(super) fn values(&self) -> (&[i16], &[f32]) {
        (self.sums.get(), self.scales.get())
    }

    /// The shape of the integers' tensor.
    pub(super) fn tensor_shape(&self) -> [usize; 3] {
        [self.layers, 2, Self::rows(self.max_tokens) * self.width]
    }

    /// The channels of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let width = self.width;
        (0..width).step_by(Self::CHUNK).map(move |start| start..(start + Self::CHUNK).min(width))
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.sums.get()) + size_of_val(self.scales.get())
    }

    /// The chunk of a branch that has these channels.
    pub(crate) fn branch(&self, layer: usize, branch: usize, channels: Range<usize>) -> BranchSums<'_> {
        let (index, rows) = (2 * layer + branch, Self::rows(self.max_tokens));
        let sums = &self.sums.get()[rows * (index * self.width + channels.start)..][..rows * channels.len()];
        let scales = &self.scales.get()[index * self.width..][..self.width];
        BranchSums {
            sums: Matrix::new(sums, channels.len()),
            zero: Self::zero(self.max_tokens),
            scales: &scales[channels],
        }
    }
}

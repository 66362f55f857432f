//! What the padding beyond a window adds to the long convolutions inside it.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

use super::values::Values;

/// The far field of a window of m tokens: for each of its positions, layer by layer, what the padding from position m to the
/// model's length adds to each of the two long convolutions, in bfloat16.
///
/// `[layer, branch, m, H]`; the branches are the mixer's and the residual's.
#[derive(Debug, Clone)]
pub struct FarField {
    shape: Shape,
    values: Values,
}

/// The sizes of a far field, or of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Positions.
    pub window: usize,
    /// Layers of the encoder.
    pub layers: usize,
    /// Channels: H.
    pub width: usize,
}

/// A far field in float32, as one pass saw it.
#[derive(Debug, Clone)]
pub struct Recording {
    shape: Shape,
    values: Vec<f32>,
}

impl Shape {
    /// Values of a far field of this shape.
    pub fn len(self) -> usize {
        2 * self.layers * self.branch_len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn branch_len(self) -> usize {
        self.window * self.width
    }

    /// Where a branch's values are.
    fn branch(self, layer: usize, branch: usize) -> Range<usize> {
        let start = (2 * layer + branch) * self.branch_len();
        start..start + self.branch_len()
    }
}

impl FarField {
    /// One in a memory-mapped file; `None` where `bytes` are not in it, not aligned or not as many as the shape needs.
    pub(super) fn mapped(shape: Shape, file: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        Some(Self { shape, values: Values::mapped(shape.len(), file, bytes)? })
    }

    /// The mean of recordings of one shape.
    ///
    /// # Panics
    /// Where there are none, or they have different shapes.
    pub fn mean<'a>(recordings: impl IntoIterator<Item = &'a Recording>) -> Self {
        Self::from(&Recording::mean(recordings))
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        self.values.bits()
    }

    /// The bits of a branch's values `[m, H]`.
    pub(crate) fn branch(&self, layer: usize, branch: usize) -> &[u16] {
        &self.values()[self.shape.branch(layer, branch)]
    }
}

impl From<&Recording> for FarField {
    fn from(recording: &Recording) -> Self {
        Self { shape: recording.shape, values: Values::rounded(&recording.values) }
    }
}

impl Recording {
    /// One to be written to by a pass.
    pub fn new(shape: Shape) -> Self {
        Self { shape, values: vec![0.0; shape.len()] }
    }

    /// The mean of recordings of one shape.
    ///
    /// # Panics
    /// Where there are none, or they have different shapes.
    pub fn mean<'a>(recordings: impl IntoIterator<Item = &'a Recording>) -> Self {
        let recordings: Vec<_> = recordings.into_iter().collect();
        let shape = recordings[0].shape;
        assert!(recordings.iter().all(|recording| recording.shape == shape), "recordings of one shape");
        let values: Vec<_> = recordings.iter().map(|recording| &recording.values[..]).collect();
        Self { shape, values: mean(&values) }
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A branch's values `[m, H]`.
    pub(super) fn branch_mut(&mut self, layer: usize, branch: usize) -> &mut [f32] {
        &mut self.values[self.shape.branch(layer, branch)]
    }

    /// A layer's values, by branch `[m, H]`.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> [&mut [f32]; 2] {
        let (mixer, residual) = (self.shape.branch(layer, 0), self.shape.branch(layer, 1));
        let (first, second) = self.values[mixer.start..residual.end].split_at_mut(self.shape.branch_len());
        [first, second]
    }
}

/// The mean of sequences of one length.
pub(super) fn mean(sequences: &[&[f32]]) -> Vec<f32> {
    let scale = 1.0 / sequences.len() as f32;
    let mut sum = sequences[0].to_vec();
    for sequence in &sequences[1..] {
        sum.iter_mut().zip(*sequence).for_each(|(sum, value)| *sum += value);
    }
    sum.iter_mut().for_each(|sum| *sum *= scale);
    sum
}

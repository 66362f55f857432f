//! What the padding beyond a window adds to the long convolutions inside it.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

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

#[derive(Debug, Clone)]
enum Values {
    Computed(Arc<[u16]>),
    Mapped { file: Arc<MappedFile>, bytes: Range<usize> },
}

/// A far field as one pass saw it, in float32.
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
        let stored = (**file).as_ref().get(bytes.clone())?;
        let values: &[u16] = bytemuck::try_cast_slice(stored).ok()?;
        (values.len() == shape.len())
            .then(|| Self { shape, values: Values::Mapped { file: Arc::clone(file), bytes } })
    }

    /// The mean of recordings of one shape.
    ///
    /// # Panics
    /// Where there are none, or they have different shapes.
    pub fn mean<'a>(recordings: impl IntoIterator<Item = &'a Recording>) -> Self {
        let recordings: Vec<_> = recordings.into_iter().collect();
        let shape = recordings[0].shape;
        assert!(recordings.iter().all(|recording| recording.shape == shape), "recordings of one shape");
        let scale = 1.0 / recordings.len() as f32;
        let mean = |index| {
            let sum: f32 = recordings.iter().map(|recording| recording.values[index]).sum();
            half::bf16::from_f32(sum * scale).to_bits()
        };
        Self { shape, values: Values::Computed((0..shape.len()).map(mean).collect()) }
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The bits of all values.
    pub fn values(&self) -> &[u16] {
        match &self.values {
            Values::Computed(values) => values,
            Values::Mapped { file, bytes } => bytemuck::cast_slice(&(**file).as_ref()[bytes.clone()]),
        }
    }

    /// The bits of a branch's values `[m, H]`.
    pub(crate) fn branch(&self, layer: usize, branch: usize) -> &[u16] {
        &self.values()[self.shape.branch(layer, branch)]
    }
}

impl Recording {
    /// One to be written to by a pass.
    pub fn new(shape: Shape) -> Self {
        Self { shape, values: vec![0.0; shape.len()] }
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A layer's values, by branch `[m, H]`.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> [&mut [f32]; 2] {
        let (mixer, residual) = (self.shape.branch(layer, 0), self.shape.branch(layer, 1));
        let (first, second) = self.values[mixer.start..residual.end].split_at_mut(self.shape.branch_len());
        [first, second]
    }
}

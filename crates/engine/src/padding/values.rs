//! Stored sequences: bfloat16 values in memory, or in a memory-mapped file.

use std::ops::Range;
use std::sync::Arc;

use danaus_simd::MappedFile;

/// The bits of bfloat16 values.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Computed(Arc<[u16]>),
    Mapped { file: Arc<MappedFile>, bytes: Range<usize> },
}

impl Values {
    /// Rounds `values` to bfloat16.
    pub fn rounded(values: &[f32]) -> Self {
        Self::Computed(values.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect())
    }

    /// Those in a memory-mapped file; `None` where `bytes` are not in it, not aligned or not `len` values.
    pub fn mapped(len: usize, file: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        let stored = (**file).as_ref().get(bytes.clone())?;
        let values: &[u16] = bytemuck::try_cast_slice(stored).ok()?;
        (values.len() == len).then(|| Self::Mapped { file: Arc::clone(file), bytes })
    }

    pub fn bits(&self) -> &[u16] {
        match self {
            Self::Computed(values) => values,
            Self::Mapped { file, bytes } => bytemuck::cast_slice(&(**file).as_ref()[bytes.clone()]),
        }
    }
}

/// The value of these bits.
pub(super) fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

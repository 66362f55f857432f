//! Stored sequences: values in memory, or in a memory-mapped file.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use danaus_simd::MappedFile;

/// Values of one type.
#[derive(Debug, Clone)]
pub(super) enum Values<T> {
    Computed(Arc<[T]>),
    Mapped { file: Arc<MappedFile>, bytes: Range<usize> },
}

impl<T: Pod> Values<T> {
    /// Those in a memory-mapped file; `None` where `bytes` are not in it, not aligned or not `len` values.
    pub fn mapped(len: usize, file: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        let stored = (**file).as_ref().get(bytes.clone())?;
        let values: &[T] = bytemuck::try_cast_slice(stored).ok()?;
        (values.len() == len).then(|| Self::Mapped { file: Arc::clone(file), bytes })
    }

    pub fn get(&self) -> &[T] {
        match self {
            Self::Computed(values) => values,
            Self::Mapped { file, bytes } => bytemuck::cast_slice(&(**file).as_ref()[bytes.clone()]),
        }
    }
}

/// The bits of values in bfloat16.
pub(super) fn rounded(values: &[f32]) -> Values<u16> {
    Values::Computed(values.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect())
}

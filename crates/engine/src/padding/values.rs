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

/// Appends rows of `width` values as 8-bit integers, and their scales.
pub(super) fn quantize(rows: &[f32], width: usize, values: &mut Vec<i8>, scales: &mut Vec<f32>) {
    for row in rows.chunks_exact(width) {
        let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let scale = most / 127.0;
        let inverse = if scale > 0.0 && scale.is_finite() { 1.0 / scale } else { 0.0 };
        values.extend(row.iter().map(|value| (value * inverse).round() as i8));
        scales.push(scale);
    }
}

/// Writes some channels of rows of `width` integers, with their scales, to `out` `[rows, n]`.
pub(super) fn restore(
    (values, width): (&[i8], usize),
    scales: &[f32],
    channels: Range<usize>,
    out: &mut [f32],
) {
    let rows = values.chunks_exact(width).zip(scales);
    for (out, (row, &scale)) in out.chunks_exact_mut(channels.len()).zip(rows) {
        out.iter_mut().zip(&row[channels.clone()]).for_each(|(out, &value)| *out = f32::from(value) * scale);
    }
}

//! Weights as they are stored: in a memory-mapped file, or computed.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use crate::bytes::Bytes;

/// A tensor of numbers in row-major order, read as f32 whatever it is stored as: floating-point numbers, or 8-bit integers
/// with a factor for each row (of the last dimension).
///
/// Cheap to clone: clones share the data. A tensor of a checkpoint stays in the memory-mapped file, so that its pages
/// are read when they are touched and can be dropped by the system under memory pressure.
#[derive(Clone)]
pub struct Tensor {
    shape: Arc<[usize]>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Owned(Arc<Vec<f32>>),
    Stored {
        source: Bytes,
        bytes: Range<usize>,
        float: FloatType,
    },
    /// Integers, and the factor of each row.
    Scaled {
        source: Bytes,
        bytes: Range<usize>,
        factors: Arc<[f32]>,
    },
}

/// The storage types that weights may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// Bytes of one value.
    pub(crate) fn size(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }

    /// Converts little-endian `bytes` to as many values of `out` as both hold.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            FloatType::F32 => convert(bytes, out, f32::from_le_bytes),
            FloatType::F16 => convert(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            FloatType::Bf16 => convert(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn convert<const SIZE: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; SIZE]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    out.iter_mut().zip(chunks).for_each(|(out, chunk)| *out = value(*chunk));
}

impl Tensor {
    /// A tensor over computed values.
    ///
    /// # Panics
    /// Where `values` has not as many elements as `shape` says.
    pub fn from_vec(shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a tensor of shape {shape:?}");
        Self { shape: shape.into(), data: Data::Owned(Arc::new(values)) }
    }

    /// A tensor over some `bytes` of `source`; `None` where they are not in it or not as many as `shape` needs.
    pub(crate) fn stored(
        shape: &[usize],
        source: &Bytes,
        bytes: Range<usize>,
        float: FloatType,
    ) -> Option<Self> {
        holds(shape, source, &bytes, float.size()).then(|| Self {
            shape: shape.into(),
            data: Data::Stored { source: source.clone(), bytes, float },
        })
    }

    /// As [`Self::stored`], for 8-bit integers, of which each row of the last dimension is multiplied by its factor; `None`
    /// where there are not as many factors as rows, too.
    pub(crate) fn scaled(
        shape: &[usize],
        source: &Bytes,
        bytes: Range<usize>,
        factors: Vec<f32>,
    ) -> Option<Self> {
        let &columns = shape.last()?;
        let fits = holds(shape, source, &bytes, 1) && columns > 0 && factors.len() * columns == bytes.len();
        fits.then(|| Self {
            shape: shape.into(),
            data: Data::Scaled { source: source.clone(), bytes, factors: factors.into() },
        })
    }

    /// Size of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, where they lie in memory as aligned f32: no copy.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::Owned(values) => Some(values),
            Data::Stored { source, bytes, float: FloatType::F32 } if cfg!(target_endian = "little") => {
                bytemuck::try_cast_slice(&source.as_ref()[bytes.clone()]).ok()
            }
            Data::Stored { .. } | Data::Scaled { .. } => None,
        }
    }

    /// All values as f32: where they lie in memory, if they can be read there, else converted.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self.as_f32() {
            Some(values) => Cow::Borrowed(values),
            None => {
                let mut out = vec![0.0; self.len()];
                self.copy_range(0, &mut out);
                Cow::Owned(out)
            }
        }
    }

    /// All values, converted to f32.
    pub fn to_vec(&self) -> Vec<f32> {
        self.values().into_owned()
    }

    /// Gives back the memory of the mapped file's pages, those of its other tensors included: pages that are needed again are
    /// read again.
    pub fn release_pages(&self) {
        match &self.data {
            Data::Owned(_) => {}
            Data::Stored { source, .. } | Data::Scaled { source, .. } => source.release(),
        }
    }

    /// Copies row `row` of a two-dimensional tensor, converted to f32; the table itself stays where it is.
    ///
    /// # Panics
    /// Where the tensor is not two-dimensional, has no such row, or `out` is not as long as a row.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let &[rows, columns] = &*self.shape else { panic!("copy_row of a tensor of shape {:?}", self.shape) };
        assert!(row < rows, "row {row} of a table with {rows} rows");
        assert_eq!(out.len(), columns, "length of a row");
        self.copy_range(row * columns, out);
    }

    /// Copies the elements from `start` on that fill `out`.
    fn copy_range(&self, start: usize, out: &mut [f32]) {
        match &self.data {
            Data::Owned(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Data::Stored { source, bytes, float } => {
                let size = float.size();
                let stored = &source.as_ref()[bytes.clone()];
                float.decode(&stored[start * size..(start + out.len()) * size], out);
            }
            Data::Scaled { source, bytes, factors } => {
                let columns = bytes.len() / factors.len();
                let mut stored = &source.as_ref()[bytes.clone()][start..];
                let (mut row, mut left, mut out) = (start / columns, columns - start % columns, out);
                while !out.is_empty() {
                    let (of_row, others) = out.split_at_mut(left.min(out.len()));
                    for (out, &byte) in of_row.iter_mut().zip(stored) {
                        *out = f32::from(byte.cast_signed()) * factors[row];
                    }
                    stored = &stored[of_row.len()..];
                    (row, left, out) = (row + 1, columns, others);
                }
            }
        }
    }

    /// Index and value of the first element that is infinite or not a number.
    pub(crate) fn first_non_finite(&self) -> Option<(usize, f32)> {
        const BLOCK: usize = 4096;
        let mut buffer = [0.0; BLOCK];
        let whole = self.as_f32();
        (0..self.len()).step_by(BLOCK).find_map(|start| {
            let length = BLOCK.min(self.len() - start);
            let block = match whole {
                Some(values) => &values[start..start + length],
                None => {
                    self.copy_range(start, &mut buffer[..length]);
                    &buffer[..length]
                }
            };
            // No early exit: without it the compiler tests many elements at a time.
            if !block.iter().fold(false, |found, x| found | !x.is_finite()) {
                return None;
            }
            let at = block.iter().position(|x| !x.is_finite())?;
            Some((start + at, block[at]))
        })
    }
}

/// Whether `bytes` are in `source`, and as many as the elements of `shape`, each of `size` bytes, need.
fn holds(shape: &[usize], source: &Bytes, bytes: &Range<usize>, size: usize) -> bool {
    let needed = shape.iter().try_fold(size, |product, &size| product.checked_mul(size));
    source.as_ref().get(bytes.clone()).is_some_and(|stored| Some(stored.len()) == needed)
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = match &self.data {
            Data::Owned(_) => "computed f32".to_owned(),
            Data::Stored { float, bytes, .. } => format!("stored {float:?} at {}", bytes.start),
            Data::Scaled { bytes, .. } => format!("stored 8-bit integers at {}", bytes.start),
        };
        write!(f, "Tensor({:?}, {storage})", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(bytes: &[u8]) -> Bytes {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Bytes::open(file.path()).unwrap()
    }

    #[test]
    fn stored_types_read_as_f32() {
        let values = [1.5f32, -2.0, 0.25, 65504.0, -0.0, 3.0];
        let f32_bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16_bytes: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let bf16_bytes: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let expect = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (float, bytes) in
            [(FloatType::F32, f32_bytes), (FloatType::F16, f16_bytes), (FloatType::Bf16, bf16_bytes)]
        {
            for shift in 0..3 {
                let mut padded = vec![0; shift];
                padded.extend_from_slice(&bytes);
                let file = mapped(&padded);
                let tensor = Tensor::stored(&[3, 2], &file, shift..padded.len(), float).unwrap();
                let rounded = if float == FloatType::Bf16 {
                    values.map(|x| bf16::from_f32(x).to_f32())
                } else {
                    values
                };
                assert_eq!(expect(&tensor.to_vec()), expect(&rounded));
                assert_eq!(tensor.as_f32().is_some(), float == FloatType::F32 && shift == 0);
                let mut row = [0.0; 2];
                tensor.copy_row(1, &mut row);
                assert_eq!(expect(&row), expect(&rounded[2..4]));
                assert_eq!(tensor.first_non_finite(), None);
            }
        }
    }

    #[test]
    fn integers_are_multiplied_by_their_rows_factors() {
        let bytes = [0, 1, 127, 128, 255, 2, 7, 9, 11u8];
        let source = mapped(&bytes);
        let tensor = |shape: &[usize], bytes: Range<usize>, factors: &[f32]| {
            Tensor::scaled(shape, &source, bytes, factors.to_vec())
        };
        let found = tensor(&[1, 2, 3], 1..7, &[0.5, 3.0]).unwrap();
        assert_eq!(found.to_vec(), [0.5, 63.5, -64.0, -3.0, 6.0, 21.0]);
        assert!(found.as_f32().is_none());
        assert_eq!(found.first_non_finite(), None);
        let found = tensor(&[3, 3], 0..9, &[1.0, 2.0, 0.25]).unwrap();
        let mut row = [0.0; 3];
        found.copy_row(2, &mut row);
        assert_eq!(row, [1.75, 2.25, 2.75]);
        let bad = tensor(&[3, 3], 0..9, &[1.0, f32::INFINITY, 1.0]).unwrap();
        assert_eq!(bad.first_non_finite().unwrap().0, 3);
        for (shape, bytes, factors) in [
            (&[3, 3][..], 0..9, 2),
            (&[3, 3], 1..10, 3),
            (&[3, 2], 0..9, 3),
            (&[3, 0], 0..0, 3),
            (&[], 0..1, 1),
        ] {
            assert!(tensor(shape, bytes, &vec![1.0; factors]).is_none(), "{shape:?}");
        }
    }

    #[test]
    fn a_range_outside_the_file_or_of_another_length_is_no_tensor() {
        let file = mapped(&[0; 16]);
        assert!(Tensor::stored(&[4], &file, 0..16, FloatType::F32).is_some());
        assert!(Tensor::stored(&[4], &file, 4..20, FloatType::F32).is_none());
        assert!(Tensor::stored(&[3], &file, 0..16, FloatType::F32).is_none());
        assert!(Tensor::stored(&[usize::MAX, 2], &file, 0..16, FloatType::F32).is_none());
    }

    #[test]
    fn non_finite_values_are_found_wherever_they_are() {
        for length in [1, 4095, 4096, 4097, 10_000] {
            for at in [0, length / 2, length - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = vec![f32::MAX; length];
                    assert!(Tensor::from_vec(&[length], values.clone()).first_non_finite().is_none());
                    values[at] = bad;
                    let found = Tensor::from_vec(&[length], values).first_non_finite().unwrap();
                    assert_eq!((found.0, found.1.to_bits()), (at, bad.to_bits()));
                }
            }
        }
    }
}

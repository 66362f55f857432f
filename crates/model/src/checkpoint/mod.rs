//! Checkpoint files: named tensors in a memory-mapped file or in the program, whatever the format.

mod pickle;
mod record;
mod safetensors;
mod torch;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::CheckpointError;
use crate::tensor::{FloatType, Tensor};

/// As safetensors names 8-bit integers, which are weights where a tensor of this name and [`FACTORS`] has their rows' factors.
const INTEGERS: &str = "I8";

/// What follows the name of a tensor of integers in that of its factors.
pub(crate) const FACTORS: &str = ".scale";

/// The tensors of a checkpoint by their names without prefixes. Nothing of the data has been read.
pub(crate) struct Checkpoint {
    bytes: Bytes,
    entries: BTreeMap<String, Vec<Entry>>,
}

/// One tensor as the file describes it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name in the file.
    pub(crate) name: String,
    /// Size of each dimension.
    pub(crate) shape: Vec<usize>,
    /// The storage type, where it is one that weights may have.
    pub(crate) float: Option<FloatType>,
    /// The storage type as the file names it.
    pub(crate) dtype: String,
    /// Where in the file its first element is, up to the end of its storage.
    pub(crate) bytes: Range<usize>,
    /// Distance between neighbours in each dimension, in elements, where it is not contiguous.
    pub(crate) strides: Option<Vec<usize>>,
}

impl Checkpoint {
    /// Reads what a checkpoint holds; its first bytes decide the format.
    pub(crate) fn new(bytes: Bytes) -> Result<Self, CheckpointError> {
        let entries = match Format::of(bytes.as_ref())? {
            Format::Safetensors => safetensors::entries(bytes.as_ref())?,
            Format::TorchZip => torch::entries(bytes.as_ref())?,
        };
        let mut by_name: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            by_name.entry(without_prefixes(&entry.name).to_owned()).or_default().push(entry);
        }
        Ok(Self { bytes, entries: by_name })
    }

    /// The shape of a tensor, where there is one of that name.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name)?.first().map(|entry| entry.shape.as_slice())
    }

    /// Every tensor's name, without prefixes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The names in the file of the tensors of that name.
    pub(crate) fn stored_names(&self, name: &str) -> impl Iterator<Item = &str> {
        self.entries.get(name).into_iter().flatten().map(|entry| entry.name.as_str())
    }

    /// The tensor of that name; `None` where there is none.
    ///
    /// # Errors
    /// Another shape, a storage type that weights cannot have, several tensors of that name, or integers without factors.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, CheckpointError> {
        let Some(entry) = self.entry(name, shape)? else { return Ok(None) };
        let tensor = if entry.dtype == INTEGERS { self.integers(entry, name) } else { self.floats(entry) };
        tensor.map(Some)
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<Option<&Entry>, CheckpointError> {
        let entry = match self.entries.get(name).map(Vec::as_slice) {
            None | Some([]) => return Ok(None),
            Some([entry]) => entry,
            Some([first, second, ..]) => {
                let (first, second) = (first.name.clone(), second.name.clone());
                return Err(CheckpointError::Duplicate { first, second });
            }
        };
        if entry.shape != shape {
            let (name, expected, got) = (entry.name.clone(), shape.to_vec(), entry.shape.clone());
            return Err(CheckpointError::Shape { name, expected, got });
        }
        Ok(Some(entry))
    }

    /// 8-bit integers, with the factors of their rows.
    fn integers(&self, entry: &Entry, name: &str) -> Result<Tensor, CheckpointError> {
        let rows = entry.shape.split_last().map_or(&[][..], |(_, rows)| rows);
        let factors = format!("{name}{FACTORS}");
        let Some(factors) = self.entry(&factors, rows)? else {
            return Err(CheckpointError::Missing { names: vec![factors] });
        };
        let factors = self.floats(factors)?.to_vec();
        Tensor::scaled(&entry.shape, &self.bytes, entry.bytes.clone(), factors)
            .ok_or_else(|| CheckpointError::OutOfBounds { name: entry.name.clone() })
    }

    fn floats(&self, entry: &Entry) -> Result<Tensor, CheckpointError> {
        let Some(float) = entry.float else {
            let (name, dtype) = (entry.name.clone(), entry.dtype.clone());
            return Err(CheckpointError::Dtype { name, dtype });
        };
        match &entry.strides {
            None => self.contiguous(entry, float),
            Some(strides) => self.strided(entry, float, strides),
        }
    }

    fn contiguous(&self, entry: &Entry, float: FloatType) -> Result<Tensor, CheckpointError> {
        let length = entry.shape.iter().product::<usize>() * float.size();
        let bytes = entry.bytes.start..entry.bytes.start.saturating_add(length);
        if bytes.end > entry.bytes.end {
            return Err(CheckpointError::OutOfBounds { name: entry.name.clone() });
        }
        Tensor::stored(&entry.shape, &self.bytes, bytes, float)
            .ok_or_else(|| CheckpointError::OutOfBounds { name: entry.name.clone() })
    }

    /// Copies a tensor that is not contiguous, element by element.
    fn strided(&self, entry: &Entry, float: FloatType, strides: &[usize]) -> Result<Tensor, CheckpointError> {
        let out_of_bounds = || CheckpointError::OutOfBounds { name: entry.name.clone() };
        let bytes = self.bytes.as_ref().get(entry.bytes.clone()).ok_or_else(out_of_bounds)?;
        let (elements, stored) = (entry.shape.iter().product(), bytes.len() / float.size());
        if elements > stored {
            return Err(CheckpointError::Repeated { name: entry.name.clone(), elements, stored });
        }
        let mut values = vec![0.0; elements];
        let mut index = vec![0; entry.shape.len()];
        for value in &mut values {
            let element: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            let element = bytes.get(element * float.size()..).ok_or_else(out_of_bounds)?;
            if element.len() < float.size() {
                return Err(out_of_bounds());
            }
            float.decode(element, std::slice::from_mut(value));
            advance(&mut index, &entry.shape);
        }
        Ok(Tensor::from_vec(&entry.shape, values))
    }
}

/// Steps `index` to the next element of `shape` in row-major order.
fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, &size) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < size {
            return;
        }
        *i = 0;
    }
}

/// A tensor's name without the prefixes that wrappers add: `module.`, `model.`, `bert.`, in any combination.
pub(crate) fn without_prefixes(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = ["module.", "model.", "bert."].iter().find_map(|prefix| name.strip_prefix(prefix))
    {
        name = rest;
    }
    name
}

/// The formats that checkpoints are read from.
enum Format {
    Safetensors,
    TorchZip,
}

impl Format {
    /// Tells the format from a file's first bytes.
    fn of(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let unknown = |reason: &str| Err(CheckpointError::Unrecognised(reason.to_owned()));
        match bytes {
            [] => unknown("it is empty"),
            // The length of the header in 8 bytes, then its opening brace; no other format has one there.
            [_, _, _, _, _, _, _, _, b'{', ..] => Ok(Format::Safetensors),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Ok(Format::TorchZip),
            [0x80, 2..=5, ..] => Err(CheckpointError::LegacyPickle),
            _ if bytes.starts_with(b"version https://git-lfs") => {
                unknown("it is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`")
            }
            [b'<', ..] => unknown("it looks like a web page, as a failed download leaves it"),
            _ => unknown("its first bytes are of neither format"),
        }
    }
}

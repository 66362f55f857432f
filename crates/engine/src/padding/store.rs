//! Far fields on disk: a safetensors file per model, dtype and bound, memory-mapped.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danaus_model::{LoadError, write_file};
use danaus_simd::MappedFile;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::plan::Fields;
use super::{Bin, FarField, FarFields, SegmentTaps, Shape, Sketch};

/// Changes when files of before would be misread, or far fields are measured in another way.
const VERSION: u32 = 4;

/// The metadata's key. Its value is a SHA-256 in hexadecimal, a space, and what the file says of itself, of which and of the
/// tensors that is the digest.
const KEY: &str = "danaus_far_fields";

/// Where a model's far fields are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    path: PathBuf,
    model: String,
    dtype: String,
    bound: f64,
}

/// Why far fields were not read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There are none yet.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// A file that cannot be read, or is not what was written.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the file says of itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    model: String,
    dtype: String,
    /// The bits of the bound, which decimal digits might not say exactly.
    bound: u64,
    max_tokens: usize,
    layers: usize,
    width: usize,
    bins: Vec<Bin>,
}

/// A tensor of the file.
struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    bits: &'a [u16],
}

impl Store {
    /// The file in `folder` for a model of that digest, computed in that dtype, with that bound.
    pub fn new(folder: &Path, model: &str, dtype: &str, bound: f64) -> Self {
        let name = format!("far-fields-{}-{dtype}-{bound:e}.safetensors", &model[..16.min(model.len())]);
        Self { path: folder.join(name), model: model.to_owned(), dtype: dtype.to_owned(), bound }
    }

    /// The largest permitted error, in 1 - cosine.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads far fields that were written before; they stay in the memory-mapped file.
    ///
    /// # Errors
    /// No such file, or one that is damaged, of another version or of another model.
    pub fn read(&self) -> Result<FarFields, StoreError> {
        match std::fs::exists(&self.path) {
            Ok(false) => Err(StoreError::Missing(self.path.clone())),
            _ => self
                .read_existing()
                .map_err(|reason| StoreError::Unusable { path: self.path.clone(), reason }),
        }
    }

    fn read_existing(&self) -> Result<FarFields, String> {
        let file = Arc::new(MappedFile::open(&self.path).map_err(|error| error.to_string())?);
        let bytes = (*file).as_ref();
        let (header_length, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|error| format!("no safetensors file: {error}"))?;
        let notes = metadata.metadata().as_ref().and_then(|notes| notes.get(KEY));
        let notes = notes.ok_or("it holds no far fields")?;
        let (written, notes) = notes.split_once(' ').ok_or("of another version")?;
        let header: Header =
            serde_json::from_str(notes).map_err(|error| format!("of another version: {error}"))?;
        self.check(&header)?;
        let start = header_length + 8;
        if written != digest([notes.as_bytes(), &bytes[start..]]) {
            return Err("its contents are damaged".to_owned());
        }
        header.check_bins()?;
        let tensors = Tensors { header: &header, metadata: &metadata, file: &file, start };
        let taps = header.bins.iter().any(|bin| bin.sketch > 0).then(|| tensors.taps()).transpose()?;
        let bins = header.bins.iter().enumerate();
        let bins = bins.map(|(index, bin)| Ok((bin.clone(), tensors.fields(index, bin, taps.as_ref())?)));
        Ok(FarFields::new(self.bound, header.max_tokens, bins.collect::<Result<_, String>>()?))
    }

    fn check(&self, header: &Header) -> Result<(), String> {
        if header.version != VERSION {
            return Err(format!("of version {}, expected {VERSION}", header.version));
        }
        if (&header.model, &header.dtype, header.bound) != (&self.model, &self.dtype, self.bound.to_bits()) {
            return Err("of another model, dtype or bound".to_owned());
        }
        Ok(())
    }

    /// Writes far fields, whole or not at all. The folder is made where it does not exist.
    ///
    /// # Errors
    /// A disk that is full or cannot be written.
    pub fn write(&self, far_fields: &FarFields) -> Result<(), LoadError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| LoadError::Io {
            action: "write",
            path: folder.to_owned(),
            error,
        })?;
        let tensors = tensors(far_fields);
        let data: Vec<&[u8]> = tensors.iter().map(|tensor| bytemuck::cast_slice(tensor.bits)).collect();
        let mut offset = 0;
        let described = tensors.iter().zip(&data).map(|(Tensor { name, shape, .. }, data)| {
            let start = offset;
            offset += data.len();
            let data_offsets = (start, offset);
            (name.clone(), TensorInfo { dtype: Dtype::BF16, shape: shape.clone(), data_offsets })
        });
        let described = described.collect();
        let shape = far_fields.fields().next().map(|(_, fields)| fields.far_field.shape());
        let header = Header {
            version: VERSION,
            model: self.model.clone(),
            dtype: self.dtype.clone(),
            bound: self.bound.to_bits(),
            max_tokens: far_fields.max_tokens(),
            layers: shape.map_or(0, |shape| shape.layers),
            width: shape.map_or(0, |shape| shape.width),
            bins: far_fields.bins().cloned().collect(),
        };
        write_file(&self.path, true, |file| {
            let header = serde_json::to_string(&header)?;
            let digest = digest(std::iter::once(header.as_bytes()).chain(data.iter().copied()));
            let notes = HashMap::from([(KEY.to_owned(), format!("{digest} {header}"))]);
            let metadata = Metadata::new(Some(notes), described).map_err(std::io::Error::other)?;
            let mut json = serde_json::to_vec(&metadata)?;
            json.resize(json.len().next_multiple_of(8), b' ');
            file.write_all(&(json.len() as u64).to_le_bytes())?;
            file.write_all(&json)?;
            data.iter().try_for_each(|data| file.write_all(data))
        })
    }
}

/// What the file holds, in order.
fn tensors(far_fields: &FarFields) -> Vec<Tensor<'_>> {
    let mut tensors = Vec::new();
    if let Some(taps) = far_fields.segment_taps() {
        tensors.push(Tensor { name: TAPS.to_owned(), shape: taps.shape().to_vec(), bits: taps.values() });
    }
    for (index, (_, fields)) in far_fields.fields().enumerate() {
        let Shape { window, layers, width } = fields.far_field.shape();
        let shape = vec![layers, 2, window, width];
        tensors.push(Tensor { name: far_field_name(index), shape, bits: fields.far_field.values() });
        if let Some(sketch) = &fields.sketch {
            let shape = sketch.shape().to_vec();
            tensors.push(Tensor { name: sketch_name(index), shape, bits: sketch.values() });
        }
    }
    tensors
}

const TAPS: &str = "segment_taps";

fn far_field_name(index: usize) -> String {
    format!("far_field.{index}")
}

fn sketch_name(index: usize) -> String {
    format!("sketch.{index}")
}

/// The tensors of a mapped file.
struct Tensors<'a> {
    header: &'a Header,
    metadata: &'a Metadata,
    file: &'a Arc<MappedFile>,
    start: usize,
}

impl Tensors<'_> {
    /// What `read` makes of the bytes of a tensor.
    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(std::ops::Range<usize>) -> Option<T>,
    ) -> Result<T, String> {
        let info = self.metadata.info(name).ok_or_else(|| format!("{name} is missing"))?;
        let (from, to) = info.data_offsets;
        read(self.start + from..self.start + to).ok_or_else(|| format!("{name} has another shape"))
    }

    fn taps(&self) -> Result<Arc<SegmentTaps>, String> {
        let Header { max_tokens, layers, width, .. } = *self.header;
        let sizes = (max_tokens, layers, width);
        Ok(Arc::new(self.read(TAPS, |bytes| SegmentTaps::mapped(sizes, self.file, bytes))?))
    }

    fn fields(&self, index: usize, bin: &Bin, taps: Option<&Arc<SegmentTaps>>) -> Result<Fields, String> {
        let Header { layers, width, .. } = *self.header;
        let shape = Shape { window: bin.window, layers, width };
        let far_field =
            self.read(&far_field_name(index), |bytes| FarField::mapped(shape, self.file, bytes))?;
        let sketch = taps.filter(|_| bin.sketch > 0).map(|taps| {
            self.read(&sketch_name(index), |bytes| Sketch::mapped(taps, bin.window, self.file, bytes))
        });
        Ok(Fields { far_field: Arc::new(far_field), sketch: sketch.transpose()?.map(Arc::new) })
    }
}

impl Header {
    /// Checks that windows hold their texts and are smaller than the model's length.
    fn check_bins(&self) -> Result<(), String> {
        let sound = |bin: &Bin| {
            (1..=bin.longest).contains(&bin.shortest)
                && bin.longest <= bin.window
                && bin.window < self.max_tokens
        };
        match self.bins.iter().find(|bin| !sound(bin)) {
            Some(bin) => Err(format!(
                "texts of {} to {} tokens do not fit a window of {}",
                bin.shortest, bin.longest, bin.window
            )),
            None => Ok(()),
        }
    }
}

/// SHA-256 of `parts`, in hexadecimal.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

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

use super::{Bin, FarField, FarFields, Shape};

/// Changes when files of before would be misread, or far fields are measured in another way.
const VERSION: u32 = 2;

/// The metadata's key.
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
    /// SHA-256 of the tensors.
    digest: String,
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
        let header: Header =
            serde_json::from_str(notes).map_err(|error| format!("of another version: {error}"))?;
        self.check(&header)?;
        let start = header_length + 8;
        if digest([&bytes[start..]]) != header.digest {
            return Err("its contents are damaged".to_owned());
        }
        let (max_tokens, layers, width) = (header.max_tokens, header.layers, header.width);
        let field = |(index, bin): (usize, Bin)| {
            let shape = Shape { window: bin.window, layers, width };
            let info = metadata.info(&name(index)).ok_or_else(|| format!("{} is missing", name(index)))?;
            let (from, to) = info.data_offsets;
            let field = FarField::mapped(shape, &file, start + from..start + to);
            let field = field.ok_or_else(|| format!("{} has another shape", name(index)))?;
            Ok((bin, Arc::new(field)))
        };
        let bins = header.bins.iter().cloned().enumerate().map(field).collect::<Result<Vec<_>, String>>()?;
        header.check_bins()?;
        Ok(FarFields::new(self.bound, max_tokens, bins))
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
        let data: Vec<&[u8]> =
            far_fields.far_fields().map(|(_, field)| bytemuck::cast_slice(field.values())).collect();
        let mut offset = 0;
        let described = far_fields.far_fields().enumerate().map(|(index, (_, field))| {
            let (start, shape) = (offset, field.shape());
            offset += 2 * shape.len();
            let sizes = vec![shape.layers, 2, shape.window, shape.width];
            (name(index), TensorInfo { dtype: Dtype::BF16, shape: sizes, data_offsets: (start, offset) })
        });
        let described = described.collect();
        let shape = far_fields.far_fields().next().map(|(_, field)| field.shape());
        let header = Header {
            version: VERSION,
            model: self.model.clone(),
            dtype: self.dtype.clone(),
            bound: self.bound.to_bits(),
            max_tokens: far_fields.max_tokens(),
            layers: shape.map_or(0, |shape| shape.layers),
            width: shape.map_or(0, |shape| shape.width),
            bins: far_fields.bins().cloned().collect(),
            digest: digest(data.iter().copied()),
        };
        write_file(&self.path, true, |file| {
            let notes = HashMap::from([(KEY.to_owned(), serde_json::to_string(&header)?)]);
            let metadata = Metadata::new(Some(notes), described).map_err(std::io::Error::other)?;
            let mut json = serde_json::to_vec(&metadata)?;
            json.resize(json.len().next_multiple_of(8), b' ');
            file.write_all(&(json.len() as u64).to_le_bytes())?;
            file.write_all(&json)?;
            data.iter().try_for_each(|data| file.write_all(data))
        })
    }
}

fn name(index: usize) -> String {
    format!("far_field.{index}")
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

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

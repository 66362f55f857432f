//! Far fields on disk: a safetensors file per model, dtype and bound, memory-mapped.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danaus_model::{LoadError, PADDING_FILES, check_writable, write_file};
use danaus_simd::MappedFile;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::far_field::Knots;
use super::plan::Fields;
use super::{Bin, Cells, FarField, FarFields, RunningSums, Sketch};

/// Changes when files of before would be misread, or far fields are measured in another way.
const VERSION: u32 = 6;

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
    /// Whether somebody chose this very file.
    chosen: bool,
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
    /// The longest texts that were looked at.
    prepared_to: usize,
    bins: Vec<StoredBin>,
}

/// A range of lengths, and where what it computes with is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredBin {
    #[serde(flatten)]
    bin: Bin,
    /// The number of its far field and sketch: several ranges may share them.
    fields: usize,
    /// Positions between two knots of the far field.
    step: usize,
    /// Most rows of the sketch that were asked for.
    rows: usize,
}

/// A tensor of the file.
struct Tensor<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl Store {
    /// The file in `folder` for a model of that digest, computed in that dtype, with that bound.
    pub fn new(folder: &Path, model: &str, dtype: &str, bound: f64) -> Self {
        let name = format!("{PADDING_FILES}{}-{dtype}-{bound:e}.safetensors", &model[..16.min(model.len())]);
        let path = folder.join(name);
        Self { path, model: model.to_owned(), dtype: dtype.to_owned(), bound, chosen: false }
    }

    /// The file at that path, which somebody chose, of a model of that digest, computed in that dtype, with that bound.
    pub fn file(path: &Path, model: &str, dtype: &str, bound: f64) -> Self {
        Self { path: path.to_owned(), chosen: true, ..Self::new(path, model, dtype, bound) }
    }

    /// Whether somebody chose this very file, so that another one in its place is a mistake to be told, and not to be overwritten.
    pub fn is_chosen(&self) -> bool {
        self.chosen
    }

    /// The same at another path: a file, or a folder that holds it.
    pub fn at(&self, path: &Path) -> Self {
        if path.is_dir() {
            Self::new(path, &self.model, &self.dtype, self.bound)
        } else {
            Self::file(path, &self.model, &self.dtype, self.bound)
        }
    }

    /// Makes the file's folder where it does not exist, and tries to write to it.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub fn check_writable(&self) -> Result<(), LoadError> {
        check_writable(self.folder())
    }

    fn folder(&self) -> &Path {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new("."))
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
            // A file is where a folder should be.
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                Err(StoreError::Missing(self.path.clone()))
            }
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
        let sums = header.bins.iter().any(|stored| stored.bin.sketch > 0);
        let sums = sums.then(|| tensors.running_sums()).transpose()?;
        let mut read: BTreeMap<usize, Fields> = BTreeMap::new();
        let mut bins = Vec::with_capacity(header.bins.len());
        for stored in &header.bins {
            let fields = match read.get(&stored.fields) {
                Some(fields) => fields.clone(),
                None => tensors.fields(stored, sums.as_ref())?,
            };
            let (window, sketch) = (stored.bin.window, stored.bin.sketch);
            if (fields.far_field.window(), fields.rows()) != (window, sketch) {
                return Err(format!("a window of {window} and {sketch} rows has another's far field"));
            }
            read.insert(stored.fields, fields.clone());
            bins.push((stored.bin.clone(), fields));
        }
        Ok(FarFields::new(self.bound, header.max_tokens).with_bins(header.prepared_to, bins))
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
        check_writable(self.folder())?;
        let (fields, bins) = numbered(far_fields);
        let tensors = tensors(far_fields, &fields);
        let mut offset = 0;
        let described = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
            let start = offset;
            offset += bytes.len();
            let data_offsets = (start, offset);
            (name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets })
        });
        let described = described.collect();
        let far_field = fields.first().map(|fields| &fields.far_field);
        let header = Header {
            version: VERSION,
            model: self.model.clone(),
            dtype: self.dtype.clone(),
            bound: self.bound.to_bits(),
            max_tokens: far_fields.max_tokens(),
            layers: far_field.map_or(0, |far_field| far_field.layers()),
            width: far_field.map_or(0, |far_field| far_field.width()),
            prepared_to: far_fields.prepared_to(),
            bins,
        };
        write_file(&self.path, true, |file| {
            let header = serde_json::to_string(&header)?;
            let digest =
                digest(std::iter::once(header.as_bytes()).chain(tensors.iter().map(|tensor| tensor.bytes)));
            let notes = HashMap::from([(KEY.to_owned(), format!("{digest} {header}"))]);
            let metadata = Metadata::new(Some(notes), described).map_err(std::io::Error::other)?;
            let mut json = serde_json::to_vec(&metadata)?;
            json.resize(json.len().next_multiple_of(8), b' ');
            file.write_all(&(json.len() as u64).to_le_bytes())?;
            file.write_all(&json)?;
            tensors.iter().try_for_each(|tensor| file.write_all(tensor.bytes))
        })
    }
}

/// What ranges compute with, each once, and the ranges with its number.
fn numbered(far_fields: &FarFields) -> (Vec<&Fields>, Vec<StoredBin>) {
    let distinct = far_fields.distinct();
    let bins = far_fields.fields().map(|(bin, fields)| {
        let number = distinct.iter().position(|other| other.is(fields)).unwrap_or_default();
        let rows = fields.sketch.as_ref().map_or(0, |sketch| sketch.cells().most());
        StoredBin { bin: bin.clone(), fields: number, step: fields.far_field.knots().step, rows }
    });
    let bins = bins.collect();
    (distinct, bins)
}

/// What the file holds, in order: first what has values of the most bytes, so that all are aligned.
fn tensors<'a>(far_fields: &'a FarFields, fields: &[&'a Fields]) -> Vec<Tensor<'a>> {
    let (mut tensors, mut halves, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(sums) = far_fields.running_sums() {
        let (values, scales) = sums.values();
        let (layers, width) = sums.shape();
        tensors.push(tensor(SUM_SCALES.to_owned(), Dtype::F32, &[layers, 2, width], scales));
        halves.push(tensor(SUMS.to_owned(), Dtype::I16, &sums.tensor_shape(), values));
    }
    for (index, fields) in fields.iter().enumerate() {
        let far_field = &fields.far_field;
        let shape = [far_field.layers(), 2, far_field.knots().count(), far_field.width()];
        let (values, scales) = far_field.values();
        tensors.push(tensor(far_field_scales_name(index), Dtype::F32, &shape[..3], scales));
        bytes.push(tensor(far_field_name(index), Dtype::I8, &shape, values));
        if let Some(sketch) = &fields.sketch {
            let (values, scales) = sketch.values();
            let shape = sketch.tensor_shape();
            tensors.push(tensor(sketch_scales_name(index), Dtype::F32, &shape[..3], scales));
            bytes.push(tensor(sketch_name(index), Dtype::I8, &shape, values));
        }
    }
    tensors.extend(halves);
    tensors.extend(bytes);
    tensors
}

fn tensor<'a, T: bytemuck::Pod>(name: String, dtype: Dtype, shape: &[usize], values: &'a [T]) -> Tensor<'a> {
    Tensor { name, dtype, shape: shape.to_vec(), bytes: bytemuck::cast_slice(values) }
}

const SUMS: &str = "running_sums";
const SUM_SCALES: &str = "running_sums.scales";

fn far_field_name(index: usize) -> String {
    format!("far_field.{index}")
}

fn far_field_scales_name(index: usize) -> String {
    format!("far_field.{index}.scales")
}

fn sketch_name(index: usize) -> String {
    format!("sketch.{index}")
}

fn sketch_scales_name(index: usize) -> String {
    format!("sketch.{index}.scales")
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

    fn running_sums(&self) -> Result<Arc<RunningSums>, String> {
        let Header { max_tokens, layers, width, .. } = *self.header;
        let scales = self.read(SUM_SCALES, Some)?;
        let sums = self
            .read(SUMS, |sums| RunningSums::mapped((max_tokens, layers, width), self.file, [sums, scales]));
        Ok(Arc::new(sums?))
    }

    fn fields(&self, stored: &StoredBin, sums: Option<&Arc<RunningSums>>) -> Result<Fields, String> {
        let Header { max_tokens, layers, width, .. } = *self.header;
        let StoredBin { ref bin, fields: index, step, rows } = *stored;
        let knots = Knots { window: bin.window, step };
        let scales = self.read(&far_field_scales_name(index), Some)?;
        let far_field = self.read(&far_field_name(index), |values| {
            FarField::mapped(knots, (layers, width), self.file, [values, scales])
        })?;
        let sketch = sums.filter(|_| bin.sketch > 0).map(|sums| {
            let cells = Cells::new(bin.window, max_tokens, rows);
            let scales = self.read(&sketch_scales_name(index), Some)?;
            self.read(&sketch_name(index), |values| Sketch::mapped(sums, cells, self.file, [values, scales]))
        });
        Ok(Fields { far_field: Arc::new(far_field), sketch: sketch.transpose()?.map(Arc::new) })
    }
}

impl Header {
    /// Checks that windows hold their texts and are smaller than the model's length.
    fn check_bins(&self) -> Result<(), String> {
        let sound = |StoredBin { bin, step, .. }: &StoredBin| {
            *step > 0
                && (1..=bin.longest).contains(&bin.shortest)
                && bin.longest <= bin.window
                && bin.window < self.max_tokens
        };
        match self.bins.iter().find(|bin| !sound(bin)) {
            Some(StoredBin { bin, .. }) => Err(format!(
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

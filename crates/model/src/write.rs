//! Writing a synthetic model as a folder that every tool can load.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};
use tempfile::{Builder, NamedTempFile};

use crate::architecture::{Source, assemble};
use crate::config::{ModelConfig, SYNTHETIC_FILTERS_KEYS, SYNTHETIC_SEED_KEY};
use crate::error::LoadError;
use crate::families::SyntheticFilters;
use crate::synthetic::{Generator, Values};
use crate::tensor::Tensor;

/// Writes a synthetic model into the folder `out`, which is made where it does not exist: `config.json`, which says that
/// it is synthetic and made how, and `model.safetensors` in float32. Each file appears under its name only when it is complete. Holds
/// one tensor in memory at a time.
///
/// # Errors
/// A configuration that is not supported, a file that exists already (unless `force`), or a disk that is full or cannot
/// be written.
pub fn write_synthetic(
    config: &ModelConfig,
    seed: u64,
    filters: SyntheticFilters,
    out: &Path,
    force: bool,
) -> Result<(), LoadError> {
    let (config_path, model_path) = (out.join("config.json"), out.join("model.safetensors"));
    config.validate().map_err(|error| LoadError::Config { path: config_path.clone(), error })?;
    for path in [&config_path, &model_path] {
        if !force && path.symlink_metadata().is_ok() {
            return Err(LoadError::Exists { path: path.clone() });
        }
    }
    std::fs::create_dir_all(out).map_err(|error| unwritable(out, error))?;
    write_file(&model_path, force, |file| write_tensors(config, seed, filters, file))?;
    write_file(&config_path, force, |file| {
        serde_json::to_writer_pretty(&mut *file, &config_json(config, seed, filters))?;
        file.write_all(b"\n")
    })
}

fn unwritable(path: &Path, error: io::Error) -> LoadError {
    LoadError::Io { action: "write", path: path.to_owned(), error }
}

/// Makes a folder where it does not exist, and tries to write to it.
///
/// # Errors
/// A folder that cannot be made or written.
pub fn check_writable(folder: &Path) -> Result<(), LoadError> {
    let tried = std::fs::create_dir_all(folder).and_then(|()| NamedTempFile::new_in(folder));
    tried.map(drop).map_err(|error| unwritable(folder, error))
}

/// Writes a file under another name beside its place, and moves it there when it is complete and on the disk. `force`
/// replaces one that exists.
///
/// # Errors
/// A file that exists already, or a disk that is full or cannot be written.
pub fn write_file(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<(), LoadError> {
    let temporary = || -> io::Result<NamedTempFile> {
        let mut file = new_file_beside(path)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        Ok(file)
    };
    let file = temporary().map_err(|error| unwritable(path, error))?;
    let moved = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match moved {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(LoadError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(unwritable(path, error.error)),
    }
}

/// A temporary file in the folder of `path`, with the permissions of an ordinary one.
fn new_file_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".danaus-incomplete-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less what the umask takes
    builder
        .tempfile_in(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn config_json(config: &ModelConfig, seed: u64, filters: SyntheticFilters) -> Value {
    let mut value = json!(config);
    value["model_type"] = json!("m2_bert");
    value["torch_dtype"] = json!("float32");
    value[SYNTHETIC_SEED_KEY] = json!(seed);
    if filters != SyntheticFilters::default() {
        let [family, strength] = SYNTHETIC_FILTERS_KEYS;
        value[family] = json!(filters.family.name());
        value[strength] = json!(filters.strength.get());
    }
    value
}

/// Writes the safetensors format: the header's length, the header, and each tensor as it is made.
fn write_tensors(
    config: &ModelConfig,
    seed: u64,
    filters: SyntheticFilters,
    file: &mut impl Write,
) -> io::Result<()> {
    let mut list = List(Vec::new());
    let Ok(_) = assemble(config, &mut list);
    let mut offset = 0;
    let described = list.0.iter().map(|tensor| {
        let start = offset;
        offset += tensor.shape.iter().product::<usize>() * size_of::<f32>();
        let info =
            TensorInfo { dtype: Dtype::F32, shape: tensor.shape.clone(), data_offsets: (start, offset) };
        (tensor.name.clone(), info)
    });
    let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(notes), described.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let generator = Generator::new(config, seed, filters);
    for tensor in &list.0 {
        let values = generator.values(&tensor.name, tensor.shape.iter().product(), tensor.values);
        write_floats(file, &values)?;
    }
    Ok(())
}

fn write_floats(file: &mut impl Write, values: &[f32]) -> io::Result<()> {
    if cfg!(target_endian = "little") {
        return file.write_all(bytemuck::cast_slice(values));
    }
    values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

/// Lists the tensors that a model asks for, and makes none.
struct List(Vec<Listed>);

struct Listed {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

impl Source for List {
    type Error = Infallible;

    fn tensor(&mut self, name: &str, shape: &[usize], values: Values) -> Result<Tensor, Infallible> {
        self.0.push(Listed { name: name.to_owned(), shape: shape.to_vec(), values });
        Ok(Tensor::from_vec(&[0], Vec::new()))
    }
}

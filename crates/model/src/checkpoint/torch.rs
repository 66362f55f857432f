//! PyTorch's zip format (`torch.save` since 1.6): `NAME/data.pkl` describes the tensors, `NAME/data/KEY` holds each
//! storage, not compressed, so that it can be mapped where it lies.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::Entry;
use super::pickle;
use super::record::{Storage, TensorRecord};
use crate::error::CheckpointError;
use crate::tensor::FloatType;

/// Upper bound of the description's size. That of an 80M checkpoint with 12 layers takes 0.2 MiB.
const MAX_PICKLE: u64 = 8 << 20;

/// The tensors that the archive's pickle describes, checked against the storages that the archive holds.
pub(super) fn entries(file: &[u8]) -> Result<Vec<Entry>, CheckpointError> {
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(|error| malformed(error.to_string()))?;
    let root = root(&archive)?;
    check_byte_order(&mut archive, &root)?;
    let description = read_small(&mut archive, &format!("{root}data.pkl"))?
        .ok_or_else(|| malformed(format!("it has no entry {root}data.pkl")))?;
    let records = pickle::tensors(&description)?;
    let storages = storages(&mut archive, &format!("{root}data/"), file.len())?;
    records.into_iter().map(|(name, record)| entry(name.to_owned(), &record, &storages)).collect()
}

fn malformed(reason: String) -> CheckpointError {
    CheckpointError::Malformed { format: "PyTorch zip file", reason }
}

/// The folder inside the archive, with its slash: whatever the file was called when it was saved.
fn root(archive: &ZipArchive<Cursor<&[u8]>>) -> Result<String, CheckpointError> {
    let names = archive.file_names().filter_map(|name| name.ok());
    let mut roots = names.filter_map(|name| {
        let root = name.strip_suffix("data.pkl")?;
        (root.is_empty() || root.ends_with('/')).then(|| root.to_owned())
    });
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (None, _) => {
            Err(malformed("it is a zip file without an entry data.pkl, so not one of torch.save".into()))
        }
        (Some(first), Some(second)) => {
            Err(malformed(format!("it holds both {first}data.pkl and {second}data.pkl")))
        }
    }
}

fn check_byte_order(archive: &mut ZipArchive<Cursor<&[u8]>>, root: &str) -> Result<(), CheckpointError> {
    match read_small(archive, &format!("{root}byteorder"))?.as_deref() {
        None | Some(b"little") => Ok(()),
        Some(other) => Err(malformed(format!(
            "its byte order is {:?}: expected \"little\"; save it again on a little-endian machine",
            String::from_utf8_lossy(&other[..other.len().min(20)])
        ))),
    }
}

/// The content of a small entry, checked against its CRC-32; `None` where there is no such entry.
fn read_small(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    name: &str,
) -> Result<Option<Vec<u8>>, CheckpointError> {
    let Some(index) = archive.index_for_name(name) else { return Ok(None) };
    let describe = |reason: String| malformed(format!("entry {name}: {reason}"));
    let entry = archive.by_index(index).map_err(|error| describe(error.to_string()))?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(compressed(name));
    }
    let mut content = Vec::new();
    entry.take(MAX_PICKLE + 1).read_to_end(&mut content).map_err(|error| describe(error.to_string()))?;
    if content.len() as u64 > MAX_PICKLE {
        return Err(describe(format!(
            "it has more than {MAX_PICKLE} bytes, too many for a model's description"
        )));
    }
    Ok(Some(content))
}

fn compressed(name: &str) -> CheckpointError {
    malformed(format!(
        "entry {name} is compressed or encrypted, which torch.save never does; load the file in PyTorch and save it again"
    ))
}

/// Where in the file each storage lies, by its key.
fn storages(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    folder: &str,
    file_length: usize,
) -> Result<HashMap<String, Range<usize>>, CheckpointError> {
    let mut storages = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| malformed(error.to_string()))?;
        let name = entry.name().map_err(|error| malformed(error.to_string()))?.into_owned();
        let Some(key) = name.strip_prefix(folder) else { continue };
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(compressed(&name));
        }
        let bytes = entry.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (end <= file_length).then_some(start..end)
        });
        let bytes = bytes.ok_or_else(|| malformed(format!("entry {name} reaches beyond the file's end")))?;
        storages.insert(key.to_owned(), bytes);
    }
    Ok(storages)
}

/// A tensor's place in the file, checked against its storage.
fn entry(
    name: String,
    record: &TensorRecord<'_>,
    storages: &HashMap<String, Range<usize>>,
) -> Result<Entry, CheckpointError> {
    let Storage { key, kind, elements } = record.storage;
    let element_size = kind.element_size();
    let stored = storages
        .get(key)
        .ok_or_else(|| malformed(format!("tensor {name}: its storage {key} is not in the archive")))?;
    if elements.checked_mul(element_size) != Some(stored.len()) {
        return Err(malformed(format!(
            "tensor {name}: its storage {key} has {} bytes, and {elements} elements of {element_size} bytes are \
             described",
            stored.len()
        )));
    }
    let last = record.last_element().filter(|last| last.is_none_or(|last| last < elements));
    if last.is_none() || record.offset > elements {
        return Err(CheckpointError::OutOfBounds { name });
    }
    Ok(Entry {
        name,
        shape: record.shape.clone(),
        float: match kind.dtype() {
            "float32" => Some(FloatType::F32),
            "float16" => Some(FloatType::F16),
            "bfloat16" => Some(FloatType::Bf16),
            _ => None,
        },
        dtype: kind.dtype().to_owned(),
        bytes: stored.start + record.offset * element_size..stored.end,
        strides: (!record.is_contiguous()).then(|| record.strides.clone()),
    })
}

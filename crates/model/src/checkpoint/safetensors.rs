//! safetensors: a length, a JSON header, and the data of all tensors without gaps.

use safetensors::{Dtype, SafeTensors};

use super::Entry;
use crate::error::CheckpointError;
use crate::tensor::FloatType;

/// The tensors that the header describes; the `safetensors` crate checks that shapes and offsets agree with each other
/// and with the file's length.
pub(super) fn entries(file: &[u8]) -> Result<Vec<Entry>, CheckpointError> {
    let malformed = |reason: String| CheckpointError::Malformed { format: "safetensors file", reason };
    let (header, metadata) =
        SafeTensors::read_metadata(file).map_err(|error| malformed(explain(&error, file)))?;
    let data_start = header + 8;
    let entries = metadata.tensors().into_iter().map(|(name, info)| Entry {
        name,
        shape: info.shape.clone(),
        float: match info.dtype {
            Dtype::F32 => Some(FloatType::F32),
            Dtype::F16 => Some(FloatType::F16),
            Dtype::BF16 => Some(FloatType::Bf16),
            _ => None,
        },
        dtype: info.dtype.to_string(),
        bytes: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        strides: None,
    });
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name)); // the crate's order changes from run to run
    Ok(entries)
}

/// The crate's message, and what it means for a file that was cut short.
fn explain(error: &safetensors::SafeTensorError, file: &[u8]) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::InvalidHeaderLength | E::HeaderTooSmall => {
            format!("its header does not fit in its {} bytes; it was cut short, or is none", file.len())
        }
        E::MetadataIncompleteBuffer => format!(
            "its {} bytes are not what its header describes; it was cut short, or something was appended",
            file.len()
        ),
        error => error.to_string(),
    }
}

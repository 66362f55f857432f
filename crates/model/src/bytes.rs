//! The bytes that tensors are stored in.

use std::path::Path;
use std::sync::Arc;

use danaus_simd::MappedFile;

use crate::error::CheckpointError;

/// Where a checkpoint's bytes are. Cheap to clone: clones share them.
#[derive(Clone)]
pub(crate) enum Bytes {
    /// In a memory-mapped file.
    File(Arc<MappedFile>),
    /// In the program itself.
    Program(&'static [u8]),
}

impl Bytes {
    /// Maps a file.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = MappedFile::open(path).map_err(CheckpointError::Read)?;
        Ok(Bytes::File(Arc::new(file)))
    }

    /// Gives back the memory of a file's pages: those that are needed again are read again.
    pub(crate) fn release(&self) {
        if let Bytes::File(file) = self {
            file.release();
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::File(file) => (**file).as_ref(),
            Bytes::Program(bytes) => bytes,
        }
    }
}

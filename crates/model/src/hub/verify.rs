//! Checking a file of the cache against the name of its blob, which is a hash of its content.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{HubError, blob_of, is_hexadecimal};

/// What is known of a file after [`verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Its content has the hash that the hub gave.
    Content,
    /// The cache does not know the hash of its content.
    Unknown,
}

/// Checks a file of the cache (as [`Snapshot`](super::Snapshot) names it) against the hash that the hub gave: SHA-256
/// for large files, git's SHA-1 for others. Takes about a second for 1 GB.
///
/// # Errors
/// [`HubError::Corrupt`] where the content is not what the hub has; the file is then removed, so that the next download
/// starts clean. [`HubError::Cache`] where it cannot be read.
pub fn verify(file: &Path) -> Result<Verified, HubError> {
    verify_noting(file, &|| {})
}

/// [`verify`], which calls `note` every megabyte.
pub(super) fn verify_noting(file: &Path, note: &dyn Fn()) -> Result<Verified, HubError> {
    let unreadable = |error| HubError::Cache { path: file.to_owned(), error };
    let blob = blob_of(file).map_err(unreadable)?;
    let expected = blob.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let got = if is_hexadecimal(&expected, 64) {
        sha256(&blob, note)
    } else if is_hexadecimal(&expected, 40) {
        git_sha1(&blob, note)
    } else {
        return Ok(Verified::Unknown);
    };
    let got = got.map_err(unreadable)?;
    if got == expected {
        return Ok(Verified::Content);
    }
    let length = std::fs::metadata(&blob).map(|metadata| metadata.len()).unwrap_or(0);
    Err(discard(file, format!("its {length} bytes hash to {got}, and the hub has {expected}")))
}

/// Removes a damaged file, link and blob; returns the error to report.
pub(super) fn discard(file: &Path, reason: String) -> HubError {
    let remove = |path: &Path| match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
            "It cannot be removed from the cache ({error}): delete {} and run `danaus download`, or start again",
            path.display()
        )),
        _ => Ok(()),
    };
    let blob = blob_of(file).ok();
    let removed = blob.as_deref().map_or(Ok(()), remove).and_then(|()| remove(file));
    let remedy = removed.err().unwrap_or_else(|| {
        "It has been removed from the cache: run `danaus download`, or start again, to fetch it anew"
            .to_owned()
    });
    HubError::Corrupt { file: file.to_owned(), reason, remedy }
}

fn sha256(path: &Path, note: &dyn Fn()) -> io::Result<String> {
    hash(Sha256::new(), File::open(path)?, note)
}

/// The name that git gives to a file's content.
fn git_sha1(path: &Path, note: &dyn Fn()) -> io::Result<String> {
    let file = File::open(path)?;
    let header = format!("blob {}\0", file.metadata()?.len());
    hash(Sha1::new_with_prefix(header), file, note)
}

fn hash(mut hasher: impl Digest, mut file: File, note: &dyn Fn()) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        note();
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

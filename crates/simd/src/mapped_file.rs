//! Read-only memory-mapped files.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, mapped read-only: pages are read when they are first touched and shared between processes.
///
/// The file must not be written to or shortened while it is mapped: touching a page that is gone ends the process
/// (`SIGBUS`), as in every program that maps files. Replacing it by a rename, as downloads do, is safe.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole file at `path`.
    ///
    /// # Errors
    /// What opening or mapping the file says; a directory is refused here and not at the first read.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Asked before opening, which would wait for a writer where the path is a named pipe.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is never written through. That nobody writes to the file meanwhile, this process or another,
        // cannot be proved here; it is what every program that maps files relies on, and the type's documentation asks
        // for it. danaus itself replaces model files by renaming, and treats their bytes as untrusted data.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Gives back the memory of pages that were touched: they are read again (from the system's cache, if it still has them)
    /// when they are touched next. Does nothing where the system has no such call.
    pub fn release(&self) {
        #[cfg(unix)]
        // SAFETY: the map is read-only and of a file, so that a dropped page comes back with the same bytes.
        // A refusal only means that the memory stays.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_bytes_and_refuses_folders() {
        let path = std::env::temp_dir().join(format!("danaus-mapped-file-{}", std::process::id()));
        std::fs::write(&path, b"monarch").unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.as_ref(), b"monarch");
        file.release();
        assert_eq!(file.as_ref(), b"monarch");
        drop(file);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(MappedFile::open(&path).unwrap().as_ref(), b"");
        std::fs::remove_file(&path).unwrap();
        assert!(MappedFile::open(&path).is_err());
        assert!(MappedFile::open(&std::env::temp_dir()).is_err());
    }
}

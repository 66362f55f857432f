//! A socket in the file system: made, and removed again.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ListenError;

/// A listening socket and its file.
#[derive(Debug)]
pub(super) struct UnixSocket {
    // Dropped in this order: whoever finds the file finds a listener.
    _file: SocketFile,
    pub(super) listener: UnixListener,
}

impl UnixSocket {
    pub(super) async fn bind(path: &Path) -> Result<Self, ListenError> {
        make_way(path).await?;
        let error = |error| ListenError::Socket { path: path.to_owned(), error };
        let listener = UnixListener::bind(path).map_err(error)?;
        let made = std::fs::symlink_metadata(path).map_err(error)?;
        let file = SocketFile { path: path.to_owned(), inode: (made.dev(), made.ino()) };
        Ok(Self { _file: file, listener })
    }
}

/// Removes a socket that nobody listens on any more, as a process that was killed leaves one. Anything else stays.
async fn make_way(path: &Path) -> Result<(), ListenError> {
    let error = |error| ListenError::Socket { path: path.to_owned(), error };
    let there = match std::fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(error)?,
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ListenError::InUse { path: path.to_owned() }),
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing a socket that nobody listens on");
            std::fs::remove_file(path).map_err(error)
        }
        // Its listener does not come round to accepting.
        Err(busy) if busy.kind() == io::ErrorKind::WouldBlock => {
            Err(ListenError::InUse { path: path.to_owned() })
        }
        Err(other) => Err(error(other)),
    }
}

/// Our socket's file, removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server's socket may have taken its place, if somebody removed ours.
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

//! Where connections come from.

use std::io;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Tls;
#[cfg(unix)]
use super::unix::UnixSocket;

/// What the system buffers of an answer, at most. It would take megabytes, and say that there is room for more only when a
/// third of them is gone: a client that reads as slowly as it may would seem to read nothing for minutes.
const SEND_BUFFER: usize = 256 * 1024;

/// A program for the system's packet filter that drops what asks for a connection, and nothing else. A client asks again after a
/// second, and then is refused or finds the next server. An accepted connection inherits the filter; nothing asks there.
#[cfg(target_os = "linux")]
fn no_new_connections() -> [SockFilter; 4] {
    // In a TCP header: where its flags are, and the flag of a packet that asks for a connection.
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// Where a server listens.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener, Option<Tls>),
    #[cfg(unix)]
    Unix(UnixSocket),
}

/// A connection as it was accepted.
pub(super) enum Accepted {
    Plain(TcpStream),
    Tls(TcpStream, TlsAcceptor),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A living server's.
    #[error("the socket {path:?} is in use by another program: stop it, or choose another path with --uds")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file of another kind.
    #[error("{path:?} is there already and is no socket: remove it, or choose another path with --uds")]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// What the system refuses.
    #[error(
        "cannot listen on the socket {path:?}: {error}; expected a path of at most some 100 bytes in a folder that this \
             user may write to"
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::tcp(listener, None)
    }
}

impl Listener {
    /// Serves TLS, and nothing else, on a port.
    pub fn tls(listener: TcpListener, tls: Tls) -> Self {
        Self::tcp(listener, Some(tls))
    }

    fn tcp(listener: TcpListener, tls: Option<Tls>) -> Self {
        // The connections that it accepts have it from their listener.
        if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
            tracing::debug!(%error, "cannot set SO_SNDBUF");
        }
        Self(Kind::Tcp(listener, tls))
    }

    /// Makes a Unix socket, which is removed when the listener is dropped. One that nobody listens on is replaced.
    ///
    /// # Errors
    /// If another program listens there, if something else is there, or if the system refuses.
    #[cfg(unix)]
    pub async fn unix(path: &std::path::Path) -> Result<Self, ListenError> {
        UnixSocket::bind(path).await.map(|socket| Self(Kind::Unix(socket)))
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Tcp(listener, tls) => listener.accept().await.map(|(stream, _)| Accepted::tcp(stream, tls)),
            #[cfg(unix)]
            Kind::Unix(socket) => socket.listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }

    /// Lets the system make no further connections, where it can be asked for that; those that are half made still become whole.
    /// Without it, a connection that is made just before the listener is closed is reset.
    pub(super) fn refuse_new(&self) {
        #[cfg(target_os = "linux")]
        if let Kind::Tcp(listener, _) = &self.0
            && let Err(error) = SockRef::from(listener).attach_filter(&no_new_connections())
        {
            tracing::debug!(%error, "cannot set SO_ATTACH_FILTER");
        }
    }

    /// A connection that the system has made and nobody has accepted, if there is one. The runtime might not know of it yet, so
    /// the system is asked, which does not block.
    pub(super) fn accept_made(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Tcp(listener, tls) => {
                let (socket, _) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                TcpStream::from_std(socket.into()).map(|stream| Accepted::tcp(stream, tls))
            }
            #[cfg(unix)]
            Kind::Unix(unix) => {
                let (socket, _) = SockRef::from(&unix.listener).accept()?;
                socket.set_nonblocking(true)?;
                let stream = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(socket));
                tokio::net::UnixStream::from_std(stream).map(Accepted::Unix)
            }
        }
    }
}

impl Accepted {
    fn tcp(stream: TcpStream, tls: &Option<Tls>) -> Self {
        // Answers are written whole: waiting to fill packets would only delay their last part.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        match tls {
            None => Self::Plain(stream),
            Some(tls) => Self::Tls(stream, tls.acceptor()),
        }
    }
}

//! Connections: how many, and how long each may take.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::heads::{HEAD_BYTES, Heads, Line};
use super::listener::{Accepted, Listener};
use super::paced::Paced;
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::metrics::{Metrics, RefusedConnection};
use crate::middleware::Refusal;
use crate::pace::FOREVER;
use crate::routes;
use crate::state::AppState;

/// Pause after a connection could not be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Most connections that are accepted after the signal to shut down: more than the system keeps waiting.
const LAST_CONNECTIONS: usize = 4096;

/// How many connections over the limit are told so at once; those on top are closed without a word.
const REFUSED_AT_ONCE: usize = 64;

/// How long a connection over the limit may take to ask and to be told.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Open connections and what they talk to.
pub(super) struct Connections {
    desk: Arc<Desk>,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    metrics: Metrics,
    open: GracefulShutdown,
    /// Dropped when no handshake is to be finished any more.
    handshakes: watch::Sender<()>,
}

/// What every connection needs.
struct Desk {
    app: Router,
    /// Tells that there are too many connections.
    full: Router,
    /// Tells that this port speaks TLS.
    plain: Router,
    /// Tells what is wrong with a head.
    headless: Router,
    metrics: Metrics,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// A connection's place, and how it is served there.
struct Place {
    app: Router,
    /// How long it may take in all.
    time: Option<Duration>,
    watcher: Watcher,
    closing: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(state: &AppState) -> Self {
        let config = state.config();
        let most = config.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            desk: Arc::new(Desk::new(state, config)),
            slots: Arc::new(Semaphore::new(most)),
            refusals: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            metrics: state.metrics().clone(),
            open: GracefulShutdown::new(),
            handshakes: watch::Sender::new(()),
        }
    }

    /// Accepts connections for ever.
    pub(super) async fn accept_from(&self, listener: &Listener) {
        loop {
            match listener.accept().await {
                Ok(accepted) => self.spawn(accepted),
                // The client was gone before we came to it: nothing to tell.
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts who has connected already or does so within `time`, and closes the listener. Closed without that, it would reset
    /// them.
    pub(super) async fn accept_last_of(&self, listener: Listener, time: Duration) {
        listener.refuse_new();
        let _ = tokio::time::timeout(time, self.accept_from(&listener)).await;
        (0..LAST_CONNECTIONS)
            .map_while(|_| listener.accept_made().ok())
            .for_each(|accepted| self.spawn(accepted));
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.count()
    }

    /// Ends handshakes; connections stay open, so that a request on one of them gets its answer.
    pub(super) fn begin_shutdown(self) -> GracefulShutdown {
        self.open
    }

    fn spawn(&self, accepted: Accepted) {
        let Some(place) = self.place() else {
            self.metrics.connection_refused(RefusedConnection::Untold);
            tracing::debug!("a connection is closed unanswered: too many");
            return;
        };
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            let time = place.time.unwrap_or(FOREVER);
            match tokio::time::timeout(time, desk.serve(accepted, place)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection ended with an error"),
                Err(_elapsed) => tracing::debug!("a connection that was refused took too long"),
            }
        });
    }

    fn place(&self) -> Option<Place> {
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let place = |permit, app: &Router, time| Place {
            app: app.clone(),
            time,
            watcher: self.open.watcher(),
            closing: self.handshakes.subscribe(),
            _permit: permit,
        };
        match take(&self.slots) {
            Some(permit) => Some(place(permit, &self.desk.app, None)),
            None => take(&self.refusals).map(|permit| {
                self.metrics.connection_refused(RefusedConnection::TooMany);
                place(permit, &self.desk.full, Some(REFUSAL_TIME))
            }),
        }
    }
}

impl Desk {
    fn new(state: &AppState, config: &ServerConfig) -> Self {
        let full = ApiError::too_many_connections(config.max_connections);
        let plain =
            ApiError::new(ErrorKind::PlainHttp, "This port speaks TLS: use https:// instead of http://");
        Self {
            app: routes::app(state.clone()),
            full: routes::refusing(state.clone(), Refusal::full(full)),
            plain: routes::refusing(state.clone(), Refusal::always(plain)),
            headless: routes::refusing(state.clone(), Refusal::noted()),
            metrics: state.metrics().clone(),
            read_timeout: config.read_timeout.min(FOREVER),
            write_timeout: config.write_timeout,
        }
    }

    async fn serve(&self, accepted: Accepted, mut place: Place) -> io::Result<()> {
        match accepted {
            Accepted::Plain(stream) => self.speak(stream, place).await,
            #[cfg(unix)]
            Accepted::Unix(stream) => self.speak(stream, place).await,
            Accepted::Tls(stream, acceptor) => {
                let opened = tokio::select! {
                    opened = self.open(stream, acceptor) => opened.inspect_err(|_| {
                        self.metrics.connection_refused(RefusedConnection::Handshake);
                    })?,
                    _ = place.closing.changed() => return Ok(()),
                };
                match opened {
                    Opened::Tls(stream) => self.http(stream, place).await,
                    Opened::Plain(stream) => {
                        place.app = self.plain.clone();
                        self.speak(stream, place).await
                    }
                }
            }
        }
    }

    /// The handshake, if the client begins one.
    async fn open(&self, stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<Opened> {
        let open = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                return Ok(Opened::Plain(stream));
            }
            let stream = acceptor.accept(Paced::new(stream, self.write_timeout)).await?;
            Ok(Opened::Tls(Box::new(stream)))
        };
        let late = |_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time");
        tokio::time::timeout(self.read_timeout, open).await.map_err(late)?
    }

    fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: Place,
    ) -> impl Future<Output = io::Result<()>> {
        self.http(Paced::new(stream, self.write_timeout), place)
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: Place,
    ) -> io::Result<()> {
        let Place { app, watcher, _permit, .. } = place;
        let line = Arc::new(Line::default());
        let stream = Heads::new(stream, Arc::clone(&line), self.read_timeout);
        let [app, headless] = [app, self.headless.clone()].map(TowerToHyperService::new);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (refusal, answering) = line.admit();
            let answer = match refusal {
                Some(refusal) => {
                    request.extensions_mut().insert(refusal);
                    headless.call(request)
                }
                None => app.call(request),
            };
            async move {
                let _answering = answering;
                answer.await
            }
        });
        let connection = http1::Builder::new()
            // `Heads` gives up earlier. That there is a limit makes hyper read again after an answer, which starts its clock.
            .timer(TokioTimer::new())
            .header_read_timeout((self.read_timeout.saturating_mul(2) + Duration::from_secs(1)).min(FOREVER))
            // What a connection reads at once, and so a bound to what it holds.
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).await.map_err(io::Error::other)
    }
}

/// A connection to a port that speaks TLS.
enum Opened {
    Tls(Box<TlsStream<Paced<TcpStream>>>),
    /// From a client that does not.
    Plain(TcpStream),
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

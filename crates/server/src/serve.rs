//! Listening: connections, loading in the background, shutdown.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::config::ServerConfig;
use crate::routes::app;
use crate::service::Service;
use crate::state::AppState;
use crate::worker::panic_message;

/// Pause after a connection could not be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Most connections that are accepted after the signal to shut down: more than the system keeps waiting.
const LAST_CONNECTIONS: usize = 4096;

/// How long a connection that may have sent something already is not taken for an idle one when the server shuts down.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves, then finishes what is in flight and returns.
///
/// The port answers at once; `load` runs on its own thread, and until it returns, routes that need a model answer 503.
/// After `shutdown`, no connection is accepted that was not made before, requests in flight go on for at most
/// `config.shutdown_timeout`, and requests that arrive on open connections get 503. A `load` that is still running is left alone: the caller's process
/// should end, not wait for it; the same holds for a batch that the model is computing when the timeout strikes.
///
/// # Errors
/// The error of `load`, as soon as it fails; or the operating system's, where it does not give us a thread.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    load: impl FnOnce() -> anyhow::Result<Service> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (read_timeout, shutdown_timeout) = (config.read_timeout, config.shutdown_timeout);
    let state = AppState::new(config);
    let connections = Connections { app: app(state.clone()), read_timeout, open: GracefulShutdown::new() };
    let loading = start_loading(load)?;
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        error = failed_load(loading, &state) => Err(error),
        () = connections.accept_from(&listener) => Ok(()),
    };
    state.begin_shutdown();
    connections.accept_last_of(listener);
    tracing::info!(connections = connections.open.count(), "shutting down");
    let finished = async {
        // Connections stay open meanwhile, so that a request on one of them gets its 503.
        tokio::time::sleep(LAST_WORDS.min(shutdown_timeout / 2)).await;
        state.all_answered().await;
        connections.open.shutdown().await;
    };
    if tokio::time::timeout(shutdown_timeout, finished).await.is_err() {
        tracing::warn!(
            seconds = shutdown_timeout.as_secs_f64(),
            "requests still in flight at the shutdown's timeout"
        );
    }
    state.stop_worker();
    outcome
}

type Loaded = oneshot::Receiver<anyhow::Result<Service>>;

fn start_loading(load: impl FnOnce() -> anyhow::Result<Service> + Send + 'static) -> anyhow::Result<Loaded> {
    let (done, loaded) = oneshot::channel();
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| {
            Err(anyhow!("loading the model panicked: {}", panic_message(panic.as_ref())))
        });
        // Nobody listens any more after a shutdown.
        let _ = done.send(result);
    };
    std::thread::Builder::new()
        .name("danaus-load".into())
        .spawn(work)
        .context("cannot start a thread to load the model")?;
    Ok(loaded)
}

/// Waits for the model and lets requests in; resolves only if there will be none.
async fn failed_load(loading: Loaded, state: &AppState) -> anyhow::Error {
    let service = match loading.await {
        Ok(Ok(service)) => service,
        Ok(Err(error)) => return error,
        Err(_) => return anyhow!("the thread that loads the model ended without a result"),
    };
    match state.set_ready(service) {
        Ok(()) => std::future::pending().await,
        Err(error) => anyhow::Error::new(error).context("cannot start the worker thread"),
    }
}

/// Open connections and what they talk to.
struct Connections {
    app: Router,
    read_timeout: Duration,
    open: GracefulShutdown,
}

impl Connections {
    /// Accepts connections for ever.
    async fn accept_from(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream),
                // The client was gone before we came to it: nothing to tell.
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts who has connected already, and closes the port. Closed without that, it would reset them.
    fn accept_last_of(&self, listener: TcpListener) {
        // The runtime might not know of the latest yet: the system is asked, which does not block.
        let Ok(listener) = listener.into_std() else { return };
        for (stream, _) in (0..LAST_CONNECTIONS).map_while(|_| listener.accept().ok()) {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                self.spawn(stream);
            }
        }
    }

    fn spawn(&self, stream: TcpStream) {
        // Answers are written whole: waiting to fill packets would only delay their last part.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.app.clone()));
        let connection = self.open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }
}

fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

//! Listening: connections, loading in the background, shutdown.

mod connections;
mod heads;
mod listener;
mod paced;
mod tls;
#[cfg(unix)]
mod unix;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;

use self::connections::Connections;
pub use self::listener::{ListenError, Listener};
pub use self::tls::{Tls, TlsError};
use crate::config::ServerConfig;
use crate::service::Service;
use crate::state::AppState;
use crate::worker::panic_message;

/// How long a connection that may have sent something already is not taken for an idle one when the server shuts down.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long a client that is just connecting may take to finish when the server shuts down.
const HANDSHAKES: Duration = Duration::from_millis(50);

/// Serves until `shutdown` resolves, then finishes what is in flight and returns.
///
/// The port answers at once; `load` runs on its own thread, and until it returns, routes that need a model answer 503.
/// After `shutdown`, no connection is accepted that was not being made before, requests in flight go on for at most
/// `config.shutdown_timeout`, and requests that arrive on open connections get 503. A `load` that is still running is left alone: the caller's process
/// should end, not wait for it; the same holds for a batch that the model is computing when the timeout strikes.
///
/// # Errors
/// The error of `load`, as soon as it fails; or the operating system's, where it does not give us a thread.
pub async fn serve(
    listener: impl Into<Listener>,
    config: ServerConfig,
    load: impl FnOnce() -> anyhow::Result<Service> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (listener, shutdown_timeout) = (listener.into(), config.shutdown_timeout);
    let state = AppState::new(config);
    let connections = Connections::new(&state);
    let loading = start_loading(load)?;
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        error = failed_load(loading, &state) => Err(error),
        () = connections.accept_from(&listener) => Ok(()),
    };
    state.begin_shutdown();
    connections.accept_last_of(listener, HANDSHAKES.min(shutdown_timeout / 4)).await;
    tracing::info!(connections = connections.count(), "shutting down");
    let connections = connections.begin_shutdown();
    let finished = async {
        // Connections stay open meanwhile, so that a request on one of them gets its 503.
        tokio::time::sleep(LAST_WORDS.min(shutdown_timeout / 2)).await;
        state.all_answered().await;
        connections.shutdown().await;
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

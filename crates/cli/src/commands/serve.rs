//! `danaus serve`

use std::sync::Arc;

use anyhow::{Context, bail};
use danaus_server::{ModelInfo, ServerConfig, Service};
use tokio::net::TcpListener;

use crate::args::ServeArgs;
use crate::setup;

/// The port where neither `--port` nor `$PORT` says otherwise.
const DEFAULT_PORT: u16 = 8000;

pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    args.compute.device.check()?;
    let port = port(args.port)?;
    let runtime = tokio::runtime::Runtime::new().context("the async runtime cannot be started")?;
    let outcome = runtime.block_on(async {
        let listener = listen(&args.host, port).await?;
        let config = server_config(&args);
        danaus_server::serve(listener, config, move || load(&args), shutdown_signal()?).await
    });
    // What still runs at this point (a load that was interrupted, a batch past the shutdown's timeout) is not waited for.
    runtime.shutdown_background();
    outcome
}

/// The port as given, else `$PORT`, else the default.
pub fn port(given: Option<u16>) -> anyhow::Result<u16> {
    let variable = std::env::var("PORT").unwrap_or_default();
    match given {
        Some(port) => Ok(port),
        None if variable.is_empty() => Ok(DEFAULT_PORT),
        None => variable.parse().with_context(|| {
            format!("the environment variable PORT is {variable:?}: expected a number from 0 to 65535")
        }),
    }
}

async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let bind = TcpListener::bind((host, port)).await;
    let listener = match bind {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} of {host} is taken by another program: stop it, or choose another with --port")
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("port {port} of {host} may not be opened by this user: choose one from 1024 up with --port")
        }
        Err(error) => bail!("cannot listen on {host}, port {port}: {error}"),
    };
    let address = listener.local_addr()?;
    tracing::info!(%address, "listening: documentation at http://{}/docs", visible(address));
    Ok(listener)
}

/// The address to type into a browser: "all interfaces" is none.
fn visible(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

fn server_config(args: &ServeArgs) -> ServerConfig {
    ServerConfig {
        max_batch_tokens: args.limits.max_batch_tokens,
        auto_truncate: args.text.auto_truncate,
        pooling: args.text.pooling,
        padding: args.compute.padding,
        max_body_bytes: args.limits.max_body.saturating_mul(1 << 20),
        max_inputs: args.limits.max_inputs,
        max_queued_tokens: args.limits.max_queued_tokens,
        request_timeout: args.limits.request_timeout,
        shutdown_timeout: args.limits.shutdown_timeout,
        ..ServerConfig::default()
    }
}

fn load(args: &ServeArgs) -> anyhow::Result<Service> {
    let (model, backend) = setup::load(&args.model.load_options(), &args.compute)?;
    let tokenizer = setup::tokenizer(args.text.tokenizer.as_deref(), model.config.vocab_size)?;
    let (id, revision, synthetic) = (model.id, model.revision, model.synthetic);
    Ok(Service { backend, tokenizer: Arc::new(tokenizer), model: ModelInfo { id, revision, synthetic } })
}

/// Resolves at the first SIGTERM or SIGINT (Ctrl-C); a second one ends the process at once.
fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?
    };
    Ok(async move {
        #[cfg(unix)]
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = tokio::signal::ctrl_c() => "SIGINT",
        };
        #[cfg(not(unix))]
        let signal = {
            let _ = tokio::signal::ctrl_c().await;
            "Ctrl-C"
        };
        tracing::info!(signal, "finishing requests in flight; once more to stop at once");
        tokio::spawn(async move {
            #[cfg(unix)]
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            #[cfg(not(unix))]
            let _ = tokio::signal::ctrl_c().await;
            std::process::exit(1);
        });
    })
}

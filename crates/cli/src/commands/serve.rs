//! `danaus serve`

use std::sync::Arc;

use anyhow::{Context, bail};
use danaus_engine::padding::{Budget, Preparation, Progress, Store};
use danaus_engine::{Backend, Padding};
use danaus_model::Tokenizer;
use danaus_server::{Listener, ModelInfo, ServerConfig, Service, Tls};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::args::{PaddingWait, ServeArgs, usage_error};
use crate::keys::api_keys;
use crate::{descriptors, padding, setup, signals, traces};

/// The port where neither `--port` nor `$PORT` says otherwise.
const DEFAULT_PORT: u16 = 8000;

pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    args.compute.backend_options().check()?;
    let port = port(args.port)?;
    let config = server_config(&args)?;
    let (traces, export) = traces::start(&args.traces, &args.model.model.to_string())?;
    let config = ServerConfig { traces, ..config };
    let runtime = tokio::runtime::Runtime::new().context("the async runtime cannot be started")?;
    let outcome = runtime.block_on(async {
        let listener = listen(&args, port).await?;
        let shutdown = shutdown(signals::listen()?);
        danaus_server::serve(listener, config, move || load(&args), shutdown).await
    });
    export.finish();
    // What still runs at this point (a load that was interrupted, a batch past the shutdown's timeout) is not waited for.
    runtime.shutdown_background();
    outcome
}

/// The port as given, else `$PORT`, else the default.
pub fn port(given: Option<u16>) -> anyhow::Result<u16> {
    let variable = std::env::var_os("PORT").unwrap_or_default();
    match given {
        Some(port) => Ok(port),
        None if variable.is_empty() => Ok(DEFAULT_PORT),
        None => variable.to_str().and_then(|port| port.parse().ok()).ok_or_else(|| {
            let message = "expected a number from 0 to 65535, or --port";
            usage_error(format!("the environment variable PORT is {variable:?}: {message}"))
        }),
    }
}

/// Opens the port or the socket, and says where.
async fn listen(args: &ServeArgs, port: u16) -> anyhow::Result<Listener> {
    #[cfg(unix)]
    if let Some(path) = &args.listen.uds {
        let listener = Listener::unix(path).await?;
        tracing::info!(socket = %path.display(), "listening");
        return Ok(listener);
    }
    let tls = match (&args.listen.tls_cert, &args.listen.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::from_files(cert, key)?),
        _ => None,
    };
    let listener = bind(&args.host, port).await?;
    let address = listener.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(%address, "listening: documentation at {scheme}://{}/docs", visible(address));
    Ok(match tls {
        Some(tls) => Listener::tls(listener, tls),
        None => listener.into(),
    })
}

async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    // An IPv6 address may come as a URL has it.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match TcpListener::bind((host, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} of {host} is taken by another program: stop it, or choose another with --port")
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("port {port} of {host} may not be opened by this user: choose one from 1024 up with --port")
        }
        Err(error) => bail!("cannot listen on {host}, port {port}: {error}"),
    }
}

/// The address to type into a browser: "all interfaces" is none.
fn visible(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

fn server_config(args: &ServeArgs) -> anyhow::Result<ServerConfig> {
    let defaults = ServerConfig::default();
    Ok(ServerConfig {
        max_batch_tokens: args.limits.max_batch_tokens,
        short_text_tokens: args.limits.short_text_tokens,
        auto_truncate: args.text.auto_truncate,
        pooling: args.text.pooling,
        strict_model: args.strict_model,
        accept_token_ids: args.accept_token_ids,
        api_keys: api_keys(&args.access.api_key, args.access.api_key_file.as_deref())?,
        cors_origins: args.access.cors_origin.clone(),
        refuse_unprepared: args.padding_wait == PaddingWait::Refuse,
        max_body_bytes: args.limits.max_body.saturating_mul(1 << 20),
        max_inputs: args.limits.max_inputs,
        max_queued_tokens: args.limits.max_queued_tokens,
        // Room for several requests of the largest size.
        max_queued_texts: defaults.max_queued_texts.max(args.limits.max_inputs.saturating_mul(4)),
        max_queue_time: (!args.limits.max_queue_seconds.is_zero()).then_some(args.limits.max_queue_seconds),
        cache_bytes: args.limits.cache_size,
        request_timeout: args.limits.request_timeout,
        max_connections: descriptors::room_for(args.clients.max_connections),
        max_inflight_bytes: args.clients.max_inflight_bytes.saturating_mul(1 << 20),
        read_timeout: args.clients.read_timeout,
        write_timeout: args.clients.write_timeout,
        shutdown_timeout: args.limits.shutdown_timeout,
        ..defaults
    })
}

fn load(args: &ServeArgs) -> anyhow::Result<Service> {
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let vocabulary = model.config.vocab_size;
    let tokenizer = Arc::new(setup::tokenizer(args.text.tokenizer.file.as_deref(), vocabulary)?);
    let speed = setup::warm_up(&*backend)?;
    let padding = setup::padding(&args.compute, &model);
    let preparation = Arc::new(Preparation::default());
    if padding == Padding::Fast {
        let store = padding::store(&args.compute, &options, &model, &*backend);
        if !padding::load(&store, &*backend)? {
            let budget = padding::budget(&args.compute);
            prepare(store, Arc::clone(&backend), Arc::clone(&tokenizer), (vocabulary, budget), &preparation)?;
        }
    }
    if backend.info().accelerator.is_some() {
        let backend = Arc::clone(&backend);
        let thread = std::thread::Builder::new().name("danaus-self-test".into());
        thread.spawn(move || backend.finish_self_test()).context("a thread cannot be started")?;
    }
    let (id, revision, synthetic) = (model.id, model.revision, model.synthetic);
    let model = ModelInfo { id, revision, synthetic };
    Ok(Service { backend, tokenizer, model, padding, preparation, speed })
}

/// Prepares fast padding beside the server's work: its passes and those of requests take turns.
fn prepare(
    store: Store,
    backend: Arc<dyn Backend>,
    tokenizer: Arc<Tokenizer>,
    (vocabulary, budget): (usize, Budget),
    preparation: &Arc<Preparation>,
) -> anyhow::Result<()> {
    if let Err(error) = store.check_writable() {
        tracing::warn!(
            "what is prepared cannot be kept, and will be prepared again at the next start: {error}"
        );
    }
    // From here on, so that no request comes before it is said.
    preparation.set(Some(Progress::default()));
    let ends = Ends(Arc::clone(preparation));
    let work = move || {
        let Ends(preparation) = &ends;
        match padding::make(&store, &*backend, (&tokenizer, vocabulary), budget, preparation) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                "what was prepared cannot be kept, and will be prepared again at the next start: {error}"
            ),
            Err(error) => {
                tracing::error!(%error, "fast padding cannot be prepared: texts are computed exactly");
            }
        }
    };
    let thread = std::thread::Builder::new().name("danaus-prepare".into());
    thread.spawn(work).context("a thread cannot be started")?;
    Ok(())
}

/// Says that nothing is being prepared any more, however the preparation ends.
struct Ends(Arc<Preparation>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Resolves at the first signal; a second one ends the process at once.
async fn shutdown(mut signals: UnboundedReceiver<&'static str>) {
    let signal = signals.recv().await;
    tracing::info!(signal, "finishing requests in flight; once more to stop at once");
    tokio::spawn(async move {
        let signal = signals.recv().await;
        tracing::warn!(signal, "stopping at once");
        std::process::exit(1);
    });
}

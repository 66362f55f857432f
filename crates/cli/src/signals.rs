//! Being asked to stop.

use std::path::PathBuf;

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Names of the signals that ask the process to stop, as they arrive, from now on: they no longer end it by themselves.
/// Needs a running async runtime.
#[cfg(unix)]
pub fn listen() -> anyhow::Result<UnboundedReceiver<&'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = unbounded_channel();
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let mut signal = signal(kind).with_context(|| format!("cannot listen for {name}"))?;
        let sender = sender.clone();
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(name).is_ok() {} });
    }
    Ok(receiver)
}

/// See above: elsewhere there is only Ctrl-C.
#[cfg(not(unix))]
pub fn listen() -> anyhow::Result<UnboundedReceiver<&'static str>> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(
        async move { while tokio::signal::ctrl_c().await.is_ok() && sender.send("Ctrl-C").is_ok() {} },
    );
    Ok(receiver)
}

/// From now on, a signal that asks the process to stop ends it after removing the unfinished file at `path`.
pub fn remove_when_stopped(path: PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = runtime.block_on(async { listen() })?;
    let wait = move || {
        let signal = runtime.block_on(signals.recv());
        // It may have become whole just now, and have another name.
        let _ = std::fs::remove_file(path);
        tracing::error!(signal, "stopped before the end: no output was written");
        std::process::exit(1);
    };
    std::thread::Builder::new().name("danaus-signals".to_owned()).spawn(wait)?;
    Ok(())
}

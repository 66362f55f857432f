//! `danaus health`: what a container's health check runs, where there is no curl.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use ureq::tls::TlsConfig;

use super::serve::port;
use crate::args::HealthArgs;
use crate::stdout;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a server says of itself, as far as it is told here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Health {
    status: String,
    done: Option<u64>,
    total: Option<u64>,
    seconds_left: Option<f64>,
    longest_fast: Option<u64>,
}

/// An answer: its status and its body.
type Answer = (u16, String);

/// Succeeds where a server on this machine says that it is ready. One that still prepares fast padding is, and how far it is is told.
pub fn run(args: HealthArgs) -> anyhow::Result<()> {
    #[cfg(unix)]
    if let Some(path) = &args.uds {
        let place = format!("the socket {path:?}");
        return judge(unix::get(path, "/health"), &place);
    }
    let scheme = if args.tls || args.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://127.0.0.1:{}/health", port(args.port)?);
    judge(get(&url), &url)
}

fn judge(answer: anyhow::Result<Answer>, place: &str) -> anyhow::Result<()> {
    let (status, body) = answer.with_context(|| format!("no server answers at {place}"))?;
    if !(200..300).contains(&status) {
        bail!("{place} answers {status}: {body}");
    }
    let health: Health = serde_json::from_str(&body).unwrap_or_default();
    stdout::print(body)?;
    if let ("preparing", Some(done), Some(total)) = (&*health.status, health.done, health.total) {
        let Health { seconds_left, longest_fast, .. } = health;
        tracing::info!(
            done,
            total,
            seconds_left,
            longest_fast,
            "healthy, and fast padding is being prepared"
        );
    }
    Ok(())
}

fn get(url: &str) -> anyhow::Result<Answer> {
    // The certificate names whoever the server's clients ask for, not this machine's own address.
    let tls = TlsConfig::builder().disable_verification(true).build();
    // No proxy of the environment may stand between two processes of one machine.
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).tls_config(tls);
    let agent: ureq::Agent = config.http_status_as_error(false).build().into();
    let mut response = agent.get(url).call()?;
    let body = response.body_mut().read_to_string().context("the answer does not come in full")?;
    Ok((response.status().as_u16(), body))
}

/// A request to a Unix socket, which `ureq` does not know.
#[cfg(unix)]
mod unix {
    use std::path::Path;

    use anyhow::Context;
    use http_body_util::{BodyExt, Empty};
    use hyper::Request;
    use hyper::body::Bytes;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;

    use super::{Answer, PATIENCE};

    pub(super) fn get(path: &Path, route: &str) -> anyhow::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = async { tokio::time::timeout(PATIENCE, ask(path, route)).await };
        runtime.block_on(answer).context("it takes too long")?
    }

    async fn ask(path: &Path, route: &str) -> anyhow::Result<Answer> {
        let stream = UnixStream::connect(path).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its errors are those of the request.
        tokio::spawn(connection);
        let request = Request::get(route).header("host", "localhost").body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.context("the answer does not come in full")?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

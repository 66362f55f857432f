//! `danaus health`: what a container's health check runs, where there is no curl.

use std::time::Duration;

use anyhow::{Context, bail};

use super::serve::port;
use crate::args::HealthArgs;
use crate::stdout;

/// Succeeds where a server on this machine says that it is ready.
pub fn run(args: HealthArgs) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{}/health", port(args.port)?);
    // No proxy of the environment may stand between two processes of one machine.
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).proxy(None);
    let agent: ureq::Agent = config.http_status_as_error(false).build().into();
    let mut response = agent.get(&url).call().with_context(|| format!("no server answers at {url}"))?;
    let body =
        response.body_mut().read_to_string().with_context(|| format!("{url} does not answer in full"))?;
    if !response.status().is_success() {
        bail!("{url} answers {}: {body}", response.status());
    }
    stdout::print(body)
}

//! How the server listens, and what it allows its clients.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::{at_least_one, seconds};

/// Beside host and port.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Serve TLS (1.2 and 1.3), and no plain HTTP, with this certificate: a PEM file, the issuers' certificates after the
    /// server's own
    ///
    /// Certificate and key are read at the start: restart the server when they have been renewed.
    #[arg(long, env = "DANAUS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key: a PEM file that needs no password
    #[arg(long, env = "DANAUS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Listen on a Unix socket instead of a port
    ///
    /// A socket that nobody listens on is replaced; it is removed when the server ends. Who may connect is a matter of its
    /// folder's permissions, and of the umask.
    #[cfg(unix)]
    #[arg(long, env = "DANAUS_UDS", value_name = "PATH", conflicts_with_all = ["tls_cert", "tls_key"])]
    pub uds: Option<PathBuf>,
}

/// How many clients, how slow they may be, and what they may make the server hold.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct ClientArgs {
    /// Most connections that are served at once; those on top are answered with 503 and closed (GET /health and GET /metrics
    /// still answer)
    ///
    /// Fewer, with a warning, where the system lets the process open fewer files (ulimit -n).
    #[arg(long, env = "DANAUS_MAX_CONNECTIONS", default_value_t = 4096, value_name = "N", value_parser = at_least_one)]
    pub max_connections: usize,
    /// Most memory for requests' bodies until they are answered, and for answers until they are sent, in MiB; requests that
    /// would pass it are refused with 429
    ///
    /// A request that is alone is always taken, if it is no larger than --max-body. Resident memory is about twice as much; the README
    /// says how it follows from the limits.
    #[arg(long, env = "DANAUS_MAX_INFLIGHT_BYTES", default_value_t = 128, value_name = "MIB", value_parser = at_least_one)]
    pub max_inflight_bytes: usize,
    /// Seconds of silence after which a client that has a request, or a TLS handshake, to send is cut off, and a connection
    /// without a request is closed
    ///
    /// Beyond that, the body of a request must come at 16 KiB a second on average.
    #[arg(long, env = "DANAUS_READ_TIMEOUT", default_value = "30", value_name = "SECONDS", value_parser = some_seconds)]
    pub read_timeout: Duration,
    /// Seconds after which a client that takes nothing of its answer is cut off
    ///
    /// Beyond that, it must take 16 KiB a second on average.
    #[arg(long, env = "DANAUS_WRITE_TIMEOUT", default_value = "30", value_name = "SECONDS", value_parser = some_seconds)]
    pub write_timeout: Duration,
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Port that the server listens on [default: $PORT, else 8000]
    #[arg(long, short, env = "DANAUS_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    /// Ask over TLS
    ///
    /// The certificate is not verified: it names another host than this machine's own address, and nothing secret is sent.
    #[arg(long, env = "DANAUS_TLS", value_parser = BoolishValueParser::new())]
    pub tls: bool,
    /// As --tls: so that a container's variables for the server are right for its health check, too. The file is not read
    #[arg(long, env = "DANAUS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Unix socket that the server listens on, instead of a port
    #[cfg(unix)]
    #[arg(long, env = "DANAUS_UDS", value_name = "PATH")]
    pub uds: Option<PathBuf>,
}

pub(super) fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text) {
        Ok(time) if time >= Duration::from_millis(1) => Ok(time),
        _ => Err("expected a number of seconds, 0.001 or more".to_owned()),
    }
}

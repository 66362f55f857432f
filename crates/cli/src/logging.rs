//! Log lines, on standard error.

use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::args::{LogFormat, LoggingArgs};

/// Target of what is logged whatever the level: why the process ends.
const FAILURE: &str = "danaus::failure";

/// Starts logging for the whole process.
pub fn start(args: &LoggingArgs) {
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = match args.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            // Else a panic would be the one line that is no JSON object.
            std::panic::set_hook(Box::new(|panic| tracing::error!(target: FAILURE, "{panic}")));
            lines.json().flatten_event(true).boxed()
        }
    };
    let filter = args.log_level.clone().with_target(FAILURE, LevelFilter::ERROR).and(filter_fn(is_no_dump));
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Keeps what libraries handle out of the log, at the level `trace` too: the hub's access token is in what goes over the wire, and
/// `tokenizers` spells out texts.
fn is_no_dump(metadata: &Metadata<'_>) -> bool {
    // What a GPU's driver has is no news either.
    let news = *metadata.level() != Level::INFO || !metadata.target().starts_with("wgpu");
    news && (*metadata.level() != Level::TRACE || metadata.target().starts_with("danaus"))
}

/// Says why the process ends.
pub fn failure(format: LogFormat, error: &anyhow::Error) {
    match format {
        // Nobody to tell where standard error is closed; `eprintln!` would panic.
        LogFormat::Text => drop(writeln!(io::stderr(), "danaus: error: {error:#}")),
        LogFormat::Json => tracing::error!(target: FAILURE, "{error:#}"),
    }
}

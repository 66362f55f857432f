//! Log lines, on standard error.

use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

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
    tracing_subscriber::registry().with(lines.with_filter(filter(&args.log_level))).init();
}

/// What is logged. It says which level is the last, so that libraries do not ask about each line beyond it: `tokenizers` has some for every
/// word, and asking took five times as long as tokenising.
fn filter(level: &Targets) -> impl Filter<Registry> + use<> {
    let level = level.clone().with_target(FAILURE, LevelFilter::ERROR);
    level.and(filter_fn(is_no_dump).with_max_level_hint(LevelFilter::TRACE))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_knows_its_last_level() {
        for (level, last) in [
            ("info", LevelFilter::INFO),
            ("off", LevelFilter::ERROR),
            ("warn,danaus=debug", LevelFilter::DEBUG),
        ] {
            assert_eq!(filter(&level.parse().unwrap()).max_level_hint(), Some(last), "{level}");
        }
    }
}

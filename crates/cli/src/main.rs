//! The `danaus` binary: arguments as typed, turned into validated values, wired to the crates that do the work.

mod args;
mod commands;
mod descriptors;
mod keys;
mod logging;
mod npy;
mod padding;
mod rows;
mod setup;
mod signals;
mod stdout;
mod traces;

use std::process::ExitCode;

use crate::args::Command;

fn main() -> ExitCode {
    let cli = args::parse();
    logging::start(&cli.logging);
    let outcome = match cli.command {
        Command::Serve(args) => commands::serve::run(*args),
        Command::Embed(args) => commands::embed::run(args),
        Command::Search(args) => commands::search::run(*args),
        Command::Synth(args) => commands::synth::run(args),
        Command::Prepare(args) => commands::prepare::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Download(args) => commands::download::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Doctor(args) => commands::doctor::run(*args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Health(args) => commands::health::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough: not a failure of ours (`danaus embed … | head`).
        Err(error) if error.is::<stdout::Closed>() => ExitCode::SUCCESS,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => {
                logging::failure(cli.logging.log_format, &error);
                ExitCode::FAILURE
            }
        },
    }
}

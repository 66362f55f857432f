//! The `danaus` binary: arguments as typed, turned into validated values, wired to the crates that do the work.

mod args;
mod commands;
mod logging;
mod npy;
mod rows;
mod setup;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(&cli.logging);
    let outcome = match cli.command {
        Command::Serve(args) => commands::serve::run(args),
        Command::Embed(args) => commands::embed::run(args),
        Command::Synth(args) => commands::synth::run(args),
        Command::Download(args) => commands::download::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Health(args) => commands::health::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough: not a failure of ours (`danaus embed … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("danaus: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(|e| e.kind());
    error.chain().any(|cause| kind(cause) == Some(std::io::ErrorKind::BrokenPipe))
}

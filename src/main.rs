//! The `ringmill` command. Its subcommands are in `cli/`; this file only starts logging and reports errors.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::Command::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("RINGMILL_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringmill: error: {error}");
            ExitCode::FAILURE
        }
    }
}

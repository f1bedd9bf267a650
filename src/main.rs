//! The `ringmill` command. Its subcommands are in `cli/`; this file only starts logging and reports errors.
#![forbid(unsafe_code)]
// They panic where nothing can be written: see cli/terminal.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::Command::try_parse() {
        Ok(command) => command,
        Err(said) => return cli::terminal::usage(&said),
    };
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
            cli::terminal::error(error);
            ExitCode::FAILURE
        }
    }
}

//! The `ringmill` command. Its subcommands are in `cli/`; this file only starts them and reports errors.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]
// They panic where nothing can be written: see console/src/terminal.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod config;

use ringmill_console::terminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            terminal::error(error);
            ExitCode::FAILURE
        }
    }
}

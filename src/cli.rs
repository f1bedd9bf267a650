//! The command line: one file a subcommand.

mod load;
mod options;
mod routes;
mod serve;

use clap::Parser;
use std::process::ExitCode;

/// A thread-per-core server engine for Linux, on io_uring and epoll.
#[derive(Parser)]
#[command(name = "ringmill", version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "The log goes to standard error; RINGMILL_LOG sets its level (error, warn, info, debug, trace)."
)]
pub(crate) enum Command {
    /// Run the bundled HTTP/1.1, TCP echo and UDP echo server
    Serve(Box<serve::Serve>),
    /// Put load on a server: HTTP/1.1, TCP echo or UDP echo, and report rate and latency
    Load(Box<load::Load>),
}

impl Command {
    pub(crate) fn run(self) -> Result<ExitCode, Box<dyn std::error::Error>> {
        match self {
            Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS).map_err(Into::into),
            Command::Load(load) => load.run().map_err(Into::into),
        }
    }
}

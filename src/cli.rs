//! The command line: one file a subcommand.

mod compare;
mod doctor;
mod load;
mod options;
mod routes;
mod serve;
mod statistics;
pub(crate) mod terminal;

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
    /// Say what the machine could do better for a server, and change it when told to
    Doctor(Box<doctor::Doctor>),
    /// Put load on a server: HTTP/1.1, TCP echo or UDP echo, and report rate and latency
    Load(Box<load::Load>),
    /// Measure this server against others on this machine, and write a report
    Compare(Box<compare::Compare>),
    /// Become another program on chosen CPUs that ends with its starter
    #[command(hide = true)]
    RunPinned(compare::pinned::RunPinned),
}

impl Command {
    pub(crate) fn run(self) -> Result<ExitCode, Box<dyn std::error::Error>> {
        match self {
            Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS).map_err(Into::into),
            Command::Load(load) => load.run().map_err(Into::into),
            Command::Doctor(doctor) => doctor.run(),
            Command::Compare(compare) => compare.run().map_err(with_causes),
            Command::RunPinned(pinned) => pinned.run().map(|()| ExitCode::SUCCESS).map_err(with_causes),
        }
    }
}

/// One line with all causes.
fn with_causes(error: anyhow::Error) -> Box<dyn std::error::Error> {
    format!("{error:#}").into()
}

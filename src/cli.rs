//! The command line: one file a subcommand, or a crate: `ringmill-compare` and `ringmill-doctor`.

mod access_log;
mod check;
mod front;
mod gate;
mod https;
#[expect(clippy::disallowed_methods, reason = "it measures")]
mod load;
mod log;
mod observe;
mod proxy;
mod routes;
mod run;
mod serve;
mod signals;
mod upstream_stats;
mod workers;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser};
use ringmill_console::terminal;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A thread-per-core server engine for Linux, on io_uring and epoll.
#[derive(Parser)]
#[command(name = "ringmill", version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "The log goes to standard error, at best effort: lines that it does not take are dropped and counted.\n\
                  RINGMILL_LOG sets its level (error, warn, info, debug, trace, off). An empty variable counts as unset."
)]
pub(crate) enum Command {
    /// Run the bundled HTTP/1.1, TCP echo and UDP echo server
    Serve(Box<serve::Serve>),
    /// Put HTTP servers behind one address: a reverse proxy that balances, retries and streams
    Proxy(Box<proxy::Proxy>),
    /// Say all that is wrong with a file for `serve --config`
    Check(check::Check),
    /// Say what becomes of a request by such a file: its route, why, its upstream, limits, fields that change
    Explain(check::Explain),
    /// Say what the machine could do better for a server, and change it when told to
    Doctor(Box<ringmill_doctor::Doctor>),
    /// Put load on a server: HTTP/1.1 or HTTPS, TCP echo or UDP echo, and report rate and latency
    Load(Box<load::Load>),
    /// Measure this server against others on this machine, and write a report
    Compare(Box<ringmill_compare::Compare>),
    /// Become another program on chosen CPUs that ends with its starter
    #[command(hide = true)]
    RunPinned(ringmill_compare::RunPinned),
}

/// Runs the command that the arguments and the variables ask for. Where they are bad it says so.
pub(crate) fn run() -> Result<ExitCode, Box<dyn Error>> {
    let (command, filter) = match parse().and_then(|command| Ok((command, log_filter()?))) {
        Ok(asked) => asked,
        Err(said) => return Ok(terminal::usage(&without_passwords(said))),
    };
    // Dropped before an error is told, so that the log stands before it.
    let _flush = log::start(filter).map_err(|error| format!("cannot start the log: {error}"))?;
    command.run()
}

fn log_filter() -> Result<EnvFilter, clap::Error> {
    const VARIABLE: &str = "RINGMILL_LOG";
    let text = variable(VARIABLE.as_ref()).unwrap_or_else(|| "info".into());
    log::filter(&text.to_string_lossy()).map_err(|problem| bad_variable(VARIABLE.as_ref(), false, &problem))
}

/// A variable that is set and empty is unset, as compose files and units expect.
fn variable(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn bad_variable(name: &OsStr, is_secret: bool, problem: &str) -> clap::Error {
    let value = variable(name).filter(|_| !is_secret);
    let value = value.map_or(String::new(), |value| format!(" '{}'", value.display()));
    let text = format!("invalid value{value} of the variable {}: {problem}\n", name.display());
    clap::Error::raw(ErrorKind::ValueValidation, text)
}

/// An error that repeats an address repeats it without who is to be let in there.
fn without_passwords(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && let Some((scheme, rest)) = text.split_once("://")
            && let Some((_, host)) = rest.rsplit_once('@')
        {
            let text = format!("{scheme}://{host}");
            error.insert(kind, ContextValue::String(text));
        }
    }
    error
}

/// As `Command::try_parse`, but an empty variable is unset, and a bad value of a variable names the variable: the
/// parser names an option that nobody gave.
fn parse() -> Result<Command, clap::Error> {
    let with = |keep: &dyn Fn(&OsStr) -> bool| with_variables(Command::command(), keep).try_get_matches();
    let is_set = |name: &OsStr| variable(name).is_some();
    let error = match with(&is_set).and_then(|matches| Command::from_arg_matches(&matches)) {
        Ok(command) => return Ok(command),
        Err(error) => error,
    };
    if with(&|_| false).is_err() {
        // The command line itself is wrong, or asks for help, which names all variables.
        return Err(Command::try_parse().err().unwrap_or(error));
    }
    for (name, is_secret) in variables(&Command::command()) {
        if let Err(error) = with(&|other| other == name && is_set(other)) {
            let problem = error.source().map_or_else(|| error.kind().to_string(), ToString::to_string);
            return Err(bad_variable(&name, is_secret, &problem));
        }
    }
    Err(error)
}

/// A command whose options look only at the variables to keep.
fn with_variables(command: clap::Command, keep: &dyn Fn(&OsStr) -> bool) -> clap::Command {
    let only = |arg: clap::Arg| match arg.get_env() {
        Some(name) if !keep(name) => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(only).mut_subcommands(|command| with_variables(command, keep))
}

/// The variables of all options, and whether what they are set to is kept out of what is said.
fn variables(command: &clap::Command) -> Vec<(OsString, bool)> {
    let variable = |arg: &clap::Arg| Some((arg.get_env()?.to_owned(), arg.is_hide_env_values_set()));
    let own = command.get_arguments().filter_map(variable);
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

impl Command {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS),
            Command::Proxy(proxy) => proxy.run().map(|()| ExitCode::SUCCESS).map_err(Into::into),
            Command::Check(check) => check.run(),
            Command::Explain(explain) => explain.run(),
            Command::Load(load) => load.run().map_err(Into::into),
            Command::Doctor(doctor) => doctor.run(),
            Command::Compare(compare) => compare.run().map_err(with_causes),
            Command::RunPinned(pinned) => pinned.run().map(|()| ExitCode::SUCCESS).map_err(with_causes),
        }
    }
}

/// One line with all causes.
fn with_causes(error: impl std::fmt::Display) -> Box<dyn Error> {
    format!("{error:#}").into()
}

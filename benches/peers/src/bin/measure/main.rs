//! The runner: starts ringmill and its peers side by side, loads them in turns, and compares CPU time a request.
//!
//! It never loads anything but loopback and leaves nothing behind: processes die with it, even on SIGKILL, and temporary
//! files go when it ends by itself or by Ctrl-C. Read `profile.rs` for what is compared, `process.rs` for how
//! processes are held and measured, `client.rs` for the load, `memory.rs` for bytes a connection.

mod client;
mod contender;
mod memory;
mod process;
mod profile;
mod rounds;
mod statistics;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use ringmill_peers::net;
use serde_json::json;

use crate::profile::{Measured, Profile};

#[derive(Parser)]
#[command(about = "Measures ringmill against its peers: CPU time a request and memory a connection")]
struct Args {
    /// The ringmill binary; without it only the peers are compared.
    #[arg(long, value_name = "PATH")]
    ringmill: Option<PathBuf>,
    /// One more argument for `ringmill serve`; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    ringmill_arg: Vec<String>,
    /// Profile to run; may be repeated. Default: all.
    #[arg(long, value_enum)]
    profile: Vec<Profile>,
    /// Rounds a profile; each round measures every contender once.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Seconds a contender is loaded for in a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Where the client runs.
    #[arg(long, value_enum, default_value_t = Mode::Shared)]
    mode: Mode,
    /// Congestion control of the peers' listeners (blind and hyper). Default: the system's.
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Connections of the memory profile.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..))]
    idle_connections: u32,
    /// Write every sample and summary to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where the client runs. Servers are always on CPU 0.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// On the server's CPU: the steadiest comparison on a small machine ("A").
    Shared,
    /// On the next CPU ("B").
    Split,
}

/// What all profiles need to know.
pub struct Settings {
    /// Folder of the peers and clients: the one this program was started from.
    peers: PathBuf,
    ringmill: Option<PathBuf>,
    ringmill_args: Vec<String>,
    pairs: u32,
    seconds: u32,
    mode: Mode,
    congestion: Option<String>,
    idle_connections: u32,
}

impl Settings {
    fn server_cpu(&self) -> usize {
        0
    }

    fn client_cpu(&self) -> usize {
        match self.mode {
            Mode::Shared => 0,
            Mode::Split => 1,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    process::catch_interrupts()?;
    net::raise_open_files_limit()?;
    let profiles = if args.profile.is_empty() {
        Profile::value_variants().to_vec()
    } else {
        args.profile
    };
    let settings = Settings {
        peers: peers_folder()?,
        ringmill: args.ringmill,
        ringmill_args: args.ringmill_arg,
        pairs: args.pairs,
        seconds: args.seconds,
        mode: args.mode,
        congestion: args.congestion,
        idle_connections: args.idle_connections,
    };
    check(&settings, &profiles)?;

    let mut results = Vec::new();
    let mut failed = Vec::new();
    for profile in profiles {
        match profile.run(&settings) {
            Ok(Measured { report, json }) => {
                println!("{report}");
                results.push(json);
            }
            Err(error) if process::interrupted() => return Err(error),
            // The other profiles are worth having; the exit status still tells.
            Err(error) => {
                println!("== {} failed: {error:#}\n", profile.name());
                results.push(json!({ "profile": profile.name(), "failed": format!("{error:#}") }));
                failed.push(profile.name());
            }
        }
    }
    if let Some(path) = args.json {
        let all = json!({
            "mode": match settings.mode { Mode::Shared => "shared", Mode::Split => "split" },
            "pairs": settings.pairs,
            "seconds": settings.seconds,
            "profiles": results,
        });
        std::fs::write(&path, format!("{all:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn peers_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's folder")?;
    Ok(program
        .parent()
        .context("this program has no folder")?
        .to_path_buf())
}

/// Finds what would fail only minutes into a run.
fn check(settings: &Settings, profiles: &[Profile]) -> Result<()> {
    let mut problems = Vec::new();
    for program in contender::PEER_PROGRAMS.iter().chain(client::LOAD_PROGRAMS) {
        if !settings.peers.join(program).is_file() {
            problems.push(format!(
                "{program} is not in {}; run `cargo build --release` for all binaries",
                settings.peers.display()
            ));
        }
    }
    if let Some(ringmill) = &settings.ringmill
        && !ringmill.is_file()
    {
        problems.push(format!("{} does not exist", ringmill.display()));
    }
    if profiles.iter().any(|profile| profile.needs_wrk()) && !client::wrk_is_installed() {
        problems.push("wrk is not installed; on Debian and Ubuntu: apt-get install wrk".to_string());
    }
    let cpus = process::cpus_online();
    if settings.client_cpu() >= cpus {
        problems.push(format!("--mode split needs two CPUs, and there is {cpus}"));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

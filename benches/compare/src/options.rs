//! The options of `ringmill compare`, and what follows from them: who and what is compared, how long, and on which CPUs.

use super::contender::{CONTENDERS, Contender};
use super::profile::Profile;
use super::results::{ListenerOptions, Mode, Settings};
use anyhow::{Result, bail};
use clap::Args;
use ringmill_console::options;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `ringmill compare`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Compare {
    /// About two minutes once the peers are built: few contenders, few profiles, 6 pairs [default]
    #[arg(long, conflicts_with = "full")]
    quick: bool,

    /// All contenders, all profiles, 10 pairs of 1 s, latency at four rates everywhere: about two hours
    #[arg(long)]
    full: bool,

    /// Only these contenders; the first of the list is what others are divided by, unless ringmill is in it
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = Contender::named)]
    only: Vec<&'static Contender>,

    /// Only these profiles
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    profile: Vec<Profile>,

    /// Show contenders and profiles, and who cannot do what
    #[arg(long)]
    pub(super) list: bool,

    /// Folder for report.html, results.json and a plot (SVG) of each profile; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "ringmill-compare")]
    pub(super) out: PathBuf,

    /// Rounds a profile; each loads every contender once [default: 6, or 10 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,

    /// Time a contender is loaded for in a round [default: 500ms, or 1s with --full]
    #[arg(long, value_name = "TIME", value_parser = options::run_time)]
    duration: Option<Duration>,

    /// Rounds at each fixed rate; 0 for no latency runs [default: 1 on keep-alive-64 alone, or 3 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    latency_rounds: Option<u32>,

    /// Connections of the profile idle [default: 2000, or 15000 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    idle_connections: Option<u32>,

    /// Where server and client run [default: split with three CPUs or more, else shared]
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// Congestion control of all servers; those that cannot set it are left out [default: the system's]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,

    /// Let all servers accept a connection only once it has sent something, or after this time in whole seconds; those that
    /// cannot are left out, and idle is as without [default: accept at once]
    #[arg(long, value_name = "TIME", value_parser = options::defer_accept)]
    defer_accept: Option<Duration>,

    /// Source folder of the other servers [default: benches/peers of the checkout around this program or folder]
    #[arg(long, value_name = "DIR")]
    pub(super) peers: Option<PathBuf>,

    /// Use the peers as they were built last
    #[arg(long)]
    pub(super) no_build: bool,

    /// Another program in place of `ringmill load`: same options, same JSON
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub(super) load: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  ringmill compare --quick
      then open ringmill-compare/report.html
  ringmill compare --only ringmill,ringmill-poll --profile keep-alive-64 --pairs 10
      io_uring against epoll; needs no peers
  ringmill compare --only ringmill,ringmill-plain --profile tls-keep-alive-64
      what TLS costs; needs no peers
  ringmill compare --only ringmill-axum,axum,axum-percore --profile keep-alive-64,pending,grpc-unary
      one app of axum on three servers; gRPC needs h2load (on Debian: apt-get install nghttp2-client)
  ringmill compare --only ringmill,tungstenite,fastwebsockets,bun --profile ws-echo-64,ws-pipelined-16
      WebSocket; Bun takes part where it is installed (npm install --global bun)
  ringmill compare --only ringmill,blind-fan,blind-fan-uring --profile ws-fan-1000
      messages to a thousand readers, next to nothing but the sends
  ringmill compare --only ringmill,nginx,haproxy --profile proxy-100,proxy-64k --mode shared
      proxies of HTTP in front of one backend; relay-100 and relay-1m are the same for relays of bytes
  ringmill compare --full --out results
  ringmill compare --list

--quick: ringmill, ringmill-poll, blind-uring, hyper and axum; keep-alive-64, pipelined-16, one-request and idle.
Ctrl-C ends it in order: the report then has what was measured until then.
Exit status: 0 for a whole run, 1 for one that was cut short or in which a contender failed, 2 for bad options.";

impl Compare {
    pub(super) fn contenders(&self) -> Vec<&'static Contender> {
        match (self.only.as_slice(), self.full) {
            ([], true) => CONTENDERS.iter().collect(),
            ([], false) => CONTENDERS.iter().filter(|contender| contender.is_quick()).collect(),
            (only, _) => {
                let mut chosen: Vec<&'static Contender> = Vec::new();
                for contender in only {
                    if !chosen.contains(contender) {
                        chosen.push(contender);
                    }
                }
                chosen
            }
        }
    }

    pub(super) fn profiles(&self) -> Vec<Profile> {
        let asked = |profile: &Profile| match self.profile.as_slice() {
            [] if self.full => true,
            [] => Profile::QUICK.contains(profile),
            some => some.contains(profile),
        };
        Profile::ALL.into_iter().filter(asked).collect()
    }

    pub(super) fn settings(&self) -> Result<Settings> {
        let (mode, server_cpu, client_cpus) = place(&allowed_cpus()?, self.mode)?;
        let is_custom = !self.only.is_empty() || !self.profile.is_empty() || self.pairs.is_some();
        let extent = match (is_custom || self.duration.is_some(), self.full) {
            (true, _) => "custom",
            (false, true) => "full",
            (false, false) => "quick",
        };
        let either = |full: u32, quick: u32| if self.full { full } else { quick };
        let duration = self.duration.unwrap_or(Duration::from_millis(either(1000, 500).into()));
        Ok(Settings {
            extent,
            mode,
            server_cpu,
            client_cpus,
            pairs: self.pairs.unwrap_or(either(10, 6)),
            seconds: duration.as_secs_f64(),
            latency_rounds: self.latency_rounds.unwrap_or(either(3, 1)),
            idle_connections: self.idle_connections.unwrap_or(either(15_000, 2000)),
            listener: ListenerOptions {
                congestion: self.congestion.clone(),
                defer_accept_seconds: self.defer_accept.map(|after| after.as_secs()),
            },
        })
    }

    /// Whether latency at fixed rates is measured in a profile.
    pub(super) fn has_latency(&self, profile: Profile, settings: &Settings) -> bool {
        let everywhere = self.full || self.latency_rounds.is_some();
        // h2load times no request from when it was due, and the rate of a fan-out is one of messages.
        let can = !matches!(profile, Profile::GrpcUnary | Profile::WsFan | Profile::WsFanDeflate);
        settings.latency_rounds > 0 && can && (everywhere || profile == Profile::KeepAlive64)
    }
}

fn allowed_cpus() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// More clients than this never help: one server worker is to be saturated.
const CLIENT_CPUS_MAX: usize = 4;

/// Mode, the server's CPU, and the client's. The other half of the server's core is nobody's, if that can be.
fn place(allowed: &[usize], mode: Option<Mode>) -> Result<(Mode, usize, Vec<usize>)> {
    let Some((&server, others)) = allowed.split_first() else { bail!("this process may run on no CPU") };
    let mode = mode.unwrap_or(if allowed.len() >= 3 { Mode::Split } else { Mode::Shared });
    if mode == Mode::Shared {
        return Ok((mode, server, vec![server]));
    }
    if others.is_empty() {
        bail!("--mode split needs two CPUs, and this process may run on CPU {server} alone");
    }
    let path = format!("/sys/devices/system/cpu/cpu{server}/topology/thread_siblings_list");
    let siblings = std::fs::read_to_string(path).map(|text| cpu_list(&text)).unwrap_or_default();
    let mut clients: Vec<usize> = others.iter().copied().filter(|cpu| !siblings.contains(cpu)).collect();
    if clients.is_empty() {
        clients = others.to_vec();
    }
    clients.truncate(CLIENT_CPUS_MAX);
    Ok((mode, server, clients))
}

/// A list as the kernel writes it: `0,4-6`.
fn cpu_list(text: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_out() {
        assert_eq!(place(&[0], None).unwrap(), (Mode::Shared, 0, vec![0]));
        assert_eq!(place(&[2, 3], None).unwrap(), (Mode::Shared, 2, vec![2]));
        assert!(place(&[0], Some(Mode::Split)).is_err());
        assert!(place(&[], None).is_err());
        // CPUs that no machine has, so that no siblings are read.
        let far: Vec<usize> = (9000..9008).collect();
        assert_eq!(place(&far[..2], Some(Mode::Split)).unwrap(), (Mode::Split, 9000, vec![9001]));
        assert_eq!(place(&far, None).unwrap(), (Mode::Split, 9000, vec![9001, 9002, 9003, 9004]));
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(cpu_list("0,4-6\n"), [0, 4, 5, 6]);
        assert_eq!(cpu_list("3"), [3]);
        assert_eq!(cpu_list(""), [] as [usize; 0]);
    }
}

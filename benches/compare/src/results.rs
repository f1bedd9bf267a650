//! What a comparison found, as plain data: the raw JSON is this, and the table and the report are views of it. What measures
//! fills it in, and nothing here knows how.

use super::environment::Environment;
use super::profile::Profile;
use ringmill_console::statistics::{Summary, Verdict, median};
use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    /// When it began, UTC.
    pub(super) began: String,
    /// The command that repeats it.
    pub(super) command: String,
    pub(super) settings: Settings,
    pub(super) contenders: Vec<Entrant>,
    /// Contenders that were asked for and could take no part, and why.
    pub(super) left_out: Vec<LeftOut>,
    pub(super) profiles: Vec<ProfileResult>,
    pub(super) idle: Option<IdleResult>,
    pub(super) tls_idle: Option<IdleResult>,
    pub(super) pending_idle: Option<IdleResult>,
    pub(super) ws_idle: Option<IdleResult>,
    pub(super) ws_subscribed: Option<IdleResult>,
    pub(super) proxy_idle: Option<IdleResult>,
    pub(super) environment: Environment,
    /// What a reader should know before believing the figures.
    pub(super) warnings: Vec<String>,
    /// The user ended it early.
    pub(super) interrupted: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Settings {
    /// `quick`, `full` or `custom`.
    pub(super) extent: &'static str,
    pub(super) mode: Mode,
    pub(super) server_cpu: usize,
    pub(super) client_cpus: Vec<usize>,
    pub(super) pairs: u32,
    pub(super) seconds: f64,
    pub(super) latency_rounds: u32,
    pub(super) idle_connections: u32,
    #[serde(flatten)]
    pub(super) listener: ListenerOptions,
}

/// What every TCP listener is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ListenerOptions {
    /// Empty for the system's.
    pub(super) congestion: Option<String>,
    /// To accept a connection only once it has sent something, or after so long; empty for at once.
    pub(super) defer_accept_seconds: Option<u64>,
}

impl ListenerOptions {
    pub(super) fn is_default(&self) -> bool {
        *self == ListenerOptions::default()
    }
}

/// Where server and client run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// Both on one CPU: the steadiest where there are few
    Shared,
    /// The server alone on one CPU, the client on others
    Split,
}

/// A contender that took part.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entrant {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) version: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) contender: &'static str,
    pub(super) reason: String,
}

/// One profile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProfileResult {
    pub(super) profile: Profile,
    pub(super) rows: Vec<Row>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) ratios: Vec<Ratio>,
    /// Latency at fixed rates, from the lowest rate up.
    pub(super) latency: Vec<RateResult>,
    /// Why there is no latency.
    pub(super) no_latency: Option<String>,
    /// The whole profile failed, or was cut short.
    pub(super) failed: Option<String>,
}

/// One contender in one profile: an entry a round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) contender: &'static str,
    pub(super) replies: Vec<Reply>,
    pub(super) rounds: Vec<Round>,
    pub(super) syscalls: Syscalls,
}

/// What a reply looks like, so that a reader sees what was compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Reply {
    pub(super) path: String,
    pub(super) status_line: String,
    /// Names of the header fields, as written and in order.
    pub(super) fields: Vec<String>,
    pub(super) head_bytes: usize,
    pub(super) body_bytes: usize,
}

/// System calls of one contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Syscalls {
    /// How many a request, and with which tool.
    Counted { per_request: f64, with: Tool },
    /// Why not.
    NotCounted { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Tool {
    Perf,
    Strace,
}

/// A round that counts, or why it does not.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Round {
    Sample(Sample),
    Void(String),
}

/// One contender in one round. Costs are a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) cpu_us: f64,
    pub(super) user_us: f64,
    pub(super) system_us: f64,
    pub(super) voluntary_switches: f64,
    pub(super) involuntary_switches: f64,
    /// CPUs that the server, the client (with the backend of a proxy), and all else kept busy.
    pub(super) server_cpus: f64,
    pub(super) client_cpus: f64,
    pub(super) others_cpus: f64,
    pub(super) latency_us: Latency,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) p99_99: f64,
    pub(super) max: f64,
}

/// A contender against the baseline, round by round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) contender: &'static str,
    pub(super) baseline: &'static str,
    pub(super) metric: Metric,
    pub(super) pairs: Vec<f64>,
    pub(super) summary: Summary,
    pub(super) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// CPU time of the server a request: less is better.
    Cpu,
    /// Requests a second: more is better. Only where both servers were saturated.
    Rate,
}

/// All contenders at one rate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RateResult {
    /// Of the slowest contender's peak.
    pub(super) percent: u32,
    pub(super) requests_per_second: f64,
    pub(super) rows: Vec<RateRow>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RateRow {
    pub(super) contender: &'static str,
    pub(super) rounds: Vec<Round>,
}

/// Memory of idle connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct IdleResult {
    pub(super) profile: Profile,
    pub(super) connections: u32,
    pub(super) rows: Vec<IdleRow>,
    pub(super) left_out: Vec<LeftOut>,
}

/// Bytes of anonymous memory a connection.
#[derive(Clone, Debug, Serialize)]
pub(super) struct IdleRow {
    pub(super) contender: &'static str,
    /// Connections that were only opened; with TLS, with their handshake.
    pub(super) opened: Memory,
    /// Connections that had one request; of WebSocket, their handshake.
    pub(super) requested: Memory,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Memory {
    Bytes(f64),
    Failed(String),
}

/// Of a CPU that is kept busy this much, no more can be had: the rest is the client's start and end.
const SATURATED: f64 = 0.85;

/// What limited a contender's peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The server's CPU was full: the peak is the server's own.
    Server,
    /// The one CPU that both share was full.
    SharedCpu,
    /// The client's CPUs were full, the server's was not.
    Client,
    /// No CPU was full.
    Neither,
}

impl Limit {
    pub(super) fn text(self) -> &'static str {
        match self {
            Limit::Server => "server",
            Limit::SharedCpu => "shared CPU",
            Limit::Client => "client",
            Limit::Neither => "neither",
        }
    }
}

impl Latency {
    /// Name and value of each, in order.
    pub(super) fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
            ("max", self.max),
        ]
    }
}

impl Row {
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        samples(&self.rounds)
    }

    pub(super) fn void_count(&self) -> usize {
        self.rounds.len() - self.samples().count()
    }

    /// None when every round is void.
    pub(super) fn summary(&self, value: fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(&self.samples().map(value).collect::<Vec<_>>())
    }

    pub(super) fn limit(&self, settings: &Settings) -> Option<Limit> {
        let share = |value: fn(&Sample) -> f64| median(&self.samples().map(value).collect::<Vec<_>>());
        let server = share(|sample| sample.server_cpus)?;
        let client = share(|sample| sample.client_cpus)?;
        let clients = settings.client_cpus.len().max(1) as f64;
        Some(match settings.mode {
            Mode::Shared if server + client >= SATURATED => Limit::SharedCpu,
            Mode::Shared => Limit::Neither,
            Mode::Split if server >= SATURATED => Limit::Server,
            Mode::Split if client / clients >= SATURATED => Limit::Client,
            Mode::Split => Limit::Neither,
        })
    }
}

impl RateRow {
    /// The median over the rounds of each percentile.
    pub(super) fn percentiles(&self) -> Option<Vec<(&'static str, f64)>> {
        let all: Vec<_> = samples(&self.rounds).map(|sample| sample.latency_us.named()).collect();
        let names = all.first()?.map(|(name, _)| name);
        let value = |index: usize| median(&all.iter().map(|named| named[index].1).collect::<Vec<_>>());
        names.iter().enumerate().map(|(index, name)| Some((*name, value(index)?))).collect()
    }
}

pub(super) fn samples(rounds: &[Round]) -> impl Iterator<Item = &Sample> {
    rounds.iter().filter_map(|round| match round {
        Round::Sample(sample) => Some(sample),
        Round::Void(_) => None,
    })
}

impl Results {
    /// Memory of idle connections: without TLS, with it, after a request whose handler waited, of WebSockets, and of a proxy.
    pub(super) fn idles(&self) -> impl Iterator<Item = &IdleResult> {
        let websockets = self.ws_idle.iter().chain(&self.ws_subscribed);
        self.idle
            .iter()
            .chain(&self.tls_idle)
            .chain(&self.pending_idle)
            .chain(websockets)
            .chain(&self.proxy_idle)
    }
}

impl ProfileResult {
    /// Every void round, with its reason.
    pub(super) fn voids(&self) -> Vec<String> {
        let rounds = |contender: &str, at: &str, rounds: &[Round]| {
            let void = |(index, round): (usize, &Round)| match round {
                Round::Void(reason) => Some(format!("{contender}, {at}round {}: {reason}", index + 1)),
                Round::Sample(_) => None,
            };
            rounds.iter().enumerate().filter_map(void).collect::<Vec<_>>()
        };
        let peak = self.rows.iter().flat_map(|row| rounds(row.contender, "", &row.rounds));
        let rates = self.latency.iter().flat_map(|rate| {
            let at = format!("at {:.0}/s, ", rate.requests_per_second);
            rate.rows.iter().flat_map(|row| rounds(row.contender, &at, &row.rounds)).collect::<Vec<_>>()
        });
        peak.chain(rates).collect()
    }

    /// CPUs that other programs kept busy during the samples.
    pub(super) fn others(&self) -> Option<Summary> {
        let all = self.rows.iter().flat_map(Row::samples).map(|sample| sample.others_cpus);
        Summary::of(&all.collect::<Vec<_>>())
    }
}

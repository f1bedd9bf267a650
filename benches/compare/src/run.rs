//! A whole comparison: builds, starts, measures profile by profile, and writes after each what there is so far.

use super::build::Peers;
use super::contender::{BACKEND, Contender, Kind, Site, bun, gateway, nginx};
use super::environment::Environment;
use super::identity::Identity;
use super::idle::{self, Traffic};
use super::load::{Clients, Scratch};
use super::options::Compare;
use super::process::{Interrupt, Interrupted, Launcher};
use super::profile::{Profile, Shape};
use super::results::{
    Entrant, IdleResult, IdleRow, LeftOut, Memory, Mode, ProfileResult, Results, Settings, Tool,
};
use super::rounds::{Bench, PERCENTS};
use super::server::Server;
use super::syscalls;
use super::{plots, report, table};
use anyhow::{Context, Result, bail};
use ringmill_console::statistics::PAIRS_MIN;
use ringmill_console::terminal::{self, Output};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// What a client costs beyond its duration: start, connections, end.
const OVERHEAD: f64 = 0.25;

/// What all steps use.
struct Run<'a> {
    options: &'a Compare,
    settings: Settings,
    peers: Option<Peers>,
    clients: Clients,
    /// Where a profile has TLS.
    identity: Option<Identity>,
    tool: Result<Tool, String>,
    interrupt: Interrupt,
}

/// Compares and writes the report; tells how it ended.
pub(super) fn run(
    options: &Compare,
    contenders: &[&'static Contender],
    profiles: &[Profile],
    settings: Settings,
) -> Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot create {}", options.out.display()))?;
    let scratch = Scratch::new(&options.out)?;
    if let Some(name) = &settings.listener.congestion {
        check_congestion(name)?;
    }
    let (mut left_out, mut unable) = (Vec::new(), Vec::new());
    let mut able = Vec::new();
    for contender in contenders {
        match contender.cannot_with(&settings.listener) {
            Some(reason) => left_out.push(LeftOut { contender: contender.name, reason }),
            None if profiles.iter().all(|profile| contender.cannot_here(*profile).is_some()) => {
                let reason = profiles.first().and_then(|profile| contender.cannot_here(*profile));
                unable.push(LeftOut {
                    contender: contender.name,
                    reason: reason.unwrap_or_default().to_owned(),
                });
            }
            None => able.push(*contender),
        }
    }
    if able.is_empty() {
        let reasons: Vec<String> =
            left_out.iter().chain(&unable).map(|out| format!("{}: {}", out.contender, out.reason)).collect();
        bail!("no contender is left that can do any of the profiles {}", reasons.join("; "));
    }
    let peers = find_peers(options, &able)?;
    announce(options, &able, profiles, &settings);
    build_peers(options, peers.as_ref(), &able, &interrupt)?;
    let mut results = begin(peers.as_ref(), &able, left_out, settings.clone())?;
    let launcher = Launcher { ringmill: std::env::current_exe().context("cannot find this program")? };
    // The report is about the servers: this program looks on from another CPU, where there is one.
    step_aside(settings.server_cpu);
    let is_tls = profiles.iter().any(|profile| profile.is_tls());
    let identity = is_tls.then(|| Identity::make(scratch.path())).transpose()?;
    let clients = Clients {
        launcher,
        cert: identity.as_ref().map(|identity| identity.cert.clone()),
        cpus: settings.client_cpus.clone(),
        program: options.load.clone(),
        scratch: scratch.path().to_owned(),
        interrupt: interrupt.clone(),
    };
    let tool = syscalls::find_tool(scratch.path(), &interrupt)?;
    let run = Run { options, settings, peers, clients, identity, tool, interrupt };
    let mut output = Output::default();
    let ended = run.all(&able, profiles, &mut results, &mut output);
    finish(&run, results, ended, output)
}

impl Run<'_> {
    fn all(
        &self,
        able: &[&'static Contender],
        profiles: &[Profile],
        results: &mut Results,
        output: &mut Output,
    ) -> Result<()> {
        for &profile in profiles {
            let can: Vec<_> =
                able.iter().copied().filter(|contender| contender.cannot_here(profile).is_none()).collect();
            let (text, ended) = if profile.is_idle() {
                let mut idle = IdleResult {
                    profile,
                    connections: self.settings.idle_connections.min(idle::connections_max()),
                    rows: Vec::new(),
                    left_out: left_out(able, profile),
                };
                let ended = self.idle(&can, &mut idle);
                let text = table::idle(&idle);
                let place = match profile {
                    Profile::TlsIdle => &mut results.tls_idle,
                    Profile::PendingIdle => &mut results.pending_idle,
                    Profile::WsIdle => &mut results.ws_idle,
                    Profile::WsSubscribed => &mut results.ws_subscribed,
                    Profile::ProxyIdle => &mut results.proxy_idle,
                    _ => &mut results.idle,
                };
                *place = Some(idle);
                (text, ended)
            } else {
                let mut result = ProfileResult {
                    profile,
                    rows: Vec::new(),
                    left_out: left_out(able, profile),
                    ratios: Vec::new(),
                    latency: Vec::new(),
                    no_latency: None,
                    failed: None,
                };
                let ended = self.profile(profile, &can, &mut result);
                result.failed = ended.as_ref().err().map(|error| format!("{error:#}"));
                let text = table::profile(&result, &self.settings);
                results.profiles.push(result);
                // What goes wrong with one profile is in its result; the others are worth having.
                (text, ended.or_else(|error| if error.is::<Interrupted>() { Err(error) } else { Ok(()) }))
            };
            // The files first: they are what lasts.
            let written = write(&self.options.out, results);
            self.say_nothing();
            output.write(&text);
            ended.and(written)?;
        }
        Ok(())
    }

    fn profile(
        &self,
        profile: Profile,
        can: &[&'static Contender],
        result: &mut ProfileResult,
    ) -> Result<()> {
        let shape = profile.shape().context("a profile with requests")?;
        let backend = self.backend(profile)?;
        let mut servers = Vec::new();
        for contender in can {
            self.say(&format!("{}: starting {}", profile.name(), contender.name));
            match self.start(contender, profile, shape, backend.as_ref()) {
                Ok(server) => servers.push(server),
                Err(error) => {
                    self.interrupt.check()?;
                    let reason = format!("it failed: {error:#}");
                    result.left_out.push(LeftOut { contender: contender.name, reason });
                }
            }
        }
        let say = |text: &str| self.say(&format!("{}: {text}", profile.name()));
        let bench = Bench {
            clients: &self.clients,
            settings: &self.settings,
            tool: &self.tool,
            backend: backend.as_ref().map(|backend| backend.process.pid()),
            latency: self.options.has_latency(profile, &self.settings),
            say: &say,
        };
        bench.run(profile, &mut servers, result)
    }

    /// What proxies and relays stand in front of: it runs where the client does.
    fn backend(&self, profile: Profile) -> Result<Option<Server>> {
        if !profile.has_backend() {
            return Ok(None);
        }
        let cpu = self.settings.client_cpus.first().copied().unwrap_or(self.settings.server_cpu);
        let site = Site { cpu, ..self.site(0, None) };
        let started = Server::start(&BACKEND, Profile::KeepAlive64, &self.interrupt, |_| Ok(site));
        started.context("the backend did not start").map(Some)
    }

    fn start(
        &self,
        contender: &'static Contender,
        profile: Profile,
        shape: Shape,
        backend: Option<&Server>,
    ) -> Result<Server> {
        Server::start(contender, profile, &self.interrupt, |target| {
            let request_bytes = match contender.kind {
                Kind::Blind { .. } => self.clients.request_bytes(shape, target.port())?,
                _ => 0,
            };
            Ok(self.site(request_bytes, backend))
        })
    }

    fn site(&self, request_bytes: usize, backend: Option<&Server>) -> Site<'_> {
        let peers = self.peers.as_ref();
        Site {
            launcher: &self.clients.launcher,
            programs: peers.map_or(Path::new(""), |peers| &peers.programs),
            peers: peers.map(|peers| peers.source.as_path()),
            scratch: &self.clients.scratch,
            cpu: self.settings.server_cpu,
            listener: &self.settings.listener,
            identity: self.identity.as_ref(),
            backend: backend.map(|backend| backend.target),
            request_bytes,
        }
    }

    /// A fresh server for each figure: memory that was once used is seldom given back.
    fn idle(&self, can: &[&'static Contender], result: &mut IdleResult) -> Result<()> {
        let backend = self.backend(result.profile)?;
        for contender in can {
            let mut figures = Vec::new();
            for traffic in [Traffic::None, Traffic::OneRequest] {
                self.say(&format!("{}: {}", result.profile.name(), contender.name));
                let mut request = Vec::new();
                let server = Server::start(contender, result.profile, &self.interrupt, |target| {
                    request = idle::request(contender, result.profile, target);
                    Ok(self.site(request.len(), backend.as_ref()))
                });
                self.interrupt.check()?;
                figures.push(match server {
                    Ok(mut server) => {
                        let IdleResult { profile, connections, .. } = *result;
                        idle::measure(&mut server, profile, connections, traffic, &request, &self.interrupt)?
                    }
                    Err(error) => Memory::Failed(format!("{error:#}")),
                });
            }
            let (Some(requested), Some(opened)) = (figures.pop(), figures.pop()) else { continue };
            result.rows.push(IdleRow { contender: contender.name, opened, requested });
        }
        Ok(())
    }

    /// One line on a terminal that is written over and over.
    fn say(&self, text: &str) {
        terminal::progress(text);
    }

    fn say_nothing(&self) {
        self.say("");
    }
}

fn left_out(able: &[&'static Contender], profile: Profile) -> Vec<LeftOut> {
    let cannot = |contender: &&'static Contender| {
        let reason = contender.cannot_here(profile)?.to_owned();
        Some(LeftOut { contender: contender.name, reason })
    };
    able.iter().filter_map(cannot).collect()
}

/// Only where somebody needs them: Ringmill alone can be compared without a checkout.
fn find_peers(options: &Compare, able: &[&'static Contender]) -> Result<Option<Peers>> {
    let needed = able.iter().any(|contender| !contender.is_ringmill());
    if needed || options.peers.is_some() {
        return Peers::find(options.peers.as_deref()).map(Some);
    }
    Ok(Peers::find(None).ok())
}

fn build_peers(
    options: &Compare,
    peers: Option<&Peers>,
    able: &[&'static Contender],
    interrupt: &Interrupt,
) -> Result<()> {
    let programs: Vec<&str> = able.iter().filter_map(|contender| contender.program()).collect();
    let Some(peers) = peers.filter(|_| !programs.is_empty()) else { return Ok(()) };
    if !options.no_build {
        terminal::remark(format_args!(
            "building {} servers in {} (the first time takes minutes)",
            programs.len(),
            peers.source.display()
        ));
        peers.build(&programs, interrupt)?;
    }
    for program in programs {
        let file = peers.programs.join(program);
        if !file.is_file() {
            bail!("{} is not there: leave out --no-build once", file.display());
        }
    }
    Ok(())
}

fn announce(options: &Compare, able: &[&'static Contender], profiles: &[Profile], settings: &Settings) {
    let names = |names: Vec<&str>| names.join(", ");
    let contenders = names(able.iter().map(|contender| contender.name).collect());
    terminal::remark(format_args!("contenders: {contenders}"));
    let of_profiles = names(profiles.iter().map(|profile| profile.name()).collect());
    terminal::remark(format_args!("profiles: {of_profiles}"));
    let mut seconds = 0.0;
    for &profile in profiles {
        let can = able.iter().filter(|contender| contender.cannot_here(profile).is_none()).count() as f64;
        let run = settings.seconds + OVERHEAD;
        let latency = if options.has_latency(profile, settings) { settings.latency_rounds } else { 0 };
        let runs = f64::from(settings.pairs + latency * PERCENTS.len() as u32) + 2.0;
        // Opening connections: some 10,000 a second.
        let idle = 2.0 * (1.5 + f64::from(settings.idle_connections) / 10_000.0);
        seconds += can * if profile.is_idle() { idle } else { runs * run };
    }
    let time = Duration::from_secs((seconds / 10.0).ceil() as u64 * 10);
    terminal::remark(format_args!(
        "{} rounds of {} s; about {} once the peers are built; into {}",
        settings.pairs,
        settings.seconds,
        humantime::format_duration(time),
        options.out.display()
    ));
}

fn begin(
    peers: Option<&Peers>,
    able: &[&'static Contender],
    left_out: Vec<LeftOut>,
    settings: Settings,
) -> Result<Results> {
    let versions = peers.map_or_else(|| Ok(BTreeMap::new()), Peers::versions)?;
    let entrant = |contender: &&'static Contender| Entrant {
        name: contender.name,
        what: contender.what,
        version: match (contender.kind, contender.package) {
            _ if contender.is_ringmill() => env!("CARGO_PKG_VERSION").to_owned(),
            (Kind::Nginx, _) => nginx::version(),
            (Kind::Bun, _) => bun::version(),
            (Kind::Haproxy { .. } | Kind::Pingora, _) => gateway::version(contender).unwrap_or_default(),
            (_, Some(package)) => {
                versions.get(package).map_or_else(String::new, |version| format!("{package} {version}"))
            }
            (_, None) => String::new(),
        },
    };
    let checkout = peers.and_then(|peers| peers.source.ancestors().nth(2));
    let environment = Environment::read(checkout);
    let mut warnings = Vec::new();
    if cfg!(debug_assertions) {
        warnings.push(
            "Ringmill itself was built without optimisation: its figures mean nothing. Use cargo build --release."
                .to_owned(),
        );
    }
    if (settings.pairs as usize) < PAIRS_MIN {
        warnings.push(format!("With fewer than {PAIRS_MIN} pairs no verdict is given."));
    }
    Ok(Results {
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: repeat(std::env::args().skip(1), settings.mode),
        settings,
        contenders: able.iter().map(entrant).collect(),
        left_out,
        profiles: Vec::new(),
        idle: None,
        tls_idle: None,
        pending_idle: None,
        ws_idle: None,
        ws_subscribed: None,
        proxy_idle: None,
        environment,
        warnings,
        interrupted: false,
    })
}

/// The command line again, with the mode that followed from this machine.
fn repeat(arguments: impl Iterator<Item = String>, mode: Mode) -> String {
    let mut words: Vec<String> = std::iter::once("ringmill".to_owned()).chain(arguments).collect();
    if !words.iter().any(|word| word == "--mode" || word.starts_with("--mode=")) {
        let name = match mode {
            Mode::Shared => "shared",
            Mode::Split => "split",
        };
        words.extend(["--mode".to_owned(), name.to_owned()]);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=,./:@%+".contains(&byte);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.bytes().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn check_congestion(name: &str) -> Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let available = std::fs::read_to_string(path).context(path)?;
    if !available.split_whitespace().any(|known| known == name) {
        bail!("this kernel has no congestion control {name:?}; it has: {}", available.trim());
    }
    Ok(())
}

/// Leaves the server's CPU to the server. Where that is the only one, nothing is to be done.
fn step_aside(server_cpu: usize) {
    if let Ok(mut set) = rustix::thread::sched_getaffinity(None) {
        set.unset(server_cpu);
        if set.count() > 0 {
            // Not being allowed to costs a little precision and nothing else.
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
    }
}

/// The report of what there is, also after an error.
fn finish(run: &Run<'_>, mut results: Results, ended: Result<()>, mut output: Output) -> Result<ExitCode> {
    let others =
        results.profiles.iter().filter_map(|profile| Some(profile.others()?.max)).fold(0.0, f64::max);
    if others > table::QUIET_CPUS_MAX {
        results.warnings.push(format!(
            "Other programs kept up to {others:.2} CPUs busy during the runs: repeat on a quiet machine before quoting."
        ));
    }
    results.interrupted = ended.as_ref().is_err_and(|error| error.is::<Interrupted>());
    if results.interrupted {
        results.warnings.push("The run was interrupted: what is here was measured before.".to_owned());
    }
    let mut failed = failures(&results);
    write(&run.options.out, &results)?;
    output.write(&table::end(&results));
    output.write(&format!("\nreport: {}\n", run.options.out.join("report.html").display()));
    failed.extend(output.end().err().map(|error| error.to_string()));
    match ended {
        Err(error) if !results.interrupted => Err(error),
        Err(_) => bail!("interrupted; what was measured until then is in {}", run.options.out.display()),
        Ok(()) if failed.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(()) => bail!("{}", failed.join("\n")),
    }
}

/// Contenders that should have run and did not.
fn failures(results: &Results) -> Vec<String> {
    let mut failed = Vec::new();
    for profile in &results.profiles {
        let name = profile.profile.name();
        let left_out = profile.left_out.iter().filter(|left_out| left_out.reason.starts_with("it failed"));
        failed
            .extend(left_out.map(|left_out| format!("{name}: {}: {}", left_out.contender, left_out.reason)));
        let void = profile.rows.iter().filter(|row| !row.rounds.is_empty() && row.samples().next().is_none());
        failed.extend(void.map(|row| format!("{name}: {}: every round is void", row.contender)));
        failed.extend(profile.failed.iter().map(|reason| format!("{name}: {reason}")));
    }
    for idle in results.idles() {
        for row in &idle.rows {
            for memory in [&row.opened, &row.requested] {
                if let Memory::Failed(reason) = memory {
                    failed.push(format!("{}: {}: {reason}", idle.profile.name(), row.contender));
                }
            }
        }
    }
    failed
}

fn write(out: &Path, results: &Results) -> Result<()> {
    let json = serde_json::to_string_pretty(results).context("cannot write the results as JSON")?;
    let page = report::page(results, &json)?;
    let mut files = vec![("results.json".to_owned(), json), ("report.html".to_owned(), page)];
    for profile in &results.profiles {
        if let Some(plot) = report::cost_plot(profile)? {
            files.push((format!("{}.svg", profile.profile.name()), plots::alone(&plot)));
        }
    }
    for (name, text) in files {
        let file = out.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_the_run() {
        let repeat = |words: &[&str]| repeat(words.iter().map(|word| (*word).to_owned()), Mode::Shared);
        assert_eq!(repeat(&["compare", "--quick"]), "ringmill compare --quick --mode shared");
        assert_eq!(repeat(&["compare", "--mode", "split"]), "ringmill compare --mode split");
        assert_eq!(repeat(&["compare", "--mode=split"]), "ringmill compare --mode=split");
        assert_eq!(
            repeat(&["compare", "--out", "a b'c"]),
            r"ringmill compare --out 'a b'\''c' --mode shared"
        );
    }
}

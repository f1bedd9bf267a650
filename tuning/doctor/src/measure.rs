//! `--measure`: what one knob does here, by load on a server over loopback without and with it, in turns.
//!
//! Each run has a server of its own, because many settings count only for sockets that are opened later. A pair's
//! order turns round each time, so that a machine that grows slower favours neither side. However this ends, short
//! of SIGKILL, the knob is undone; for SIGKILL there is a backup that `--revert` reads.

use super::apply::{self, Change};
use super::knob::{Knob, Trial, name_of};
use super::machine::Machine;
use ringmill_console::statistics::{PAIRS_MIN, Summary, Verdict};
use ringmill_console::terminal;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How to measure.
pub(super) struct Plan {
    pub(super) pairs: u32,
    pub(super) duration: Duration,
    pub(super) connections: u32,
    pub(super) workers: Option<usize>,
    /// Instead of this executable.
    pub(super) program: Option<PathBuf>,
    pub(super) is_json: bool,
}
/// Above this load average before the start, whoever reads the figure should know.
const LOAD_QUIET_MAX: f64 = 0.5;
const START_MAX: Duration = Duration::from_secs(20);
/// What a run of load may take beyond its duration: warm-up, connecting, closing.
const LOAD_EXTRA_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(20);

/// What load said about a run.
#[derive(Clone, Copy)]
struct Run {
    requests_per_second: f64,
    p99_us: Option<f64>,
}

/// Without the knob, and with it.
struct Pair {
    before: Run,
    after: Run,
}

/// Measures, and tells what was found. The machine is as it was when this returns.
pub(super) fn measure(
    machine: &Machine,
    knob: &'static Knob,
    plan: &Plan,
    backup: &Path,
) -> Result<String, String> {
    let (changes, before, after) = match knob.trial {
        Trial::No(why) => return Err(format!("{} cannot be measured: {why}", knob.name)),
        Trial::Serve { before, after } => (Vec::new(), before, after),
        Trial::Settings => (apply::plan(machine, &[knob])?, &[][..], &[][..]),
    };
    if changes.is_empty() && matches!(knob.trial, Trial::Settings) {
        return Err(format!("{} is as advised already: there is nothing to compare", knob.name));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(|error| format!("handling signals: {error}"))?;
    }
    let bench = Bench::new(plan, machine, interrupted)?;
    let mut trial = Reversible::new(machine, changes, backup)?;
    describe(machine, knob, plan, &bench, &trial.changes, (before, after));
    let measured = run_pairs(&bench, plan, &mut trial, before, after);
    let undone = trial.undo();
    match (measured, undone) {
        (Ok((pairs, void)), Ok(())) => sum_up(knob, plan, &trial.changes, before, after, &pairs, void),
        (Err(problem), Ok(())) if trial.changes.is_empty() => Err(problem),
        (Err(problem), Ok(())) => Err(format!("{problem}; {} is undone", knob.name)),
        (Ok(_), Err(problem)) => Err(problem),
        (Err(problem), Err(more)) => Err(format!("{problem}; {more}")),
    }
}

/// What is about to happen, on standard error: the machine changes for a while.
fn describe(
    machine: &Machine,
    knob: &Knob,
    plan: &Plan,
    bench: &Bench,
    changes: &[Change],
    (before, after): (&[&str], &[&str]),
) {
    let (pairs, duration, connections) = (plan.pairs, plan.duration, plan.connections);
    let seconds = duration.as_secs_f64() * 2.0 * f64::from(pairs);
    terminal::remark(format_args!(
        "measuring {}: {pairs} pairs of runs of {duration:?}, {connections} connections over loopback, {} worker(s) each \
         for serve and load; at least {seconds:.0} s",
        knob.name, bench.workers
    ));
    let busy = machine.text("proc/loadavg").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    if let Some(busy) = busy.filter(|busy| *busy > LOAD_QUIET_MAX) {
        terminal::remark(format_args!(
            "  the load average is {busy}: other programs run, and the interval will be wide"
        ));
    }
    for change in changes {
        terminal::remark(format_args!(
            "  {}: {} against {}",
            name_of(&change.path),
            change.before,
            change.after
        ));
    }
    if changes.is_empty() {
        let command = |options: &[&str]| [&["serve"], options].concat().join(" ");
        terminal::remark(format_args!("  {} against {}", command(before), command(after)));
    }
}

/// Pairs without an error, and how many had one.
fn run_pairs(
    bench: &Bench,
    plan: &Plan,
    trial: &mut Reversible<'_>,
    before: &[&str],
    after: &[&str],
) -> Result<(Vec<Pair>, usize), String> {
    let (mut pairs, mut void) = (Vec::new(), 0);
    for number in 0..plan.pairs {
        let (mut first, mut second) = (Err(String::new()), Err(String::new()));
        for is_after in [number % 2 == 1, number % 2 == 0] {
            if is_after {
                trial.apply()?;
                second = bench.run(after)?;
            } else {
                trial.restore()?;
                first = bench.run(before)?;
            }
        }
        match (first, second) {
            (Ok(before), Ok(after)) => {
                let (one, other) = (before.requests_per_second, after.requests_per_second);
                terminal::remark(format_args!(
                    "pair {}: {one:.0} and {other:.0} requests a second, {:.3}",
                    number + 1,
                    other / one
                ));
                pairs.push(Pair { before, after });
            }
            (Err(problem), _) | (_, Err(problem)) => {
                terminal::remark(format_args!("pair {} is void: {problem}", number + 1));
                void += 1;
            }
        }
    }
    match pairs.len() < PAIRS_MIN {
        true => Err(format!("only {} pairs without an error: no figure", pairs.len())),
        false => Ok((pairs, void)),
    }
}

fn sum_up(
    knob: &Knob,
    plan: &Plan,
    changes: &[Change],
    before: &[&str],
    after: &[&str],
    pairs: &[Pair],
    void: usize,
) -> Result<String, String> {
    let ratios: Vec<f64> =
        pairs.iter().map(|pair| pair.after.requests_per_second / pair.before.requests_per_second).collect();
    let p99_ratios: Vec<f64> =
        pairs.iter().filter_map(|pair| Some(pair.after.p99_us? / pair.before.p99_us?)).collect();
    let rate = Summary::of(&ratios).ok_or("no pairs")?;
    let p99 = Summary::of(&p99_ratios);
    let verdict = match Verdict::of(&rate) {
        Verdict::More => "faster with it",
        Verdict::Less => "slower with it",
        Verdict::NoDifference => "no difference: the interval spans 1",
        Verdict::TooFewPairs => "too few pairs",
    };
    if plan.is_json {
        let run = |run: &Run| json!({ "requests_per_second": run.requests_per_second, "p99_us": run.p99_us });
        let json = json!({
            "knob": knob.name,
            "changes": changes,
            "serve_before": before,
            "serve_after": after,
            "connections": plan.connections,
            "duration_seconds": plan.duration.as_secs_f64(),
            "pairs": pairs.iter().map(|pair| json!([run(&pair.before), run(&pair.after)])).collect::<Vec<_>>(),
            "void_pairs": void,
            "requests_per_second_ratio": rate,
            "p99_ratio": p99,
            "verdict": verdict,
            "undone": true,
        });
        return Ok(format!("{json:#}\n"));
    }
    let ratio = |estimate: &Summary| {
        let (low, high) = estimate.interval_95;
        format!("{:.3} (95% {low:.3} to {high:.3})", estimate.median)
    };
    let mut text = format!("{}, with it over without it, {} pairs, {void} void\n", knob.name, pairs.len());
    text += &format!("  requests a second  {}: {verdict}\n", ratio(&rate));
    if let Some(p99) = &p99 {
        let words = match Verdict::of(p99) {
            Verdict::More | Verdict::Less => "a difference; below 1 is better",
            verdict => verdict.text(),
        };
        text += &format!("  99th percentile    {}: {words}\n", ratio(p99));
    }
    if !changes.is_empty() {
        text += "  undone: all is as it was before\n";
    }
    Ok(text)
}

/// Settings that are applied and undone, and are undone at the end whatever happens.
struct Reversible<'a> {
    machine: &'a Machine,
    changes: Vec<Change>,
    backup: PathBuf,
    is_open: bool,
}

impl<'a> Reversible<'a> {
    fn new(machine: &'a Machine, changes: Vec<Change>, backup: &Path) -> Result<Reversible<'a>, String> {
        let mut name = backup.file_stem().unwrap_or_default().to_owned();
        name.push("-measure.json");
        let backup = backup.with_file_name(name);
        if !changes.is_empty() {
            if backup.exists() {
                let shown = backup.display();
                return Err(format!(
                    "another measurement runs, or one was killed: `ringmill doctor --revert --backup {shown}` undoes it"
                ));
            }
            apply::check_writable(machine, &changes)?;
            apply::write_backup(&backup, &changes)?;
        }
        Ok(Reversible { machine, is_open: !changes.is_empty(), changes, backup })
    }

    fn apply(&mut self) -> Result<(), String> {
        apply::change_all(self.machine, &self.changes)
    }

    fn restore(&self) -> Result<(), String> {
        let problems: Vec<String> = self
            .changes
            .iter()
            .rev()
            .filter_map(|change| apply::restore(self.machine, change).err())
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(format!("undoing failed: {}", problems.join("; "))) }
    }

    fn undo(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        // The backup stays where undoing failed.
        self.restore()?;
        apply::remove_backup(&self.backup)
    }
}

impl Drop for Reversible<'_> {
    fn drop(&mut self) {
        if let Err(problem) = self.undo() {
            terminal::error(problem);
        }
    }
}

/// Runs load against serve.
struct Bench {
    program: PathBuf,
    workers: usize,
    connections: u32,
    duration: Duration,
    interrupted: Arc<AtomicBool>,
}

impl Bench {
    fn new(plan: &Plan, machine: &Machine, interrupted: Arc<AtomicBool>) -> Result<Bench, String> {
        let own = || std::env::current_exe().map_err(|error| format!("finding this program: {error}"));
        let program = plan.program.clone().map_or_else(own, Ok)?;
        // Half of the CPUs each: server and load must not wait for each other.
        let half = machine.cpus().map_or(1, |cpus| cpus.len() / 2).max(1);
        let workers = plan.workers.unwrap_or(half);
        Ok(Bench { program, workers, connections: plan.connections, duration: plan.duration, interrupted })
    }

    /// One server, one load. The outer error ends the measurement, the inner one makes the pair void.
    fn run(&self, options: &[&str]) -> Result<Result<Run, String>, String> {
        let server = self.serve(options)?;
        let url = format!("http://{}/", server.address);
        let mut command = self.command("load");
        command.args([url, "--connections".to_owned(), self.connections.to_string()]);
        command.args(["--workers".to_owned(), self.workers.to_string()]);
        command.args([
            "--duration".to_owned(),
            format!("{}ms", self.duration.as_millis()),
            "--json".to_owned(),
        ]);
        let mut load = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()), "load")?;
        let output = read_all(load.0.stdout.take());
        let errors = read_all(load.0.stderr.take());
        let deadline = Instant::now() + self.duration + LOAD_EXTRA_MAX;
        let status = loop {
            self.check_interrupted()?;
            if let Some(status) = load.0.try_wait().map_err(|error| format!("waiting for load: {error}"))? {
                break status;
            }
            if Instant::now() > deadline {
                return Err("load does not end".to_owned());
            }
            std::thread::sleep(GLANCE);
        };
        self.check_interrupted()?;
        let (output, errors) = (output.join().unwrap_or_default(), errors.join().unwrap_or_default());
        drop(server);
        match parse_load(&output) {
            Some((_, failed)) if failed > 0 => Ok(Err(format!("load met {failed} errors"))),
            Some((run, _)) if run.requests_per_second <= 0.0 => {
                Ok(Err("load got no reply in its time".to_owned()))
            }
            Some((run, _)) if status.success() => Ok(Ok(run)),
            Some(_) => Ok(Err(format!("load says that its run is void ({status})"))),
            None => {
                let last = errors.lines().last().unwrap_or("it said nothing");
                Err(format!("load gave no figures ({status}): {last}"))
            }
        }
    }

    fn serve(&self, options: &[&str]) -> Result<Server, String> {
        let mut command = self.command("serve");
        command.args(["--listen", "127.0.0.1:0", "--workers", &self.workers.to_string()]).args(options);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()), "serve")?;
        let (sender, lines) = mpsc::channel();
        if let Some(stream) = process.0.stderr.take() {
            // Reads to the end, so that the server never waits for a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        let deadline = Instant::now() + START_MAX;
        let mut last = "it said nothing".to_owned();
        loop {
            self.check_interrupted()?;
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    if let Some(address) = line.split("listening on ").nth(1) {
                        return Ok(Server { address: address.trim().to_owned(), _process: process });
                    }
                    last = line;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return Err(format!("serve does not start: {last}")),
            }
        }
    }

    /// Settings of whoever measures must not reach either side.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGMILL_") {
                command.env_remove(name);
            }
        }
        command.arg(subcommand).stdin(Stdio::null());
        command
    }

    fn check_interrupted(&self) -> Result<(), String> {
        if self.interrupted.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
    }
}

struct Server {
    address: String,
    /// Ended when this is dropped.
    _process: Process,
}

/// A child that does not outlive this value.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, name: &str) -> Result<Process, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.spawn().map(Process).map_err(|error| format!("starting `{program} {name}`: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already. It holds nothing that a kill could spoil.
        let _ = self.0.kill();
        let deadline = Instant::now() + STOP_MAX;
        while self.0.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn read_all(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stream) = stream {
            // What is not text is no answer either: the caller sees that.
            let _ = stream.read_to_string(&mut text);
        }
        text
    })
}

/// Figures and errors out of what `load --json` prints.
fn parse_load(text: &str) -> Option<(Run, u64)> {
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let requests_per_second = json["requests_per_second"].as_f64().filter(|rate| rate.is_finite())?;
    let errors = json["errors"].as_u64()?;
    let p99_us = json["latency_us"]["p99"].as_f64().filter(|p99| *p99 > 0.0);
    Some((Run { requests_per_second, p99_us }, errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_load_says() {
        let check = |text, expected: Option<(f64, Option<f64>, u64)>| {
            let parsed = parse_load(text).map(|(run, errors)| (run.requests_per_second, run.p99_us, errors));
            assert_eq!(parsed, expected, "{text}");
        };
        check(
            r#"{"requests_per_second": 1000.5, "errors": 0, "latency_us": {"p50": 20, "p99": 90}}"#,
            Some((1000.5, Some(90.0), 0)),
        );
        check(r#"{"requests_per_second": 1000, "errors": 7}"#, Some((1000.0, None, 7)));
        check(r#"{"requests_per_second": 0, "errors": 0}"#, Some((0.0, None, 0)));
        check(r#"{"errors": 0}"#, None);
        check("nothing", None);
        check("", None);
    }
}

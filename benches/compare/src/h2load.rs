//! The load of gRPC: h2load, of nghttp2, which has to be installed. Its command, and what it prints.
//!
//! It looks at the status and counts bytes. What a call answers is checked by its length, in every run; that it is the right answer, by
//! the tests of the peers.

use super::order::{Loaded, Order};
use super::pinned::Starter;
use super::process::{Interrupt, Launcher, Process, log_end};
use super::profile::Ask;
use super::results::{Latency, Reply};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Why a profile cannot be where it is not installed.
pub(super) const MISSING: &str = "h2load is not installed (on Debian: apt-get install nghttp2-client)";

/// A single call takes no longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where it is installed.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("h2load")).find(|file| file.is_file())
}

/// The command for a run. It leaves a line a request in a log.
pub(super) fn command(
    launcher: &Launcher,
    cpus: &[usize],
    scratch: &Path,
    order: &Order,
    starter: Starter,
) -> Result<Command> {
    let shape = order.shape;
    let log = log(scratch);
    // It would add to it.
    let _ = fs::remove_file(&log);
    let mut command = calls(launcher, cpus, scratch, order.target, starter)?;
    let threads = u32::try_from(cpus.len()).unwrap_or(1).min(shape.connections);
    command.args(["--threads", &threads.to_string(), "--clients", &shape.connections.to_string()]);
    command.args(["--max-concurrent-streams", &shape.pipeline.to_string()]);
    command.arg("--duration").arg(format!("{}ms", order.duration.as_millis()));
    command.arg("--log-file").arg(log);
    Ok(command)
}

/// What all calls have in common.
fn calls(
    launcher: &Launcher,
    cpus: &[usize],
    scratch: &Path,
    target: SocketAddrV4,
    starter: Starter,
) -> Result<Command> {
    let program = program().context(MISSING)?;
    let path = Ask::Unary.paths().remove(0);
    let message = scratch.join("message");
    fs::write(&message, Ask::Unary.expected(&path)).with_context(|| message.display().to_string())?;
    let mut command = launcher.command(cpus, program, starter);
    command.arg(format!("http://{target}{path}")).arg("--data").arg(message);
    command.args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
    command.stdin(Stdio::null());
    Ok(command)
}

fn log(scratch: &Path) -> PathBuf {
    scratch.join("h2load.log")
}

/// One call, as proof that the server answers rightly.
pub(super) fn one_call(
    launcher: &Launcher,
    scratch: &Path,
    cpu: usize,
    target: SocketAddrV4,
    interrupt: &Interrupt,
) -> Result<Reply> {
    let out = scratch.join("call.txt");
    let file = || fs::File::create(&out).with_context(|| out.display().to_string());
    let mut command = calls(launcher, &[cpu], scratch, target, Starter::Us)?;
    command.args(["--requests", "1"]).stdout(file()?).stderr(Stdio::null());
    let ended = Process::start(command, "h2load")?.wait(CALL_TIMEOUT, interrupt)?;
    ensure!(ended.success(), "h2load failed ({ended}): {}", log_end(&out));
    let said = Said::parse(&fs::read_to_string(&out).with_context(|| out.display().to_string())?)?;
    said.check(1, 0)?;
    Ok(Reply {
        path: Ask::Unary.paths().remove(0),
        status_line: "HTTP/2 200".to_owned(),
        fields: Vec::new(),
        head_bytes: said.field_bytes,
        body_bytes: said.data_bytes,
    })
}

/// What a run was: from what it printed, and from its log.
pub(super) fn loaded(output: &str, scratch: &Path, order: &Order) -> Result<Loaded> {
    let said = Said::parse(output)?;
    let under_way = u64::from(order.shape.connections) * u64::from(order.shape.pipeline);
    said.check(said.done, under_way)?;
    let log = log(scratch);
    let log = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    Ok(Loaded {
        requests: said.done,
        requests_per_second: said.done as f64 / order.duration.as_secs_f64(),
        latency_us: latency(&log)?,
        server_cpu_ns: None,
    })
}

/// What it prints at the end.
#[derive(Debug, PartialEq)]
struct Said {
    done: u64,
    /// With a status from 200 to 299.
    good: u64,
    field_bytes: usize,
    data_bytes: usize,
}

impl Said {
    fn parse(output: &str) -> Result<Said> {
        let line = |start: &str| {
            let found = output.lines().find_map(|line| line.strip_prefix(start));
            found.with_context(|| format!("h2load said no {start:?}: {}", output.trim()))
        };
        let before = |line: &str, name: &str| -> Option<u64> {
            let part = line.split(',').find(|part| part.trim().ends_with(name))?;
            part.split_whitespace().next()?.parse().ok()
        };
        // A number of bytes for people, and in parentheses as it is.
        let bytes = |line: &str, name: &str| -> Option<usize> {
            let (before, _) = line.split_once(&format!(") {name}"))?;
            before.rsplit('(').next()?.parse().ok()
        };
        let (requests, codes, traffic) = (line("requests: ")?, line("status codes: ")?, line("traffic: ")?);
        let said = || {
            Some(Said {
                done: before(requests, "done")?,
                good: before(codes, "2xx")?,
                field_bytes: bytes(traffic, "headers")?,
                data_bytes: bytes(traffic, "data")?,
            })
        };
        said().with_context(|| format!("h2load was not understood: {}", output.trim()))
    }

    /// All were answered rightly, and of `under_way` more there may be parts.
    fn check(&self, expected: u64, under_way: u64) -> Result<()> {
        ensure!(self.done > 0, "not one request was answered within the time");
        ensure!(
            self.done == expected && self.good == self.done,
            "of {} calls {} have a good status, expected {expected}",
            self.done,
            self.good
        );
        let bytes = Ask::Unary.expected("").len() as u64;
        let all = bytes * self.done..=bytes * (self.done + under_way);
        ensure!(
            all.contains(&(self.data_bytes as u64)),
            "{} calls were answered by {} bytes, expected {bytes} for each",
            self.done,
            self.data_bytes
        );
        Ok(())
    }
}

/// From lines of start, status and time, in microseconds.
fn latency(log: &str) -> Result<Latency> {
    let time = |line: &str| line.split('\t').nth(2)?.trim().parse().ok();
    let mut times: Vec<f64> = Vec::new();
    for line in log.lines() {
        let Some(time) = time(line) else { bail!("the log of h2load was not understood: {line:?}") };
        times.push(time);
    }
    times.sort_by(f64::total_cmp);
    let last = times.len().checked_sub(1).context("h2load logged no request")?;
    let at = |part: f64| times[((last as f64 * part).ceil() as usize).min(last)];
    Ok(Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
        max: times[last],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
finished in 400.80ms, 118560.00 req/s, 5.77MB/s
requests: 47424 total, 47680 started, 47424 done, 47424 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 47424 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.31MB (2419664) total, 139.39KB (142736) headers (space savings 95.76%), 926.25KB (948480) data
                     min         max         mean         sd        +/- sd
";

    #[test]
    fn what_it_prints_is_read() {
        let said = Said::parse(SAID).unwrap();
        assert_eq!(said, Said { done: 47_424, good: 47_424, field_bytes: 142_736, data_bytes: 948_480 });
        assert!(Said::parse("").unwrap_err().to_string().contains("said no \"requests: \""));
        assert!(
            Said::parse(&SAID.replace(" 2xx", " 9xx")).unwrap_err().to_string().contains("not understood")
        );
    }

    #[test]
    fn wrong_answers_void() {
        let check = |from: &str, to: &str, expected: &str| {
            let said = Said::parse(&SAID.replace(from, to)).unwrap();
            let error = said.check(said.done, 256).map_err(|error| error.to_string()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        // A call of a method that is not there: its status is in the trailers, and nothing else.
        check("(948480)", "(0)", "answered by 0 bytes, expected 20 for each");
        check("(948480)", "(953601)", "answered by 953601 bytes");
        check("47424 2xx", "47423 2xx", "47423 have a good status");
        check("47424 done", "0 done", "not one request");
        let some_under_way = Said::parse(&SAID.replace("(948480)", "(953600)")).unwrap();
        assert!(some_under_way.check(47_424, 256).is_ok() && some_under_way.check(47_424, 0).is_err());
    }

    #[test]
    fn the_log_has_the_times() {
        let line = |time: u32| format!("1795832647748299\t200\t{time}\n");
        let log: String = (1..=101).rev().map(line).collect();
        let latency = latency(&log).unwrap();
        assert_eq!((latency.p50, latency.p90, latency.p99_99, latency.max), (51.0, 91.0, 101.0, 101.0));
        assert!(super::latency("").is_err() && super::latency("1\t2\n").is_err());
    }
}

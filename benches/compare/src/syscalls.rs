//! System calls a request, counted in a run of their own: counting slows a server down, so these runs give no times.
//!
//! `perf stat` counts in the kernel and disturbs little. Where it may not, `strace -c` stops the server at every call.

use super::load::Clients;
use super::order::Order;
use super::pinned::Starter;
use super::process::{Interrupt, Process, log_end};
use super::results::{Syscalls, Tool};
use super::server::Server;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const EVENT: &str = "raw_syscalls:sys_enter";
/// How long strace may take to attach and to end.
const STRACE_TIMEOUT: Duration = Duration::from_secs(20);

/// Finds a tool that may count here; else the reason why none may.
pub(super) fn find_tool(scratch: &Path, interrupt: &Interrupt) -> Result<std::result::Result<Tool, String>> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", EVENT, "--", "true"]);
    let perf = try_tool(perf, "perf", scratch, interrupt, |said| parse_perf(said).is_ok())?;
    let Err(perf) = perf else { return Ok(Ok(Tool::Perf)) };
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "--", "true"]);
    let strace = try_tool(strace, "strace", scratch, interrupt, |said| parse_strace(said).is_ok())?;
    let Err(strace) = strace else { return Ok(Ok(Tool::Strace)) };
    Ok(Err(format!("perf: {perf}; strace: {strace}")))
}

fn try_tool(
    mut command: Command,
    name: &str,
    scratch: &Path,
    interrupt: &Interrupt,
    is_good: impl FnOnce(&str) -> bool,
) -> Result<std::result::Result<(), String>> {
    let log = scratch.join("tool.log");
    let file = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let Ok(mut process) = Process::start(command, name) else {
        return Ok(Err("not installed".to_owned()));
    };
    let status = process.wait(STRACE_TIMEOUT, interrupt)?;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    if status.success() && is_good(&said) {
        return Ok(Ok(()));
    }
    Ok(Err(format!("not permitted here ({})", log_end(&log).replace('\n', " "))))
}

/// Loads the server once more and counts. An error of the run is a reason, not a failure; an interrupt is one.
pub(super) fn count(tool: Tool, clients: &Clients, server: &Server, order: &Order) -> Result<Syscalls> {
    let counted = match tool {
        Tool::Perf => with_perf(clients, server, order),
        Tool::Strace => with_strace(clients, server, order),
    };
    clients.interrupt.check()?;
    Ok(match counted {
        Ok(per_request) => Syscalls::Counted { per_request, with: tool },
        Err(error) => Syscalls::NotCounted { reason: format!("{error:#}") },
    })
}

/// perf counts in the server for as long as the client runs, which it starts itself.
fn with_perf(clients: &Clients, server: &Server, order: &Order) -> Result<f64> {
    let out = clients.scratch.join("perf.csv");
    let client = clients.command(order, Starter::Another)?;
    let mut command = clients.launcher.command(&clients.cpus, "perf", Starter::Us);
    command.args(["stat", "-x", ",", "-e", EVENT, "-o"]).arg(&out);
    command.arg("-p").arg(server.process.pid().to_string()).arg("--");
    command.arg(client.get_program()).args(client.get_args()).stdin(Stdio::null());
    let loaded = clients.run_command(command, order)?;
    let said = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    Ok(parse_perf(&said)? as f64 / loaded.requests as f64)
}

/// strace is attached before the client starts and told to end afterwards.
fn with_strace(clients: &Clients, server: &Server, order: &Order) -> Result<f64> {
    let out = clients.scratch.join("strace.txt");
    let log = clients.scratch.join("tool.log");
    let file = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    let mut command = clients.launcher.command(&clients.cpus, "strace", Starter::Us);
    command.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&out);
    command.arg("-p").arg(server.process.pid().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let mut strace = Process::start(command, "strace")?;
    let end = std::time::Instant::now() + STRACE_TIMEOUT;
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("attached") {
        strace.expect_running().with_context(|| log_end(&log))?;
        ensure!(std::time::Instant::now() < end, "strace did not attach");
        clients.interrupt.pause()?;
    }
    let loaded = clients.run(order)?;
    strace.signal_group(rustix::process::Signal::INT);
    // Its exit status is that of the signal.
    strace.wait(STRACE_TIMEOUT, &clients.interrupt)?;
    let said = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    Ok(parse_strace(&said)? as f64 / loaded.requests as f64)
}

/// The count of a line such as `12345,,raw_syscalls:sys_enter,1000,100.00,,`.
fn parse_perf(said: &str) -> Result<u64> {
    let line = said.lines().find(|line| line.contains(EVENT)).context("perf said nothing")?;
    let first = line.split(',').next().unwrap_or_default();
    match first.parse() {
        Ok(count) => Ok(count),
        Err(_) => bail!("perf: {line}"),
    }
}

/// The sum in the last line of `strace -c`, `total`: the largest whole number on it is the count of calls.
fn parse_strace(said: &str) -> Result<u64> {
    let line = said
        .lines()
        .rev()
        .find(|line| line.trim_end().ends_with(" total"))
        .context("strace gave no total")?;
    let numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    numbers.max().with_context(|| format!("strace: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_is_read() {
        let said = "# started on Sun\n\n143,,raw_syscalls:sys_enter,1234567,100.00,,\n";
        assert_eq!(parse_perf(said).unwrap(), 143);
        assert!(parse_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n").is_err());
        assert!(parse_perf("Access to performance monitoring is limited\n").is_err());
    }

    #[test]
    fn strace_is_read() {
        let said = "    calls syscall\n--------- ----------------\n       10 read\n        5 write\n\
                    --------- ----------------\n       15 total\n";
        assert_eq!(parse_strace(said).unwrap(), 15);
        let wide = "100.00    0.000321          16        20         2 total\n";
        assert_eq!(parse_strace(wide).unwrap(), 20);
        assert!(parse_strace("strace: attach: Operation not permitted\n").is_err());
    }
}

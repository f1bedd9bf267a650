//! Child processes: started pinned, ended with us, bounded in time.
//!
//! Every wait looks at the flag that SIGINT and SIGTERM set. A child is in a process group of its own, so that Ctrl-C
//! reaches this program alone, which then ends its children in order; should it be killed, the kernel kills them.

use super::pinned::{self, Starter};
use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a wait looks whether it is over.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Whether the user wants the run to end.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// The error of every wait that was cut short by the user.
#[derive(Debug)]
pub(super) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// From now on SIGINT and SIGTERM end the run in order.
    pub(super) fn catch() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, interrupt.0.clone()).context("cannot catch signals")?;
        }
        Ok(interrupt)
    }

    /// An error when the run shall end.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Sleeps one poll interval; an error when the run shall end.
    pub(super) fn pause(&self) -> Result<()> {
        self.check()?;
        std::thread::sleep(POLL_INTERVAL);
        self.check()
    }

    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.pause()?;
        }
        self.check()
    }
}

/// Starts programs on chosen CPUs, through our own executable.
#[derive(Clone)]
pub(super) struct Launcher {
    pub(super) ringmill: PathBuf,
}

impl Launcher {
    pub(super) fn command(&self, cpus: &[usize], program: impl AsRef<OsStr>, starter: Starter) -> Command {
        pinned::command(&self.ringmill, cpus, program.as_ref(), starter)
    }

    /// Our own executable as a program, pinned.
    pub(super) fn ringmill(&self, cpus: &[usize], starter: Starter) -> Command {
        self.command(cpus, &self.ringmill, starter)
    }
}

/// A child that is killed and reaped when this is dropped.
pub(super) struct Process {
    pub(super) child: Child,
    name: String,
}

impl Process {
    /// Starts `command`. Call it from the main thread only: the kernel sends the death signal when the starting thread
    /// ends.
    pub(super) fn start(mut command: Command, name: &str) -> Result<Process> {
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Process { child, name: name.to_owned() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if the process has ended.
    pub(super) fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended early: {status}", self.name),
        }
    }

    /// Waits for any end, at most `timeout`.
    pub(super) fn wait(
        &mut self,
        timeout: Duration,
        interrupt: &Interrupt,
    ) -> Result<std::process::ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() >= end => bail!("{} did not end in time", self.name),
                None => interrupt.pause()?,
            }
        }
    }

    /// Asks the process and what it started to end: for programs that end in order.
    pub(super) fn signal_group(&self, signal: rustix::process::Signal) {
        if let Some(group) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw) {
            // It fails when all of them have ended.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group holds what a child started itself; all fail only when there is nothing left to end.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal_group(rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, to say why a program failed.
pub(super) fn log_end(path: &Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_what_it_started_are_gone_after_the_drop() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]).stdout(std::process::Stdio::piped());
        let mut process = Process::start(command, "sh").unwrap();
        process.expect_running().unwrap();
        let mut line = String::new();
        let stdout = process.child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        drop(process);
        let stat = format!("/proc/{}/stat", line.trim());
        let end = Instant::now() + Duration::from_secs(20);
        // Nobody may reap an orphan here, so a zombie counts as gone.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < end, "still there");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    #[test]
    fn waits_end() {
        let interrupt = Interrupt::default();
        let mut process = Process::start(Command::new("true"), "true").unwrap();
        assert!(process.wait(Duration::from_secs(60), &interrupt).unwrap().success());
        assert!(process.expect_running().is_err());
        let mut process = Process::start(Command::new("false"), "false").unwrap();
        assert!(!process.wait(Duration::from_secs(60), &interrupt).unwrap().success());
        interrupt.0.store(true, Ordering::Relaxed);
        assert!(interrupt.sleep(Duration::from_secs(60)).unwrap_err().is::<Interrupted>());
    }
}

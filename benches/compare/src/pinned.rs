//! `ringmill run-pinned`: becomes another program, on chosen CPUs, that ends when its starter ends.
//!
//! A process can set its own affinity and death signal without unsafe code; a parent cannot do it for a child. So every
//! server and client of a comparison is started through this. It is hidden from the help: nobody else needs it.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Options of `ringmill run-pinned`.
#[derive(clap::Args)]
pub struct RunPinned {
    /// CPUs the program may run on
    #[arg(long, value_name = "CPU", value_delimiter = ',', required = true)]
    cpus: Vec<usize>,
    /// Process id of the starter, if it is known: when it is gone already, nothing runs
    #[arg(long, value_name = "PID")]
    parent: Option<i32>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl RunPinned {
    /// Returns only on failure: the process is the other program from then on.
    pub fn run(self) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot set the death signal")?;
        // The parent may have died before the signal was set.
        if self.parent.is_some_and(|parent| rustix::process::getppid() != Pid::from_raw(parent)) {
            bail!("the process that started this one is gone");
        }
        let mut set = CpuSet::new();
        for &cpu in &self.cpus {
            if cpu >= CpuSet::MAX_CPU {
                bail!("there is no CPU {cpu}");
            }
            set.set(cpu);
        }
        rustix::thread::sched_setaffinity(None, &set)
            .with_context(|| format!("cannot run on CPU {:?}", self.cpus))?;
        let (program, arguments) = self.command.split_first().context("no program")?;
        let error = Command::new(program).args(arguments).exec();
        Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
    }
}

/// Who will start a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    Us,
    /// A program that we start, with the command as its arguments.
    Another,
}

/// `program` on `cpus`; arguments added to the command are the program's.
pub(super) fn command(ringmill: &Path, cpus: &[usize], program: &OsStr, starter: Starter) -> Command {
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut command = Command::new(ringmill);
    command.args(["run-pinned", "--cpus", &cpus.join(",")]);
    if starter == Starter::Us {
        command.arg("--parent").arg(std::process::id().to_string());
    }
    command.arg("--").arg(program);
    // Settings of the user's own server are not those of a contender.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGMILL_") {
            command.env_remove(name);
        }
    }
    command
}

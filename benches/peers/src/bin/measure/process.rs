//! Child processes: started pinned, killed with us, bounded in time, measured through /proc.
//!
//! It never waits without a limit and never outlives an interrupt: every wait here looks at the flag that SIGINT and
//! SIGTERM set, and a child gets SIGKILL from the kernel when this process dies (PR_SET_PDEATHSIG).

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a wait looks whether it is over.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM end the run in order, so that guards clean up.
pub fn catch_interrupts() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = note_interrupt as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let previous = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            return Err(io::Error::last_os_error()).context("cannot catch signals");
        }
    }
    Ok(())
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sleeps one poll interval; an error when the run was interrupted.
pub fn pause() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    std::thread::sleep(POLL_INTERVAL);
    Ok(())
}

/// Sleeps for `duration`, unless interrupted.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        pause()?;
    }
    Ok(())
}

pub fn cpus_online() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A child that is killed and reaped when this is dropped.
pub struct Process {
    pub child: Child,
    name: String,
}

impl Process {
    /// Starts `command` on one CPU, as `taskset -c CPU` would, tied to the life of this process.
    ///
    /// Call it from the main thread only: the kernel sends the death signal when the starting thread ends.
    pub fn start(mut command: Command, cpu: usize) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let parent = std::process::id();
        // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls; it neither
        // allocates nor takes a lock.
        unsafe { command.pre_exec(move || prepare_child(parent, cpu)) };
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Process { child, name })
    }

    /// An error if the process has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended early: {status}", self.name),
        }
    }

    /// Waits for a successful end, at most `timeout`.
    pub fn finish(&mut self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} failed: {status}", self.name),
                None if Instant::now() >= end => bail!("{} did not end in time", self.name),
                None => pause()?,
            }
        }
    }

    pub fn cpu_time(&self) -> Result<CpuTime> {
        CpuTime::read(self.child.id())
    }

    /// Anonymous resident memory, RssAnon of /proc/PID/status.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|value| value.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("no RssAnon in {path}"))?;
        Ok(kibibytes * 1024)
    }

    /// How many descriptors the process has open.
    pub fn open_files(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.child.id());
        Ok(fs::read_dir(&path).with_context(|| path.clone())?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child has ended and been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn prepare_child(parent: u32, cpu: usize) -> io::Result<()> {
    // SAFETY: takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::getppid() } as u32 != parent {
        // The parent died before the death signal was set.
        return Err(io::ErrorKind::Interrupted.into());
    }
    // SAFETY: a cpu_set_t is a bit array, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET checks `cpu` against the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is initialised and its size is passed along; 0 names the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// CPU time that a process has used since it started.
#[derive(Clone, Copy)]
pub struct CpuTime {
    /// The scheduler's own account over all threads: exact once they sleep.
    pub total_ns: u64,
    /// Counted in clock ticks; good for the proportion of the two only.
    pub user_ticks: u64,
    pub system_ticks: u64,
}

impl CpuTime {
    fn read(pid: u32) -> Result<Self> {
        let mut total_ns = 0;
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let path = task?.path().join("schedstat");
            match fs::read_to_string(&path) {
                Ok(schedstat) => {
                    let first = schedstat
                        .split_whitespace()
                        .next()
                        .and_then(|word| word.parse::<u64>().ok());
                    total_ns += first.with_context(|| format!("no number in {}", path.display()))?;
                }
                // A thread that ended since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        let (user_ticks, system_ticks) = parse_stat(&stat).with_context(|| format!("cannot parse {path}"))?;
        Ok(CpuTime {
            total_ns,
            user_ticks,
            system_ticks,
        })
    }
}

/// utime and stime: fields 14 and 15 of /proc/PID/stat (proc_pid_stat(5)). The name, field 2, may hold spaces and
/// brackets, so counting starts behind its last closing one.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user_ticks = fields.next()?.parse().ok()?;
    let system_ticks = fields.next()?.parse().ok()?;
    Some((user_ticks, system_ticks))
}

/// Length of a clock tick.
pub fn tick_ns() -> u64 {
    // SAFETY: takes a plain integer.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000_000 / u64::try_from(per_second).unwrap_or(100).max(1)
}

/// Busy time of the whole machine and of the children that have ended, to tell how much others were running.
#[derive(Clone, Copy)]
pub struct MachineTime {
    busy_ns: u64,
    ended_children_ns: u64,
    at: Instant,
}

impl MachineTime {
    pub fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let busy_ticks = parse_machine_stat(&stat).context("cannot parse /proc/stat")?;
        // SAFETY: an rusage is plain numbers, for which zero is a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is valid memory for the kernel to fill.
        if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) } < 0 {
            return Err(io::Error::last_os_error()).context("getrusage");
        }
        let nanoseconds =
            |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
        Ok(MachineTime {
            busy_ns: busy_ticks * tick_ns(),
            ended_children_ns: nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
            at: Instant::now(),
        })
    }

    /// CPUs kept busy since `before` by anything but ended children and a process that used `server_ns`; steal by
    /// the hypervisor included. Clock ticks make it good to a few hundredths.
    pub fn others_since(self, before: MachineTime, server_ns: u64) -> f64 {
        let busy = self.busy_ns.saturating_sub(before.busy_ns);
        let ours = self.ended_children_ns - before.ended_children_ns + server_ns;
        busy.saturating_sub(ours) as f64 / (self.at - before.at).as_nanos().max(1) as f64
    }
}

/// Ticks of all CPUs except idle and iowait (proc_stat(5)). Interrupts are in: without CONFIG_IRQ_TIME_ACCOUNTING
/// their time is in the CPU time of the process they interrupt as well, and is taken off with it.
fn parse_machine_stat(stat: &str) -> Option<u64> {
    let first = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = first
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let user_nice_system: u64 = fields.get(..3)?.iter().sum();
    let irq_softirq_steal: u64 = fields.get(5..8)?.iter().sum();
    Some(user_nice_system + irq_softirq_steal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_fields_are_counted_behind_the_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 41 42 0 0 20 0 1 0";
        assert_eq!(parse_stat(stat), Some((41, 42)));
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn machine_time_leaves_out_idle() {
        let stat = "cpu  100 20 3 9999 9999 1000 1000 2000 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_machine_stat(stat), Some(4123));
        assert_eq!(parse_machine_stat("cpu  1 2 3"), None);
    }

    #[test]
    fn a_child_is_pinned_and_killed_on_drop() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::start(command, 0).unwrap();
        let pid = process.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"));
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

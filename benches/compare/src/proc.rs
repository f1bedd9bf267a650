//! What /proc says of a process and of the machine: pure readers of its texts, and the few that open the files.

use anyhow::{Context, Result};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::Instant;

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// The scheduler's own account over all threads, in nanoseconds.
    pub(super) cpu_ns: u64,
    /// Counted in clock ticks; good for the proportion of the two only.
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> Result<Usage> {
        let mut usage = Usage::default();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let task = task?.path();
            // A thread may end between the listing and the reading.
            let Some(schedstat) = read_if_there(&task.join("schedstat"))? else { continue };
            let Some(status) = read_if_there(&task.join("status"))? else { continue };
            usage.cpu_ns += parse_schedstat(&schedstat).context("no number in schedstat")?;
            usage.voluntary_switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            usage.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let times = parse_stat(&stat).with_context(|| format!("cannot parse /proc/{pid}/stat"))?;
        usage.user_ticks = times.user;
        usage.system_ticks = times.system;
        Ok(usage)
    }

    pub(super) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(before.involuntary_switches),
        }
    }
}

/// Anonymous resident memory, RssAnon of /proc/PID/status.
pub(super) fn anonymous_bytes(pid: u32) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    Ok(field(&status, "RssAnon:").with_context(|| format!("no RssAnon of process {pid}"))? * 1024)
}

/// How many descriptors the process has open.
pub(super) fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path).with_context(|| path.clone())?.count())
}

/// Sockets that the process has open, by inode.
pub(super) fn socket_inodes(pid: u32) -> Result<HashSet<u64>> {
    let path = format!("/proc/{pid}/fd");
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(&path).with_context(|| path.clone())? {
        // A descriptor may be closed between the listing and the reading.
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

/// Inodes of the sockets that take new peers on a port: listening TCP, or bound UDP.
pub(super) fn listeners(port: u16, udp: bool) -> Result<HashSet<u64>> {
    let tables = if udp { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
    let mut inodes = HashSet::new();
    for table in tables {
        if let Some(text) = read_if_there(format!("/proc/net/{table}").as_ref())? {
            inodes.extend(parse_listeners(&text, port, udp));
        }
    }
    Ok(inodes)
}

/// Lines of /proc/net/tcp or udp (proc_net(5)): local address in hexadecimal, state 0A for LISTEN, 07 for a UDP socket
/// without a peer, inode in column 10.
fn parse_listeners(table: &str, port: u16, udp: bool) -> Vec<u64> {
    let wanted = if udp { "07" } else { "0A" };
    let line = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = columns.get(1)?.rsplit_once(':')?;
        let is_ours = u16::from_str_radix(local_port, 16).ok()? == port && *columns.get(3)? == wanted;
        if is_ours { columns.get(9)?.parse().ok() } else { None }
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// User and system ticks of a process and of its children that have ended and been waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    user: u64,
    system: u64,
    children: u64,
}

/// Fields 14 to 17 of /proc/PID/stat (proc_pid_stat(5)). The name, field 2, may hold spaces and brackets, so counting
/// starts behind its last closing one.
fn parse_stat(stat: &str) -> Option<Times> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        behind_name.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    let [user, system, children_user, children_system] = fields[..] else { return None };
    Some(Times { user, system, children: children_user + children_system })
}

/// The first number: nanoseconds on a CPU.
fn parse_schedstat(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// The number behind a name at the start of a line.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Ticks of all CPUs except idle and iowait (proc_stat(5)). Interrupts are in: without CONFIG_IRQ_TIME_ACCOUNTING their
/// time is in the CPU time of the process they interrupt as well, and is taken off with it.
fn parse_machine_stat(stat: &str) -> Option<u64> {
    let first = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = first.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let user_nice_system: u64 = fields.get(..3)?.iter().sum();
    let irq_softirq_steal: u64 = fields.get(5..8)?.iter().sum();
    Some(user_nice_system + irq_softirq_steal)
}

fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// Busy time of the whole machine and of our children that have ended: what a client used, and how much others ran.
#[derive(Clone, Copy)]
pub(super) struct MachineTime {
    busy_ns: u64,
    children_ns: u64,
    at: Instant,
}

impl MachineTime {
    pub(super) fn read() -> Result<MachineTime> {
        let stat = read("/proc/stat")?;
        let own = read("/proc/self/stat")?;
        Ok(MachineTime {
            busy_ns: parse_machine_stat(&stat).context("cannot parse /proc/stat")? * tick_ns(),
            children_ns: parse_stat(&own).context("cannot parse /proc/self/stat")?.children * tick_ns(),
            at: Instant::now(),
        })
    }

    /// CPUs that children kept busy which ended since `before`; clock ticks make it good to a hundredth or so.
    pub(super) fn children_since(self, before: MachineTime) -> f64 {
        self.children_ns.saturating_sub(before.children_ns) as f64 / self.ns_since(before)
    }

    /// CPUs kept busy since `before` by anything but ended children and a process that used `server_ns`; steal by the
    /// hypervisor included.
    pub(super) fn others_since(self, before: MachineTime, server_ns: u64) -> f64 {
        let busy = self.busy_ns.saturating_sub(before.busy_ns);
        let ours = self.children_ns.saturating_sub(before.children_ns) + server_ns;
        busy.saturating_sub(ours) as f64 / self.ns_since(before)
    }

    pub(super) fn ns_since(self, before: MachineTime) -> f64 {
        (self.at - before.at).as_nanos().max(1) as f64
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

fn read_if_there(path: &std::path::Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // ESRCH: the thread ended after the file was opened.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_fields_are_counted_behind_the_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 41 42 5 6 20 0 1 0";
        assert_eq!(parse_stat(stat), Some(Times { user: 41, system: 42, children: 11 }));
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn machine_time_leaves_out_idle() {
        let stat = "cpu  100 20 3 9999 9999 1000 1000 2000 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_machine_stat(stat), Some(4123));
        assert_eq!(parse_machine_stat("cpu  1 2 3"), None);
    }

    #[test]
    fn numbers_behind_names() {
        let status =
            "Name:\tx\nRssAnon:\t     128 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(status, "RssAnon:"), Some(128));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), Some(9));
        assert_eq!(field(status, "VmRSS:"), None);
        assert_eq!(parse_schedstat("123 4 5\n"), Some(123));
    }

    #[test]
    fn listeners_by_port_and_state() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0\n\
            1: 0100007F:1F90 0100007F:2554 01 00000000:00000000 03:000003B8 00000000     0        0 112 3 0\n\
            2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 113 1 0\n\
            3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 114 1 0\n";
        assert_eq!(parse_listeners(tcp, 8080, false), [111, 113]);
        assert_eq!(parse_listeners(tcp, 8082, false), [] as [u64; 0]);
        let udp =
            "head\n 9: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 115 2 0 0\n";
        assert_eq!(parse_listeners(udp, 8080, true), [115]);
    }

    #[test]
    fn our_own_listener_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let listening = listeners(port, false).unwrap();
        assert_eq!(listening.len(), 1);
        assert!(socket_inodes(std::process::id()).unwrap().is_superset(&listening));
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.cpu_ns > 0);
    }
}

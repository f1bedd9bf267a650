//! What the probes may read of a machine: files below one root, and what the command line said.
//!
//! The root is `/`, or a directory of a test that looks like it: then io_uring and other programs are not asked
//! either, but files that hold their answers. Reading never fails loudly: what is missing or odd is `None`, and the
//! probe says so. Nothing here writes; that is `apply.rs`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// More is not read of a file that is taken as a whole: the largest of interest, /proc/interrupts of a machine
/// with hundreds of CPUs, is well below it.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// What the options say about the server that is meant.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) port: u16,
    pub(super) workers: Option<usize>,
    pub(super) backlog: u64,
    pub(super) interface: Option<String>,
}

/// The machine that is examined.
pub(super) struct Machine {
    root: PathBuf,
    pub(super) asked: Asked,
}

impl Machine {
    pub(super) fn new(root: PathBuf, asked: Asked) -> Machine {
        Machine { root, asked }
    }

    /// The real path of a file named from the root, such as `proc/sys/net/core/somaxconn`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A whole file without the white space around it. Bytes that are not UTF-8 are replaced.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(name)).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A sysctl by its usual name: `net.core.somaxconn`.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.text(&sysctl_path(name))
    }

    pub(super) fn sysctl_number(&self, name: &str) -> Option<u64> {
        self.number(&sysctl_path(name))
    }

    /// The numbers of a sysctl that has several; `None` if there are not exactly `N`.
    pub(super) fn sysctl_numbers<const N: usize>(&self, name: &str) -> Option<[u64; N]> {
        let text = self.sysctl(name)?;
        let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        numbers?.try_into().ok()
    }

    /// The chosen word of a file such as `always [madvise] never`.
    pub(super) fn chosen(&self, name: &str) -> Option<String> {
        chosen_word(&self.text(name)?).map(str::to_owned)
    }

    /// The names in a directory, sorted; numbers in names by value.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(directory))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_by_cached_key(|name| {
            let start = name.find(|letter: char| letter.is_ascii_digit()).unwrap_or(name.len());
            (name[..start].to_owned(), name[start..].parse::<u64>().ok(), name.clone())
        });
        names
    }

    /// A counter of /proc/net/netstat or /proc/net/snmp, which have a line of names above each line of values.
    pub(super) fn counter(&self, file: &str, group: &str, name: &str) -> Option<u64> {
        let text = self.text(file)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
        let (names, values) = (lines.next()?, lines.next()?);
        let column = names.split_whitespace().position(|column| column == name)?;
        values.split_whitespace().nth(column)?.parse().ok()
    }

    /// Soft and hard limit of this process, by the name in /proc/self/limits (what getrlimit(2) says);
    /// unlimited is `u64::MAX`.
    pub(super) fn limit(&self, name: &str) -> Option<(u64, u64)> {
        let text = self.text("proc/self/limits")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = rest.split_whitespace().map(|word| match word {
            "unlimited" => Some(u64::MAX),
            _ => word.parse().ok(),
        });
        Some((words.next()??, words.next()??))
    }

    /// A field of /proc/self/status.
    pub(super) fn status(&self, field: &str) -> Option<String> {
        let text = self.text("proc/self/status")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(rest.trim().to_owned())
    }

    /// The CPUs that this process may use.
    pub(super) fn cpus(&self) -> Option<Vec<usize>> {
        parse_cpu_list(&self.status("Cpus_allowed_list")?).filter(|cpus| !cpus.is_empty())
    }

    /// As many workers as asked for, or as `serve` starts by itself: one for each CPU, within the quota.
    pub(super) fn workers(&self) -> usize {
        let cpus = self.cpus().map_or(1, |cpus| cpus.len());
        let quota = self.cpu_quota().map_or(cpus, |quota| (quota as usize).max(1));
        self.asked.workers.unwrap_or(cpus.min(quota))
    }

    /// The smallest CPU quota of this process's control groups, in CPUs; none where there is no quota.
    pub(super) fn cpu_quota(&self) -> Option<f64> {
        let quotas = self.cpu_groups().into_iter().filter_map(|group| {
            if let Some(text) = self.text(&format!("{group}/cpu.max")) {
                let (quota, period) = text.split_once(' ')?;
                return quota_of(quota.parse().ok()?, period.trim().parse().ok()?);
            }
            let quota = self.text(&format!("{group}/cpu.cfs_quota_us"))?.parse().ok()?;
            quota_of(quota, self.text(&format!("{group}/cpu.cfs_period_us"))?.parse().ok()?)
        });
        quotas.min_by(f64::total_cmp)
    }

    /// The directories of this process's CPU control groups, innermost first. In a container the path of the host
    /// is not there, but the mount is the container's own group: the walk ends there.
    pub(super) fn cpu_groups(&self) -> Vec<String> {
        let Some(text) = self.text("proc/self/cgroup") else { return Vec::new() };
        let mut groups = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let mounts: &[&str] = match controllers {
                "" => &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
                _ if controllers.split(',').any(|name| name == "cpu") => {
                    &["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"]
                }
                _ => continue,
            };
            let mut parts: Vec<&str> =
                path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
            loop {
                groups.extend(mounts.iter().map(|mount| [&[*mount], &parts[..]].concat().join("/")));
                if parts.pop().is_none() {
                    break;
                }
            }
        }
        groups
    }

    /// Network interfaces with hardware behind them, or the one asked for.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let mut names = self.names("sys/class/net");
        match &self.asked.interface {
            Some(name) => names.retain(|known| known == name),
            None => names.retain(|name| self.exists(&format!("sys/class/net/{name}/device"))),
        }
        names
    }

    /// The receive (`rx`) or transmit (`tx`) queues of an interface, as paths.
    pub(super) fn queues(&self, interface: &str, kind: &str) -> Vec<String> {
        let directory = format!("sys/class/net/{interface}/queues");
        let names = self.names(&directory).into_iter();
        names.filter(|name| name.starts_with(kind)).map(|name| format!("{directory}/{name}")).collect()
    }

    /// What kind of container this is, if it is one.
    pub(super) fn container(&self) -> Option<String> {
        if self.exists("run/.containerenv") {
            return Some("podman".to_owned());
        }
        if self.exists(".dockerenv") {
            return Some("docker".to_owned());
        }
        let environment = self.text("proc/1/environ").unwrap_or_default();
        if let Some(kind) = environment.split('\0').find_map(|pair| pair.strip_prefix("container=")) {
            return Some(kind.to_owned());
        }
        let groups = self.text("proc/1/cgroup").unwrap_or_default();
        ["kubepods", "docker", "containerd", "lxc"]
            .into_iter()
            .find(|kind| groups.contains(&format!("/{kind}")))
            .map(str::to_owned)
    }

    /// The processes whose command name is `name`.
    pub(super) fn is_running(&self, name: &str) -> bool {
        self.processes().iter().any(|pid| self.text(&format!("proc/{pid}/comm")).as_deref() == Some(name))
    }

    pub(super) fn processes(&self) -> Vec<u32> {
        self.names("proc").iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The sockets that listen on a TCP port, as inodes. The table can be long: it is read line by line.
    pub(super) fn listeners(&self, port: u16) -> Option<BTreeSet<u64>> {
        const LISTEN: &str = "0A";
        let mut inodes = BTreeSet::new();
        let mut is_read = false;
        for table in ["proc/net/tcp", "proc/net/tcp6"] {
            let Ok(file) = File::open(self.path(table)) else { continue };
            is_read = true;
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let fields: Vec<&str> = line.split_whitespace().take(10).collect();
                let [_, local, _, LISTEN, .., inode] = fields[..] else { continue };
                let local_port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
                if local_port == Some(port)
                    && let Ok(inode) = inode.parse()
                {
                    inodes.insert(inode);
                }
            }
        }
        is_read.then_some(inodes)
    }

    /// Whether io_uring works here, by the engine's own probe.
    pub(super) fn io_uring(&self) -> Option<Result<(), String>> {
        if self.is_real() {
            return Some(ringmill_engine::probe_io_uring());
        }
        let answer = self.text("answers/io_uring")?;
        Some(if answer == "ok" { Ok(()) } else { Err(answer) })
    }

    /// What another program prints; none if it is not installed or fails.
    pub(super) fn program(&self, program: &str, arguments: &[&str]) -> Option<String> {
        if !self.is_real() {
            return self.text(&format!("answers/{program} {}", arguments.join(" ")));
        }
        let output = std::process::Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where a sysctl is, from the root.
pub(super) fn sysctl_path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

/// The word in brackets, or the only word.
pub(super) fn chosen_word(text: &str) -> Option<&str> {
    let in_brackets = |word: &'_ str| word.starts_with('[') && word.ends_with(']') && word.len() > 2;
    let mut words = text.split_whitespace();
    match text.split_whitespace().find(|word| in_brackets(word)) {
        Some(word) => Some(&word[1..word.len() - 1]),
        None => words.next().filter(|_| words.next().is_none()),
    }
}

/// Reads `0-2,5`; a CPU number beyond any machine is refused.
pub(super) fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Writes CPUs as the hexadecimal mask of sysfs: groups of 32 bits, the highest first.
pub(super) fn cpu_mask(cpus: &[usize]) -> String {
    let mut groups = vec![0u32; cpus.iter().max().map_or(1, |cpu| cpu / 32 + 1)];
    for cpu in cpus {
        groups[cpu / 32] |= 1 << (cpu % 32);
    }
    let mut words = groups.iter().rev();
    let first = words.next().map(|group| format!("{group:x}")).unwrap_or_default();
    words.fold(first, |mask, group| format!("{mask},{group:08x}"))
}

fn quota_of(quota: i64, period: i64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_of_cpus() {
        let check = |text, expected: Option<&[usize]>| assert_eq!(parse_cpu_list(text).as_deref(), expected);
        check("0-2,5", Some(&[0, 1, 2, 5]));
        check("", Some(&[]));
        check("3-1", None);
        check("0-99999999", None);
        check("x", None);
        assert_eq!(cpu_mask(&[0, 1]), "3");
        assert_eq!(cpu_mask(&[0, 33]), "2,00000001");
        assert_eq!(cpu_mask(&[]), "0");
    }

    #[test]
    fn chosen_words() {
        let check = |text, expected| assert_eq!(chosen_word(text), expected, "{text}");
        check("always [madvise] never", Some("madvise"));
        check("performance", Some("performance"));
        check("a b", None);
        check("", None);
        check("[]", Some("[]"));
    }
}

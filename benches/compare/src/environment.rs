//! The machine and the versions: what a reader needs to judge whether figures carry over. It only reads.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What was found; what could not be read is left out or says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Environment {
    pub(super) cpu: String,
    pub(super) cpus: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
    pub(super) distribution: String,
    /// The hypervisor, where there is one.
    pub(super) virtual_machine: Option<String>,
    /// The container, where there is one.
    pub(super) container: Option<String>,
    /// Of CPU 0, or why there is none.
    pub(super) governor: String,
    pub(super) smt: String,
    pub(super) clock_source: String,
    pub(super) transparent_huge_pages: String,
    /// What this process may not do.
    pub(super) seccomp: String,
    pub(super) open_files_limit: String,
    pub(super) load_average: String,
    /// By name of the vulnerability.
    pub(super) mitigations: BTreeMap<String, String>,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) ringmill: String,
    pub(super) commit: String,
    pub(super) rustc: String,
    /// How Ringmill and the peers were compiled.
    pub(super) profile: String,
}

/// What bears on sockets and rings.
const SYSCTLS: [&str; 19] = [
    "kernel.io_uring_disabled",
    "kernel.perf_event_paranoid",
    "kernel.sched_autogroup_enabled",
    "net.core.somaxconn",
    "net.core.netdev_max_backlog",
    "net.core.default_qdisc",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rmem_default",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_autocorking",
];

impl Environment {
    /// Reads the machine this runs on.
    pub(super) fn read(checkout: Option<&Path>) -> Environment {
        let mut environment = Environment::of(Path::new("/"));
        environment.cpus = std::thread::available_parallelism().map_or(environment.cpus, usize::from);
        environment.ringmill = env!("CARGO_PKG_VERSION").to_owned();
        environment.commit = checkout.map_or_else(|| "unknown: not in a checkout".to_owned(), commit);
        environment.rustc = said("rustc", &["--version"], None).unwrap_or_else(|| "unknown".to_owned());
        environment.profile = if cfg!(debug_assertions) {
            "Ringmill: WITHOUT optimisation".to_owned()
        } else {
            let flags = option_env!("RUSTFLAGS").filter(|flags| !flags.is_empty()).unwrap_or("none");
            format!(
                "opt-level 3, fat LTO, codegen-units 1, panic unwind, for Ringmill and the peers; RUSTFLAGS {flags}"
            )
        };
        environment
    }

    /// Reads the files of a machine below `root`.
    fn of(root: &Path) -> Environment {
        let machine = Machine(root);
        let cpuinfo = machine.text("proc/cpuinfo").unwrap_or_default();
        let limits = machine.text("proc/self/limits").unwrap_or_default();
        Environment {
            cpu: colon_value(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: machine
                .text("proc/meminfo")
                .and_then(|text| {
                    colon_value(&text, "MemTotal")?.split_whitespace().next()?.parse::<u64>().ok()
                })
                .unwrap_or(0)
                * 1024,
            kernel: machine.line("proc/sys/kernel/osrelease"),
            distribution: machine
                .text("etc/os-release")
                .and_then(|text| {
                    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
                    Some(line.trim_matches('"').to_owned())
                })
                .unwrap_or_else(|| "unknown".to_owned()),
            virtual_machine: machine.virtual_machine(&cpuinfo),
            container: machine.container(),
            governor: machine.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map_or_else(
                || "none visible (the host's, on a virtual machine)".to_owned(),
                |text| trimmed(&text),
            ),
            smt: machine.line("sys/devices/system/cpu/smt/control"),
            clock_source: machine.line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            transparent_huge_pages: machine.line("sys/kernel/mm/transparent_hugepage/enabled"),
            seccomp: machine
                .text("proc/self/status")
                .and_then(|text| colon_value(&text, "Seccomp"))
                .map_or("unknown", |mode| match mode.as_str() {
                    "0" => "none",
                    "1" => "strict",
                    _ => "filter",
                })
                .to_owned(),
            open_files_limit: limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
                .map_or_else(
                    || "unknown".to_owned(),
                    |rest| rest.split_whitespace().take(2).collect::<Vec<_>>().join(" to "),
                ),
            load_average: machine.line("proc/loadavg"),
            mitigations: machine.mitigations(),
            sysctls: SYSCTLS.iter().filter_map(|name| machine.sysctl(name)).collect(),
            ..Environment::default()
        }
    }

    /// All of it as names and values, for people.
    pub(super) fn named(&self) -> Vec<(String, String)> {
        let none = || "none".to_owned();
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        let mut named: Vec<(String, String)> = [
            ("CPU", self.cpu.clone()),
            ("CPUs usable", self.cpus.to_string()),
            ("Memory", format!("{gibibytes:.1} GiB")),
            ("Kernel", self.kernel.clone()),
            ("Distribution", self.distribution.clone()),
            ("Virtual machine", self.virtual_machine.clone().unwrap_or_else(none)),
            ("Container", self.container.clone().unwrap_or_else(none)),
            ("Governor", self.governor.clone()),
            ("SMT", self.smt.clone()),
            ("Clock source", self.clock_source.clone()),
            ("Transparent huge pages", self.transparent_huge_pages.clone()),
            ("Seccomp", self.seccomp.clone()),
            ("Open files", self.open_files_limit.clone()),
            ("Load average at start", self.load_average.clone()),
            ("Ringmill", self.ringmill.clone()),
            ("Commit", self.commit.clone()),
            ("Compiler", self.rustc.clone()),
            ("Build profile", self.profile.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        named.extend(self.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
        named.extend(
            self.mitigations.iter().map(|(name, value)| (format!("Mitigation: {name}"), value.clone())),
        );
        named
    }
}

/// A machine by its files.
struct Machine<'a>(&'a Path);

impl Machine<'_> {
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }

    fn line(&self, path: &str) -> String {
        self.text(path).map_or_else(|| "unknown".to_owned(), |text| trimmed(&text))
    }

    fn exists(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    fn sysctl(&self, name: &str) -> Option<(String, String)> {
        let value = self.text(&format!("proc/sys/{}", name.replace('.', "/")))?;
        Some((name.to_owned(), trimmed(&value)))
    }

    fn mitigations(&self) -> BTreeMap<String, String> {
        let Ok(entries) = fs::read_dir(self.0.join("sys/devices/system/cpu/vulnerabilities")) else {
            return BTreeMap::new();
        };
        let entry = |path: PathBuf| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, trimmed(&fs::read_to_string(path).ok()?)))
        };
        entries.flatten().filter_map(|found| entry(found.path())).collect()
    }

    fn virtual_machine(&self, cpuinfo: &str) -> Option<String> {
        let flags =
            colon_value(cpuinfo, "flags").or_else(|| colon_value(cpuinfo, "Features")).unwrap_or_default();
        let product = ["sys_vendor", "product_name"]
            .iter()
            .filter_map(|name| self.text(&format!("sys/class/dmi/id/{name}")))
            .map(|text| trimmed(&text))
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        let is_virtual = flags.split_whitespace().any(|flag| flag == "hypervisor");
        match (is_virtual, product.as_str()) {
            (false, _) => None,
            (true, "") => Some("yes".to_owned()),
            (true, product) => Some(product.to_owned()),
        }
    }

    fn container(&self) -> Option<String> {
        let cgroup = self.text("proc/1/cgroup").unwrap_or_default();
        if self.exists(".dockerenv") {
            return Some("Docker".to_owned());
        }
        if self.exists("run/.containerenv") {
            return Some("Podman".to_owned());
        }
        if self.exists("var/run/secrets/kubernetes.io") || cgroup.contains("kubepods") {
            return Some("Kubernetes".to_owned());
        }
        let known = ["docker", "containerd", "lxc"];
        known.iter().find(|name| cgroup.contains(*name)).map(|name| (*name).to_owned())
    }
}

fn trimmed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The value of the first line `name : value`.
fn colon_value(text: &str, name: &str) -> Option<String> {
    let line = |line: &str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(line)
}

fn commit(checkout: &Path) -> String {
    let git = |arguments: &[&str]| said("git", arguments, Some(checkout));
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown: git does not tell".to_owned() };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        Some(_) => format!("{commit}, with uncommitted changes"),
        None => commit,
    }
}

/// What a program prints, without the end of line; `None` where it fails.
pub(super) fn said(program: &str, arguments: &[&str], folder: Option<&Path>) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files, removed at the end.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str, files: &[(&str, &str)]) -> Fixture {
            let root = std::env::temp_dir().join(format!("ringmill-machine-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            fs::create_dir_all(&root).unwrap();
            Fixture(root)
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_virtual_machine_with_a_container() {
        let fixture = Fixture::new(
            "docker",
            &[
                (
                    "proc/cpuinfo",
                    "processor\t: 0\nmodel name\t: Some CPU @ 2.5GHz\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\n",
                ),
                ("proc/meminfo", "MemTotal:       1048576 kB\nMemFree: 1 kB\n"),
                ("proc/sys/kernel/osrelease", "6.18.1\n"),
                ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
                ("proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
                (
                    "proc/self/limits",
                    "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files     \n",
                ),
                ("proc/loadavg", "0.10 0.20 0.30 1/200 777\n"),
                ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
                ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
                ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n"),
                ("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n"),
                (".dockerenv", ""),
            ],
        );
        let environment = Environment::of(&fixture.0);
        assert_eq!(environment.cpu, "Some CPU @ 2.5GHz");
        assert_eq!(environment.cpus, 2);
        assert_eq!(environment.memory_bytes, 1 << 30);
        assert_eq!(environment.kernel, "6.18.1");
        assert_eq!(environment.distribution, "Debian GNU/Linux 12");
        assert_eq!(environment.virtual_machine.as_deref(), Some("QEMU"));
        assert_eq!(environment.container.as_deref(), Some("Docker"));
        assert_eq!(environment.seccomp, "filter");
        assert_eq!(environment.open_files_limit, "1024 to 524288");
        assert_eq!(environment.sysctls["net.ipv4.tcp_rmem"], "4096 131072 6291456");
        assert_eq!(environment.sysctls.len(), 1);
        assert_eq!(environment.mitigations["spectre_v2"], "Mitigation: Retpolines");
        assert!(environment.governor.starts_with("none visible"));
        let named = environment.named();
        assert!(named.contains(&("Mitigation: meltdown".to_owned(), "Not affected".to_owned())));
        assert!(named.contains(&("Memory".to_owned(), "1.0 GiB".to_owned())));
    }

    #[test]
    fn a_bare_machine_that_tells_nothing() {
        let governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        let fixture =
            Fixture::new("bare", &[(governor, "performance\n"), ("proc/1/cgroup", "0::/init.scope\n")]);
        let environment = Environment::of(&fixture.0);
        assert_eq!(environment.governor, "performance");
        assert_eq!((environment.container, environment.virtual_machine), (None, None));
        assert_eq!(environment.kernel, "unknown");
        assert_eq!(environment.seccomp, "unknown");
    }

    #[test]
    fn this_machine_can_be_read() {
        let environment = Environment::read(Some(Path::new(env!("CARGO_MANIFEST_DIR"))));
        assert!(environment.cpus > 0 && environment.memory_bytes > 0);
        assert_ne!(environment.kernel, "unknown");
        assert!(environment.sysctls.contains_key("net.core.somaxconn"));
    }
}

//! Whether io_uring may be used, and the limits of the process.

use crate::knob::{Finding, Knob, Scope, Trial};
use crate::machine::Machine;

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "io_uring",
        title: "io_uring is allowed and works",
        what: "Tries the real thing, as the engine does at its start: a ring, a buffer ring, a multishot receive.",
        when: "Where it is refused, Ringmill runs on epoll. It saves system calls; at saturation over loopback epoll took 1.01 to 1.25 times the CPU for small requests, by how dear the host makes a system call, and 0.92 for uploads (one machine).",
        source: "Linux 6.0 or newer is needed for multishot receives (io_uring_enter(2)). kernel.io_uring_disabled: 0 allows all, 1 only members of kernel.io_uring_group and CAP_SYS_ADMIN, 2 nobody (kernel documentation, admin-guide/sysctl/kernel.rst). Docker (moby pull request 46762) and containerd (pull request 9320) took io_uring out of their default profiles because of its record of vulnerabilities.",
        measured: "CPU a request, epoll driver over io_uring driver: 0.95 (0.69 to 1.17) with 64 connections, 1.00 (0.73 to 1.16) with 512; loopback, 2-core virtual machine, Linux 6.18 (benches/README.md). No difference beyond the noise.",
        risk: "io_uring adds to what an attacker inside the process can reach in the kernel; that is why it is forbidden in many places.",
        apply: "Host: `sysctl kernel.io_uring_disabled=0`. Container: tuning/seccomp/ringmill.json (see tuning/containers.md). Doctor does not change it: it is a decision about security.",
        undo: "Set the sysctl back, start the container with its default profile, or run `ringmill serve --driver poll`.",
        scope: Scope::Host,
        probe: io_uring,
        settings: None,
        trial: Trial::Serve { before: &["--driver", "poll"], after: &["--driver", "uring"] },
    },
    Knob {
        name: "seccomp",
        title: "Seccomp filter of the process",
        what: "A filter of system calls that a container or a service unit puts on the process.",
        when: "Look here when io_uring is refused with EPERM or ENOSYS although the sysctl allows it.",
        source: "Seccomp in /proc/PID/status: 0 off, 1 strict, 2 filter (proc_pid_status(5)). A filter costs time in every system call; how much depends on the filter and on the kernel (since 5.11 it caches what is always allowed: seccomp constant-action bitmaps).",
        measured: "not measured",
        risk: "Without a filter an attacker inside the process reaches the whole kernel. Widen the filter by the three io_uring calls instead of switching it off.",
        apply: "`docker run --security-opt seccomp=tuning/seccomp/ringmill.json` (tuning/containers.md); in a service unit, SystemCallFilter as in tuning/systemd/ringmill.service.",
        undo: "Start the container or the service with its former profile.",
        scope: Scope::Process,
        probe: seccomp,
        settings: None,
        trial: Trial::No("a running process cannot take its filter off"),
    },
    Knob {
        name: "memlock",
        title: "Limit of locked memory",
        what: "RLIMIT_MEMLOCK: memory that a process may keep from being swapped.",
        when: "Only where setting up a ring fails with ENOMEM, on kernels before 5.12 that count rings against the limit.",
        source: "io_uring_setup(2), ENOMEM: before Linux 5.12 ring memory counted against RLIMIT_MEMLOCK of unprivileged users; since then only registered buffers do, and Ringmill registers none.",
        measured: "not measured",
        risk: "Locked memory cannot be reclaimed; a limit protects the other users of the machine.",
        apply: "LimitMEMLOCK= in the service unit, `--ulimit memlock=` for a container, /etc/security/limits.conf for logins.",
        undo: "Take the line away and start again.",
        scope: Scope::Process,
        probe: memlock,
        settings: None,
        trial: Trial::No("the limit decides whether a ring can be had, not how fast it is"),
    },
    Knob {
        name: "nofile",
        title: "Limit of open descriptors",
        what: "RLIMIT_NOFILE: each connection takes one. `ringmill serve` raises its soft limit to the hard one and divides it by the workers, less a reserve for other descriptors and the backlog.",
        when: "When more connections are expected than the hard limit allows: further ones wait in the kernel's queue.",
        source: "getrlimit(2); systemd's default is 1024 soft and 524288 hard, the soft one kept low for programs that use select(2) (systemd.exec(5), LimitNOFILE).",
        measured: "not measured: it is a limit, not a speed",
        risk: "An idle connection costs memory in the kernel; a high limit lets a flood of them take it.",
        apply: "LimitNOFILE= in the service unit, `--ulimit nofile=` for a container, /etc/security/limits.conf for logins.",
        undo: "Take the line away and start again.",
        scope: Scope::Process,
        probe: nofile,
        settings: None,
        trial: Trial::No("it is a limit, not a speed"),
    },
];

/// Fewer descriptors than this a server meets sooner than it expects: the kernel's own default of the hard limit.
const DESCRIPTORS_FEW: u64 = 4096;
/// Enough for the number of connections that most machines have memory for.
const DESCRIPTORS_GOOD: u64 = 65_536;

fn io_uring(machine: &Machine) -> Finding {
    let sysctl = match machine.sysctl("kernel.io_uring_disabled").as_deref() {
        Some("0") => "; kernel.io_uring_disabled is 0",
        Some("1") => "; kernel.io_uring_disabled is 1: only for its group and for privileged processes",
        Some("2") => "; kernel.io_uring_disabled is 2: for nobody",
        _ => "",
    };
    match machine.io_uring() {
        Some(Ok(())) => Finding::ok(format!("a ring, a buffer ring and a multishot receive work{sysctl}")),
        Some(Err(reason)) => Finding::warn(
            format!("refused: {reason}{sysctl}"),
            "nothing must be done: serve runs on epoll. To allow io_uring, see tuning/containers.md",
        ),
        None => Finding::skip("not asked: this is not the real machine"),
    }
}

fn seccomp(machine: &Machine) -> Finding {
    let Some(mode) = machine.status("Seccomp") else {
        return Finding::skip("/proc/self/status does not say: a kernel without seccomp, or a sandbox");
    };
    match (mode.as_str(), machine.io_uring()) {
        ("0", _) => Finding::ok("no filter"),
        ("2", Some(Err(_))) => Finding::warn(
            "a filter is active, and io_uring is refused",
            "allow io_uring_setup, io_uring_enter and io_uring_register in it (tuning/seccomp/ringmill.json)",
        ),
        ("2", _) => Finding::ok("a filter is active, and io_uring passes it"),
        ("1", _) => Finding::fail("strict mode: no socket can be opened", "start it without strict seccomp"),
        (mode, _) => Finding::skip(format!("mode {mode:?} is not known")),
    }
}

fn memlock(machine: &Machine) -> Finding {
    let Some((soft, _)) = machine.limit("Max locked memory") else {
        return Finding::skip("/proc/self/limits does not say");
    };
    let evidence = match soft {
        u64::MAX => "unlimited".to_owned(),
        bytes => format!("{}", bytesize::ByteSize(bytes)),
    };
    match machine.io_uring() {
        Some(Err(reason)) if reason.contains("ulimit -l") => Finding::fail(
            format!("{evidence}, and setting up a ring fails for want of it"),
            "raise it to 64 MiB: `ulimit -l`, LimitMEMLOCK=64M, `docker run --ulimit memlock=67108864`",
        ),
        _ => Finding::ok(format!("{evidence}; rings do not count against it since Linux 5.12")),
    }
}

fn nofile(machine: &Machine) -> Finding {
    let Some((soft, hard)) = machine.limit("Max open files") else {
        return Finding::skip("/proc/self/limits does not say");
    };
    let workers = machine.workers() as u64;
    let connections = (hard.min(1 << 31) / workers.max(1)).saturating_sub(64);
    let evidence =
        format!("soft {soft}, hard {hard}: about {connections} connections for each of {workers} worker(s)");
    let advice =
        "raise the hard limit: LimitNOFILE=1048576 in the unit, `docker run --ulimit nofile=1048576`";
    match hard {
        0..DESCRIPTORS_FEW => Finding::fail(evidence, advice),
        DESCRIPTORS_FEW..DESCRIPTORS_GOOD => Finding::warn(evidence, advice),
        _ => Finding::ok(evidence),
    }
}

//! TCP: queues of new connections, congestion control, buffers, ports.

use crate::knob::{Finding, Knob, Scope, Setting, Trial};
use crate::machine::{Machine, parse_cpu_list};

const NETSTAT: &str = "proc/net/netstat";

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "somaxconn",
        title: "Queue of connections that wait to be accepted",
        what: "net.core.somaxconn caps the backlog that listen(2) asks for; each worker's listener has a queue of its own. A full queue drops handshakes, and the next try comes a second later.",
        when: "Many clients that connect at once: after a restart, behind a load balancer, one request a connection.",
        source: "listen(2): the backlog is silently capped at somaxconn, 4096 since Linux 5.4, 128 before. ListenOverflows in /proc/net/netstat counts what a full queue dropped.",
        measured: "not measured",
        risk: "A longer queue holds connections that may have been given up when they are served; it takes memory only when it fills.",
        apply: "`ringmill doctor --apply somaxconn`, and `ringmill serve --backlog N`. Takes effect for listeners that are opened later.",
        undo: "`ringmill doctor --revert`, or set the old value.",
        scope: Scope::Network,
        probe: somaxconn,
        settings: Some(|machine| raised(machine, "net.core.somaxconn", machine.asked.backlog)),
        trial: Trial::Settings,
    },
    Knob {
        name: "syn_backlog",
        title: "Handshakes in progress, and SYN cookies",
        what: "net.ipv4.tcp_syncookies keeps a port open when more handshakes are in progress than the listener's backlog; without cookies net.ipv4.tcp_max_syn_backlog limits them as well.",
        when: "SYN floods, and bursts of clients with long round trips.",
        source: "Kernel documentation, networking/ip-sysctl.rst: tcp_syncookies is on by default, as a fallback and not for legal load; where cookies are sent under legal load, raise the queues.",
        measured: "not measured",
        risk: "None known for cookies as a fallback: a connection made by a cookie loses some TCP options.",
        apply: "`ringmill doctor --apply syn_backlog`; the backlog itself is `ringmill serve --backlog N`.",
        undo: "`ringmill doctor --revert`, or set the old values.",
        scope: Scope::Network,
        probe: syn_backlog,
        settings: Some(|machine| {
            let mut settings = raised(machine, "net.ipv4.tcp_syncookies", 1);
            settings.extend(raised(machine, "net.ipv4.tcp_max_syn_backlog", machine.asked.backlog));
            settings
        }),
        trial: Trial::No("it matters in floods, which the measurement does not make"),
    },
    Knob {
        name: "tcp_migrate_req",
        title: "Connections of a closing listener move to another one",
        what: "net.ipv4.tcp_migrate_req hands handshakes and waiting connections of a SO_REUSEPORT listener that closes to another listener of the port, instead of resetting them.",
        when: "Restarts where the new process listens before the old one ends. Ringmill accepts what waits before it closes; handshakes in progress are what is left.",
        source: "Kernel documentation, networking/ip-sysctl.rst (Linux 5.14): otherwise in-flight handshakes and the accept queue are aborted.",
        measured: "not measured: it saves connections, not time",
        risk: "The listeners of a port must have the same options; the documentation warns of programs whose listeners differ.",
        apply: "`ringmill doctor --apply tcp_migrate_req`.",
        undo: "`ringmill doctor --revert`, or set it to 0.",
        scope: Scope::Network,
        probe: tcp_migrate_req,
        settings: Some(|machine| raised(machine, "net.ipv4.tcp_migrate_req", 1)),
        trial: Trial::No("it saves connections at a restart, not time"),
    },
    Knob {
        name: "congestion",
        title: "Congestion control",
        what: "How fast TCP sends. BBR paces every connection by timers; cubic and reno follow losses.",
        when: "Near clients (same machine, same data centre): cubic or reno cost less CPU. Far clients over lossy links are what BBR was made for.",
        source: "Cardwell and others, \"BBR: congestion-based congestion control\", ACM Queue 14(5), 2016: higher throughput than cubic on paths with loss.",
        measured: "BBR took about 4% more CPU a request than reno: keep-alive, loopback, 2-core virtual machine, Linux 6.18.",
        risk: "On lossy paths reno and cubic send slower. The choice of one service also affects who shares the link with it.",
        apply: "`ringmill serve --congestion cubic`: for this service alone. For all, `sysctl net.ipv4.tcp_congestion_control=cubic`.",
        undo: "Leave the option out.",
        scope: Scope::Network,
        probe: congestion,
        settings: None,
        trial: Trial::Serve { before: &[], after: &["--congestion", "reno"] },
    },
    Knob {
        name: "defer_accept",
        title: "Accepting once there is a request",
        what: "TCP_DEFER_ACCEPT hands a connection to the server only when its first bytes are there: one wake-up for both instead of two.",
        when: "Short connections, one or few requests each, where the client speaks first, as in HTTP.",
        source: "tcp(7): TCP_DEFER_ACCEPT. Apache httpd has it on by default on Linux (AcceptFilter http data).",
        measured: "CPU a request 0.915 (0.903 to 0.926) of what it is without: a new connection for every request, 16 pairs of 0.4 s, loopback, 2-core virtual machine (EPYC), Linux 6.18, io_uring. Keep-alive connections gain nothing.",
        risk: "Until a client has sent something it is not among the connections: not counted, not limited, not timed out before the time is over, and reset when the server ends, as if the server had not answered yet. Clients that connect and stay silent fill the queue of half-open connections meanwhile: once they are as many as the backlog, SYN cookies are sent, with which nothing is deferred (300 silent clients, backlog 64: 236 of them were accepted at once).",
        apply: "`ringmill serve --defer-accept 5s`.",
        undo: "Leave the option out.",
        scope: Scope::Process,
        probe: |_| Finding::ok("an option of serve for short connections, off unless asked for"),
        settings: None,
        trial: Trial::No(
            "its load keeps connections: compare `ringmill load --requests-per-connection 1` with and without",
        ),
    },
    Knob {
        name: "qdisc",
        title: "Queue discipline",
        what: "net.core.default_qdisc orders packets before a network card sends them. With fq, BBR's pacing happens there; otherwise TCP uses a timer for each connection.",
        when: "BBR with many connections over a network card. Loopback and other virtual devices have no queue.",
        source: "Kernel documentation, admin-guide/sysctl/net.rst: pfifo_fast by default; virtual devices such as lo or veth ignore it. tc-fq(8): made for pacing.",
        measured: "not measured",
        risk: "Changing the discipline of a running card drops what is queued.",
        apply: "`sysctl net.core.default_qdisc=fq` before the card comes up, or `tc qdisc replace dev IFACE root fq` (a card with several queues: mq with fq below).",
        undo: "`tc qdisc replace dev IFACE root pfifo_fast`, and the old value of the sysctl.",
        scope: Scope::Host,
        probe: qdisc,
        settings: None,
        trial: Trial::No("loopback has no queue discipline"),
    },
    Knob {
        name: "socket_buffers",
        title: "TCP buffers",
        what: "net.ipv4.tcp_rmem and tcp_wmem: least, first and greatest size of a connection's buffers. The kernel grows them as the path needs.",
        when: "Large replies or uploads over long paths: a path of 1 Gbit/s and 100 ms needs 12 MB in flight. Small requests do not need it.",
        source: "Kernel documentation, networking/ip-sysctl.rst: the kernel sets the greatest values by the machine's memory, in most releases up to 6 MiB to receive and 4 MiB to send, and tcp_moderate_rcvbuf adjusts the receive side.",
        measured: "not measured",
        risk: "Memory: each slow connection may fill its buffers. net.ipv4.tcp_mem bounds the sum.",
        apply: "`ringmill doctor --apply socket_buffers` raises the greatest values to 6 and 4 MiB and leaves the others.",
        undo: "`ringmill doctor --revert`, or set the old values.",
        scope: Scope::Network,
        probe: socket_buffers,
        settings: Some(|machine| {
            let sizes = [("net.ipv4.tcp_rmem", RECV_BYTES), ("net.ipv4.tcp_wmem", SEND_BYTES)];
            let setting = |(name, bytes): (&str, u64)| {
                let [least, first, greatest] = machine.sysctl_numbers(name)?;
                Some(Setting::sysctl(name, format!("{least} {first} {}", greatest.max(bytes))))
            };
            sizes.into_iter().filter_map(setting).collect()
        }),
        trial: Trial::Settings,
    },
    Knob {
        name: "port_range",
        title: "Ports of outgoing connections",
        what: "net.ipv4.ip_local_port_range: one client address can have that many connections to one server port, those in TIME_WAIT included.",
        when: "Load generators and proxies. A server does not need it. The server's own port should not be one that an outgoing connection may take first.",
        source: "Kernel documentation, networking/ip-sysctl.rst: 32768 to 60999 by default; ip_local_reserved_ports keeps ports out of it.",
        measured: "not measured: it is a limit, not a speed",
        risk: "A wide range contains ports that services want; reserve those.",
        apply: "`ringmill doctor --apply port_range` (1024 to 65535, with --port reserved).",
        undo: "`ringmill doctor --revert`, or set the old values.",
        scope: Scope::Network,
        probe: port_range,
        settings: Some(port_range_settings),
        trial: Trial::No("it is a limit, not a speed"),
    },
    Knob {
        name: "tw_reuse",
        title: "Reuse of ports in TIME_WAIT",
        what: "net.ipv4.tcp_tw_reuse lets an outgoing connection take a port whose last connection ended a second ago. 2 allows it on loopback, 1 everywhere.",
        when: "Load generators with one request a connection. It does nothing for the accepting side.",
        source: "Kernel documentation, networking/ip-sysctl.rst: 2 by default since Linux 4.19; \"should not be changed without advice\".",
        measured: "not measured",
        risk: "With 1, delayed packets of an old connection rely on timestamps to be told apart.",
        apply: "`ringmill doctor --apply tw_reuse` (2, if it is 0); on a load generator of its own, `sysctl net.ipv4.tcp_tw_reuse=1`.",
        undo: "`ringmill doctor --revert`, or set the old value.",
        scope: Scope::Network,
        probe: tw_reuse,
        settings: Some(|machine| match machine.sysctl_number("net.ipv4.tcp_tw_reuse") {
            Some(1) => vec![Setting::sysctl("net.ipv4.tcp_tw_reuse", 1)],
            Some(_) => vec![Setting::sysctl("net.ipv4.tcp_tw_reuse", 2)],
            None => Vec::new(),
        }),
        trial: Trial::No(
            "it lets a client go on where ports run out, and the measurement keeps its connections",
        ),
    },
    Knob {
        name: "kernel_tls",
        title: "TLS in the kernel",
        what: "With the TLS upper layer protocol (CONFIG_TLS) the kernel encrypts what a program sends, or files that it sends itself. Ringmill does not use it: its TLS is rustls.",
        when: "It matters to nothing here. Doctor tells it, because a comparison with a server that uses it depends on it.",
        source: "Kernel documentation, networking/tls.rst. tcp_available_ulp lists what is loaded: a module comes in when the first program asks for it.",
        measured: "not measured: the kernels at hand have none",
        risk: "None is known of merely having it.",
        apply: "Nothing to apply.",
        undo: "Nothing to undo.",
        scope: Scope::Host,
        probe: kernel_tls,
        settings: None,
        trial: Trial::No("Ringmill does not use it"),
    },
];

/// The kernel's own default of the greatest receive buffer, where memory allows.
const RECV_BYTES: u64 = 6 << 20;
const SEND_BYTES: u64 = 4 << 20;
/// Ports of the default range.
const PORTS: u64 = 28_232;

/// A sysctl that should be at least so high. Nothing where it cannot be read.
fn raised(machine: &Machine, name: &str, least: u64) -> Vec<Setting> {
    let current = machine.sysctl_number(name);
    current.map(|current| Setting::sysctl(name, current.max(least))).into_iter().collect()
}

fn somaxconn(machine: &Machine) -> Finding {
    let Some(limit) = machine.sysctl_number("net.core.somaxconn") else {
        return Finding::unreadable(machine, "net.core.somaxconn");
    };
    let backlog = machine.asked.backlog;
    let overflows = machine.counter(NETSTAT, "TcpExt", "ListenOverflows");
    let counted = match overflows {
        Some(count) => format!("{count} ListenOverflows since boot"),
        None => "ListenOverflows cannot be read".to_owned(),
    };
    let evidence = format!("somaxconn {limit}, backlog {backlog}; {counted}");
    match (limit < backlog, overflows.unwrap_or(0) > 0) {
        (true, true) => Finding::fail(evidence, format!("set net.core.somaxconn to {backlog}")),
        (true, false) => Finding::warn(evidence, format!("set net.core.somaxconn to {backlog}")),
        (false, true) => Finding::warn(
            evidence,
            "a queue was full at some time, of this or another service. If the count grows: more workers, or \
             somaxconn and --backlog higher",
        ),
        (false, false) => Finding::ok(evidence),
    }
}

fn syn_backlog(machine: &Machine) -> Finding {
    let Some(cookies) = machine.sysctl_number("net.ipv4.tcp_syncookies") else {
        return Finding::unreadable(machine, "net.ipv4.tcp_syncookies");
    };
    let Some(backlog) = machine.sysctl_number("net.ipv4.tcp_max_syn_backlog") else {
        return Finding::unreadable(machine, "net.ipv4.tcp_max_syn_backlog");
    };
    let count = |name| machine.counter(NETSTAT, "TcpExt", name).unwrap_or(0);
    let (dropped, sent) = (count("TCPReqQFullDrop"), count("TCPReqQFullDoCookies"));
    let evidence = format!(
        "tcp_syncookies {cookies}, tcp_max_syn_backlog {backlog}; full queue since boot: {sent} cookies, {dropped} dropped"
    );
    match (cookies, dropped + sent) {
        (0, _) => Finding::fail(
            evidence,
            "set net.ipv4.tcp_syncookies to 1: without it a SYN flood closes the port",
        ),
        (_, 0) => Finding::ok(evidence),
        _ => Finding::warn(evidence, "if that was legal load, raise somaxconn and --backlog"),
    }
}

fn tcp_migrate_req(machine: &Machine) -> Finding {
    match machine.sysctl_number("net.ipv4.tcp_migrate_req") {
        Some(0) => Finding::warn(
            "0: handshakes in progress are reset when their listener closes",
            "set it to 1 if a new process takes over the port of an old one",
        ),
        Some(_) => Finding::ok("1: they move to another listener of the port"),
        None => Finding::unreadable(machine, "net.ipv4.tcp_migrate_req"),
    }
}

fn congestion(machine: &Machine) -> Finding {
    let Some(name) = machine.sysctl("net.ipv4.tcp_congestion_control") else {
        return Finding::unreadable(machine, "net.ipv4.tcp_congestion_control");
    };
    if name.is_empty() || !name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_') {
        return Finding::unreadable(machine, "net.ipv4.tcp_congestion_control");
    }
    let available = machine.sysctl("net.ipv4.tcp_available_congestion_control").unwrap_or_default();
    let found = Finding::ok(format!("{name} (available: {available})"));
    match name.as_str() {
        "bbr" => found.hint("for near clients `serve --congestion cubic` saves CPU; keep BBR for far ones"),
        _ => found,
    }
}

fn qdisc(machine: &Machine) -> Finding {
    let Some(name) = machine.sysctl("net.core.default_qdisc") else {
        return Finding::unreadable(machine, "net.core.default_qdisc");
    };
    let is_bbr = machine.sysctl("net.ipv4.tcp_congestion_control").as_deref() == Some("bbr");
    match (is_bbr, name.as_str()) {
        (_, "") => Finding::unreadable(machine, "net.core.default_qdisc"),
        (true, "fq") | (false, _) => Finding::ok(name),
        (true, _) => Finding::ok(format!("{name}; BBR is paced by a timer for each connection"))
            .hint("with BBR over a network card, try fq"),
    }
}

fn socket_buffers(machine: &Machine) -> Finding {
    let read = |name| machine.sysctl_numbers::<3>(name).ok_or_else(|| Finding::unreadable(machine, name));
    let (recv, send) = match (read("net.ipv4.tcp_rmem"), read("net.ipv4.tcp_wmem")) {
        (Ok(recv), Ok(send)) => (recv[2], send[2]),
        (Err(finding), _) | (_, Err(finding)) => return finding,
    };
    let pressure = machine.counter(NETSTAT, "TcpExt", "TCPMemoryPressures").unwrap_or(0);
    let evidence =
        format!("greatest {recv} to receive and {send} to send; {pressure} times short of memory since boot");
    match (recv < RECV_BYTES || send < SEND_BYTES, pressure) {
        (true, _) => Finding::warn(evidence, "for large bodies over long paths raise the greatest values"),
        (false, 0) => Finding::ok(evidence),
        (false, _) => Finding::warn(
            evidence,
            "TCP ran short of memory: fewer connections, or a higher net.ipv4.tcp_mem",
        ),
    }
}

fn port_range(machine: &Machine) -> Finding {
    let Some([first, last]) = machine.sysctl_numbers("net.ipv4.ip_local_port_range") else {
        return Finding::unreadable(machine, "net.ipv4.ip_local_port_range");
    };
    let count = last.saturating_add(1).saturating_sub(first);
    let port = machine.asked.port;
    let reserved = machine.sysctl("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
    let is_reserved = is_reserved(&reserved, port).unwrap_or(false);
    let evidence = format!("{first} to {last}: {count} connections from one address to one port");
    if (first..=last).contains(&u64::from(port)) && !is_reserved {
        let advice = format!("add {port} to net.ipv4.ip_local_reserved_ports");
        return Finding::warn(
            format!("{evidence}; port {port} is within, and an outgoing connection may take it"),
            advice,
        );
    }
    match count {
        0..PORTS => Finding::warn(evidence, "widen it, if this machine makes load or is a proxy"),
        _ => Finding::ok(evidence),
    }
}

/// Whether a port is in a list such as `8080,9000-9009`, which is written as a list of CPUs is; `None` if it is
/// no list.
fn is_reserved(list: &str, port: u16) -> Option<bool> {
    parse_cpu_list(list).map(|ports| ports.contains(&usize::from(port)))
}

fn port_range_settings(machine: &Machine) -> Vec<Setting> {
    let port = machine.asked.port;
    let Some(list) = machine.sysctl("net.ipv4.ip_local_reserved_ports") else { return Vec::new() };
    let is_range = machine.sysctl_numbers::<2>("net.ipv4.ip_local_port_range").is_some();
    let list = match (is_reserved(&list, port), list.as_str()) {
        (Some(true), _) => list,
        (Some(false), "") => port.to_string(),
        (Some(false), _) => format!("{list},{port}"),
        (None, _) => return Vec::new(),
    };
    if !is_range {
        return Vec::new();
    }
    // Reserved before the range is widened: no moment in which the port can be taken.
    vec![
        Setting::sysctl("net.ipv4.ip_local_reserved_ports", list),
        Setting::sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
    ]
}

fn tw_reuse(machine: &Machine) -> Finding {
    let overflows = machine.counter(NETSTAT, "TcpExt", "TCPTimeWaitOverflow").unwrap_or(0);
    let more = format!("{overflows} times too many in TIME_WAIT since boot");
    match machine.sysctl_number("net.ipv4.tcp_tw_reuse") {
        Some(0) => Finding::warn(
            format!("0: off; {more}"),
            "set it to 2, the kernel's default, if this machine makes load",
        ),
        Some(1) => Finding::ok(format!("1: everywhere; {more}")),
        Some(2) => Finding::ok(format!("2: on loopback; {more}")),
        _ => Finding::unreadable(machine, "net.ipv4.tcp_tw_reuse"),
    }
}

fn kernel_tls(machine: &Machine) -> Finding {
    let Some(loaded) = machine.sysctl("net.ipv4.tcp_available_ulp") else {
        return Finding::unreadable(machine, "net.ipv4.tcp_available_ulp");
    };
    let is_loaded = loaded.split_whitespace().any(|name| name == "tls");
    if is_loaded {
        return Finding::ok("it is there (tcp_available_ulp has tls)");
    }
    match kernel_tls_built(machine) {
        Some(true) => Finding::ok("it is there, as a module that is not loaded (CONFIG_TLS)"),
        Some(false) => Finding::ok("it is not there (CONFIG_TLS is not set)"),
        None => Finding::skip("it is not loaded, and no file tells whether there is a module"),
    }
}

/// Whether the running kernel was built with it; `None` if no file tells.
fn kernel_tls_built(machine: &Machine) -> Option<bool> {
    let release = machine.sysctl("kernel.osrelease")?;
    let config = machine.text(&format!("boot/config-{release}"));
    let config = config.or_else(|| machine.program("zcat", &["/proc/config.gz"]));
    if let Some(config) = config {
        let is_set = |line: &str| matches!(line.trim(), "CONFIG_TLS=y" | "CONFIG_TLS=m");
        return Some(config.lines().any(is_set));
    }
    let modules = machine.text(&format!("lib/modules/{release}/modules.dep"))?;
    // With or without a suffix for how it is compressed.
    Some(modules.lines().any(|line| line.contains("/net/tls/tls.ko")))
}

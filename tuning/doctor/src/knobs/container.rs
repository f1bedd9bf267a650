//! What else is on the machine: connection tracking, and other programs on the port.

use crate::knob::{Finding, Knob, Scope, Setting, Trial};
use crate::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "conntrack",
        title: "Connection tracking",
        what: "A stateful firewall or NAT remembers every connection in a table. When it is full, new connections are dropped.",
        when: "The table is nearly full; or the port needs no tracking, and its cost for each packet is to be saved.",
        source: "Kernel documentation, networking/nf_conntrack-sysctl.rst: nf_conntrack_count, nf_conntrack_max. iptables-extensions(8): the CT target's --notrack.",
        measured: "not measured",
        risk: "A larger table takes memory. Packets that are not tracked cannot be matched by state or translated.",
        apply: "`ringmill doctor --apply conntrack` doubles the maximum when it is nearly full; `nft add rule ... notrack` for the port.",
        undo: "`ringmill doctor --revert`, or set the old value; delete the rule.",
        scope: Scope::Host,
        probe: conntrack,
        settings: Some(|machine| match (machine.sysctl_number(COUNT), machine.sysctl_number(MAX)) {
            (Some(count), Some(max)) if is_nearly_full(count, max) => {
                vec![Setting::sysctl(MAX, max.saturating_mul(2))]
            }
            _ => Vec::new(),
        }),
        trial: Trial::No("the traffic over loopback is seldom tracked as the real traffic is"),
    },
    Knob {
        name: "port",
        title: "Other programs on the port",
        what: "SO_REUSEPORT lets several processes of one user listen on a port. The kernel deals connections among all their sockets.",
        when: "Requests that vanish: an old server still runs and gets its share.",
        source: "socket(7), SO_REUSEPORT. `ringmill serve` refuses to start on a port where somebody listens.",
        measured: "not measured: it is a fault, not a speed",
        risk: "Ending the wrong process ends its service.",
        apply: "End the other process, or choose another port (`ringmill serve --listen`).",
        undo: "Start it again.",
        scope: Scope::Network,
        probe: port,
        settings: None,
        trial: Trial::No("it is a fault, not a speed"),
    },
];

const COUNT: &str = "net.netfilter.nf_conntrack_count";
const MAX: &str = "net.netfilter.nf_conntrack_max";

fn is_nearly_full(count: u64, max: u64) -> bool {
    count >= max / 5 * 4
}

fn conntrack(machine: &Machine) -> Finding {
    if !machine.exists("proc/sys/net/netfilter") {
        return Finding::ok("not in use");
    }
    let Some(count) = machine.sysctl_number(COUNT) else { return Finding::unreadable(machine, COUNT) };
    let Some(max) = machine.sysctl_number(MAX) else { return Finding::unreadable(machine, MAX) };
    let evidence = format!("{count} of {max} entries");
    match (count >= max, is_nearly_full(count, max)) {
        (true, _) => Finding::fail(evidence, "full: new connections are dropped. Raise nf_conntrack_max"),
        (false, true) => {
            Finding::warn(evidence, "nearly full: raise nf_conntrack_max, or do not track the port")
        }
        (false, false) => Finding::ok(evidence),
    }
}

fn port(machine: &Machine) -> Finding {
    let port = machine.asked.port;
    let Some(sockets) = machine.listeners(port) else {
        return Finding::skip("/proc/net/tcp cannot be read");
    };
    if sockets.is_empty() {
        return Finding::ok(format!("nobody listens on port {port}"));
    }
    let (owners, unowned) = owners(machine, &sockets);
    let mut list: Vec<String> = owners.iter().map(|(pid, name)| format!("{name} ({pid})")).collect();
    if unowned {
        list.push("a process that cannot be seen from here".to_owned());
    }
    let evidence = format!("{} socket(s) listen on port {port}: {}", sockets.len(), list.join(", "));
    match (owners.len() + usize::from(unowned), owners.values().next().map(String::as_str)) {
        (1, Some("ringmill")) => Finding::ok(evidence),
        (1, _) => Finding::warn(evidence, "the port is taken: end that process, or choose another port"),
        _ => Finding::fail(evidence, "several processes share the connections of the port: end all but one"),
    }
}

/// Who has these sockets open, by process id and command; and whether some have an owner that cannot be seen. A
/// socket that a process shares with its children counts as its own: they are one service.
fn owners(machine: &Machine, sockets: &BTreeSet<u64>) -> (BTreeMap<u32, String>, bool) {
    let mut unseen = sockets.clone();
    let mut owners = BTreeMap::new();
    // By number, so mostly the parent first.
    for pid in machine.processes() {
        for fd in machine.names(&format!("proc/{pid}/fd")) {
            let Ok(target) = std::fs::read_link(machine.path(&format!("proc/{pid}/fd/{fd}"))) else {
                continue;
            };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if inode.is_some_and(|inode| unseen.remove(&inode)) {
                let name = machine.text(&format!("proc/{pid}/comm")).unwrap_or_default();
                owners.insert(pid, name);
            }
        }
    }
    (owners, !unseen.is_empty())
}

//! UDP buffers, and offloads that join and split packets.

use crate::knob::{Finding, Knob, NOT_OVER_LOOPBACK, Scope, Setting, Trial};
use crate::machine::Machine;

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "udp_buffers",
        title: "Drops of UDP, and its receive buffer",
        what: "A datagram that finds the socket's buffer full is dropped. Ringmill asks for 1 MiB (`Config::datagram_queue_bytes`), which the kernel cuts to net.core.rmem_max; a larger net.core.rmem_default stays.",
        when: "RcvbufErrors grow: bursts that are longer than the buffer. A server that is too slow for its load needs workers, not buffers.",
        source: "Kernel documentation, admin-guide/sysctl/net.rst (rmem_default, rmem_max); RcvbufErrors in /proc/net/snmp is the counter UDP_MIB_RCVBUFERRORS.",
        measured: "not measured",
        risk: "Every socket of the machine that sets no size may take as much; a long queue adds latency.",
        apply: "`ringmill doctor --apply udp_buffers` raises both to 4 MiB at least. For sockets that are opened later.",
        undo: "`ringmill doctor --revert`, or set the old values.",
        scope: Scope::Host,
        probe: udp_buffers,
        settings: Some(|machine| {
            let setting = |name| Some(Setting::sysctl(name, machine.sysctl_number(name)?.max(BUFFER_BYTES)));
            // The maximum first, for a kernel that checks one against the other.
            ["net.core.rmem_max", "net.core.rmem_default"].into_iter().filter_map(setting).collect()
        }),
        trial: Trial::No(
            "drops depend on the bursts of the real traffic: watch RcvbufErrors before and after",
        ),
    },
    Knob {
        name: "gro_gso",
        title: "Joining received and splitting sent packets",
        what: "GRO joins packets of one connection before TCP sees them; GSO and TSO let TCP hand down large pieces that are split late, by the card if it can. Ringmill's UDP sends trains of datagrams by UDP_SEGMENT, which GSO splits.",
        when: "Large bodies. For requests of one packet GRO has nothing to join and costs a look at each packet.",
        source: "Kernel documentation, networking/segmentation-offloads.rst. On by default.",
        measured: "not measured",
        risk: "Off, large transfers cost several times the packets. A router or bridge must not join with LRO (it cannot be undone); GRO can.",
        apply: "`ethtool -K IFACE gro on gso on tso on`.",
        undo: "`ethtool -K IFACE gro off`, and so on.",
        scope: Scope::Host,
        probe: gro_gso,
        settings: None,
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
];

const BUFFER_BYTES: u64 = 4 << 20;

fn udp_buffers(machine: &Machine) -> Finding {
    let Some(size) = machine.sysctl_number("net.core.rmem_default") else {
        return Finding::unreadable(machine, "net.core.rmem_default");
    };
    let Some(dropped) = machine.counter("proc/net/snmp", "Udp", "RcvbufErrors") else {
        return Finding::skip(format!("rmem_default {size}; RcvbufErrors cannot be read"));
    };
    let dropped_v6 = machine.text("proc/net/snmp6").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")?.trim().parse::<u64>().ok())
    });
    let dropped = dropped.saturating_add(dropped_v6.unwrap_or(0));
    let evidence = format!("{dropped} datagrams dropped for a full buffer since boot; rmem_default {size}");
    match (dropped, size) {
        (0, _) => Finding::ok(evidence),
        (_, BUFFER_BYTES..) => Finding::warn(
            evidence,
            "if the count grows: the buffer is large already, so give the service more workers",
        ),
        _ => Finding::warn(
            evidence,
            "if the count grows while the CPU is not full: raise net.core.rmem_default",
        ),
    }
}

/// As `ethtool -k` calls them.
const OFFLOADS: [&str; 3] =
    ["generic-receive-offload", "generic-segmentation-offload", "tcp-segmentation-offload"];

fn gro_gso(machine: &Machine) -> Finding {
    let interfaces = machine.interfaces();
    if interfaces.is_empty() {
        return Finding::skip("no network card of its own: a container's is the host's, or there is none");
    }
    let (mut evidence, mut off) = (Vec::new(), Vec::new());
    for interface in interfaces {
        let Some(text) = machine.program("ethtool", &["-k", &interface]) else { continue };
        for offload in OFFLOADS {
            let state = text.lines().find_map(|line| line.trim().strip_prefix(offload)?.strip_prefix(':'));
            // "off [fixed]" is what the card cannot do.
            match state.map(str::trim) {
                Some("off") => off.push(format!("{interface}: {offload}")),
                Some(state) => evidence.push(format!("{interface}: {offload} {state}")),
                None => {}
            }
        }
    }
    match (off.is_empty(), evidence.is_empty()) {
        (true, true) => {
            Finding::skip("`ethtool -k` does not answer, or says nothing that is known: install ethtool")
        }
        (true, false) => Finding::ok(evidence.join(", ")),
        (false, _) => Finding::warn(
            format!("off: {}", off.join(", ")),
            "switch them on, unless it was measured that this traffic is better without",
        ),
    }
}

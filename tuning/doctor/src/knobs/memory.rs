//! Memory: huge pages and NUMA.

use crate::knob::{Finding, Knob, Scope, Setting, Trial};
use crate::machine::{Machine, parse_cpu_list};

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "thp",
        title: "Transparent huge pages",
        what: "The kernel backs memory with 2 MiB pages: for everybody (always), for who asks (madvise), for nobody.",
        when: "Ringmill holds little memory and asks for none. `always` can make sparse memory grow, and joining pages can stall a program for a moment.",
        source: "Kernel documentation, admin-guide/mm/transhuge.rst: with always, applications may use more memory than they touch. Redis advises against always because of latency after fork(2) (redis.io, latency diagnosis).",
        measured: "not measured",
        risk: "Programs with large heaps that profit from always become slower with madvise.",
        apply: "`ringmill doctor --apply thp` (madvise). Gone after a restart of the machine.",
        undo: "`ringmill doctor --revert`, or write the old word.",
        scope: Scope::Host,
        probe: thp,
        settings: Some(|machine| match machine.chosen(THP).as_deref() {
            Some("always" | "madvise" | "never") => vec![Setting::file(THP, "madvise")],
            _ => Vec::new(),
        }),
        trial: Trial::Settings,
    },
    Knob {
        name: "numa",
        title: "NUMA",
        what: "Memory of another socket is farther away. kernel.numa_balancing moves pages to where they are used, by taking faults.",
        when: "Machines with several nodes: run workers on the node of the network card, or one server for each node.",
        source: "Kernel documentation, admin-guide/sysctl/kernel.rst: \"if the target workload is already bound to NUMA nodes then this feature should be disabled\". /sys/class/net/IFACE/device/numa_node says where a card is.",
        measured: "not measured: the machine here has one node",
        risk: "Other programs of the machine that are not bound lose the balancing.",
        apply: "`ringmill serve --pin LIST` with the CPUs of one node (/sys/devices/system/node/nodeN/cpulist); `ringmill doctor --apply numa` switches the balancing off.",
        undo: "`ringmill doctor --revert`, or set it to 1.",
        scope: Scope::Host,
        probe: numa,
        settings: Some(|machine| match (nodes(machine), machine.sysctl_number("kernel.numa_balancing")) {
            (Some(2..), Some(_)) => vec![Setting::sysctl("kernel.numa_balancing", 0)],
            _ => Vec::new(),
        }),
        trial: Trial::Settings,
    },
];

const THP: &str = "sys/kernel/mm/transparent_hugepage/enabled";

fn thp(machine: &Machine) -> Finding {
    match machine.chosen(THP).as_deref() {
        Some(word @ ("madvise" | "never")) => Finding::ok(word),
        Some("always") => Finding::warn("always", "madvise, unless another program here profits from always"),
        _ => Finding::skip("the kernel has none, or does not say"),
    }
}

fn nodes(machine: &Machine) -> Option<usize> {
    Some(parse_cpu_list(&machine.text("sys/devices/system/node/online")?)?.len())
}

fn numa(machine: &Machine) -> Finding {
    let cards: Vec<String> = machine
        .interfaces()
        .into_iter()
        .filter_map(|name| {
            let node = machine.text(&format!("sys/class/net/{name}/device/numa_node"))?;
            (node.parse::<usize>().is_ok()).then(|| format!("{name} is on node {node}"))
        })
        .collect();
    let balancing = machine.sysctl_number("kernel.numa_balancing");
    match (nodes(machine), balancing) {
        (None | Some(0), _) => Finding::skip("the nodes cannot be read: a kernel without NUMA, or a sandbox"),
        (Some(1), _) => Finding::ok("one node"),
        (Some(nodes), Some(1..)) => Finding::warn(
            format!("{nodes} nodes, numa_balancing is on; {}", cards.join(", ")),
            "pin the workers to the node of the network card; with all programs pinned, switch the balancing off",
        ),
        (Some(nodes), _) => {
            Finding::ok(format!("{nodes} nodes, numa_balancing is off; {}", cards.join(", ")))
                .hint("pin the workers to the node of the network card")
        }
    }
}

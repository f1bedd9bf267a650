//! Network cards: queues, who handles their interrupts, and steering of packets to CPUs.

use crate::knob::{Finding, Knob, NOT_OVER_LOOPBACK, Scope, Setting, Trial};
use crate::machine::{Machine, cpu_mask, parse_cpu_list};
use std::collections::BTreeSet;

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "nic_queues",
        title: "Queues of the network card",
        what: "A card with several receive queues spreads connections over them (RSS), and each queue interrupts a CPU of its own.",
        when: "One CPU is full of softirq time (`mpstat -P ALL`, column %soft) while others wait.",
        source: "Kernel documentation, networking/scaling.rst: one queue for each CPU, if the card has so many.",
        measured: "not measured: needs a network card and a second machine",
        risk: "More queues than busy CPUs mean more interrupts for the same work. Changing the number resets the card for a moment.",
        apply: "`ethtool -L IFACE combined N`; for a virtual machine, the host gives the queues (virtio: `queues=N`).",
        undo: "`ethtool -L IFACE combined OLD`.",
        scope: Scope::Host,
        probe: nic_queues,
        settings: None,
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
    Knob {
        name: "rps",
        title: "Receive packet steering (RPS)",
        what: "Spreads the protocol work of one receive queue over CPUs by the connection's hash, in software: /sys/class/net/IFACE/queues/rx-N/rps_cpus.",
        when: "Fewer queues than CPUs, and one CPU full of softirq time or packets dropped before TCP saw them (/proc/net/softnet_stat).",
        source: "Kernel documentation, networking/scaling.rst: \"if there are fewer hardware queues than CPUs, then RPS might be beneficial\"; with a queue for each CPU \"probably redundant and unnecessary\".",
        measured: "not measured: needs a network card and a second machine",
        risk: "An interrupt between CPUs for every batch of packets; at low load that costs latency and gains nothing.",
        apply: "`ringmill doctor --apply rps`, or tuning/irq-rps.sh. Gone after a restart of the machine.",
        undo: "`ringmill doctor --revert`, or write 0.",
        scope: Scope::Host,
        probe: rps,
        settings: Some(rps_settings),
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
    Knob {
        name: "rfs",
        title: "Receive flow steering (RFS)",
        what: "Sends the packets of a connection to the CPU where its worker runs: net.core.rps_sock_flow_entries, and rps_flow_cnt of each queue. Works on top of RPS.",
        when: "RPS is on. Workers that are pinned stay where their connections are steered to.",
        source: "Kernel documentation, networking/scaling.rst: for cache hits; 32768 entries work \"fairly well on a moderately loaded server\".",
        measured: "not measured: needs a network card and a second machine",
        risk: "A table of 32768 entries in memory; the same interrupts between CPUs as RPS.",
        apply: "`ringmill doctor --apply rfs`, or tuning/irq-rps.sh.",
        undo: "`ringmill doctor --revert`, or write 0 to each.",
        scope: Scope::Host,
        probe: rfs,
        settings: Some(rfs_settings),
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
    Knob {
        name: "xps",
        title: "Transmit packet steering (XPS)",
        what: "Chooses the transmit queue by the sending CPU: /sys/class/net/IFACE/queues/tx-N/xps_cpus.",
        when: "A card with several transmit queues whose driver did not set them up by itself.",
        source: "Kernel documentation, networking/scaling.rst: less contention on a queue's lock and fewer cache misses at completion; without effect with a single queue.",
        measured: "not measured: needs a network card and a second machine",
        risk: "A bad map makes CPUs share queues that had their own.",
        apply: "`ringmill doctor --apply xps` (CPUs dealt to queues in turn), or tuning/irq-rps.sh.",
        undo: "`ringmill doctor --revert`, or write the old masks.",
        scope: Scope::Host,
        probe: xps,
        settings: Some(xps_settings),
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
    Knob {
        name: "irq_affinity",
        title: "Interrupts of the card, and irqbalance",
        what: "Which CPU each queue's interrupt goes to: /proc/irq/N/smp_affinity_list. irqbalance moves interrupts by load, every ten seconds.",
        when: "Several queues whose interrupts all land on one CPU.",
        source: "Kernel documentation, core-api/irq/irq-affinity.rst; irqbalance(1).",
        measured: "not measured: needs a network card and a second machine",
        risk: "Fixed interrupts do not follow the load. irqbalance undoes what is set by hand, unless it is told to leave these interrupts alone.",
        apply: "tuning/irq-rps.sh IFACE, which shows what it would do first; stop irqbalance or give it `--banirq`.",
        undo: "`tuning/irq-rps.sh --undo FILE`, or start irqbalance again.",
        scope: Scope::Host,
        probe: irq_affinity,
        settings: None,
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
    Knob {
        name: "busy_poll",
        title: "Busy polling",
        what: "A thread that waits for packets asks the card's queue itself instead of sleeping until the interrupt: net.core.busy_read and net.core.busy_poll, in microseconds.",
        when: "Latency counts more than power, there is a CPU to burn, and the card's driver can do it. Sockets on epoll and io_uring need net.core.busy_read for it; loopback has no queue to poll.",
        source: "Kernel documentation, admin-guide/sysctl/net.rst: 50 is recommended for busy_read; \"will increase power usage\"; 0 by default. networking/napi.rst for epoll.",
        measured: "not measured: needs a network card and a second machine",
        risk: "CPUs that wait are busy: more power, and less for others.",
        apply: "tuning/sysctl/latency.conf.",
        undo: "Set both to 0.",
        scope: Scope::Host,
        probe: busy_poll,
        settings: None,
        trial: Trial::No(NOT_OVER_LOOPBACK),
    },
];

/// Entries of the flow table that the kernel documentation names.
const FLOWS: u64 = 32_768;

const NO_CARD: &str = "no network card of its own: a container's is the host's, or there is none";

fn online(machine: &Machine) -> Option<Vec<usize>> {
    parse_cpu_list(&machine.text("sys/devices/system/cpu/online")?).filter(|cpus| !cpus.is_empty())
}

/// Runs a check on each card; the worst finding counts, all evidence is said.
fn each_card(machine: &Machine, check: impl Fn(&str) -> Finding) -> Finding {
    let findings: Vec<(String, Finding)> = machine
        .interfaces()
        .into_iter()
        .map(|interface| {
            let finding = check(&interface);
            (interface, finding)
        })
        .collect();
    let Some(worst) = findings.iter().map(|(_, finding)| finding).max_by_key(|finding| finding.state) else {
        return Finding::skip(NO_CARD);
    };
    let evidence: Vec<String> =
        findings.iter().map(|(interface, finding)| format!("{interface}: {}", finding.evidence)).collect();
    Finding { evidence: evidence.join("; "), ..worst.clone() }
}

fn nic_queues(machine: &Machine) -> Finding {
    let workers = machine.workers();
    each_card(machine, |interface| {
        let queues = machine.queues(interface, "rx").len();
        let evidence = format!("{queues} receive queue(s) for {workers} worker(s)");
        match queues {
            0 => Finding::skip("its queues cannot be read"),
            _ if queues >= workers => Finding::ok(evidence),
            _ => Finding::warn(
                evidence,
                "give it more with `ethtool -L` if `ethtool -l` says that it has them; else see rps",
            ),
        }
    })
}

/// Whether a CPU mask of sysfs has a bit set; `None` if it is no mask.
fn is_set(mask: &str) -> Option<bool> {
    let is_mask = !mask.is_empty() && mask.bytes().all(|letter| letter.is_ascii_hexdigit() || letter == b',');
    is_mask.then(|| mask.bytes().any(|letter| !matches!(letter, b'0' | b',')))
}

/// How many of some mask files have a bit set; `None` if one cannot be read.
fn count_set(machine: &Machine, files: &[String]) -> Option<usize> {
    let set: Option<Vec<bool>> = files.iter().map(|file| is_set(&machine.text(file)?)).collect();
    Some(set?.into_iter().filter(|is_set| *is_set).count())
}

fn queue_files(machine: &Machine, interface: &str, kind: &str, file: &str) -> Vec<String> {
    machine.queues(interface, kind).into_iter().map(|queue| format!("{queue}/{file}")).collect()
}

fn rps(machine: &Machine) -> Finding {
    let Some(cpus) = online(machine).map(|cpus| cpus.len()) else {
        return Finding::skip("the CPUs of the machine cannot be read");
    };
    let dropped = softnet_drops(machine);
    each_card(machine, |interface| {
        let files = queue_files(machine, interface, "rx", "rps_cpus");
        let queues = files.len();
        match count_set(machine, &files) {
            None => Finding::skip("rps_cpus cannot be read"),
            Some(_) if queues == 0 => Finding::skip("no receive queue can be seen"),
            Some(0) if queues >= cpus => {
                Finding::ok(format!("off, with {queues} queue(s) for {cpus} CPU(s)"))
            }
            Some(0) => {
                let evidence = format!(
                    "off, with {queues} queue(s) for {cpus} CPUs; {dropped} packets dropped since boot"
                );
                let advice =
                    "if one CPU is full of softirq time, switch it on and measure between two machines";
                if dropped > 0 { Finding::warn(evidence, advice) } else { Finding::ok(evidence).hint(advice) }
            }
            Some(set) => Finding::ok(format!("on for {set} of {queues} queue(s)")),
        }
    })
}

/// Packets that found the queue between interrupt and protocol full: the second number of each CPU's line, in
/// hexadecimal (softnet_seq_show in the kernel's net/core/net-procfs.c).
fn softnet_drops(machine: &Machine) -> u64 {
    let text = machine.text("proc/net/softnet_stat").unwrap_or_default();
    let drops = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(drops).fold(0, u64::saturating_add)
}

fn rps_settings(machine: &Machine) -> Vec<Setting> {
    let cpus = online(machine).unwrap_or_default();
    let mut settings = Vec::new();
    for interface in machine.interfaces() {
        let files = queue_files(machine, &interface, "rx", "rps_cpus");
        if files.len() < cpus.len() {
            settings.extend(files.into_iter().map(|file| Setting::file(file, cpu_mask(&cpus))));
        }
    }
    settings
}

fn rfs(machine: &Machine) -> Finding {
    let Some(flows) = machine.sysctl_number("net.core.rps_sock_flow_entries") else {
        return Finding::unreadable(machine, "net.core.rps_sock_flow_entries");
    };
    each_card(machine, |interface| {
        let has_rps = count_set(machine, &queue_files(machine, interface, "rx", "rps_cpus"));
        let counts = queue_files(machine, interface, "rx", "rps_flow_cnt");
        let is_on =
            flows > 0 && counts.iter().any(|file| machine.number(file).is_some_and(|count| count > 0));
        match (has_rps, is_on) {
            (None, _) => Finding::skip("rps_cpus cannot be read"),
            (_, true) => Finding::ok(format!("on, {flows} entries")),
            (Some(0), false) => Finding::ok("off, as RPS is"),
            (Some(_), false) => Finding::warn(
                "off, although RPS is on",
                "switch it on: packets then go where their worker runs",
            ),
        }
    })
}

fn rfs_settings(machine: &Machine) -> Vec<Setting> {
    if machine.sysctl_number("net.core.rps_sock_flow_entries").is_none() {
        return Vec::new();
    }
    let mut settings = vec![Setting::sysctl("net.core.rps_sock_flow_entries", FLOWS)];
    for interface in machine.interfaces() {
        let files = queue_files(machine, &interface, "rx", "rps_flow_cnt");
        let share = FLOWS / (files.len() as u64).max(1);
        settings.extend(files.into_iter().map(|file| Setting::file(file, share)));
    }
    if settings.len() == 1 { Vec::new() } else { settings }
}

fn xps(machine: &Machine) -> Finding {
    each_card(machine, |interface| {
        let files = queue_files(machine, interface, "tx", "xps_cpus");
        match (files.len(), count_set(machine, &files)) {
            (0, _) => Finding::skip("no transmit queue can be seen"),
            (1, _) => Finding::ok("one transmit queue: nothing to choose"),
            (_, None) => Finding::skip("xps_cpus cannot be read"),
            (queues, Some(0)) => {
                Finding::warn(format!("off, with {queues} transmit queues"), "deal the CPUs to the queues")
            }
            (queues, Some(set)) => Finding::ok(format!("on for {set} of {queues} transmit queues")),
        }
    })
}

fn xps_settings(machine: &Machine) -> Vec<Setting> {
    let cpus = online(machine).unwrap_or_default();
    let mut settings = Vec::new();
    for interface in machine.interfaces() {
        let files = queue_files(machine, &interface, "tx", "xps_cpus");
        let queues = files.len();
        if queues < 2 || cpus.is_empty() {
            continue;
        }
        for (queue, file) in files.into_iter().enumerate() {
            let own: Vec<usize> = cpus.iter().copied().skip(queue).step_by(queues).collect();
            // More queues than CPUs: the rest starts over.
            let own = if own.is_empty() { vec![cpus[queue % cpus.len()]] } else { own };
            settings.push(Setting::file(file, cpu_mask(&own)));
        }
    }
    settings
}

/// The interrupts of a card that have happened. A virtio card's are those of the device above it.
fn busy_interrupts(machine: &Machine, interface: &str) -> Vec<String> {
    let device = format!("sys/class/net/{interface}/device");
    let mut irqs = machine.names(&format!("{device}/msi_irqs"));
    if irqs.is_empty() {
        irqs = machine.names(&format!("{device}/../msi_irqs"));
    }
    let table = machine.text("proc/interrupts").unwrap_or_default();
    let has_happened = |irq: &String| {
        let row =
            table.lines().find_map(|line| line.trim_start().strip_prefix(irq.as_str())?.strip_prefix(':'));
        let counts = row.unwrap_or_default().split_whitespace().map_while(|word| word.parse::<u64>().ok());
        counts.fold(0, u64::saturating_add) > 0
    };
    irqs.into_iter().filter(has_happened).collect()
}

fn irq_affinity(machine: &Machine) -> Finding {
    let Some(cpus) = online(machine).map(|cpus| cpus.len()) else {
        return Finding::skip("the CPUs of the machine cannot be read");
    };
    let balance =
        if machine.is_running("irqbalance") { "irqbalance runs" } else { "irqbalance does not run" };
    each_card(machine, |interface| {
        let irqs = busy_interrupts(machine, interface);
        let mut used = BTreeSet::new();
        for irq in &irqs {
            let effective = machine.text(&format!("proc/irq/{irq}/effective_affinity_list"));
            let allowed = || machine.text(&format!("proc/irq/{irq}/smp_affinity_list"));
            used.extend(
                effective.or_else(allowed).and_then(|list| parse_cpu_list(&list)).unwrap_or_default(),
            );
        }
        let list: Vec<String> = used.iter().map(usize::to_string).collect();
        let evidence = format!("{} busy interrupt(s) on CPU {}; {balance}", irqs.len(), list.join(","));
        match (irqs.len(), used.len()) {
            (0, _) | (_, 0) => Finding::skip("its interrupts cannot be read"),
            (2.., 1) if cpus > 1 => Finding::warn(evidence, "spread them: tuning/irq-rps.sh"),
            _ => Finding::ok(evidence),
        }
    })
}

fn busy_poll(machine: &Machine) -> Finding {
    let read = |name| machine.sysctl_number(name).ok_or_else(|| Finding::unreadable(machine, name));
    match (read("net.core.busy_read"), read("net.core.busy_poll")) {
        (Ok(0), Ok(0)) => Finding::ok("off"),
        (Ok(read), Ok(poll)) => Finding::ok(format!("busy_read {read} us, busy_poll {poll} us"))
            .hint("it costs power: measure that it pays"),
        (Err(finding), _) | (_, Err(finding)) => finding,
    }
}

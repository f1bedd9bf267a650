//! CPUs: clock speed, sleep, mitigations, the clock, pinning and quotas.

use crate::knob::{Finding, Knob, Scope, Setting, Trial};
use crate::machine::Machine;

pub(super) static KNOBS: &[Knob] = &[
    Knob {
        name: "cpu_limits",
        title: "CPU quota and the number of workers",
        what: "A control group may have a quota (cpu.max): once its threads have used it up, all of them stop until the next period, 100 ms by default. `serve` starts one worker for each CPU, within the quota.",
        when: "Workers exceed the quota: replies then stall for tens of milliseconds at a time.",
        source: "Kernel documentation, admin-guide/cgroup-v2.rst (cpu.max, cpu.stat: nr_throttled) and scheduler/sched-bwc.rst.",
        measured: "not measured",
        risk: "None: fewer workers use the same quota evenly.",
        apply: "`ringmill serve --workers N` with N no more than the quota, or a higher quota (`docker run --cpus`, CPUQuota=).",
        undo: "Leave the option out.",
        scope: Scope::Process,
        probe: cpu_limits,
        settings: None,
        trial: Trial::No("it depends on the quota: compare `serve --workers` by hand"),
    },
    Knob {
        name: "pinning",
        title: "Workers pinned to CPUs",
        what: "Each worker stays on one CPU, so its connections, buffers and timers stay in that CPU's cache.",
        when: "A server that has its CPUs for itself. Beside other busy programs the scheduler may place it better.",
        source: "sched_setaffinity(2): avoids the cost of cache invalidation when a thread moves.",
        measured: "not measured",
        risk: "A pinned worker waits for whoever else runs on its CPU.",
        apply: "`ringmill serve --pin auto` (the default), or a list.",
        undo: "`ringmill serve --pin off`.",
        scope: Scope::Process,
        probe: pinning,
        settings: None,
        trial: Trial::Serve { before: &["--pin", "off"], after: &["--pin", "auto"] },
    },
    Knob {
        name: "governor",
        title: "CPU frequency governor",
        what: "How fast a CPU's clock follows its load: /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor.",
        when: "Load that comes in bursts: the clock is low when a burst begins. And before any measurement, so that runs are alike.",
        source: "Kernel documentation, admin-guide/pm/cpufreq.rst: performance asks for the highest frequency within the limits. Drivers such as intel_pstate choose by themselves under the name powersave.",
        measured: "not measured: this machine's frequency is the host's business",
        risk: "Power and heat; in a warm case the highest turbo steps may be reached less.",
        apply: "`ringmill doctor --apply governor`, or `cpupower frequency-set -g performance`. Gone after a restart of the machine.",
        undo: "`ringmill doctor --revert`, or write the old governor.",
        scope: Scope::Host,
        probe: governor,
        settings: Some(|machine| {
            let can_perform = |file: &String| {
                let available =
                    machine.text(&file.replace("scaling_governor", "scaling_available_governors"));
                available.is_some_and(|names| names.split_whitespace().any(|name| name == "performance"))
            };
            let files = governor_files(machine).into_iter().filter(can_perform);
            files.map(|file| Setting::file(file, "performance")).collect()
        }),
        trial: Trial::Settings,
    },
    Knob {
        name: "c_states",
        title: "Sleep of idle CPUs",
        what: "An idle CPU goes to sleep, and waking takes time: the exit latency of /sys/devices/system/cpu/cpuN/cpuidle/stateM.",
        when: "Latency at low load. At high load CPUs do not sleep.",
        source: "Kernel documentation, admin-guide/pm/cpuidle.rst: exit latency, /dev/cpu_dma_latency (PM QoS), and disable of each state.",
        measured: "not measured: this machine's sleep is the host's business",
        risk: "Power and heat; CPUs that never sleep leave less turbo for the busy ones.",
        apply: "While it matters: `tuned-adm profile latency-performance`, or hold /dev/cpu_dma_latency open. Doctor does not change it.",
        undo: "Go back to the former profile, or close the file.",
        scope: Scope::Host,
        probe: c_states,
        settings: None,
        trial: Trial::No(
            "it shows at low load between two machines, and the measurement loads the CPU fully",
        ),
    },
    Knob {
        name: "mitigations",
        title: "Mitigations of CPU faults",
        what: "What the kernel does against Meltdown, Spectre and the like. It makes each entry to the kernel slower.",
        when: "Never a means to make a server faster. Compare figures only between machines with the same ones.",
        source: "Kernel documentation, admin-guide/hw-vuln. Somebody who switched several off on an EC2 c5n.xlarge with Linux 4.14 went from 347,000 to 446,000 requests a second (M. Richards, \"Extreme HTTP performance tuning\", talawah.io, 2021): that is what they cost there, not a thing to do.",
        measured: "not measured",
        risk: "Without them, code of another user or tenant can read this machine's memory.",
        apply: "Never: doctor reports them and touches none.",
        undo: "Nothing to undo.",
        scope: Scope::Host,
        probe: mitigations,
        settings: None,
        trial: Trial::No("mitigations are never touched"),
    },
    Knob {
        name: "clock_source",
        title: "Clock source",
        what: "What the kernel reads the time from. With tsc and kvm-clock a program reads it without a system call; with hpet, acpi_pm or xen it cannot, or reading is slow.",
        when: "The source is a slow one. Ringmill reads the clock once a turn, so it gains less than others.",
        source: "vdso(7). K. Marhubi, \"Running a database on EC2? Your clock could be slowing you down\" (heap.io): on Xen instances of EC2, going from xen to tsc was part of a cut of 30% in their 95th percentile of query times.",
        measured: "not measured",
        risk: "A TSC that is not in step between CPUs makes time jump. The kernel takes it off the list of available sources when it sees that.",
        apply: "`ringmill doctor --apply clock_source` (tsc, if the kernel lists it).",
        undo: "`ringmill doctor --revert`, or write the old name.",
        scope: Scope::Host,
        probe: clock_source,
        settings: Some(|machine| {
            let has_tsc = available_clocks(machine).iter().any(|name| name == "tsc");
            let is_slow = machine.text(CLOCK).is_some_and(|name| is_slow_clock(&name));
            if has_tsc && is_slow { vec![Setting::file(CLOCK, "tsc")] } else { Vec::new() }
        }),
        trial: Trial::Settings,
    },
];

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Waking from a state that takes longer shows in the latency of a small request.
const WAKE_US_LONG: u64 = 100;

fn cpu_limits(machine: &Machine) -> Finding {
    let workers = machine.workers();
    let throttled = machine.cpu_groups().iter().find_map(|group| {
        let text = machine.text(&format!("{group}/cpu.stat"))?;
        text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse::<u64>().ok())
    });
    let Some(cpus) = machine.cpus().map(|cpus| cpus.len()) else {
        return Finding::skip("/proc/self/status does not say which CPUs may be used");
    };
    let Some(quota) = machine.cpu_quota() else {
        return Finding::ok(format!("no quota; {cpus} CPU(s) for {workers} worker(s)"));
    };
    let stopped = throttled.map_or(String::new(), |count| format!("; stopped {count} times so far"));
    let evidence = format!("quota of {quota:.2} CPUs for {workers} worker(s){stopped}");
    if workers as f64 > quota.max(1.0) {
        let fit = (quota as usize).max(1);
        return Finding::fail(evidence, format!("start with --workers {fit}, or raise the quota"));
    }
    match (quota < 1.0, throttled) {
        (true, _) => Finding::warn(evidence, "less than one CPU: the only worker is stopped in every period"),
        (false, Some(1..)) => {
            Finding::warn(evidence, "if the count grows, the quota is too small for the load")
        }
        _ => Finding::ok(evidence),
    }
}

fn pinning(machine: &Machine) -> Finding {
    let Some(cpus) = machine.cpus() else {
        return Finding::skip("/proc/self/status does not say which CPUs may be used");
    };
    let workers = machine.workers();
    let isolated = machine.text("sys/devices/system/cpu/isolated").filter(|list| !list.is_empty());
    let isolated = isolated.map_or(String::new(), |list| format!("; isolated from others: {list}"));
    let evidence = format!("{workers} worker(s) for {} CPU(s){isolated}", cpus.len());
    if workers > cpus.len() {
        return Finding::warn(
            format!("{evidence}: none is pinned"),
            format!("start with --workers {}", cpus.len()),
        );
    }
    Finding::ok(evidence)
}

fn governor_files(machine: &Machine) -> Vec<String> {
    let names = machine.names("sys/devices/system/cpu").into_iter();
    let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<usize>().is_ok());
    let file = |name| format!("sys/devices/system/cpu/{name}/cpufreq/scaling_governor");
    names.filter(is_cpu).map(file).filter(|file| machine.exists(file)).collect()
}

fn governor(machine: &Machine) -> Finding {
    let files = governor_files(machine);
    let mut names: Vec<String> = files.iter().filter_map(|file| machine.text(file)).collect();
    names.sort();
    names.dedup();
    if names.is_empty() || names.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
        return Finding::skip("no governor can be read: in a virtual machine it is the host's business");
    }
    let driver = machine.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver").unwrap_or_default();
    let evidence = format!("{} on {} CPU(s), driver {driver:?}", names.join(", "), files.len());
    match names.as_slice() {
        [name] if name == "performance" => Finding::ok(evidence),
        _ => Finding::warn(evidence, "performance, at least while you measure"),
    }
}

fn c_states(machine: &Machine) -> Finding {
    let directory = "sys/devices/system/cpu/cpu0/cpuidle";
    let states = machine.names(directory).into_iter().filter_map(|state| {
        let read = |file| machine.text(&format!("{directory}/{state}/{file}"));
        let is_disabled = read("disable").is_some_and(|flag| flag != "0");
        let wake_us: u64 = read("latency")?.parse().ok()?;
        (!is_disabled).then(|| (wake_us, read("name").unwrap_or_default()))
    });
    match states.max() {
        None => {
            Finding::skip("no sleep states can be read: in a virtual machine they are the host's business")
        }
        Some((wake_us, name)) if wake_us >= WAKE_US_LONG => Finding::warn(
            format!("the deepest enabled state is {name}, {wake_us} us to wake"),
            "for latency at low load, hold /dev/cpu_dma_latency or choose a latency profile",
        ),
        Some((wake_us, name)) => {
            Finding::ok(format!("the deepest enabled state is {name}, {wake_us} us to wake"))
        }
    }
}

fn mitigations(machine: &Machine) -> Finding {
    let directory = "sys/devices/system/cpu/vulnerabilities";
    let (mut on, mut open) = (0, Vec::new());
    for name in machine.names(directory) {
        match machine.text(&format!("{directory}/{name}")).unwrap_or_default() {
            text if text.starts_with("Mitigation") => on += 1,
            text if text.starts_with("Vulnerable") => open.push(name),
            _ => {}
        }
    }
    let is_off = machine
        .text("proc/cmdline")
        .is_some_and(|line| line.split_whitespace().any(|word| word == "mitigations=off"));
    let told = if is_off { "; the kernel was started with mitigations=off" } else { "" };
    let open_list = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
    let evidence = format!("{on} active, vulnerable: {open_list}{told}");
    match (machine.exists(directory), is_off || !open.is_empty()) {
        (false, _) => Finding::skip("the kernel does not say"),
        (true, false) => Finding::ok(evidence),
        (true, true) => Finding::warn(
            evidence,
            "a matter of security: update the kernel and the microcode. Figures from here compare only with \
             machines in the same state",
        ),
    }
}

fn available_clocks(machine: &Machine) -> Vec<String> {
    let text = machine.text("sys/devices/system/clocksource/clocksource0/available_clocksource");
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn is_slow_clock(name: &str) -> bool {
    ["hpet", "acpi_pm", "xen", "jiffies", "refined-jiffies", "pit"].contains(&name)
}

fn clock_source(machine: &Machine) -> Finding {
    let Some(name) = machine.text(CLOCK).filter(|name| !name.is_empty() && name.len() < 64) else {
        return Finding::skip("the clock source cannot be read");
    };
    let available = available_clocks(machine).join(" ");
    let evidence = format!("{name} (available: {available})");
    if is_slow_clock(&name) {
        return Finding::warn(evidence, "tsc, if the kernel lists it: see the risk");
    }
    Finding::ok(evidence)
}

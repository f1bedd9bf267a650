//! The files that doctor prints, and those in tuning/.

use crate::common::program::clean;
use crate::fixture::{BAD, GOOD, Machine};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tuning(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

/// Reads a file of sysctl.d(5); fails on a line that is none of its.
fn parse_sysctl(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("not a setting: {line:?}"));
            let name = name.trim();
            let is_name = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
            assert!(name.bytes().all(is_name) && name.contains('.'), "not a name: {line:?}");
            assert!(!value.trim().is_empty(), "no value: {line:?}");
            (name.to_owned(), value.trim().to_owned())
        })
        .collect()
}

#[test]
fn the_sysctl_file_makes_a_bad_machine_good() {
    let machine = Machine::new(&[GOOD, BAD]);
    let (status, text, _) = machine.doctor(&["--emit", "sysctl"]);
    assert_eq!(status, 0);
    let settings = parse_sysctl(&text);
    assert!(settings.contains(&("net.core.somaxconn".to_owned(), "4096".to_owned())), "{text}");
    assert!(text.contains("# was 128"), "{text}");
    assert!(
        text.contains("# no sysctl: write madvise to /sys/kernel/mm/transparent_hugepage/enabled"),
        "{text}"
    );
    for (name, value) in &settings {
        machine.set(&format!("proc/sys/{}", name.replace('.', "/")), value);
    }
    for knob in ["somaxconn", "tcp_migrate_req", "socket_buffers", "port_range", "tw_reuse"] {
        let (_, json) = machine.json(&[knob]);
        let state = json["knobs"][0]["state"].as_str().unwrap();
        // What was counted since boot stays a warning.
        let counted = ["somaxconn", "socket_buffers"].contains(&knob);
        assert!(state == "ok" || counted && state == "warn", "{knob} is {state}");
    }
    let (_, text, _) = machine.doctor(&["--emit", "sysctl"]);
    let left: Vec<_> =
        parse_sysctl(&text).into_iter().filter(|(name, _)| !name.contains("conntrack")).collect();
    assert_eq!(left, [], "all of it was needed once");
}

#[test]
fn a_good_machine_needs_no_settings_but_can_have_all() {
    let machine = Machine::good();
    let (status, text, _) = machine.doctor(&["--emit", "sysctl"]);
    assert_eq!((status, parse_sysctl(&text)), (0, Vec::new()));
    assert!(text.contains("Nothing to set"));
    let (_, text, _) = machine.doctor(&["--emit", "sysctl", "--all"]);
    let names: Vec<String> = parse_sysctl(&text).into_iter().map(|(name, _)| name).collect();
    for name in ["net.core.somaxconn", "net.ipv4.tcp_migrate_req", "net.core.rmem_default"] {
        assert!(names.iter().any(|other| other == name), "no {name} in {text}");
    }
}

#[test]
fn the_profiles_have_only_settings_that_a_knob_tells_of() {
    let guide = std::fs::read_to_string(tuning("README.md")).unwrap();
    for name in ["sysctl/latency.conf", "sysctl/throughput.conf"] {
        let text = std::fs::read_to_string(tuning(name)).unwrap();
        let settings = parse_sysctl(&text);
        assert!(settings.len() >= 5, "{name}");
        let distinct: BTreeSet<&String> = settings.iter().map(|(key, _)| key).collect();
        assert_eq!(distinct.len(), settings.len(), "{name} sets something twice");
        for (key, value) in &settings {
            let short = key.rsplit('.').next().unwrap();
            assert!(guide.contains(short), "{name}: no knob tells of {key}");
            assert!(
                value.split_whitespace().all(|word| word.parse::<u64>().is_ok()),
                "{name}: {key} = {value}"
            );
        }
    }
}

#[test]
fn the_emitted_guide_and_unit_are_those_of_the_tree() {
    for (what, file) in [("guide", "README.md"), ("systemd", "systemd/ringmill.service")] {
        let (status, text, errors) = Machine::good().doctor(&["--emit", what]);
        assert_eq!((status, errors.as_str()), (0, ""));
        assert!(
            text == std::fs::read_to_string(tuning(file)).unwrap(),
            "tuning/{file} is not `--emit {what}`"
        );
    }
}

#[test]
fn the_guide_links_only_to_files_that_exist() {
    let guide = std::fs::read_to_string(tuning("README.md")).unwrap();
    let targets: Vec<&str> = guide.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(targets.len() > 30);
    for target in targets {
        match target.strip_prefix('#') {
            Some(heading) => assert!(guide.contains(&format!("\n### {heading}\n")), "no heading {heading}"),
            None => assert!(tuning(target).exists(), "tuning/{target} is not there"),
        }
    }
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_not_the_dangerous_rest() {
    let text = std::fs::read_to_string(tuning("seccomp/ringmill.json")).unwrap();
    let profile: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let action = rule["action"].as_str().unwrap();
        for name in rule["names"].as_array().unwrap() {
            if action == "SCMP_ACT_ALLOW" && rule["args"].is_null() {
                assert!(allowed.insert(name.as_str().unwrap()), "{name} is there twice");
            }
        }
        for argument in rule["args"].as_array().into_iter().flatten() {
            assert!(argument["index"].is_u64() && argument["value"].is_u64() && argument["op"].is_string());
        }
    }
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "accept4",
        "epoll_pwait",
        "recvmmsg",
        "sendmmsg",
        "eventfd2",
        "futex",
        "mmap",
        "prlimit64",
        "sched_setaffinity",
        "execve",
        "arch_prctl",
        "rseq",
    ] {
        assert!(allowed.contains(name), "{name} is needed");
    }
    for name in [
        "mount",
        "ptrace",
        "bpf",
        "kexec_load",
        "init_module",
        "setns",
        "unshare",
        "userfaultfd",
        "perf_event_open",
        "keyctl",
        "socket",
        "clone",
        "clone3",
        "personality",
        "reboot",
        "swapon",
        "open_by_handle_at",
    ] {
        assert!(!allowed.contains(name), "{name} must not be allowed as it is");
    }
}

/// Runs the script on a fixture.
fn script(machine: &Machine, arguments: &[&str]) -> (i32, String, String) {
    let mut command = clean(Command::new("bash"));
    command.arg(tuning("irq-rps.sh")).args(arguments).env("IRQ_RPS_ROOT", machine.path(""));
    machine.run(command)
}

#[test]
fn the_script_shows_applies_and_undoes() {
    let machine = Machine::new(&[GOOD, BAD]);
    machine.set("sys/class/net/eth1/device/msi_irqs/50", "msix");
    machine.set("proc/irq/50/smp_affinity_list", "0-3\n");
    let table = machine.value("proc/interrupts");
    machine.set(
        "proc/interrupts",
        table + "\n 50:          7          0          0          0  PCI-MSIX  virtio3-input.0\n",
    );
    let before = machine.files();
    for arguments in [&["eth0"][..], &["eth1"]] {
        let (status, output, errors) = script(&machine, arguments);
        assert_eq!((status, errors.as_str()), (0, ""), "{output}");
        assert!(output.contains("would set ") && output.contains("nothing was changed"), "{output}");
        assert!(machine.files() == before);
    }
    let backup = machine.path("irq.backup");
    let backup = backup.to_str().unwrap();
    let (status, output, errors) = script(&machine, &["eth0", "--apply", "--backup", backup]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    assert_eq!(machine.value("proc/irq/42/smp_affinity_list"), "1");
    assert_eq!(machine.value("proc/irq/44/smp_affinity_list"), "3");
    assert_eq!(machine.value("proc/irq/40/smp_affinity_list"), "0", "its configuration interrupt stays");
    assert_eq!(machine.value("sys/class/net/eth0/queues/tx-3/xps_cpus"), "8");
    let (status, _, errors) = script(&machine, &["eth0", "--apply", "--backup", backup]);
    assert_eq!(status, 2);
    assert!(errors.contains("there is a backup"), "{errors}");
    let (status, output, errors) = script(&machine, &["--undo", backup]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    let plain = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<(PathBuf, String)> {
        files
            .into_iter()
            .map(|(path, text)| (path, String::from_utf8(text).unwrap().trim().to_owned()))
            .collect()
    };
    assert_eq!(plain(machine.files()), plain(before));

    let (_, output, _) = script(&machine, &["eth1", "--cpus", "1,3"]);
    for words in ["rps_cpus: 0 -> a", "rps_flow_cnt: 0 -> 32768", "irq/50/smp_affinity_list: 0-3 -> 1"] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
}

#[test]
fn the_script_refuses_what_it_does_not_understand() {
    let machine = Machine::good();
    let check = |arguments: &[&str], words: &str| {
        let before = machine.files();
        let (status, output, errors) = script(&machine, arguments);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
        assert!(machine.files() == before);
    };
    check(&[], "which network card?");
    check(&["eth9"], "no network card 'eth9'");
    check(&["../eth0"], "no network card");
    check(&["eth0", "--cpus", "0-x"], "bad CPU list");
    check(&["eth0", "--nonsense"], "unknown option");
    check(&["--undo", "/nonexistent"], "no backup");
    machine.set("odd", "/etc/passwd 0\n");
    check(&["--undo", machine.path("odd").to_str().unwrap()], "not a backup of this script");
}

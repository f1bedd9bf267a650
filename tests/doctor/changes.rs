//! `--apply` and `--revert`: all or nothing, and back to what was.

use crate::fixture::{BAD, GOOD, Machine};
use serde_json::Value;

const SOMAXCONN: &str = "proc/sys/net/core/somaxconn";
const MIGRATE: &str = "proc/sys/net/ipv4/tcp_migrate_req";
const THP: &str = "sys/kernel/mm/transparent_hugepage/enabled";

fn bad() -> Machine {
    Machine::new(&[GOOD, BAD])
}

#[test]
fn applying_and_reverting_all_leaves_every_file_as_it_was() {
    let machine = bad();
    let before = machine.files();
    let (status, output, errors) = machine.change(&["--apply"]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    assert!(output.contains("set net.core.somaxconn: 128 -> 4096 (somaxconn)"), "{output}");
    assert!(output.contains("ringmill doctor --revert --backup"), "{output}");
    assert_eq!(machine.value(SOMAXCONN), "4096");
    assert_eq!(machine.value("proc/sys/net/ipv4/tcp_rmem"), "4096 87380 6291456");
    assert_eq!(machine.value("proc/sys/net/ipv4/ip_local_reserved_ports"), "22,9000-9009,8080");
    assert_eq!(machine.value(THP), "madvise");
    assert_eq!(machine.value("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"), "performance");
    assert_eq!(machine.value("sys/class/net/eth0/queues/tx-2/xps_cpus"), "4");
    assert_eq!(machine.value("sys/class/net/eth0/queues/rx-1/rps_flow_cnt"), "8192");
    assert_eq!(machine.value("proc/sys/net/netfilter/nf_conntrack_max"), "524288");
    assert_eq!(
        machine.value("proc/cmdline"),
        "BOOT_IMAGE=/vmlinuz mitigations=off",
        "mitigations are not touched"
    );

    let (status, output, _) = machine.change(&["--apply"]);
    assert_eq!(status, 0);
    assert!(output.contains("nothing to change"), "what is applied is ok now: {output}");

    let (status, output, errors) = machine.change(&["--revert"]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    assert!(!machine.backup().exists());
    let plain = |files: Vec<(std::path::PathBuf, Vec<u8>)>| -> Vec<_> {
        let words =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
        files
            .into_iter()
            .map(|(path, bytes)| {
                // The kernel would print all words again, with the chosen one in brackets.
                let text = if path.ends_with(THP) { "always".to_owned() } else { words(&bytes) };
                (path, text)
            })
            .collect()
    };
    assert_eq!(machine.value(THP), "always");
    assert_eq!(plain(machine.files()), plain(before));
}

#[test]
fn the_oldest_values_are_kept_over_several_runs() {
    let machine = bad();
    assert_eq!(machine.change(&["--apply", "somaxconn"]).0, 0);
    assert_eq!(machine.change(&["--apply", "somaxconn", "tcp_migrate_req", "--backlog", "9000"]).0, 0);
    assert_eq!((machine.value(SOMAXCONN), machine.value(MIGRATE)), ("9000".to_owned(), "1".to_owned()));
    let backup: Value = serde_json::from_slice(&std::fs::read(machine.backup()).unwrap()).unwrap();
    assert_eq!(backup["changes"].as_array().unwrap().len(), 2, "{backup:#}");
    assert_eq!(machine.change(&["--revert"]).0, 0);
    assert_eq!((machine.value(SOMAXCONN), machine.value(MIGRATE)), ("128".to_owned(), "0".to_owned()));
}

#[test]
fn a_dry_run_changes_nothing() {
    let machine = bad();
    let before = machine.files();
    let (status, output, _) = machine.change(&["--apply", "--dry-run"]);
    assert_eq!(status, 0);
    assert!(output.contains("would set net.core.somaxconn: 128 -> 4096"), "{output}");
    assert!(output.contains("nothing was changed"), "{output}");
    assert!(machine.files() == before && !machine.backup().exists());

    assert_eq!(machine.change(&["--apply", "somaxconn"]).0, 0);
    let (status, output, _) = machine.change(&["--revert", "--dry-run"]);
    assert_eq!(status, 0);
    assert!(output.contains("would set net.core.somaxconn: 4096 -> 128"), "{output}");
    assert_eq!(machine.value(SOMAXCONN), "4096");
    assert!(machine.backup().exists());
}

/// A file that takes a value and then does not have it, as the kernel does with one that it will not take.
#[test]
fn a_failure_in_the_middle_undoes_what_was_done() {
    let machine = bad();
    std::fs::remove_file(machine.path(MIGRATE)).unwrap();
    machine.link(MIGRATE, "/dev/null");
    let before = machine.files();
    let (status, output, errors) = machine.change(&["--apply", "somaxconn", "thp"]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    let former = std::fs::read(machine.backup()).unwrap();
    assert_eq!(machine.change(&["--revert"]).0, 0);
    machine.set(THP, "[always] madvise never\n");

    // Without a former backup none is left, with one it is as it was.
    for with_former in [false, true] {
        if with_former {
            assert_eq!(machine.change(&["--apply", "somaxconn", "thp"]).0, 0);
            machine.set(SOMAXCONN, "128\n");
        }
        let (status, output, errors) = machine.change(&["--apply", "somaxconn", "tcp_migrate_req"]);
        // /dev/null reads as nothing, so the knob cannot be read; asked for by name there is nothing to write.
        assert_eq!((status, output.as_str()), (2, ""), "{errors}");
        assert_eq!(machine.value(SOMAXCONN), "128");
        assert_eq!(std::fs::read(machine.backup()).ok().as_deref(), with_former.then_some(&former[..]));
    }
    assert_eq!(machine.change(&["--revert"]).0, 0);
    machine.set(THP, "[always] madvise never\n");
    assert_eq!(machine.files().len(), before.len());

    // A link to /proc/version reads as text, and no writer can change it.
    let machine = bad();
    let governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    machine.link(governor, "/proc/version");
    let (status, output, errors) = machine.change(&["--apply", "somaxconn", "governor"]);
    assert_eq!((status, output.as_str()), (2, ""), "{errors}");
    assert!(errors.contains("scaling_governor"), "{errors}");
    // As root the write fails, for others opening it does: either way nothing is left changed.
    assert!(errors.contains("are put back") || errors.contains("nothing was changed"), "{errors}");
    assert_eq!(machine.value(SOMAXCONN), "128");
    assert!(!machine.backup().exists());
}

#[test]
fn reverting_says_what_others_changed_and_what_is_gone() {
    let machine = bad();
    assert_eq!(machine.change(&["--apply", "somaxconn", "tcp_migrate_req"]).0, 0);
    machine.set(SOMAXCONN, "1234\n");
    std::fs::remove_file(machine.path(MIGRATE)).unwrap();
    let (status, output, errors) = machine.change(&["--revert"]);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(output.contains("1234 -> 128 (somaxconn), changed by somebody since"), "{output}");
    assert!(output.contains("gone, so nothing to set: net.ipv4.tcp_migrate_req"), "{output}");
    assert_eq!(machine.value(SOMAXCONN), "128");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let check = |machine: &Machine, arguments: &[&str], words: &str| {
        let before = machine.files();
        let (status, output, errors) = machine.change(arguments);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(words) && errors.lines().count() == 1, "{arguments:?}: {errors}");
        assert!(machine.files() == before, "{arguments:?} changed something");
    };
    check(&bad(), &["--revert"], "no backup at ");
    check(&bad(), &["--apply", "nofile"], "nofile has nothing to write here");
    let machine = bad();
    std::fs::remove_file(machine.path(MIGRATE)).unwrap();
    check(
        &machine,
        &["--apply", "somaxconn", "tcp_migrate_req"],
        "(net.ipv4.tcp_migrate_req is not there: an older",
    );
    check(&bad(), &["--apply", "mitigations"], "Never: doctor reports them");
    check(&bad(), &["--apply", "somaxconn", "nonsense"], "unknown knob");

    let broken = |text: &str, words: &str| {
        let machine = bad();
        machine.set("state/backup.json", text);
        check(&machine, &["--revert"], words);
        check(&machine, &["--apply", "somaxconn"], words);
    };
    broken("not json", "cannot be used");
    broken(r#"{"version": 2, "changes": []}"#, "version 2");
    let entry = |path: &str| {
        format!(
            r#"{{"version": 1, "changes": [{{"knob": "x", "path": "{path}", "before": "1", "after": "2"}}]}}"#
        )
    };
    broken(&entry("etc/passwd"), "it names \\\"etc/passwd\\\"".replace('\\', "").as_str());
    broken(&entry("proc/sys/../../etc/passwd"), "it names");

    // The backup comes first: where it cannot be written nothing is changed.
    let machine = bad();
    machine.set("state", "a file where the directory should be");
    let (status, _, errors) = machine.change(&["--apply", "somaxconn"]);
    assert_eq!(status, 2);
    assert!(errors.contains("backup"), "{errors}");
    assert_eq!(machine.value(SOMAXCONN), "128");
}

//! What the probes find, and how it is reported.

use crate::common::program::{ringmill, run};
use crate::fixture::{BAD, CONTAINER, GOOD, Machine};
use serde_json::Value;

const KNOBS: usize = 32;

fn states(json: &Value) -> Vec<(String, String)> {
    let text = |knob: &Value, field: &str| knob[field].as_str().unwrap().to_owned();
    json["knobs"].as_array().unwrap().iter().map(|knob| (text(knob, "name"), text(knob, "state"))).collect()
}

#[test]
fn a_good_machine_is_ok_throughout() {
    let (status, json) = Machine::good().json(&[]);
    let odd: Vec<_> = states(&json).into_iter().filter(|(_, state)| state != "ok").collect();
    assert_eq!(odd, []);
    assert_eq!(status, 0);
    assert_eq!(json["summary"]["ok"], KNOBS);
    assert_eq!(json["summary"]["status"], 0);
    assert_eq!(json["machine"]["container"], Value::Null);
    assert_eq!(json["machine"]["workers"], 4);
}

#[test]
fn each_fault_of_a_bad_machine_is_found() {
    let machine = Machine::new(&[GOOD, BAD]);
    let check = |knob, state, words| machine.check(&[], knob, state, words);
    check("io_uring", "warn", "Cannot allocate memory");
    check("seccomp", "warn", "io_uring is refused");
    check("memlock", "fail", "64.0 KiB");
    check("nofile", "fail", "hard 1024");
    check("somaxconn", "fail", "somaxconn 128, backlog 4096; 17 ListenOverflows");
    check("syn_backlog", "fail", "tcp_syncookies 0");
    check("tcp_migrate_req", "warn", "reset");
    check("congestion", "ok", "bbr");
    check("defer_accept", "ok", "off unless asked for");
    check("qdisc", "ok", "timer for each connection");
    check("socket_buffers", "warn", "1048576 to receive");
    check("port_range", "warn", "8080 is within");
    check("tw_reuse", "warn", "off");
    check("kernel_tls", "ok", "CONFIG_TLS is not set");
    check("udp_buffers", "warn", "42 datagrams dropped");
    check("gro_gso", "warn", "eth0: generic-receive-offload");
    check("nic_queues", "ok", "4 receive queue(s)");
    check("rps", "warn", "eth1: off, with 1 queue(s) for 4 CPUs; 11 packets dropped");
    check("rfs", "warn", "eth0: off, although RPS is on");
    check("xps", "warn", "eth0: off, with 4 transmit queues; eth1: one transmit queue");
    check("irq_affinity", "warn", "eth0: 4 busy interrupt(s) on CPU 0; irqbalance runs");
    check("cpu_limits", "ok", "quota of 1.50 CPUs for 1 worker(s)");
    check("governor", "warn", "performance, powersave on 4 CPU(s)");
    check("c_states", "warn", "C6, 133 us");
    check("mitigations", "warn", "vulnerable: meltdown; the kernel was started with mitigations=off");
    check("clock_source", "warn", "hpet");
    check("thp", "warn", "always");
    check("numa", "warn", "2 nodes, numa_balancing is on; eth0 is on node 0, eth1 is on node 1");
    check("conntrack", "fail", "262144 of 262144");
    check("port", "fail", "2 socket(s) listen on port 8080: ringmill (900), old-server (901)");
    let (status, json) = machine.json(&[]);
    assert_eq!((status, &json["summary"]["status"]), (2, &Value::from(2)));
}

#[test]
fn other_states_of_single_knobs() {
    let check = |path: &str, text: &str, knob, state, words| {
        let machine = Machine::good();
        machine.set(path, text);
        machine.check(&[], knob, state, words);
    };
    check("proc/sys/net/core/somaxconn", "128", "somaxconn", "warn", "somaxconn 128");
    check("proc/sys/kernel/io_uring_disabled", "2", "io_uring", "ok", "2: for nobody");
    check("proc/sys/net/core/busy_read", "50", "busy_poll", "ok", "busy_read 50 us");
    check("proc/sys/net/ipv4/tcp_tw_reuse", "1", "tw_reuse", "ok", "everywhere");
    check("proc/sys/net/ipv4/ip_local_port_range", "50000 50999", "port_range", "warn", "1000 connections");
    check("proc/sys/net/netfilter/nf_conntrack_count", "250000", "conntrack", "warn", "250000 of 262144");
    check("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]", "thp", "ok", "never");
    check("sys/devices/system/node/online", "0-1", "numa", "ok", "2 nodes");
    let limits = "Max open files            1024                 20000                files";
    check("proc/self/limits", limits, "nofile", "warn", "about 4936 connections");
    check("proc/self/limits", limits, "memlock", "skip", "does not say");
    let status = |seccomp| format!("Seccomp:\t{seccomp}\nCpus_allowed_list:\t0-3");
    check("proc/self/status", &status(1), "seccomp", "fail", "strict");
    check("proc/self/status", &status(2), "seccomp", "ok", "passes it");
    check("proc/self/status", &status(9), "seccomp", "skip", "not known");
}

#[test]
fn tls_in_the_kernel_is_looked_for_in_several_places() {
    let machine = Machine::good();
    machine.check(&[], "kernel_tls", "ok", "it is there");
    machine.set("proc/sys/net/ipv4/tcp_available_ulp", "mptcp tlsish\n");
    machine.check(&[], "kernel_tls", "skip", "no file tells");
    let check = |path: &str, texts: [&str; 2]| {
        let machine = Machine::good();
        machine.set("proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n");
        for (text, words) in texts.into_iter().zip(["a module that is not loaded", "it is not there"]) {
            machine.set(path, text);
            machine.check(&[], "kernel_tls", "ok", words);
        }
    };
    check("boot/config-6.12.0", ["CONFIG_NET=y\nCONFIG_TLS=m\n", "CONFIG_NET=y\n# CONFIG_TLS is not set\n"]);
    check("answers/zcat /proc/config.gz", ["CONFIG_TLS=y\n", "CONFIG_TLS_TOE=y\n"]);
    let modules = ["kernel/net/tls/tls.ko.xz:\n", "kernel/net/mptcp/mptcp_diag.ko:\n"];
    check("lib/modules/6.12.0/modules.dep", modules);
}

#[test]
fn flow_steering_needs_both_of_its_tables() {
    let machine = Machine::new(&[GOOD, BAD]);
    machine.set("proc/sys/net/core/rps_sock_flow_entries", "32768\n");
    machine.check(&[], "rfs", "warn", "eth0: off, although RPS is on");
    machine.set("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "8192\n");
    machine.check(&[], "rfs", "ok", "eth0: on, 32768 entries");
    machine.set("proc/sys/net/core/rps_sock_flow_entries", "0\n");
    machine.check(&[], "rfs", "warn", "eth0: off, although RPS is on");
}

#[test]
fn quotas_and_workers() {
    let machine = Machine::good();
    let group = "sys/fs/cgroup/system.slice/ringmill.service";
    machine.set(&format!("{group}/cpu.max"), "250000 100000\n");
    machine.check(&[], "cpu_limits", "ok", "quota of 2.50 CPUs for 2 worker(s)");
    machine.check(&["--workers", "3"], "cpu_limits", "fail", "quota of 2.50 CPUs for 3 worker(s)");
    machine.check(&["--workers", "5"], "pinning", "warn", "none is pinned");
    machine.set(&format!("{group}/cpu.stat"), "nr_throttled 8\n");
    machine.check(&[], "cpu_limits", "warn", "stopped 8 times");
    machine.set(&format!("{group}/cpu.max"), "50000 100000\n");
    machine.check(&[], "cpu_limits", "warn", "quota of 0.50 CPUs for 1 worker(s)");
}

#[test]
fn who_is_on_the_port() {
    let machine = Machine::new(&[GOOD, BAD]);
    machine.check(&["--port", "8081"], "port", "ok", "nobody listens on port 8081");
    std::fs::remove_dir_all(machine.path("proc/901")).unwrap();
    machine.check(&[], "port", "fail", "cannot be seen from here");
    machine.link("proc/900/fd/6", "socket:[888]");
    machine.check(&[], "port", "ok", "2 socket(s) listen on port 8080: ringmill (900)");
    machine.set("proc/900/comm", "nginx");
    machine.check(&[], "port", "warn", "nginx (900)");
    // A child that has its parent's sockets is no other program.
    machine.set("proc/950/comm", "nginx");
    machine.link("proc/950/fd/5", "socket:[777]");
    machine.check(&[], "port", "warn", "2 socket(s) listen on port 8080: nginx (900)");
}

#[test]
fn in_a_container_the_hosts_business_is_marked() {
    let machine = Machine::new(&[GOOD, CONTAINER]);
    std::fs::remove_dir_all(machine.path("sys/class/net/eth0")).unwrap();
    let (status, json) = machine.json(&[]);
    assert_eq!((status, &json["machine"]["container"]), (1, &Value::from("docker")));
    for knob in json["knobs"].as_array().unwrap() {
        assert_eq!(knob["is_the_hosts_business"], knob["scope"] == "host", "{knob:#}");
    }
    machine.check(&[], "io_uring", "warn", "Operation not permitted");
    machine.check(&[], "cpu_limits", "warn", "quota of 2.00 CPUs for 2 worker(s); stopped 12 times");
    machine.check(&[], "nic_queues", "skip", "a container's is the host's");
    machine.check(&[], "irq_affinity", "skip", "no network card");
    let (_, table, _) = machine.doctor(&[]);
    assert!(table.contains("in a container (docker)"), "{table}");
    assert!(table.lines().any(|line| line.contains("thp") && line.contains("[host]")), "{table}");
    assert!(!table.lines().any(|line| line.contains("nofile") && line.contains("[host]")), "{table}");
}

#[test]
fn an_empty_machine_is_skipped_not_failed() {
    let (status, json) = Machine::new(&[]).json(&[]);
    // No file says that connections are not tracked, and an option of `serve` is there on every machine.
    let odd: Vec<_> = states(&json).into_iter().filter(|(_, state)| state != "skip").collect();
    let odd: Vec<&str> = odd.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(odd, ["defer_accept", "conntrack"]);
    assert_eq!(status, 0);
}

/// Whatever the files hold, every knob says something, and nothing panics.
#[test]
fn odd_content_is_survived() {
    let long = "9".repeat(100_000);
    let odd: [&[u8]; 9] = [
        b"",
        b"\0\xff\xfe\x1b[31m",
        b"-1",
        b"18446744073709551615",
        b"[",
        b"4096 4096 4096 4096 4096",
        "0: \u{e4}\u{f6}:GGGG 0:0 0A x x x x x inode\nTcpExt: a\nUdp:".as_bytes(),
        b"65535-65535,0-65535",
        long.as_bytes(),
    ];
    for content in odd {
        let machine = Machine::new(&[GOOD, BAD]);
        for (path, _) in machine.files() {
            std::fs::write(path, content).unwrap();
        }
        survives(&machine, content);
    }
    // A directory where a file should be.
    let machine = Machine::new(&[GOOD, BAD]);
    for (path, _) in machine.files() {
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    survives(&machine, b"directories");
}

fn survives(machine: &Machine, content: &[u8]) {
    let start = String::from_utf8_lossy(&content[..content.len().min(20)]).into_owned();
    let (status, json) = machine.json(&[]);
    assert!((0..=2).contains(&status) && states(&json).len() == KNOBS, "{start:?}: {json:#}");
    for arguments in [&["--emit", "sysctl", "--all"][..], &[], &["somaxconn"]] {
        let (status, output, errors) = machine.doctor(arguments);
        assert!((0..=2).contains(&status) && errors.is_empty() && !output.is_empty(), "{start:?}: {errors}");
        assert!(!output.contains('\u{1b}'), "{start:?} reaches the terminal: {output}");
    }
    let (status, _, errors) = machine.change(&["--apply", "--dry-run"]);
    assert!((status == 0) == errors.is_empty() && !errors.contains("panicked"), "{start:?}: {errors}");
}

#[test]
fn the_table_is_plain_without_a_terminal() {
    let (status, table, errors) = Machine::good().doctor(&[]);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(!table.contains('\u{1b}'));
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    for words in ["Rings and rights", "somaxconn", "32 ok, 0 warn, 0 fail, 0 skipped"] {
        assert!(table.contains(words), "no {words:?} in {table}");
    }
}

#[test]
fn one_knob_is_told_in_full() {
    let (status, text, _) = Machine::new(&[GOOD, BAD]).doctor(&["thp", "somaxconn"]);
    assert_eq!(status, 2);
    for words in ["evidence", "source", "measured", "risk", "undo", "whose", "Transparent huge pages"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(!text.contains("Connection tracking"));
}

#[test]
fn this_very_machine_can_be_read() {
    let mut command = ringmill();
    command.args(["doctor", "--json"]);
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(0..=2)), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let uring = json["knobs"].as_array().unwrap().iter().find(|knob| knob["name"] == "io_uring").unwrap();
    assert!(["ok", "warn"].contains(&uring["state"].as_str().unwrap()), "the real probe answers: {uring:#}");
}

#[test]
fn bad_options_are_one_clear_line() {
    let check = |arguments: &[&str], words: &str| {
        let (status, output, errors) = Machine::good().doctor(arguments);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(words) && !errors.contains("panicked"), "{arguments:?}: {errors}");
    };
    check(&["nonsense"], "unknown knob \"nonsense\": expected one of io_uring, ");
    check(&["--apply", "nonsense"], "unknown knob");
    check(&["--measure", "nonsense"], "unknown knob");
    check(&["--interface", "eth9"], "no network interface \"eth9\": expected one of eth0, lo");
    check(&["--emit", "poetry"], "possible values: sysctl, systemd, guide");
    check(&["--dry-run"], "--dry-run goes with --apply or --revert");
    check(&["--apply", "--revert"], "cannot be used with");
    check(&["--workers", "0"], "0 workers can serve nobody");
    let (status, _, errors) = {
        let mut command = ringmill();
        command.args(["doctor", "--root", "/nonexistent"]);
        run(command)
    };
    assert_eq!(status, Some(2));
    assert!(errors.contains("has no /proc"), "{errors}");
}

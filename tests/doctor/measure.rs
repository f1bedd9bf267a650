//! `--measure` with a program in place of `serve` and `load` that says what it should find: the order of the runs,
//! the arithmetic, and that the knob is undone however it ends.

use crate::common::program::ringmill_path;
use crate::common::{Program, eventually};
use crate::fixture::{BAD, GOOD, LONG, Machine};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOMAXCONN: &str = "proc/sys/net/core/somaxconn";

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/fake.sh");

fn machine() -> Machine {
    Machine::new(&[GOOD, BAD])
}

fn arguments(machine: &Machine, knob: &str) -> Vec<String> {
    let path = |name: &str| machine.path(name).to_str().unwrap().to_owned();
    let mut arguments: Vec<String> = ["--measure", knob, "--duration", "10ms"].map(str::to_owned).to_vec();
    arguments.extend(["--program".to_owned(), FAKE.to_owned()]);
    arguments.extend(["--backup".to_owned(), path("state/backup.json")]);
    arguments
}

fn measure(machine: &Machine, knob: &str, more: &[&str]) -> (i32, String, String) {
    let arguments = arguments(machine, knob);
    let pairs = if more.contains(&"--pairs") { &[][..] } else { &["--pairs", "6"] };
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().chain(pairs).copied()).collect();
    machine.doctor(&arguments)
}

/// No trace: the old value, and no backup.
#[track_caller]
fn is_undone(machine: &Machine) {
    assert_eq!(machine.value(SOMAXCONN), "128");
    assert!(!machine.path("state/backup-measure.json").exists());
}

#[test]
fn settings_are_tried_in_turns_and_undone() {
    let machine = machine();
    let (status, output, errors) = measure(&machine, "somaxconn", &["--json"]);
    assert_eq!(status, 0, "{errors}");
    let json: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((json["pairs"].as_array().unwrap().len(), &json["void_pairs"]), (6, &Value::from(0)));
    let median = json["requests_per_second_ratio"]["median"].as_f64().unwrap();
    assert!((1.18..1.21).contains(&median), "{json:#}");
    assert_eq!((&json["verdict"], &json["undone"]), (&Value::from("faster with it"), &Value::from(true)));
    assert_eq!(json["p99_ratio"]["median"], 1.0);
    let loaded = machine.value("loaded");
    let values: Vec<&str> = loaded.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(values, ["128", "4096", "4096", "128"].repeat(3));
    assert!(loaded.lines().all(|line| {
        line.starts_with("load http://127.0.0.1:1/ --connections 64 --workers 2 --duration 10ms --json")
    }));
    is_undone(&machine);
}

#[test]
fn a_run_without_a_reply_voids_its_pair() {
    let machine = machine();
    machine.set("slow_in_run_2", "");
    let (status, output, errors) = measure(&machine, "somaxconn", &["--pairs", "7"]);
    assert_eq!(status, 0, "{errors}");
    assert!(output.contains("6 pairs, 1 void"), "{output}");
    assert!(errors.contains("pair 1 is void: load got no reply in its time"), "{errors}");
    is_undone(&machine);
}

#[test]
fn options_of_serve_are_tried_in_turns() {
    let machine = machine();
    let (status, output, errors) = measure(&machine, "congestion", &[]);
    assert_eq!(status, 0, "{errors}");
    assert!(output.contains("slower with it"), "{output}");
    assert!(output.contains("99th percentile    1.000"), "{output}");
    let served = machine.value("served");
    let with: Vec<bool> = served.lines().map(|line| line.ends_with("--congestion reno")).collect();
    assert_eq!(with, [false, true, true, false].repeat(3));
    is_undone(&machine);
}

#[test]
fn failures_undo_the_knob() {
    for (file, words) in
        [("silent", "no figures today; somaxconn is undone"), ("failing", "pairs without an error")]
    {
        let machine = machine();
        machine.set(file, "");
        let (status, output, errors) = measure(&machine, "somaxconn", &[]);
        assert_eq!((status, output.as_str()), (2, ""), "{errors}");
        assert!(errors.contains(words), "{errors}");
        is_undone(&machine);
    }
}

#[test]
fn a_signal_undoes_the_knob() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let machine = machine();
        // The first run is without the knob.
        machine.set("hang_in_run_2", "");
        let arguments = arguments(&machine, "somaxconn");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut program = Program::start(machine.command(&arguments), "measuring somaxconn");
        let deadline = Instant::now() + LONG;
        let both_runs =
            || std::fs::read_to_string(machine.path("loaded")).is_ok_and(|text| text.lines().count() == 2);
        while !both_runs() {
            assert!(Instant::now() < deadline, "it does not come to the second run: {:#?}", program.lines());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(machine.value(SOMAXCONN), "4096");
        assert!(machine.path("state/backup-measure.json").exists(), "for the case of SIGKILL");
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(2));
        eventually(true, || program.line_with("interrupted; somaxconn is undone").is_some());
        is_undone(&machine);
        let pids = machine.value("pids");
        assert_eq!(pids.lines().count(), 2);
        for pid in pids.lines() {
            assert!(!std::path::Path::new("/proc").join(pid).exists(), "server {pid} was left behind");
        }
    }
}

#[test]
fn the_real_server_is_found_and_answers() {
    let machine = machine();
    machine.set("real", ringmill_path());
    let (status, output, errors) = measure(&machine, "pinning", &["--workers", "1"]);
    assert_eq!(status, 0, "{errors}");
    assert!(output.contains("requests a second  1.000 (95% 1.000 to 1.000): no difference"), "{output}");
    assert!(errors.contains("serve --pin off against serve --pin auto"), "{errors}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let check = |knob: &str, words: &str| {
        let machine = machine();
        let (status, output, errors) = measure(&machine, knob, &[]);
        assert_eq!((status, output.as_str()), (2, ""), "{knob}: {errors}");
        assert!(errors.contains(words), "{knob}: {errors}");
        assert!(!machine.path("loaded").exists(), "{knob}: nothing was run");
    };
    check("rps", "runs over loopback: measure it between two machines");
    check("mitigations", "mitigations are never touched");
    check("nofile", "it is a limit");

    let machine = machine();
    machine.set(SOMAXCONN, "4096");
    let (_, _, errors) = measure(&machine, "somaxconn", &[]);
    assert!(errors.contains("as advised already"), "{errors}");
    machine.set(SOMAXCONN, "128");
    machine.set("state/backup-measure.json", "{}");
    let (_, _, errors) = measure(&machine, "somaxconn", &[]);
    assert!(errors.contains("another measurement runs, or one was killed"), "{errors}");
    std::fs::remove_file(machine.path("state/backup-measure.json")).unwrap();
    let mut arguments = arguments(&machine, "somaxconn");
    let program = arguments.iter_mut().find(|argument| *argument == FAKE).unwrap();
    *program = "/nonexistent".to_owned();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (status, _, errors) = machine.doctor(&arguments);
    assert_eq!(status, 2);
    assert!(errors.contains("starting `") && errors.contains("is undone"), "{errors}");
    is_undone(&machine);
}

//! What the command does where its output finds no reader or no room: it never panics. A closed pipe is quiet and leaves the
//! exit status as it was; a full disk is one clear line and an exit status of its own; files are written before text.
#![cfg(feature = "cli")]

mod common;

use common::program::ringmill;
use common::{Directory, PATIENCE, config, ip, on_both_drivers, start};
use ringmill::http;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the output of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is read to its end.
    Reader,
    /// A pipe whose reader has gone before the command starts.
    ClosedPipe,
    /// A device on which every write fails with ENOSPC (full(4)).
    FullDisk,
}

impl Place {
    fn open(self) -> (Stdio, Option<PipeReader>) {
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("full(4)");
        match self {
            Place::FullDisk => (full().into(), None),
            Place::Reader | Place::ClosedPipe => {
                let (reader, writer) = std::io::pipe().unwrap();
                (writer.into(), (self == Place::Reader).then_some(reader))
            }
        }
    }
}

/// Runs a command with its two outputs there: exit status, and what was read of each.
#[track_caller]
fn run(mut command: Command, stdout: Place, stderr: Place) -> (Option<i32>, String, String) {
    let ((stdout, out), (stderr, err)) = (stdout.open(), stderr.open());
    let mut child = command.stdout(stdout).stderr(stderr).spawn().expect("it can be run");
    // The command holds the writing ends; as long as it has them too, no reader comes to an end.
    drop(command);
    let read = |reader: Option<PipeReader>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            reader.map(|mut reader| reader.read_to_string(&mut text).expect("text"));
            text
        })
    };
    let (out, err) = (read(out), read(err));
    let deadline = Instant::now() + 12 * PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    (status.code(), out.join().unwrap(), err.join().unwrap())
}

/// What a command says where nobody reads its output, and where that finds no room; `code` is its exit status otherwise, `full`
/// the one of a full disk. The remarks that it makes on standard error anyway begin with `remarks`.
#[track_caller]
fn check(command: &dyn Fn() -> Command, code: i32, full: i32, remarks: usize) {
    let what = format!("{:?}", command().get_args().collect::<Vec<_>>());
    let (status, output, errors) = run(command(), Place::Reader, Place::Reader);
    assert_eq!(status, Some(code), "{what}: {errors}");
    assert!(!output.is_empty(), "{what} has output");
    assert_eq!(errors.lines().count(), remarks, "{what}: {errors}");

    let (status, _, errors) = run(command(), Place::ClosedPipe, Place::Reader);
    assert_eq!((status, errors.lines().count()), (Some(code), remarks), "{what} | true: {errors}");

    let (status, _, errors) = run(command(), Place::FullDisk, Place::Reader);
    assert_eq!(status, Some(full), "{what} >/dev/full: {errors}");
    let last = errors.lines().last().unwrap_or_default();
    let expected = "ringmill: error: cannot write to standard output: No space left on device (os error 28)";
    assert_eq!((last, errors.lines().count()), (expected, remarks + 1), "{what} >/dev/full: {errors}");

    // Remarks are lost without a word where nobody takes them.
    for place in [Place::ClosedPipe, Place::FullDisk] {
        let (status, again, _) = run(command(), Place::Reader, place);
        assert_eq!((status, again.is_empty()), (Some(code), false), "{what} 2> {place:?}");
        let (status, ..) = run(command(), place, place);
        let expected = if place == Place::FullDisk { full } else { code };
        assert_eq!(status, Some(expected), "{what} > and 2> {place:?}");
    }
}

fn with(arguments: &[&str]) -> Command {
    let mut command = ringmill();
    command.args(arguments);
    command
}

#[test]
fn help_and_lists() {
    for arguments in
        [&["--help"][..], &["--version"], &["help", "load"], &["serve", "-h"], &["compare", "--list"]]
    {
        check(&|| with(arguments), 0, 1, 0);
    }
}

#[test]
fn doctor() {
    // Its exit status says what it found; a report that could not be given is 2, as other errors of it.
    check(&|| with(&["doctor", "--emit", "systemd"]), 0, 2, 0);
    check(&|| with(&["doctor", "--emit", "guide"]), 0, 2, 0);
}

#[test]
fn load() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| http::server(|_, reply| reply.text("hello")));
        let url = format!("http://{}/", ip(&running.addresses()[0]));
        for more in [&[][..], &["--json"]] {
            let command = || {
                let mut command =
                    with(&["load", &url, "--duration", "200ms", "--warmup", "0", "--pin", "off"]);
                command.args(["--driver", &driver.to_string(), "--connections", "2"]).args(more);
                command
            };
            check(&command, 0, 1, 1);
        }
    });
}

/// Errors are for standard error alone: where it takes nothing, the exit status is all there is.
#[test]
fn errors() {
    for (arguments, code) in [
        (&["load"][..], 2),
        (&["load", "tcp://127.0.0.1:1"], 1),
        (&["compare", "--only", "nonesuch"], 2),
        (&["doctor", "nonesuch"], 2),
        (&["serve", "--pin", "9999"], 1),
    ] {
        for place in [Place::Reader, Place::ClosedPipe, Place::FullDisk] {
            let (status, output, _) = run(with(arguments), Place::Reader, place);
            assert_eq!((status, output.as_str()), (Some(code), ""), "{arguments:?} 2> {place:?}");
        }
    }
}

/// A program in place of `ringmill load` that says at once what a good run would.
fn quick_load(directory: &Directory) -> String {
    let load = directory.file("load.sh");
    let figures = r#"{"requests":1000,"requests_per_second":5000.0,"errors":0,"latency_us":
        {"p50":1.0,"p90":2.0,"p99":3.0,"p99_9":4.0,"p99_99":5.0,"max":6.0}}"#;
    std::fs::write(&load, format!("#!/bin/sh\necho '{figures}'\n")).unwrap();
    std::fs::set_permissions(&load, std::fs::Permissions::from_mode(0o755)).unwrap();
    load
}

fn compare(load: &str, out: &Path) -> Command {
    let mut command =
        with(&["compare", "--only", "ringmill-poll", "--profile", "keep-alive-64,pipelined-16"]);
    command.args(["--pairs", "1", "--duration", "100ms", "--load", load, "--out"]).arg(out);
    command
}

/// A whole comparison does not end for its text: what it measured is in the files.
#[test]
fn compare_writes_its_files_whatever_becomes_of_the_text() {
    let directory = Directory::new();
    let load = quick_load(&directory);
    for (place, code) in [(Place::Reader, 0), (Place::ClosedPipe, 0), (Place::FullDisk, 1)] {
        let out = directory.0.join(format!("{place:?}"));
        let (status, output, errors) = run(compare(&load, &out), place, Place::Reader);
        assert_eq!(status, Some(code), "{place:?}: {errors}");
        assert_eq!(output.contains("report: "), place == Place::Reader, "{output}");
        assert!(!errors.contains("panicked"), "{errors}");
        assert_eq!(
            errors.contains("cannot write to standard output: "),
            place == Place::FullDisk,
            "{errors}"
        );
        let results = std::fs::read_to_string(out.join("results.json")).expect("results.json");
        let results: serde_json::Value = serde_json::from_str(&results).unwrap();
        assert_eq!(results["profiles"].as_array().unwrap().len(), 2, "{place:?}");
        assert!(out.join("report.html").exists() && out.join("pipelined-16.svg").exists(), "{place:?}");
    }
}

#[test]
fn compare_writes_the_files_of_a_profile_before_its_text() {
    let directory = Directory::new();
    let (load, out) = (quick_load(&directory), directory.0.join("out"));
    let mut command = compare(&load, &out);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut texts = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(profile) = line.unwrap().strip_prefix("== ").map(str::to_owned) else { continue };
        let name = profile.split(':').next().unwrap();
        assert!(out.join(format!("{name}.svg")).exists(), "{name} is told before it is written");
        texts += 1;
    }
    assert_eq!((texts, child.wait().unwrap().code()), (2, Some(0)));
}

//! The HTTP cases of `tests/data/http`: through the sockets of both drivers, and cut in every way on the simulator; without TLS and
//! with it.
//!
//! A case is data; its README says how one is written. Read on in `cases/format.rs`.
#![cfg(feature = "tls")]

mod cases;
mod common;

use cases::format::{Case, Section, load, parse};
use cases::{Lane, simulated, sockets};
use common::{on_both_drivers, say_past_capture};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/http")
}

fn all() -> Vec<Case> {
    load(&directory()).unwrap_or_else(|malformed| panic!("{malformed}"))
}

/// Fails with every case that went wrong, each with its place.
fn report(failures: &[String]) {
    let shown = failures.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} cases failed:\n{shown}", failures.len());
}

fn failure(case: &Case, what: String) -> String {
    format!("{} {}: {}", case.place, case.name, what.chars().take(2000).collect::<String>())
}

#[test]
fn through_the_sockets() {
    through_sockets(Lane::Native);
}

#[test]
fn through_the_sockets_by_a_service_of_tower() {
    through_sockets(Lane::Tower);
}

#[test]
fn what_a_service_of_tower_does_otherwise_is_a_case() {
    for (name, _) in cases::NOT_BY_TOWER {
        assert!(all().iter().any(|case| case.name == *name), "{name} is no case");
    }
}

fn through_sockets(lane: Lane) {
    on_both_drivers(|driver| {
        let servers = sockets::Servers::start(driver, lane);
        let failed = |case: &Case| {
            if !lane.has(case) {
                return None;
            }
            servers.run(case).err().map(|what| failure(case, what))
        };
        report(&all().iter().filter_map(failed).collect::<Vec<_>>());
    });
}

#[test]
fn through_the_simulator_cut_in_every_way() {
    through_the_simulator(Lane::Native);
}

#[test]
fn through_the_simulator_cut_in_every_way_by_a_service_of_tower() {
    through_the_simulator(Lane::Tower);
}

fn through_the_simulator(lane: Lane) {
    let cases: Vec<Case> = all().into_iter().filter(|case| lane.has(case)).collect();
    // A simulation is a thread's own: each thread takes every so many cases.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = |first: usize| {
        let (mut failures, mut count) = (Vec::new(), 0);
        for case in cases.iter().skip(first).step_by(threads) {
            match simulated::run(case, lane) {
                Ok(runs) => count += runs,
                Err(what) => failures.push(failure(case, what)),
            }
        }
        (failures, count)
    };
    let share = &share;
    let (failures, count) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("a case panicked");
        let (mut failures, mut count): (Vec<String>, usize) = (Vec::new(), 0);
        for (failed, runs) in running.into_iter().map(join) {
            failures.extend(failed);
            count += runs;
        }
        (failures, count)
    });
    report(&failures);
    say_past_capture(&format!(
        "{} HTTP cases, {count} conversations on the simulator ({lane:?})",
        cases.len()
    ));
    assert!(cases.len() >= 700, "cases were lost: {} are left", cases.len());
    assert!(count > 55_000, "cuts were lost: {count} are left");
}

#[test]
fn the_readme_lists_what_the_cases_cite() {
    let readme = std::fs::read_to_string(directory().join("README.md")).expect("a README");
    let part = |title: &str| {
        let (_, rest) = readme.split_once(&format!("\n## {title}\n")).expect(title);
        rest.split("\n## ").next().unwrap_or_default()
    };
    let cases = all();
    let sections: BTreeSet<Section> = cases.iter().flat_map(|case| case.sections.iter().cloned()).collect();
    let cited: BTreeSet<String> = sections.iter().map(Section::to_string).collect();
    let listed = part("Sections that cases cite").lines();
    let listed: BTreeSet<String> = listed
        .filter_map(|line| line.strip_prefix("| RFC ")?.split_once(" |"))
        .map(|(section, _)| format!("RFC {section}"))
        .collect();
    let missing: Vec<&String> = cited.difference(&listed).collect();
    let stale: Vec<&String> = listed.difference(&cited).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not listed: {missing:?}; listed, not cited: {stale:?}");
    for line in part("Departures").lines().filter(|line| line.starts_with("| RFC ")) {
        let named = line.rsplit('`').nth(1).unwrap_or_default();
        assert!(cases.iter().any(|case| case.name == named), "a departure without its case: {line}");
    }
}

#[test]
fn a_malformed_file_is_told_with_its_line() {
    let good = "case a\nrfc 9112 2.2\n> x\\r\\n\n< 400\nclosed\n";
    let check = |text: &str, expected: &str| {
        let malformed = parse("a.cases", text).map(|cases| cases.len()).expect_err(text);
        assert!(malformed.to_string().starts_with(expected), "{text:?}: {malformed}");
    };
    assert_eq!(parse("a.cases", &format!("# a comment\n\n{good}")).map(|cases| cases.len()), Ok(1));
    check("closed\n", "a.cases:1: expected `case NAME`");
    check(&format!("{good}> x\n"), "a.cases:6: expected `case NAME`");
    check(&good.replace("case a", "case A b"), "a.cases:1: `A b` is not a name");
    check(&good.replace("closed\n", ""), "a.cases:4: the file ends before the state of `a`");
    check(&good.replace("closed", "case b"), "a.cases:5: `a` has no state");
    check(&good.replace("rfc 9112 2.2\n", ""), "a.cases:4: `a` has no section");
    check(&good.replace("9112 2.2", "9112"), "a.cases:2: expected `rfc NUMBER SECTION");
    check(&good.replace("2.2", "two"), "a.cases:2: expected `rfc NUMBER SECTION");
    check(&good.replace("> x\\r\\n\n", ""), "a.cases:4: `a` sends nothing");
    check(&good.replace("\\n", "\\q"), "a.cases:3: `\\q` is no escape");
    check(&good.replace("\\n", "\\"), "a.cases:3: a `\\` at the end");
    check(&good.replace("\\n", "\\x4"), "a.cases:3: `\\x` takes two");
    check(&good.replace("\\n", "\\{3:a"), "a.cases:3: `\\{` without");
    check(&good.replace("\\n", "\\{a:3}"), "a.cases:3: expected a count");
    check(&good.replace("400", "4000"), "a.cases:4: expected `< STATUS");
    check(&good.replace("400", "400 hello"), "a.cases:4: expected `< STATUS");
    check(&good.replace("closed", "= a: b\n! c d: e\nclosed"), "a.cases:6: expected `= NAME");
    check(&good.replace("< 400", "= a: b"), "a.cases:4: a line about a field");
    check(&good.replace("< 400", "cut\n< 400"), "a.cases:6: a cut stands between bytes");
    check(&good.replace("< 400", "end\n> more\n< 400"), "a.cases:7: after `end` nothing is sent");
    check(&good.replace("< 400", "plain\nsecure\n< 400"), "a.cases:5: expected a line of a case or a state");
    check(&good.replace("closed", "end\nkept"), "a.cases:6: after `end` the connection closes");
    check(&good.replace("closed", "shut"), "a.cases:5: expected a line of a case or a state");
}

#[test]
fn a_name_that_is_taken_is_told_with_both_places() {
    let directory = common::Directory::new();
    let case = "case a\nrfc 9112 2.2\n> x\\r\\n\n< 400\nclosed\n";
    std::fs::write(directory.file("1.cases"), case).unwrap();
    std::fs::write(directory.file("2.cases"), format!("\n{case}")).unwrap();
    let malformed = load(&directory.0).expect_err("two cases of one name");
    assert_eq!(malformed.to_string(), "2.cases:2: the name `a` is taken by 1.cases:1");
}

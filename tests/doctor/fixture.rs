//! A directory that looks like a machine, and `ringmill doctor` run on it.

use crate::common::Directory;
use crate::common::program::{ringmill, run_within};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub const GOOD: &str = include_str!("good.txt");
pub const BAD: &str = include_str!("bad.txt");
pub const CONTAINER: &str = include_str!("container.txt");

/// For what starts dozens of processes, on a machine where all tests run at once.
pub const LONG: Duration = Duration::from_secs(120);

/// A machine of files, removed in the end.
pub struct Machine(Directory);

impl Machine {
    /// The first description, and what the others say differently.
    pub fn new(descriptions: &[&str]) -> Machine {
        let machine = Machine(Directory::new());
        std::fs::create_dir(machine.path("proc")).unwrap();
        for description in descriptions {
            for file in description.split("\n== ").skip(1) {
                let (head, body) = file.split_once('\n').unwrap_or((file, ""));
                match head.split_once(" -> ") {
                    Some((path, target)) => machine.link(path, target),
                    None => machine.set(head, body),
                }
            }
        }
        machine
    }

    pub fn good() -> Machine {
        Machine::new(&[GOOD])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    pub fn set(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn link(&self, name: &str, target: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// A value without the white space around it.
    pub fn value(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap().trim().to_owned()
    }

    /// Every file below /proc and /sys that holds text, with its content.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut files, mut directories) = (Vec::new(), vec![self.path("proc"), self.path("sys")]);
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_file() {
                    files.push((entry.path(), std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        files.sort();
        files
    }

    pub fn backup(&self) -> PathBuf {
        self.path("state/backup.json")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ringmill();
        command
            .arg("doctor")
            .arg("--root")
            .arg(self.path(""))
            .args(arguments)
            .env("FAKE_ROOT", self.path(""));
        command
    }

    /// Exit status, standard output, standard error.
    pub fn doctor(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run(self.command(arguments))
    }

    /// The same of any command.
    pub fn run(&self, command: Command) -> (i32, String, String) {
        let (status, output, errors) = run_within(LONG, command);
        (status.expect("it is not killed"), output, errors)
    }

    /// The same, with the backup inside the fixture.
    pub fn change(&self, arguments: &[&str]) -> (i32, String, String) {
        let backup = self.backup();
        self.doctor(&[arguments, &["--backup", backup.to_str().unwrap()]].concat())
    }

    pub fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (status, output, errors) = self.doctor(&[&["--json"], arguments].concat());
        let json = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output} {errors}"));
        (status, json)
    }

    /// Checks one knob's state, and that its evidence contains some words.
    #[track_caller]
    pub fn check(&self, arguments: &[&str], knob: &str, state: &str, words: &str) {
        let (_, json) = self.json(&[&[knob], arguments].concat());
        let found = &json["knobs"][0];
        assert_eq!((found["name"].as_str(), found["state"].as_str()), (Some(knob), Some(state)), "{found:#}");
        let evidence = found["evidence"].as_str().unwrap();
        assert!(evidence.contains(words), "expected {words:?} in {evidence:?}");
        let is_told = !found["advice"].as_str().unwrap().is_empty();
        assert!(is_told || !["warn", "fail"].contains(&state), "{knob}: no advice");
    }
}

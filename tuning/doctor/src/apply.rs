//! `--apply` and `--revert`: all of the changes or none, and always a way back.
//!
//! The order is: read what is there, see that every file can be written, write the backup, change, and read each
//! value back. When a step fails, what was done is undone and the former backup is put back.

use super::knob::{Knob, Setting, State, name_of, printable};
use super::knobs;
use super::machine::{Machine, chosen_word};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// One value that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) knob: String,
    /// From the root: `proc/sys/net/core/somaxconn`.
    pub(super) path: String,
    pub(super) before: String,
    pub(super) after: String,
}

impl Change {
    fn reversed(&self) -> Change {
        Change { before: self.after.clone(), after: self.before.clone(), ..self.clone() }
    }

    fn line(&self) -> String {
        let shown = |value: &str| if value.is_empty() { "(empty)".to_owned() } else { printable(value) };
        format!("{}: {} -> {} ({})", name_of(&self.path), shown(&self.before), shown(&self.after), self.knob)
    }
}

/// The file that `--revert` reads.
#[derive(Serialize, Deserialize)]
struct Backup {
    version: u32,
    changes: Vec<Change>,
}

const VERSION: u32 = 1;

/// Where the backup is, unless an option says otherwise.
pub(super) fn default_backup(machine: &Machine) -> Result<PathBuf, String> {
    const FILE: &str = "ringmill/doctor.json";
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // Fields of Uid: real, effective, saved, file system (proc_pid_status(5)). The program's own, not a fixture's.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if let Some(state) = variable("XDG_STATE_HOME") {
        return Ok(state.join(FILE));
    }
    match (effective, variable("HOME")) {
        (Some("0"), _) => Ok(machine.path("var/lib").join(FILE)),
        (_, Some(home)) => Ok(home.join(".local/state").join(FILE)),
        _ => Err("no place for the backup: give one with --backup PATH".to_owned()),
    }
}

/// Applies knobs, or all that are not ok; says what was changed, or with `dry_run` what would be.
pub(super) fn apply(
    machine: &Machine,
    chosen: &[&'static Knob],
    backup: &Path,
    dry_run: bool,
) -> Result<String, String> {
    let changes = plan(machine, chosen)?;
    if changes.is_empty() {
        return Ok("nothing to change: what can be applied is as advised\n".to_owned());
    }
    let mut text = String::new();
    for change in &changes {
        let _ = writeln!(text, "{}{}", if dry_run { "would set " } else { "set " }, change.line());
    }
    if dry_run {
        let _ = writeln!(text, "nothing was changed; the backup would be {}", backup.display());
        return Ok(text);
    }
    let former = read_backup_if_any(backup)?;
    check_writable(machine, &changes)?;
    let mut merged = former.clone().unwrap_or_default();
    for change in &changes {
        // The oldest value is the one to go back to.
        match merged.iter_mut().find(|old| old.path == change.path) {
            Some(old) => old.after.clone_from(&change.after),
            None => merged.push(change.clone()),
        }
    }
    finish_despite_signals();
    write_backup(backup, &merged)?;
    if let Err(problem) = change_all(machine, &changes) {
        let restored = match former {
            Some(former) => write_backup(backup, &former),
            None => remove_backup(backup),
        };
        return Err(with(problem, restored));
    }
    let _ = writeln!(text, "undo: ringmill doctor --revert --backup {}", backup.display());
    Ok(text)
}

/// Puts back what was before; says what.
pub(super) fn revert(machine: &Machine, backup: &Path, dry_run: bool) -> Result<String, String> {
    let Some(changes) = read_backup_if_any(backup)? else {
        return Err(format!(
            "no backup at {}: nothing was applied, or it is elsewhere (--backup PATH)",
            backup.display()
        ));
    };
    let mut text = String::new();
    let mut back = Vec::new();
    for change in changes.iter().rev() {
        if !machine.exists(&change.path) {
            // A card that was taken out, a module that was unloaded: its setting went with it.
            let _ = writeln!(text, "gone, so nothing to set: {}", name_of(&change.path));
            continue;
        }
        let now = read_value(machine, &change.path)?;
        if is_same(&now, &change.before) {
            continue;
        }
        let reversed = Change { before: now.clone(), ..change.reversed() };
        let by_others = if is_same(&now, &change.after) { "" } else { ", changed by somebody since" };
        let _ =
            writeln!(text, "{}{}{by_others}", if dry_run { "would set " } else { "set " }, reversed.line());
        back.push(reversed);
    }
    if dry_run {
        text.push_str("nothing was changed\n");
        return Ok(text);
    }
    check_writable(machine, &back)?;
    finish_despite_signals();
    change_all(machine, &back)?;
    remove_backup(backup)?;
    let _ = writeln!(text, "all is as it was before; the backup is deleted");
    Ok(text)
}

/// A few writes take no time: whoever presses Ctrl-C meanwhile gets the whole change, not half of it.
fn finish_despite_signals() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Refused only for signals that cannot be caught, which these are not. Nobody reads the flag.
        let _ = signal_hook::flag::register(signal, std::sync::Arc::default());
    }
}

/// What has to change. Without names, the knobs that are not ok and can be applied.
pub(super) fn plan(machine: &Machine, chosen: &[&'static Knob]) -> Result<Vec<Change>, String> {
    let mut changes: Vec<Change> = Vec::new();
    let named = !chosen.is_empty();
    let knobs: Vec<&'static Knob> = match named {
        true => chosen.to_vec(),
        false => knobs::all().filter(|knob| (knob.probe)(machine).state >= State::Warn).collect(),
    };
    for knob in knobs {
        let settings = knob.settings(machine);
        if named && settings.is_empty() {
            let found = (knob.probe)(machine).evidence;
            return Err(format!(
                "{} has nothing to write here ({found}); by hand: {}",
                knob.name, knob.apply
            ));
        }
        for setting in settings {
            let before = read_value(machine, &setting.path)?;
            let is_planned = changes.iter().any(|change| change.path == setting.path);
            if !is_planned && !is_same(&before, &setting.value) {
                changes.push(Change {
                    knob: knob.name.to_owned(),
                    path: setting.path,
                    before,
                    after: setting.value,
                });
            }
        }
    }
    Ok(changes)
}

/// Writes all values, or puts back those written and says so.
pub(super) fn change_all(machine: &Machine, changes: &[Change]) -> Result<(), String> {
    for (index, change) in changes.iter().enumerate() {
        let Err(problem) = write_value(machine, change) else { continue };
        // The one that failed may have been written: the kernel may have taken something else.
        let undone: Vec<String> =
            changes[..=index].iter().rev().filter_map(|done| restore(machine, done).err()).collect();
        let end = match (undone.as_slice(), index) {
            ([], 0) => "nothing was changed".to_owned(),
            ([], _) => format!("the {index} value(s) set before it are put back"),
            (problems, _) => format!("and putting back failed too: {}", problems.join("; ")),
        };
        return Err(format!("{problem}; {end}"));
    }
    Ok(())
}

/// Puts back one value, if it is not there already.
pub(super) fn restore(machine: &Machine, change: &Change) -> Result<(), String> {
    match read_value(machine, &change.path) {
        Ok(now) if is_same(&now, &change.before) => Ok(()),
        _ => write_value(machine, &change.reversed()),
    }
}

/// Sees that every file can be opened for writing, before the first is written.
pub(super) fn check_writable(machine: &Machine, changes: &[Change]) -> Result<(), String> {
    for change in changes {
        std::fs::OpenOptions::new()
            .write(true)
            .open(machine.path(&change.path))
            .map_err(|error| format!("{}; nothing was changed", explain(machine, &change.path, &error)))?;
    }
    Ok(())
}

fn write_value(machine: &Machine, change: &Change) -> Result<(), String> {
    let problem = |error| explain(machine, &change.path, &error);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(machine.path(&change.path))
        .map_err(problem)?;
    // One write call: the kernel takes each as a whole value.
    file.write_all(format!("{}\n", change.after).as_bytes()).map_err(problem)?;
    drop(file);
    let now = read_value(machine, &change.path)?;
    if is_same(&now, &change.after) {
        return Ok(());
    }
    let name = name_of(&change.path);
    Err(format!("{name}: the kernel did not take {:?}, it says {now:?}", change.after))
}

/// What a file holds now; of several words with one in brackets, that one.
fn read_value(machine: &Machine, path: &str) -> Result<String, String> {
    let text = std::fs::read(machine.path(path)).map_err(|error| explain(machine, path, &error))?;
    let text = String::from_utf8(text).map_err(|_| format!("{}: holds no text", name_of(path)))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match chosen_word(&text) {
        Some(word) if text.contains('[') => Ok(word.to_owned()),
        _ => Ok(text),
    }
}

/// Whether the machine has a setting already.
pub(super) fn is_in_place(machine: &Machine, setting: &Setting) -> bool {
    read_value(machine, &setting.path).is_ok_and(|now| is_same(&now, &setting.value))
}

/// Whether two values mean the same: the kernel prints tabs between numbers, and CPU masks with all their zeros.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
    let mask = |value: &str| {
        let digits = value.replace(',', "");
        let is_mask = !digits.is_empty() && digits.bytes().all(|letter| letter.is_ascii_hexdigit());
        is_mask.then(|| digits.trim_start_matches('0').to_owned())
    };
    plain(one) == plain(other) || mask(one).is_some_and(|one| mask(other) == Some(one))
}

fn explain(machine: &Machine, path: &str, error: &std::io::Error) -> String {
    let name = name_of(path);
    let inside = machine.container().is_some();
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{name}: not on this machine (an older kernel, or a module that is not loaded)")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if inside => format!(
            "{name}: no permission: root is needed, and in a container it is the host's business or that of its start \
             (`docker run --sysctl`)"
        ),
        ErrorKind::PermissionDenied => format!("{name}: no permission: run it as root"),
        _ => format!("{name}: {error}"),
    }
}

fn with(problem: String, then: Result<(), String>) -> String {
    match then {
        Ok(()) => problem,
        Err(more) => format!("{problem}; {more}"),
    }
}

/// Reads a backup. What it names is checked: as root, this would write anything anywhere.
fn read_backup_if_any(path: &Path) -> Result<Option<Vec<Change>>, String> {
    let shown = path.display();
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| format!("reading the backup {shown}: {error}"))?,
    };
    let broken = |why: String| format!("the backup {shown} cannot be used: {why}; nothing was changed");
    let backup: Backup = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    if backup.version != VERSION {
        return Err(broken(format!("version {}, and this program knows {VERSION}", backup.version)));
    }
    for change in &backup.changes {
        let is_known = change.path.starts_with("proc/sys/") || change.path.starts_with("sys/");
        if !is_known || change.path.split('/').any(|part| part == "..") {
            return Err(broken(format!("it names {:?}", change.path)));
        }
    }
    Ok(Some(backup.changes))
}

pub(super) fn write_backup(path: &Path, changes: &[Change]) -> Result<(), String> {
    let backup = Backup { version: VERSION, changes: changes.to_vec() };
    let text = serde_json::to_string_pretty(&backup).expect("plain strings always serialise");
    write_atomically(path, &format!("{text}\n")).map_err(|error| {
        format!("writing the backup {}: {error}; give another place with --backup PATH", path.display())
    })
}

pub(super) fn remove_backup(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path).map_err(|error| format!("deleting the backup {}: {error}", path.display()))
}

/// Writes a whole file or none of it: what a crash leaves is the old file or the new one.
fn write_atomically(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let written = std::fs::File::create(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_helps() {
        let root = std::env::temp_dir().join(format!("ringmill-apply-{}", std::process::id()));
        let asked = super::super::machine::Asked { port: 1, workers: None, backlog: 1, interface: None };
        let machine = Machine::new(root.clone(), asked);
        let check = |kind: ErrorKind, words: &str| {
            let line = explain(&machine, "proc/sys/net/core/somaxconn", &kind.into());
            assert!(line.starts_with("net.core.somaxconn: ") && line.contains(words), "{line}");
        };
        check(ErrorKind::PermissionDenied, "run it as root");
        check(ErrorKind::NotFound, "not on this machine");
        check(ErrorKind::StorageFull, "");
        std::fs::create_dir_all(root.join(".dockerenv")).unwrap();
        check(ErrorKind::PermissionDenied, "host's business");
        check(ErrorKind::ReadOnlyFilesystem, "host's business");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn values_that_mean_the_same() {
        let check = |one, other, expected| assert_eq!(is_same(one, other), expected, "{one:?} and {other:?}");
        check("4096\t131072\t6291456", "4096 131072 6291456", true);
        check("00000000,00000003", "3", true);
        check("0", "00", true);
        check("128", "4096", false);
        check("performance", "powersave", false);
        check("", "0", false);
        check("", "", true);
    }
}

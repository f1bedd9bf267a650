//! What a knob is. The knobs themselves are in `knobs/`, one file a topic.

use super::machine::{Machine, sysctl_path};

/// Something about the machine that a server can profit from or suffer by.
pub(super) struct Knob {
    /// How the command line and the guide call it.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) what: &'static str,
    /// When it helps.
    pub(super) when: &'static str,
    /// What somebody else says or measured, and where.
    pub(super) source: &'static str,
    /// What was measured with Ringmill, on which machine.
    pub(super) measured: &'static str,
    pub(super) risk: &'static str,
    pub(super) apply: &'static str,
    pub(super) undo: &'static str,
    pub(super) scope: Scope,
    /// Reads the machine. Never fails: what cannot be read is a finding too.
    pub(super) probe: fn(&Machine) -> Finding,
    /// What `--apply` writes on a machine; there may be nothing to write on this one.
    pub(super) settings: Option<fn(&Machine) -> Vec<Setting>>,
    pub(super) trial: Trial,
}

impl Knob {
    /// What `--apply` writes on this machine; empty where it can write nothing.
    pub(super) fn settings(&self, machine: &Machine) -> Vec<Setting> {
        self.settings.map_or_else(Vec::new, |settings| settings(machine))
    }
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// The process's: its service unit or its container's start decides.
    Process,
    /// The network namespace's: a container has its own.
    Network,
    /// The kernel's: in a container, the host's business.
    Host,
}

impl Scope {
    pub(super) fn text(self) -> &'static str {
        match self {
            Scope::Process => {
                "the process: in a container, an option of its start (`--ulimit`, `--security-opt`, `--cpus`)"
            }
            Scope::Network => {
                "the network namespace: a container has its own (`docker run --sysctl NAME=VALUE`)"
            }
            Scope::Host => "the machine: in a container it is the host's business",
        }
    }
}

/// How `--measure` tries a knob.
pub(super) enum Trial {
    /// It does not, for this reason.
    No(&'static str),
    /// The machine as it is, against the machine with the knob's settings.
    Settings,
    /// `serve` with some options, against `serve` with others.
    Serve { before: &'static [&'static str], after: &'static [&'static str] },
}

/// Reason of most knobs that cannot be measured.
pub(super) const NOT_OVER_LOOPBACK: &str =
    "it works on a network card, and the measurement runs over loopback: measure it between two machines";

/// Worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Skip,
    Ok,
    Warn,
    Fail,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Skip => "skip",
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) state: State,
    pub(super) evidence: String,
    /// What to do; empty if nothing.
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn ok(evidence: impl Into<String>) -> Finding {
        Finding { state: State::Ok, evidence: evidence.into(), advice: String::new() }
    }

    pub(super) fn skip(evidence: impl Into<String>) -> Finding {
        Finding { state: State::Skip, ..Finding::ok(evidence) }
    }

    pub(super) fn warn(evidence: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { state: State::Warn, advice: advice.into(), ..Finding::ok(evidence) }
    }

    pub(super) fn fail(evidence: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { state: State::Fail, ..Finding::warn(evidence, advice) }
    }

    /// Something worth doing in some cases, although all is well.
    pub(super) fn hint(self, advice: impl Into<String>) -> Finding {
        Finding { advice: advice.into(), ..self }
    }

    /// The file of a sysctl is missing or holds something else than expected.
    pub(super) fn unreadable(machine: &Machine, sysctl: &str) -> Finding {
        let Some(text) = machine.sysctl(sysctl) else {
            return Finding::skip(format!(
                "{sysctl} is not there: an older kernel, or a sandbox that hides it"
            ));
        };
        let start: String = printable(&text).chars().take(40).collect();
        Finding::skip(format!("{sysctl} holds {start:?}, which is not understood"))
    }
}

/// A value that a file of /proc/sys or /sys should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// From the root: `proc/sys/net/core/somaxconn`.
    pub(super) path: String,
    pub(super) value: String,
}

impl Setting {
    pub(super) fn sysctl(name: &str, value: impl ToString) -> Setting {
        Setting { path: sysctl_path(name), value: value.to_string() }
    }

    pub(super) fn file(path: impl Into<String>, value: impl ToString) -> Setting {
        Setting { path: path.into(), value: value.to_string() }
    }

    /// The sysctl's name, or the path of another file.
    pub(super) fn name(&self) -> String {
        name_of(&self.path)
    }
}

/// Longer than all that doctor has to say about something.
const PRINTABLE_MAX: usize = 1000;

/// A text on one line, without control characters and not without end: what odd files hold must not reach a
/// terminal.
pub(super) fn printable(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|letter| !letter.is_control()).take(PRINTABLE_MAX).collect()
}

/// The usual name of what is at a path.
pub(super) fn name_of(path: &str) -> String {
    match path.strip_prefix("proc/sys/") {
        Some(rest) => rest.replace('/', "."),
        None => format!("/{path}"),
    }
}

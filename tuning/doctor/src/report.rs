//! The report: a table for people, JSON for programs. Both say the same.

use super::knob::{Finding, Knob, Scope, State, printable};
use super::knobs::{self, GROUPS};
use super::machine::Machine;
use clap::builder::styling::{AnsiColor, Style as Colour};
use serde::Serialize;
use std::fmt::Write;
use std::io::IsTerminal;

const WIDTH: usize = 100;

/// How the text looks.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Plain,
    Coloured,
}

impl Style {
    /// Colours only on a terminal, and not against NO_COLOR (no-color.org).
    pub(super) fn of_stdout() -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Style::Coloured } else { Style::Plain }
    }

    fn paint(self, colour: Colour, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            Style::Coloured => format!("{colour}{text}{colour:#}"),
        }
    }

    fn state(self, state: State) -> String {
        let colour = match state {
            State::Ok => AnsiColor::Green,
            State::Warn => AnsiColor::Yellow,
            State::Fail => AnsiColor::Red,
            State::Skip => AnsiColor::BrightBlack,
        };
        self.paint(colour.on_default(), &format!("{:<4}", state.name()))
    }

    fn heading(self, text: &str) -> String {
        self.paint(Colour::new().bold(), text)
    }
}

/// What all probes found.
pub(super) struct Report {
    machine: MachineFacts,
    entries: Vec<(&'static Knob, Finding)>,
}

#[derive(Serialize)]
struct MachineFacts {
    kernel: Option<String>,
    container: Option<String>,
    cpus: Option<usize>,
    workers: usize,
    port: u16,
    backlog: u64,
    interfaces: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a MachineFacts,
    knobs: Vec<JsonKnob<'a>>,
    summary: Summary,
}

#[derive(Serialize)]
struct JsonKnob<'a> {
    name: &'a str,
    group: &'a str,
    title: &'a str,
    state: State,
    evidence: &'a str,
    advice: &'a str,
    what: &'a str,
    when: &'a str,
    source: &'a str,
    measured: &'a str,
    risk: &'a str,
    apply: &'a str,
    undo: &'a str,
    scope: Scope,
    /// This is a container, and the knob is not the container's.
    is_the_hosts_business: bool,
}

/// How many knobs are in each state, and the exit status that follows.
#[derive(Clone, Copy, Default, Serialize)]
struct Summary {
    ok: usize,
    warn: usize,
    fail: usize,
    skip: usize,
    status: u8,
}

impl Report {
    /// Runs the probes of these knobs, or of all if none is named.
    pub(super) fn new(machine: &Machine, chosen: &[&'static Knob]) -> Report {
        let is_chosen =
            |knob: &&'static Knob| chosen.is_empty() || chosen.iter().any(|other| other.name == knob.name);
        Report {
            machine: MachineFacts {
                kernel: machine.sysctl("kernel.osrelease").map(|text| printable(&text)),
                container: machine.container().map(|text| printable(&text)),
                cpus: machine.cpus().map(|cpus| cpus.len()),
                workers: machine.workers(),
                port: machine.asked.port,
                backlog: machine.asked.backlog,
                interfaces: machine.interfaces(),
            },
            entries: knobs::all().filter(is_chosen).map(|knob| (knob, probe(knob, machine))).collect(),
        }
    }

    /// The worst state.
    pub(super) fn state(&self) -> State {
        self.entries.iter().map(|(_, finding)| finding.state).max().unwrap_or(State::Ok)
    }

    fn is_the_hosts_business(&self, knob: &Knob) -> bool {
        self.machine.container.is_some() && knob.scope == Scope::Host
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (_, finding) in &self.entries {
            match finding.state {
                State::Ok => summary.ok += 1,
                State::Warn => summary.warn += 1,
                State::Fail => summary.fail += 1,
                State::Skip => summary.skip += 1,
            }
        }
        summary.status = match self.state() {
            State::Skip | State::Ok => 0,
            State::Warn => 1,
            State::Fail => 2,
        };
        summary
    }

    pub(super) fn json(&self) -> String {
        let knobs = self.entries.iter().map(|(knob, finding)| JsonKnob {
            name: knob.name,
            group: group_of(knob),
            title: knob.title,
            state: finding.state,
            evidence: &finding.evidence,
            advice: &finding.advice,
            what: knob.what,
            when: knob.when,
            source: knob.source,
            measured: knob.measured,
            risk: knob.risk,
            apply: knob.apply,
            undo: knob.undo,
            scope: knob.scope,
            is_the_hosts_business: self.is_the_hosts_business(knob),
        });
        let json = Json { machine: &self.machine, knobs: knobs.collect(), summary: self.summary() };
        let mut text =
            serde_json::to_string_pretty(&json).expect("plain strings and numbers always serialise");
        text.push('\n');
        text
    }

    pub(super) fn table(&self, style: Style) -> String {
        let mut text = self.header();
        for group in GROUPS {
            let _ = writeln!(text, "\n{}", style.heading(group.title));
            for (knob, finding) in &self.entries {
                if group.knobs.iter().any(|other| other.name == knob.name) {
                    self.row(&mut text, style, knob, finding);
                }
            }
        }
        let summary = self.summary();
        let _ = writeln!(
            text,
            "\n{} ok, {} warn, {} fail, {} skipped. `ringmill doctor KNOB` tells all about one.",
            summary.ok, summary.warn, summary.fail, summary.skip
        );
        text
    }

    fn header(&self) -> String {
        let facts = &self.machine;
        let kernel = facts.kernel.as_deref().unwrap_or("unknown");
        let container = facts.container.as_deref().map_or("no container".to_owned(), |kind| {
            format!("in a container ({kind}): knobs marked [host] are the host's business")
        });
        let cpus = facts.cpus.map_or("unknown".to_owned(), |cpus| cpus.to_string());
        let (workers, port, backlog) = (facts.workers, facts.port, facts.backlog);
        format!(
            "Linux {kernel}, CPUs {cpus}, {container}\nmeant: {workers} worker(s), port {port}, backlog {backlog}\n"
        )
    }

    fn row(&self, text: &mut String, style: Style, knob: &Knob, finding: &Finding) {
        let host = if self.is_the_hosts_business(knob) { " [host]" } else { "" };
        let evidence = wrap(&format!("{}{host}", finding.evidence), 23);
        let _ = writeln!(text, "  {} {:<15} {evidence}", style.state(finding.state), knob.name);
        let mut more = |label: &str, words: &str| {
            let _ = writeln!(text, "{:<23}{}", "", wrap(&format!("{label}: {words}"), 23));
        };
        if !finding.advice.is_empty() {
            more("do", &finding.advice);
        }
        if finding.state >= State::Warn {
            more("risk", knob.risk);
        }
    }

    /// Everything about a few knobs.
    pub(super) fn details(&self, style: Style) -> String {
        let mut text = String::new();
        for (knob, finding) in &self.entries {
            let host = if self.is_the_hosts_business(knob) { " [host]" } else { "" };
            let _ = writeln!(text, "{} {}{host}", style.state(finding.state), style.heading(knob.title));
            for (label, words) in [
                ("evidence", finding.evidence.as_str()),
                ("do", if finding.advice.is_empty() { "nothing" } else { &finding.advice }),
                ("what", knob.what),
                ("when", knob.when),
                ("source", knob.source),
                ("measured", knob.measured),
                ("risk", knob.risk),
                ("apply", knob.apply),
                ("undo", knob.undo),
                ("whose", knob.scope.text()),
            ] {
                let _ = writeln!(text, "  {label:<10}{}", wrap(words, 12));
            }
            text.push('\n');
        }
        text
    }
}

/// Runs a probe; its evidence quotes files, which may hold anything.
fn probe(knob: &Knob, machine: &Machine) -> Finding {
    let found = (knob.probe)(machine);
    Finding { evidence: printable(&found.evidence), ..found }
}

fn group_of(knob: &Knob) -> &'static str {
    let is_in = |group: &&knobs::Group| group.knobs.iter().any(|other| other.name == knob.name);
    GROUPS.iter().find(is_in).map_or("", |group| group.title)
}

/// Breaks a text at spaces; further lines start after `indent` spaces.
fn wrap(text: &str, indent: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), indent);
    for word in printable(text).split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_words_and_drops_control_characters() {
        let text = wrap(&"word ".repeat(40), 23);
        assert!(text.lines().all(|line| line.len() <= WIDTH) && text.lines().count() > 1);
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(wrap("a \u{1b}[31mb", 0), "a [31mb");
    }

    #[test]
    fn colours_only_where_asked() {
        assert_eq!(Style::Plain.state(State::Ok), "ok  ");
        assert!(Style::Coloured.state(State::Ok).contains('\u{1b}'));
    }
}

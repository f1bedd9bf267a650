//! tuning/README.md, from the registry: `ringmill doctor --emit guide > tuning/README.md`. A test fails when they
//! drift.

use super::knob::{Knob, Trial};
use super::knobs::GROUPS;
use std::fmt::Write;

const HEAD: &str = "\
<!-- Written by `ringmill doctor --emit guide`. Change the registry in tuning/doctor/src/knobs/, not this file. -->
# Tuning

What the machine can be told, what that does, and what is known about it. Start with the machine you have:

```sh
ringmill doctor                        # reads, reports, changes nothing
ringmill doctor somaxconn              # all about one knob
ringmill doctor --measure congestion   # what a knob does here, over loopback, with its interval
```

Nothing here is claimed to help without a source, and *not measured* is said where Ringmill was not measured with it. Most
servers need the limits (nofile, somaxconn) and nothing else. Change one thing, measure, keep it or undo it.

## How to change, and how to go back

| | lasts until | undo |
|---|---|---|
| `sudo ringmill doctor --apply [KNOB...]` (`--dry-run` shows it first) | the machine restarts | `sudo ringmill doctor --revert` |
| `ringmill doctor --emit sysctl` into /etc/sysctl.d/90-ringmill.conf, `sysctl --system` | the file is deleted | the old values stand in its comments |
| `ringmill doctor --emit systemd` into /etc/systemd/system/ringmill.service | the unit is removed | `systemctl disable --now ringmill` |

`--apply` writes its backup before the first change, changes all or nothing, and keeps the oldest values however often it
runs. In a container, knobs of the machine are the host's business: doctor marks them, and writing them is mostly refused there.

## The files here

| | |
|---|---|
| [sysctl/latency.conf](sysctl/latency.conf), [sysctl/throughput.conf](sysctl/throughput.conf) | two profiles for a machine that does nothing else |
| [systemd/ringmill.service](systemd/ringmill.service) | a unit with limits and hardening |
| [irq-rps.sh](irq-rps.sh) | interrupts, RPS, RFS and XPS of a card; shows what it would do unless told otherwise |
| [FILE.md](FILE.md) | what may stand in a file for `ringmill serve --config` |
| [tls.md](tls.md) | what a key type costs a TLS server |
| [proxy.md](proxy.md) | connections, timeouts and workers of a proxy, against those of its backends |
| [seccomp/ringmill.json](seccomp/ringmill.json), [containers.md](containers.md) | io_uring in containers |
| [cloud.md](cloud.md) | notes for cloud instances |

";

/// The whole text.
pub(super) fn guide() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("## The knobs\n\n| knob | | `--apply` | `--measure` | whose |\n|---|---|---|---|---|\n");
    for knob in GROUPS.iter().flat_map(|group| group.knobs) {
        let _ = writeln!(
            text,
            "| [{0}](#{0}) | {1} | {2} | {3} | {4:?} |",
            knob.name,
            knob.title,
            yes(knob.settings.is_some()),
            yes(!matches!(knob.trial, Trial::No(_))),
            knob.scope
        );
    }
    for group in GROUPS {
        let _ = write!(text, "\n## {}\n", group.title);
        for knob in group.knobs {
            section(&mut text, knob);
        }
    }
    text
}

fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "" }
}

fn section(text: &mut String, knob: &Knob) {
    let _ = write!(text, "\n### {}\n\n{}. {}\n\n", knob.name, knob.title, knob.what);
    for (label, words) in [
        ("When it helps", knob.when),
        ("A source", knob.source),
        ("Measured here", knob.measured),
        ("Risk", knob.risk),
        ("Apply", knob.apply),
        ("Undo", knob.undo),
        ("Whose", knob.scope.text()),
    ] {
        let _ = writeln!(text, "- **{label}:** {words}{}", if words.ends_with('.') { "" } else { "." });
    }
    match knob.trial {
        Trial::No(why) => {
            let _ = writeln!(text, "- **`--measure`:** no: {why}.");
        }
        Trial::Settings => {
            let _ =
                writeln!(text, "- **`--measure`:** the settings of `--apply` against those of the machine.");
        }
        Trial::Serve { before, after } => {
            let command =
                |options: &[&str]| ["serve"].iter().chain(options).copied().collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "- **`--measure`:** `{}` against `{}`.", command(before), command(after));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guide_in_the_tree_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let found = std::fs::read_to_string(path).expect("tuning/README.md is part of the tree");
        assert!(
            found == super::guide(),
            "tuning/README.md is not what the registry says; write it with:\n  \
             cargo run -- doctor --emit guide > tuning/README.md"
        );
    }
}

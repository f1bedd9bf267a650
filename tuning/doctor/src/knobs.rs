//! The registry: every knob once, by topic. The report, the guide, `--emit`, `--apply` and `--measure` all read it.

mod container;
mod cpu;
mod memory;
mod nic;
mod rings;
mod tcp;
mod udp;

use super::knob::Knob;

/// Knobs of one topic.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) knobs: &'static [Knob],
}

pub(super) static GROUPS: &[Group] = &[
    Group { title: "Rings and rights", knobs: rings::KNOBS },
    Group { title: "TCP", knobs: tcp::KNOBS },
    Group { title: "UDP and offloads", knobs: udp::KNOBS },
    Group { title: "Network card", knobs: nic::KNOBS },
    Group { title: "CPU", knobs: cpu::KNOBS },
    Group { title: "Memory", knobs: memory::KNOBS },
    Group { title: "Container and neighbours", knobs: container::KNOBS },
];

pub(super) fn all() -> impl Iterator<Item = &'static Knob> {
    GROUPS.iter().flat_map(|group| group.knobs)
}

/// The knob of a name, or a line that says which names there are.
pub(super) fn find(name: &str) -> Result<&'static Knob, String> {
    all().find(|knob| knob.name == name).ok_or_else(|| {
        let names: Vec<&str> = all().map(|knob| knob.name).collect();
        format!("unknown knob {name:?}: expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_says_everything_and_has_a_name_of_its_own() {
        let mut names = Vec::new();
        for knob in all() {
            for text in [
                knob.title,
                knob.what,
                knob.when,
                knob.source,
                knob.measured,
                knob.risk,
                knob.apply,
                knob.undo,
            ] {
                assert!(!text.is_empty(), "{} leaves something out", knob.name);
                assert!(
                    !text.contains("  ") && !text.contains('\n'),
                    "{}: {text:?} has loose space",
                    knob.name
                );
            }
            assert!(knob.name.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'_'));
            names.push(knob.name);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(find("somaxconn").is_ok());
        assert!(find("mitigations").is_ok_and(|knob| (knob.apply).contains("Never")));
        assert!(find("nonsense").is_err_and(|error| error.contains("somaxconn")));
    }
}

//! Files that keep settings over a restart of the machine.

use super::apply::is_in_place;
use super::knob::{State, name_of, printable};
use super::knobs;
use super::machine::Machine;
use std::fmt::Write;

/// The unit of tuning/systemd, as it is: the file beside this one is a link to it, so that a package of this crate has it too.
pub(super) const SYSTEMD: &str = include_str!("ringmill.service");

/// A file for /etc/sysctl.d: the settings of the knobs that are not ok, or of all. Settings that are no sysctls
/// are comments.
pub(super) fn sysctl(machine: &Machine, all: bool) -> String {
    let which = if all { "all knobs that have settings" } else { "the knobs that were not ok" };
    let mut text = format!(
        "# Settings for Ringmill, of {which} on this machine: `ringmill doctor --emit sysctl`.\n\
         # Install: save as /etc/sysctl.d/90-ringmill.conf, then `sysctl --system`.\n\
         # Undo: delete the file and set the old values, which stand behind \"was\".\n"
    );
    let mut is_empty = true;
    for knob in knobs::all() {
        if !all && (knob.probe)(machine).state < State::Warn {
            continue;
        }
        let mut settings = knob.settings(machine);
        settings.retain(|setting| all || !is_in_place(machine, setting));
        if settings.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n# {}: {}.", knob.name, knob.title);
        for setting in settings {
            let before = printable(&machine.text(&setting.path).unwrap_or_default());
            match setting.path.starts_with("proc/sys/") {
                true => {
                    let _ = writeln!(text, "# was {before}\n{} = {}", name_of(&setting.path), setting.value);
                }
                false => {
                    let _ = writeln!(
                        text,
                        "# no sysctl: write {} to {} (was {before})",
                        setting.value,
                        setting.name()
                    );
                }
            }
        }
        is_empty = false;
    }
    if is_empty {
        text.push_str("\n# Nothing to set.\n");
    }
    text
}

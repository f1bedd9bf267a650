//! `ringmill compare`: Ringmill and other servers side by side, from options to the report. Internal to the command: nothing
//! here is promised to stay.
//!
//! What is asked for is in `options.rs`, what is compared in `contender.rs` and `profile.rs`, the measuring in `rounds.rs`, the
//! order of a whole run in `run.rs`, and what comes out in `results.rs`.
#![forbid(unsafe_code)]
// They panic where nothing can be written: see console/src/terminal.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod build;
mod contender;
mod environment;
mod h2load;
mod identity;
mod idle;
mod load;
mod options;
mod order;
mod pinned;
mod plots;
mod proc;
mod process;
mod profile;
mod report;
mod results;
mod rounds;
mod run;
mod server;
mod syscalls;
mod table;
mod websocket;

pub use options::Compare;
pub use pinned::RunPinned;

use anyhow::Result;
use contender::CONTENDERS;
use profile::Profile;
use ringmill_console::terminal;
use std::process::ExitCode;

impl Compare {
    /// Compares, and writes the report. The error has the chain of its causes: `{error:#}` tells all.
    pub fn run(self) -> Result<ExitCode> {
        if self.list {
            terminal::print(&list())?;
            return Ok(ExitCode::SUCCESS);
        }
        let (contenders, profiles) = (self.contenders(), self.profiles());
        let settings = self.settings()?;
        run::run(&self, &contenders, &profiles, settings)
    }
}

fn list() -> String {
    let mut text = "Contenders (* in --quick):\n".to_owned();
    for contender in &CONTENDERS {
        let mark = if contender.is_quick() { "*" } else { " " };
        text += &format!("  {mark} {:<20} {}\n", contender.name, contender.what);
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for profile in Profile::ALL {
            let Some(reason) = contender.cannot(profile) else { continue };
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(profile.name()),
                None => reasons.push((reason, vec![profile.name()])),
            }
        }
        for (reason, names) in reasons {
            text += &format!("      not in {}: {reason}\n", names.join(", "));
        }
    }
    text += "Profiles (* in --quick):\n";
    for profile in Profile::ALL {
        let mark = if Profile::QUICK.contains(&profile) { "*" } else { " " };
        text += &format!("  {mark} {:<20} {}\n", profile.name(), profile.what());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_all_and_who_cannot() {
        let text = list();
        for contender in &CONTENDERS {
            assert!(text.contains(contender.name));
        }
        for profile in Profile::ALL {
            assert!(text.contains(profile.what()));
        }
        assert!(
            text.contains("without a program behind it\n      not in udp-echo: it is an HTTP server"),
            "{text}"
        );
    }
}

//! `ringmill doctor`: reads the machine, says what could be better, and changes it only when told to. Internal to the command:
//! nothing here is promised to stay.
//!
//! The knobs are in `knobs/`, what they read in `machine.rs`. The report (`report.rs`), the files (`emit.rs`, `guide.rs`), the
//! changes (`apply.rs`) and the trials (`measure.rs`) all come from that one registry.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]
// They panic where nothing can be written: see console/src/terminal.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod apply;
mod emit;
mod guide;
mod knob;
mod knobs;
mod machine;
#[expect(clippy::disallowed_methods, reason = "it measures")]
mod measure;
mod report;

use clap::{Args, ValueEnum};
use knob::{Knob, State};
use machine::{Asked, Machine};
use ringmill_console::options::{self, Workers};
use ringmill_console::statistics::PAIRS_MIN;
use ringmill_console::terminal;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `ringmill doctor`.
#[derive(Args)]
#[command(after_long_help = NOTES)]
pub struct Doctor {
    /// Tell everything about these knobs [default: a report on all]
    #[arg(value_name = "KNOB", conflicts_with_all = ["emit", "apply", "revert", "measure"])]
    knobs: Vec<String>,

    /// Print JSON: the report, or what --measure found
    #[arg(long, conflicts_with_all = ["emit", "apply", "revert"])]
    json: bool,

    /// Print a file: sysctl (settings of the knobs that are not ok), systemd (a unit), guide (tuning/README.md)
    #[arg(long, value_name = "FILE", group = "action")]
    emit: Option<Emit>,

    /// With --emit sysctl: settings of all knobs, also of those that are ok
    #[arg(long, requires = "emit")]
    all: bool,

    /// Change the machine: these knobs, or all that are not ok. What was before goes into the backup first
    #[arg(long, value_name = "KNOB", num_args = 0.., group = "action")]
    apply: Option<Vec<String>>,

    /// With --apply or --revert: only say what would be changed
    #[arg(long)]
    dry_run: bool,

    /// Undo all that --apply has changed, from the backup
    #[arg(long, group = "action")]
    revert: bool,

    /// The backup [default: /var/lib/ringmill/doctor.json, or below $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "PATH")]
    backup: Option<PathBuf>,

    /// Try one knob: load on serve without and with it in turns, then undo it and print the difference
    #[arg(long, value_name = "KNOB", group = "action")]
    measure: Option<String>,

    /// With --measure: pairs of runs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(PAIRS_MIN as i64..=1000))]
    pairs: u32,

    /// With --measure: length of each run
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = options::run_time)]
    duration: Duration,

    /// With --measure: connections of the load
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// The port of the server that is meant
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// Its workers: a number, or auto for one a CPU
    #[arg(long, value_name = "N", default_value = "auto")]
    workers: Workers,

    /// Its backlog
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    backlog: u32,

    /// The network card that is meant [default: all with hardware behind them]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// Where /proc and /sys are; for tests
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,

    /// The program that is run as `serve` and `load` [default: this one]; for tests
    #[arg(long, value_name = "PATH", hide = true)]
    program: Option<PathBuf>,
}

/// What `--emit` prints.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    Sysctl,
    Systemd,
    Guide,
}

const NOTES: &str = "\
Exit status:
  0  all knobs are ok or were skipped; the change, the file or the measurement is done
  1  at least one knob is worth a look (warn)
  2  at least one knob is wrong (fail), or the command could not be carried out

Examples:
  ringmill doctor
      reads and reports; changes nothing
  ringmill doctor somaxconn thp
      tells all about two knobs
  ringmill doctor --emit sysctl | sudo tee /etc/sysctl.d/90-ringmill.conf
      settings that last; `sudo sysctl --system` loads them
  sudo ringmill doctor --apply tcp_migrate_req --dry-run
  sudo ringmill doctor --apply tcp_migrate_req
  sudo ringmill doctor --revert
      until the next start of the machine; --revert puts back what was before
  ringmill doctor --measure congestion --pairs 20
      over loopback: the server's cost, not the network's";

/// The command could not be carried out: one line that says why, and what helps.
type Outcome = Result<State, String>;

impl Doctor {
    /// Never returns: main.rs knows success and failure, and this command has three answers.
    pub fn run(self) -> ! {
        let status = match self.carry_out() {
            Ok(State::Skip | State::Ok) => 0,
            Ok(State::Warn) => 1,
            Ok(State::Fail) => 2,
            Err(error) => {
                terminal::error(error);
                2
            }
        };
        std::process::exit(status)
    }

    fn carry_out(self) -> Outcome {
        if !self.root.join("proc").is_dir() {
            return Err(format!(
                "{} has no /proc: mount it, doctor reads everything there",
                self.root.display()
            ));
        }
        let machine = Machine::new(
            self.root.clone(),
            Asked {
                port: self.port,
                workers: self.workers.0,
                backlog: u64::from(self.backlog),
                interface: self.interface.clone(),
            },
        );
        if let Some(name) = &self.interface
            && machine.interfaces().is_empty()
        {
            return Err(format!(
                "no network interface {name:?}: expected one of {}",
                known_interfaces(&machine)
            ));
        }
        if self.dry_run && self.apply.is_none() && !self.revert {
            return Err("--dry-run goes with --apply or --revert".to_owned());
        }
        let backup = || self.backup.clone().map_or_else(|| apply::default_backup(&machine), Ok);
        if let Some(emit) = self.emit {
            print(&match emit {
                Emit::Sysctl => emit::sysctl(&machine, self.all),
                Emit::Systemd => emit::SYSTEMD.to_owned(),
                Emit::Guide => guide::guide(),
            })?;
            return Ok(State::Ok);
        }
        if let Some(names) = &self.apply {
            let knobs = find_all(names)?;
            print(&apply::apply(&machine, &knobs, &backup()?, self.dry_run)?)?;
            return Ok(State::Ok);
        }
        if self.revert {
            print(&apply::revert(&machine, &backup()?, self.dry_run)?)?;
            return Ok(State::Ok);
        }
        if let Some(name) = &self.measure {
            let plan = measure::Plan {
                pairs: self.pairs,
                duration: self.duration,
                connections: self.connections,
                workers: self.workers.0,
                program: self.program.clone(),
                is_json: self.json,
            };
            print(&measure::measure(&machine, knobs::find(name)?, &plan, &backup()?)?)?;
            return Ok(State::Ok);
        }
        self.report(&machine)
    }

    fn report(&self, machine: &Machine) -> Outcome {
        let chosen = find_all(&self.knobs)?;
        let report = report::Report::new(machine, &chosen);
        let text = match (self.json, chosen.is_empty()) {
            (true, _) => report.json(),
            (false, true) => report.table(report::Style::of_stdout()),
            (false, false) => report.details(report::Style::of_stdout()),
        };
        print(&text)?;
        Ok(report.state())
    }
}

fn find_all(names: &[String]) -> Result<Vec<&'static Knob>, String> {
    names.iter().map(|name| knobs::find(name)).collect()
}

fn known_interfaces(machine: &Machine) -> String {
    machine.names("sys/class/net").join(", ")
}

fn print(text: &str) -> Result<(), String> {
    terminal::print(text).map_err(|error| error.to_string())
}

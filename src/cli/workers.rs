//! Options of `ringmill serve` and `ringmill proxy` for the workers.

use clap::Args;
use ringmill::{Config, DriverChoice, Pin};
use ringmill_console::options::Workers;

#[derive(Args)]
pub(super) struct WorkersOptions {
    /// Worker threads: a number, or auto for one a CPU
    #[arg(long, value_name = "N", env = "RINGMILL_WORKERS", default_value = "auto")]
    workers: Workers,

    /// CPUs to pin workers to: auto, off, or a list such as 0,2,4-7
    #[arg(long, value_name = "LIST", env = "RINGMILL_PIN", default_value = "auto")]
    pin: Pin,

    /// How bytes move: auto (io_uring where it works, else epoll), uring, poll
    #[arg(long, value_name = "NAME", env = "RINGMILL_DRIVER", default_value = "auto")]
    driver: DriverChoice,
}

impl WorkersOptions {
    /// What the engine is configured with; the rest is the command's own.
    pub(super) fn config(self) -> Config {
        // The environment was asked by the option already, which comes first.
        let driver = if self.driver == DriverChoice::Auto { DriverChoice::Probe } else { self.driver };
        Config { workers: self.workers.0, pin: self.pin, driver, ..Config::default() }
    }
}

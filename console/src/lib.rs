//! What the subcommands of `ringmill` have in common: how people write the values of options, what is written for people, and
//! what may be said of a few noisy figures. Internal to the command: nothing here is promised to stay.
//!
//! It knows no subcommand. Those are `serve` and `load` in the package `ringmill`, `ringmill-compare` and `ringmill-doctor`.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]
// They panic where nothing can be written: see terminal.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod options;
pub mod statistics;
pub mod terminal;

//! What compares Ringmill with another server on generated requests. Read on in `generate.rs`, then in `outcome.rs`
//! and `rules.rs`.
#![allow(dead_code)] // Each test crate uses its own part of this.

pub mod generate;
pub mod outcome;
pub mod rules;

use std::path::PathBuf;

/// Where the differences with a server are explained.
pub fn rules_of(server: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/differential/{server}.rules"))
}

/// The seeds of a fixed run of so many, or the one in `RINGMILL_TEST_SEED`; and whether it is the fixed run.
pub fn seeds(count: u64) -> (std::ops::Range<u64>, bool) {
    match std::env::var("RINGMILL_TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("RINGMILL_TEST_SEED is a number");
            (seed..seed + 1, false)
        }
        Err(_) => (0..count, true),
    }
}

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

/// The seeds of a fixed run of so many, and whether it is that. `RINGMILL_TEST_SEED` runs one seed alone, and
/// `RINGMILL_TEST_CONVERSATIONS` another number of them.
pub fn seeds(count: u64) -> (std::ops::Range<u64>, bool) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse().expect(name));
    match (number("RINGMILL_TEST_SEED"), number("RINGMILL_TEST_CONVERSATIONS")) {
        (Some(seed), _) => (seed..seed + 1, false),
        (None, Some(other)) => (0..other, other >= count),
        (None, None) => (0..count, true),
    }
}

//! The simulator at scale: protocols on workers whose kernel, network and clients do everything they may.
//!
//! `cargo test -p ringmill-protocols --test simulator` runs a fixed set of seeds and one that is made of the commit.
//! Replay one with `RINGMILL_SEED=n`; run many with `RINGMILL_SEEDS=n` (best with `--release -- --nocapture seeds`), from
//! `RINGMILL_FIRST_SEED` on. One seed is `scenario.rs`; what clients say and must hear is `script.rs`.

mod client;
mod fanout;
mod flowed;
mod framed;
mod lane;
mod layers;
mod proxied;
mod relayed;
mod scenario;
mod script;
mod site;
mod soak;
mod sockets;
mod stacked;
mod voice;

use ringmill_engine::driver::sim::Break;

/// Seeds that every run of the tests takes: enough to meet every fault and every transition. The rarest transition comes once in
/// 700 seeds, but not once in the first 4,000.
const FIXED_SEEDS: std::ops::Range<u64> = 7000..9000;

/// The same over TLS, where a seed takes ten times as long.
const FIXED_SECURED_SEEDS: u64 = 500;

/// Seeds that once showed a bug, with what it was. What a seed does changes with what a scenario draws: so a bug that is
/// likely to come back is better kept as a [`Break`].
const REGRESSIONS: &[(u64, &str)] = &[
    (2, "a receive or send that ended with EAGAIN closed its connection"),
    (19, "after a turn that could not submit everything, nobody told of a silent send"),
];

#[test]
fn seeds() {
    match (number("RINGMILL_SEED"), number("RINGMILL_SEEDS")) {
        (Some(seed), _) => {
            println!("seed {seed}: trace {:016x}", scenario::run(seed));
        }
        (None, Some(count)) => {
            let first = number("RINGMILL_FIRST_SEED").unwrap_or(0);
            soak::run(first..first + count).check();
        }
        (None, None) => soak::run(FIXED_SEEDS).check(),
    }
}

#[test]
fn the_seed_of_the_commit() {
    let seed = soak::commit_seed();
    println!("the seed of this commit is {seed}");
    soak::run(seed..seed + 1).check_failures();
}

#[test]
fn seeds_that_once_showed_a_bug() {
    for (seed, bug) in REGRESSIONS {
        println!("seed {seed}: {bug}");
        soak::run(*seed..seed + 1).check_failures();
    }
}

/// The scenarios of the seeds with everybody over TLS. Many with `RINGMILL_TLS_SEEDS=n`, one with `RINGMILL_TLS_SEED=n`.
#[test]
fn secured_seeds() {
    let kind =
        soak::Kind { run: scenario::run_secured, variable: "RINGMILL_TLS_SEED", test: "secured_seeds" };
    match (number("RINGMILL_TLS_SEED"), number("RINGMILL_TLS_SEEDS")) {
        (Some(seed), _) => scenario::run_secured(seed),
        (None, count) => {
            let seeds = count.unwrap_or(FIXED_SECURED_SEEDS);
            soak::run_kind(kind, 0..seeds).check_faults();
            voice::check_met(seeds);
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    soak::silence_what_is_on_purpose();
    let (once, again): (Vec<u64>, Vec<u64>) =
        (0..20).map(|seed| (scenario::run(seed), scenario::run(seed))).unzip();
    assert_eq!(once, again);
    let mut different = once.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), once.len(), "seeds share a trace");
}

/// A simulator that does not notice a broken worker is no test.
#[test]
fn every_break_is_caught() {
    soak::silence_what_is_on_purpose();
    let mut missed = Vec::new();
    for &broken in Break::ALL {
        let run = |seed| soak::run_quietly(seed, Some(broken)).err().map(|failure| (seed, failure));
        match FIXED_SEEDS.clone().find_map(run) {
            Some((seed, failure)) => {
                let first_line = failure.lines().next().unwrap_or("");
                println!("{broken:?} was caught by seed {seed}: {first_line}");
            }
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "not caught in the seeds {FIXED_SEEDS:?}: {missed:?}");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

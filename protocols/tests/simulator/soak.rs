//! Many seeds on all cores, with progress; what was met; and how to replay what failed.

use crate::scenario;
use ringmill_engine::coverage::{Met, take_met};
use ringmill_engine::driver::sim::{Break, Fault, Fired, take_fired};
use std::cell::Cell;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// After so many failures the rest is not run.
const FAILURES_MAX: usize = 3;
/// The seed where no commit can be read.
const SEED_WITHOUT_COMMIT: u64 = 42;

/// What is run of seeds, and how to run one of them again.
#[derive(Clone, Copy)]
pub struct Kind {
    pub run: fn(u64),
    pub variable: &'static str,
    pub test: &'static str,
}

/// Everybody as the seed says.
const ANY: Kind = Kind { run: |seed| _ = scenario::run(seed), variable: "RINGMILL_SEED", test: "seeds" };

pub struct Report {
    kind: Kind,
    seeds: u64,
    fired: Fired,
    met: Met,
    failures: Vec<(u64, String)>,
}

impl Report {
    /// Panics if a seed failed, or if a fault or a transition that can be met was not: then the simulator has stopped biting.
    pub fn check(&self) {
        let mut missing = self.missing_faults();
        for pair in self.met.pairs() {
            match pair.unreachable {
                None => println!("{:>12} {}", pair.count, pair.name),
                Some(reason) => {
                    assert_eq!(pair.count, 0, "{} was met, and should not be: {reason}", pair.name)
                }
            }
            if pair.unreachable.is_none() && pair.count == 0 {
                missing.push(pair.name);
            }
        }
        assert!(missing.is_empty(), "in {} seeds these were never met: {missing:#?}", self.seeds);
    }

    /// Panics if a seed failed, or if a fault was not met. What happens to a connection is the same over TLS.
    pub fn check_faults(&self) {
        let missing = self.missing_faults();
        assert!(missing.is_empty(), "in {} seeds these were never met: {missing:#?}", self.seeds);
    }

    fn missing_faults(&self) -> Vec<String> {
        self.check_failures();
        let mut missing = Vec::new();
        for &fault in Fault::ALL {
            println!("{:>12} {fault:?}", self.fired.count(fault));
            if self.fired.count(fault) == 0 {
                missing.push(format!("{fault:?}"));
            }
        }
        missing
    }

    pub fn check_failures(&self) {
        for (seed, failure) in &self.failures {
            println!("seed {seed} failed: {failure}");
            let Kind { variable, test, .. } = self.kind;
            println!("replay it: {variable}={seed} cargo test -p ringmill-protocols --test simulator {test}");
        }
        assert!(
            self.failures.is_empty(),
            "{} seeds failed: the commands to replay them are above",
            self.failures.len()
        );
    }
}

/// Runs seeds on all cores.
pub fn run(seeds: Range<u64>) -> Report {
    run_kind(ANY, seeds)
}

/// The same for another kind of run.
pub fn run_kind(kind: Kind, seeds: Range<u64>) -> Report {
    silence_what_is_on_purpose();
    let count = seeds.end - seeds.start;
    let report =
        Mutex::new(Report { kind, seeds: count, fired: take_fired(), met: take_met(), failures: Vec::new() });
    let next = AtomicU64::new(seeds.start);
    let done = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed >= seeds.end
                            || report.lock().expect("no panic holds it").failures.len() >= FAILURES_MAX
                        {
                            break;
                        }
                        if let Err(failure) = quietly(|| (kind.run)(seed)) {
                            report.lock().expect("no panic holds it").failures.push((seed, failure));
                        }
                        done.fetch_add(1, Relaxed);
                    }
                    let mut report = report.lock().expect("no panic holds it");
                    report.fired += &take_fired();
                    report.met += &take_met();
                })
            })
            .collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let done = done.load(Relaxed);
                println!(
                    "{done} of {count} seeds, {:.0} a second",
                    done as f64 / started.elapsed().as_secs_f64()
                );
            }
        }
    });
    let report = report.into_inner().expect("no panic holds it");
    println!("{} seeds in {:.1?}", done.load(Relaxed), started.elapsed());
    report
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs one seed, perhaps with broken workers; the error is the message of its panic.
pub fn run_quietly(seed: u64, broken: Option<Break>) -> Result<u64, String> {
    quietly(|| scenario::run_broken(seed, broken))
}

fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    IS_QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_QUIET.set(false);
    result.map_err(|panic| message(&*panic).unwrap_or("a panic without a message").to_owned())
}

fn message(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

/// Handlers that panic on purpose, and seeds whose panic is reported anyway, do not fill the terminal.
pub fn silence_what_is_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let on_purpose = info.payload_as_str().is_some_and(|text| text == "on purpose");
            if !on_purpose && !IS_QUIET.get() {
                hook(info);
            }
        }));
    });
}

/// A seed that changes with every commit: so the seeds that are tried grow with the project.
pub fn commit_seed() -> u64 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is around the package");
    let Some(commit) = commit(&root.join(".git")) else { return SEED_WITHOUT_COMMIT };
    let mut hasher = DefaultHasher::new();
    commit.trim().hash(&mut hasher);
    hasher.finish()
}

/// The commit that is checked out; a branch may be packed away.
fn commit(git: &Path) -> Option<String> {
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(branch) = head.trim().strip_prefix("ref: ") else { return Some(head) };
    std::fs::read_to_string(git.join(branch)).ok().or_else(|| {
        let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
        let line = packed.lines().find(|line| line.ends_with(branch))?;
        Some(line.split(' ').next()?.to_owned())
    })
}

//! What every worker of a run has: the common settings, and a clock that says which part of the run it is.

use super::pace::Pace;
use super::tally::{Tally, histogram};
use hdrhistogram::Histogram;
use ringmill::{Address, Tick, TlsPeer};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The settings of a run, the same for all workers.
pub(super) struct Setup {
    pub(super) address: Address,
    pub(super) workers: usize,
    pub(super) connections: usize,
    pub(super) pipeline: usize,
    pub(super) requests_per_connection: Option<u32>,
    /// Connect from 127.0.0.1, 127.0.0.2, ... in turn, where it is more than one.
    pub(super) sources: u8,
    /// Requests a second of all workers; `None` is a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
    /// Over TLS, with this server.
    pub(super) peer: Option<TlsPeer>,
    /// Raised to end early.
    pub(super) stop: AtomicBool,
    /// One slot a worker for the progress line; none where nobody looks.
    pub(super) live: Vec<Mutex<Live>>,
    /// Where workers hand their results in.
    pub(super) results: Sender<Tally>,
}

/// What the progress line shows of one worker.
pub(super) struct Live {
    pub(super) requests: u64,
    /// Since the progress line last looked.
    pub(super) latency: Histogram<u64>,
}

impl Live {
    pub(super) fn new() -> Live {
        Live { requests: 0, latency: histogram() }
    }
}

impl Setup {
    /// Whether somebody wants it to end early.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Connections of one worker.
    pub(super) fn share(&self, worker: usize) -> usize {
        self.connections / self.workers + usize::from(worker < self.connections % self.workers)
    }
}

/// How often a worker looks whether it shall stop, and dials again.
const LOOK: Duration = Duration::from_millis(100);
/// The same while it waits for the last responses.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// How often the progress line has something new.
const SHOW: Duration = Duration::from_millis(500);
/// How long the last responses may take.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    New,
    /// Warm-up and measured time.
    Running,
    /// The last responses are on their way; nobody waits for them after `until`.
    Ending {
        until: Tick,
    },
    /// The results were handed in.
    Over,
}

/// One worker's place in the run.
pub(super) struct Clock {
    setup: Arc<Setup>,
    worker: usize,
    stage: Stage,
    /// The measured time.
    from: Tick,
    to: Tick,
    next: Tick,
    next_show: Tick,
    /// Latencies since they were last shown.
    shown: Option<Histogram<u64>>,
}

impl Clock {
    pub(super) fn new(setup: Arc<Setup>, worker: usize) -> Clock {
        let shown = (!setup.live.is_empty()).then(histogram);
        Clock {
            setup,
            worker,
            stage: Stage::New,
            from: Tick(0),
            to: Tick(0),
            next: Tick(0),
            next_show: Tick(0),
            shown,
        }
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Whether `at` is in the measured time.
    pub(super) fn is_measured(&self, at: Tick) -> bool {
        self.from <= at && at < self.to
    }

    /// The last moment of the measured time.
    pub(super) fn last(&self) -> Tick {
        Tick(self.to.0.saturating_sub(1))
    }

    /// When `advance` is due.
    pub(super) fn next(&self) -> Tick {
        self.next
    }

    pub(super) fn begin(&mut self, now: Tick) {
        self.from = now.after(self.setup.warmup);
        self.to = self.from.after(self.setup.duration);
        self.stage = Stage::Running;
        self.next = now;
    }

    /// Looks whether the run is over by time or by order.
    pub(super) fn advance(&mut self, now: Tick, requests: u64) {
        if self.is_running() && (now >= self.to || self.setup.is_stopped()) {
            self.to = self.to.min(now);
            self.stage = Stage::Ending { until: now.after(LAST_WAIT) };
        }
        if let Some(shown) = &mut self.shown
            && self.next_show <= now
        {
            self.next_show = now.after(SHOW);
            let mut live =
                self.setup.live[self.worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            live.requests = requests;
            live.latency.add(&*shown).expect("all histograms have the same bounds");
            shown.reset();
        }
        self.next = match self.stage {
            Stage::New => now,
            Stage::Running => now.after(LOOK).min(self.to.max(Tick(now.0 + 1))),
            Stage::Ending { .. } => now.after(LAST_LOOK),
            Stage::Over => Tick::NEVER,
        };
    }

    /// For the progress line.
    #[inline]
    pub(super) fn show(&mut self, latency_ns: u64) {
        if let Some(shown) = &mut self.shown {
            shown.saturating_record(latency_ns);
        }
    }

    /// Counts a request that was due by the schedule and is not sent, with the time it has waited: it would have had to.
    pub(super) fn unsent(&self, due: Tick, tally: &mut Tally) {
        self.unsent_many(due, 1, tally);
    }

    /// The same for all that the schedule still has.
    pub(super) fn unsent_rest(&self, pace: &mut Pace, tally: &mut Tally) {
        loop {
            let due = pace.due();
            if due > self.last() {
                return;
            }
            // Together, all whose waits are the same for the histogram: there are many more of them than of its classes.
            let waited_ns = self.to.since(due).as_nanos() as u64;
            let until = if due < self.from {
                Tick(self.from.0 - 1)
            } else {
                Tick(self.to.0 - tally.latency.lowest_equivalent(waited_ns))
            };
            let count = pace.take_all(until.min(self.last()));
            self.unsent_many(due, count, tally);
        }
    }

    fn unsent_many(&self, due: Tick, count: u64, tally: &mut Tally) {
        tally.unsent += count;
        if self.is_measured(due) {
            tally.latency.saturating_record_n(self.to.since(due).as_nanos() as u64, count);
        }
    }

    pub(super) fn hand_in(&mut self, mut tally: Tally) {
        (self.stage, self.next) = (Stage::Over, Tick::NEVER);
        tally.elapsed = self.to.since(self.from);
        // Whoever asked may be gone already.
        let _ = self.setup.results.send(tally);
    }
}

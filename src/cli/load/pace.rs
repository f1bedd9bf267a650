//! When requests are due. Pure: time is an argument.
//!
//! Closed loop: at once, whenever a connection is free. Open loop: at times fixed beforehand, whatever the server
//! does; a request that has to wait for a free connection counts from the time it was due, so a stall of the server
//! shows in every request that should have been sent meanwhile (no coordinated omission).

use ringmill::Tick;

/// One worker's share of a schedule: due times at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    start: Tick,
    /// Nanoseconds between two requests of all workers.
    interval_ns: f64,
    /// This worker has the requests `offset`, `offset + step`, ...
    step: u64,
    /// The next one.
    next: u64,
}

impl Pace {
    /// `rate` requests a second of all workers, of which this is number `worker` of `workers`.
    pub(super) fn new(start: Tick, rate: f64, worker: usize, workers: usize) -> Pace {
        Pace { start, interval_ns: 1e9 / rate, step: workers as u64, next: worker as u64 }
    }

    /// When the next request is due. From the start each time: no error adds up.
    pub(super) fn due(&self) -> Tick {
        Tick(self.start.0.saturating_add((self.next as f64 * self.interval_ns) as u64))
    }

    /// Takes the next request if it is due by `now`, and says when it was.
    pub(super) fn take(&mut self, now: Tick) -> Option<Tick> {
        let due = self.due();
        (due <= now).then(|| {
            self.next += self.step;
            due
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_schedule() {
        let start = Tick(1_000);
        let mut paces = [0, 1, 2].map(|worker| Pace::new(start, 3_000.0, worker, 3));
        let mut all = Vec::new();
        for pace in &mut paces {
            assert_eq!(pace.take(Tick(999)), None);
            all.extend(std::iter::from_fn(|| pace.take(Tick(1_000 + 999_999_999))));
            assert!(pace.due() >= Tick(1_000 + 999_999_999));
        }
        all.sort();
        assert_eq!(all.len(), 3_000, "a second at 3000 a second");
        assert_eq!(all[0], start);
        for (n, due) in all.iter().enumerate() {
            let exact = 1_000 + n as u64 * 1_000_000 / 3;
            assert!(due.0.abs_diff(exact) <= 1, "{n}: {due:?}");
        }
    }

    #[test]
    fn what_was_missed_stays_due() {
        let mut pace = Pace::new(Tick(0), 1_000.0, 0, 1);
        let late: Vec<Tick> = std::iter::from_fn(|| pace.take(Tick(3_500_000))).collect();
        assert_eq!(late, [0, 1_000_000, 2_000_000, 3_000_000].map(Tick));
    }
}

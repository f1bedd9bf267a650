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
        self.due_after(0)
    }

    /// The same after so many more.
    fn due_after(&self, count: u64) -> Tick {
        let number = self.next.saturating_add(count.saturating_mul(self.step));
        Tick(self.start.0.saturating_add((number as f64 * self.interval_ns) as u64))
    }

    /// Takes all that are due by `now`, and says how many they are. Reckoned: there may be a billion for each second.
    pub(super) fn take_all(&mut self, now: Tick) -> u64 {
        let by_now = (now.since(self.start).as_nanos() as f64 / self.interval_ns) as u64;
        let mut count = by_now.saturating_sub(self.next) / self.step;
        // What rounding has moved.
        while count > 0 && self.due_after(count - 1) > now {
            count -= 1;
        }
        while self.due_after(count) <= now {
            count += 1;
        }
        self.next += count * self.step;
        count
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
    fn many_are_taken_as_one_by_one() {
        for (rate, worker, workers) in [(3_000.0, 1, 3), (7.3, 0, 1), (999_999.7, 4, 7), (1e9, 0, 64)] {
            let mut one_by_one = Pace::new(Tick(1_000), rate, worker, workers);
            let mut at_once = one_by_one;
            for now in [0, 999, 1_000, 1_001, 5_000, 333_334_333, 333_334_333, 333_400_000] {
                let count = std::iter::from_fn(|| one_by_one.take(Tick(now))).count() as u64;
                assert_eq!(at_once.take_all(Tick(now)), count, "{rate} at {now}");
                assert_eq!(at_once.due(), one_by_one.due(), "{rate} at {now}");
            }
        }
        let years = Tick(1_000 + 315_360_000_000_000_000);
        let mut pace = Pace::new(Tick(1_000), 1e9, 0, 1);
        assert!(pace.take_all(years).abs_diff(315_360_000_000_000_000) < 100);
        assert!(pace.due() > years);
    }

    #[test]
    fn what_was_missed_stays_due() {
        let mut pace = Pace::new(Tick(0), 1_000.0, 0, 1);
        let late: Vec<Tick> = std::iter::from_fn(|| pace.take(Tick(3_500_000))).collect();
        assert_eq!(late, [0, 1_000_000, 2_000_000, 3_000_000].map(Tick));
    }
}

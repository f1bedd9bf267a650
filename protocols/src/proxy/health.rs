//! Whether a server is given requests: what became of those it had, and of checks. Shared by all workers. Pure: numbers and ticks.

use super::rules::{Check, Ejection};
use ringmill_engine::Tick;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

/// A server that has come back has this part of its weight at first.
const SLOW_PERCENT_MIN: u64 = 10;
/// What is said again and again is said in the log once in this time.
const SAY_EACH: Duration = Duration::from_secs(30);

/// The health of one server.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Requests in a row that failed.
    failures: AtomicU32,
    /// Ejections, each soon after the one before.
    ejections: AtomicU32,
    /// Until when it is ejected.
    out_until: AtomicU64,
    /// Since when it is back; 0 if it was never away.
    back_at: AtomicU64,
    /// Checks say that it is down.
    is_down: AtomicBool,
    /// Checks in a row that say the opposite of that.
    streak: AtomicU32,
    check_due: AtomicU64,
    is_drained: AtomicBool,
    said_until: AtomicU64,
    failed: AtomicU64,
    ejected: AtomicU64,
    spared: AtomicU64,
}

/// What is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HealthCounts {
    pub(super) is_down: bool,
    pub(super) is_drained: bool,
    pub(super) failed: u64,
    pub(super) ejected: u64,
    pub(super) spared: u64,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing.
    One,
    /// It should be ejected, for this time.
    Many(Duration),
}

impl Health {
    /// A request was answered.
    pub(super) fn succeed(&self) {
        // Nearly always it is 0 already, and then its line stays shared.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A request failed.
    pub(super) fn fail(&self, rule: &Ejection, now: Tick) -> Failure {
        self.failed.fetch_add(1, Relaxed);
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if rule.after == 0 || failures < rule.after || self.is_out(now) {
            return Failure::One;
        }
        self.failures.store(0, Relaxed);
        let before = Tick(self.out_until.load(Relaxed));
        if now.since(before) > rule.time_max {
            self.ejections.store(0, Relaxed);
        }
        let doublings = self.ejections.load(Relaxed).min(20);
        Failure::Many(rule.time.saturating_mul(1 << doublings).min(rule.time_max))
    }

    /// Gives it no requests for so long.
    pub(super) fn eject(&self, now: Tick, time: Duration) {
        let until = now.after(time).0;
        self.out_until.store(until, Relaxed);
        self.back_at.store(until, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.ejected.fetch_add(1, Relaxed);
    }

    /// It should have been ejected, and goes on since too many are. Whether that is to be said.
    pub(super) fn spare(&self, now: Tick) -> bool {
        self.spared.fetch_add(1, Relaxed);
        self.is_to_be_said(now)
    }

    /// Whether it is to be said that it gets requests although it is not well: if that was not said lately.
    pub(super) fn is_to_be_said(&self, now: Tick) -> bool {
        self.said_until.load(Relaxed) <= now.0
            && self.said_until.swap(now.after(SAY_EACH).0, Relaxed) <= now.0
    }

    /// Whether it is ejected.
    pub(super) fn is_out(&self, now: Tick) -> bool {
        self.out_until.load(Relaxed) > now.0
    }

    /// Whether nothing speaks against it. Where no checks are made, what one said before does not: nobody would take it back.
    pub(super) fn is_well(&self, now: Tick, is_checked: bool) -> bool {
        !(self.is_out(now) || is_checked && self.is_down.load(Relaxed))
    }

    /// Takes the check that is due, if no other worker has taken it. The next one is due after this time; one that is due much later
    /// was when checks were rarer.
    pub(super) fn take_check(&self, now: Tick, next: Duration) -> bool {
        let due = self.check_due.load(Relaxed);
        let is_due = due <= now.0 || due > now.after(next.saturating_mul(2)).0;
        is_due && self.check_due.compare_exchange(due, now.after(next).0, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn check_due(&self) -> Tick {
        Tick(self.check_due.load(Relaxed))
    }

    /// What a check came to. Whether the server is up now, if that is news.
    pub(super) fn checked(&self, is_good: bool, rule: &Check, now: Tick) -> Option<bool> {
        if is_good != self.is_down.load(Relaxed) {
            self.streak.store(0, Relaxed);
            return None;
        }
        let streak = self.streak.fetch_add(1, Relaxed).saturating_add(1);
        if streak < if is_good { rule.rise } else { rule.fall } {
            return None;
        }
        self.streak.store(0, Relaxed);
        self.is_down.store(!is_good, Relaxed);
        if is_good {
            self.back_at.store(now.0, Relaxed);
        }
        Some(is_good)
    }

    pub(super) fn drain(&self, is_drained: bool) {
        self.is_drained.store(is_drained, Relaxed);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.is_drained.load(Relaxed)
    }

    /// How many percent of its weight it has: fewer for a while after it has come back.
    pub(super) fn percent(&self, now: Tick, slow_start: Duration) -> u32 {
        let back_at = self.back_at.load(Relaxed);
        let since = now.since(Tick(back_at));
        if back_at == 0 || since >= slow_start {
            return 100;
        }
        let part = since.as_nanos() * 100 / slow_start.as_nanos().max(1);
        u64::try_from(part).unwrap_or(100).clamp(SLOW_PERCENT_MIN, 100) as u32
    }

    pub(super) fn counts(&self) -> HealthCounts {
        HealthCounts {
            is_down: self.is_down.load(Relaxed),
            is_drained: self.is_drained(),
            failed: self.failed.load(Relaxed),
            ejected: self.ejected.load(Relaxed),
            spared: self.spared.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick(0).after(Duration::from_millis(millis))
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time() {
        let (health, rule) = (Health::default(), Ejection::default());
        let fail =
            |now| (0..4).all(|_| health.fail(&rule, now) == Failure::One).then(|| health.fail(&rule, now));
        let mut now = at(1);
        for secs in [10, 20, 40, 80, 160, 300, 300] {
            let time = Duration::from_secs(secs);
            assert_eq!(fail(now), Some(Failure::Many(time)));
            health.eject(now, time);
            assert!(!health.is_well(now, true));
            assert_eq!(health.fail(&rule, now), Failure::One, "it is out already");
            health.succeed();
            now = now.after(time);
            assert!(health.is_well(now, true));
        }
        assert_eq!(health.counts().ejected, 7);
        // Who was well for long begins anew.
        now = now.after(rule.time_max).after(Duration::from_secs(1));
        assert_eq!(fail(now), Some(Failure::Many(rule.time)));
        // One success in between, and there is no row.
        (0..100).for_each(|_| {
            assert_eq!(health.fail(&rule, now), Failure::One);
            health.succeed();
        });
        let never = Ejection { after: 0, ..rule };
        assert!((0..100).all(|_| health.fail(&never, now) == Failure::One));
    }

    #[test]
    fn checks_in_a_row_decide() {
        let rule = Check { rise: 2, fall: 3, ..Check::new("/".parse().unwrap()) };
        let health = Health::default();
        let mut news = Vec::new();
        for (n, is_good) in [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1].into_iter().enumerate() {
            news.extend(health.checked(is_good == 1, &rule, at(1000)).map(|is_up| (n, is_up)));
        }
        assert_eq!(news, [(6, false), (11, true)]);
        assert!(health.is_well(at(1000), true));
    }

    #[test]
    fn a_check_is_made_by_one_worker() {
        let (health, every) = (Health::default(), Duration::from_secs(2));
        assert!(health.take_check(at(1), every) && !health.take_check(at(1), every));
        assert_eq!(health.check_due(), at(2001));
        assert!(!health.take_check(at(2000), every) && health.take_check(at(2001), every));
        let seldom = every * 100;
        assert!(health.take_check(at(4001), seldom) && !health.take_check(at(4002), seldom));
        assert!(health.take_check(at(4002), every), "it is not waited for as long as before");
    }

    #[test]
    fn who_comes_back_begins_slowly() {
        let (health, slow) = (Health::default(), Duration::from_secs(10));
        assert_eq!(health.percent(at(1), slow), 100, "it was never away");
        health.eject(at(0), Duration::from_secs(1));
        for (millis, percent) in [(1000, 10), (2500, 15), (6000, 50), (10_999, 99), (11_000, 100)] {
            assert_eq!(health.percent(at(millis), slow), percent, "{millis}");
        }
        assert_eq!(health.percent(at(1000), Duration::ZERO), 100);
    }

    #[test]
    fn what_is_spared_is_said_from_time_to_time() {
        let health = Health::default();
        let said = (0..61).filter(|sec| health.spare(at(1 + sec * 1000))).count();
        assert_eq!((said, health.counts().spared), (3, 61));
    }
}

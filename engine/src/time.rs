//! Time as an argument: a monotonic tick, and the wall clock that protocols put into dates.
//!
//! Nothing here reads a clock. Drivers do, once a turn, and pass the result in.

use std::time::Duration;

/// Nanoseconds on a monotonic clock with an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// A deadline that never comes.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// The tick `after` later; saturates at [`Tick::NEVER`].
    pub fn after(self, after: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` until this tick; zero when it is not later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The wall clock as seen once a second: enough for a Date field, and it costs a comparison a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallClock {
    unix_secs: u64,
    valid_until: Tick,
}

impl WallClock {
    pub(crate) fn unix_secs(&self) -> u64 {
        self.unix_secs
    }

    /// The time since 1970 at a tick: what was read last, and what has passed since then.
    pub(crate) fn unix_time(&self, now: Tick) -> Duration {
        Duration::from_secs(self.unix_secs.saturating_add(1)).saturating_sub(self.valid_until.since(now))
    }

    /// Whether the second has passed and [`WallClock::set`] is due.
    pub(crate) fn is_stale(&self, now: Tick) -> bool {
        now >= self.valid_until
    }

    /// Takes the time since 1970 as read at `now`; it holds until the next full second.
    pub(crate) fn set(&mut self, now: Tick, since_epoch: Duration) {
        self.unix_secs = since_epoch.as_secs();
        let rest = Duration::from_secs(1) - Duration::from_nanos(u64::from(since_epoch.subsec_nanos()));
        self.valid_until = now.after(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_saturate_instead_of_wrapping() {
        assert_eq!(Tick::NEVER.after(Duration::from_secs(1)), Tick::NEVER);
        assert_eq!(Tick(5).since(Tick(9)), Duration::ZERO);
        assert_eq!(Tick(5).after(Duration::MAX), Tick::NEVER);
    }

    #[test]
    fn the_wall_clock_holds_until_the_next_full_second() {
        let mut wall = WallClock::default();
        assert!(wall.is_stale(Tick(0)));
        wall.set(Tick(1_000), Duration::from_millis(7_250));
        assert_eq!(wall.unix_secs(), 7);
        assert_eq!(wall.unix_time(Tick(1_000)), Duration::from_millis(7_250));
        assert_eq!(wall.unix_time(Tick(1_000 + 749_999_999)), Duration::from_nanos(7_999_999_999));
        assert!(!wall.is_stale(Tick(1_000 + 749_999_999)));
        assert!(wall.is_stale(Tick(1_000 + 750_000_000)));
    }

    #[test]
    fn a_wall_clock_that_is_set_moves_the_date_and_no_tick() {
        let mut wall = WallClock::default();
        for secs in [1_000_000_000, 5, 0, u64::MAX, 1_000_000_000] {
            let now = Tick(7_000);
            wall.set(now, Duration::from_secs(secs));
            assert_eq!(wall.unix_secs(), secs);
            assert!(!wall.is_stale(now) && wall.is_stale(now.after(Duration::from_secs(1))));
        }
    }
}

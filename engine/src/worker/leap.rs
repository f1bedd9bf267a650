//! Leaps of time: the machine was suspended, the process stopped, a handler slow. What arrived meanwhile comes before the
//! deadlines that passed meanwhile: whoever was in time must not be timed out. Pure.

use crate::time::Tick;
use std::time::Duration;

/// Deadlines that are looked at so late tell of a leap.
const LEAP: Duration = Duration::from_millis(250);
/// How long they may then be put off.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Whether the worker is behind.
#[derive(Default)]
pub(super) struct Leap {
    /// Until when deadlines are put off.
    until: Option<Tick>,
}

impl Leap {
    /// Whether deadlines are put off after this turn, which was idle if it brought nothing. Turns without waiting follow, until
    /// one is: one turn need not bring all that has arrived (a signal may have cut it short).
    pub(super) fn puts_off(&mut self, now: Tick, next_due: Option<Tick>, is_idle: bool) -> bool {
        let is_late = next_due.is_some_and(|due| now >= due.after(LEAP));
        let goes_on = self.until.is_none_or(|until| !is_idle && now < until);
        self.until = (is_late && goes_on).then(|| self.until.unwrap_or(now.after(CATCH_UP_MAX)));
        self.until.is_some()
    }

    /// Whether it does.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    #[test]
    fn deadlines_wait_for_what_has_arrived_and_not_for_ever() {
        let mut leap = Leap::default();
        assert!(!leap.puts_off(ms(1000), None, false));
        assert!(!leap.puts_off(ms(1000), Some(ms(800)), false), "a little late is no leap");
        assert!(leap.puts_off(ms(1000), Some(ms(700)), true), "the first turn after it may bring nothing");
        assert!(leap.puts_off(ms(1001), Some(ms(700)), false));
        assert!(!leap.puts_off(ms(1002), Some(ms(700)), true), "all has arrived");
        assert!(leap.puts_off(ms(3000), Some(ms(700)), false));
        assert!(leap.puts_off(ms(3999), Some(ms(700)), false));
        assert!(!leap.puts_off(ms(4000), Some(ms(700)), false), "there is always more");
        assert!(!leap.is_on());
    }
}

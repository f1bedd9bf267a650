//! Requests that a client takes back before they are answered: how many are too many.

use ringmill_engine::Tick;

/// A rate, as far as it is spent.
pub(super) struct Resets {
    spent: u64,
    since: Tick,
}

impl Resets {
    pub(super) fn new(now: Tick) -> Resets {
        Resets { spent: 0, since: now }
    }

    /// One more; whether that is too many.
    pub(super) fn add(&mut self, now: Tick, rate: u32) -> bool {
        let secs = now.since(self.since).as_secs();
        if secs > 0 {
            (self.spent, self.since) = (self.spent.saturating_sub(secs.saturating_mul(rate.into())), now);
        }
        self.spent += 1;
        // A burst of ten seconds' worth: browsers take a whole page back at once.
        self.spent > u64::from(rate) * 10
    }
}

//! How often something may happen: the generic cell rate algorithm, for many keys in a fixed table that all workers share. Pure.
//!
//! Of a key one number is kept: the time at which it would have paid for all it had (its "theoretical arrival time", I.371). Each
//! event adds an interval to it, and is one too many where that leads further ahead than the burst. A key whose time has passed is
//! as good as one that never came, so its word is free. Where all words that could be a key's are in use, it takes the one
//! that would be free first: whoever had that one begins anew. Two workers that see a new key at the very same time may let one
//! event more pass.
//!
//! Times are counted in parts of the interval, in 40 bits, which go round after four billion intervals: a key that comes back just
//! then may be taken for one that was there a moment ago.

use super::table::Table;
use crate::time::Tick;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of an interval.
const INTERVAL: u64 = 256;
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// How far the clocks of two workers may be apart, since each looks at its own once a turn.
const SKEW: Duration = Duration::from_secs(1);
/// How often a word may change under our hands. Each time it does, another worker has got on.
const TRIES_MAX: usize = 1000;
/// More often than once a microsecond is not told apart.
const PER_SEC_MAX: u64 = 1_000_000;
const PERIOD_MAX: Duration = Duration::from_secs(24 * 3600);

/// So many in a time, and so many at once: `100/s`, `600/m`, `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period: Duration,
    burst: u32,
}

impl Rate {
    /// So many in this time, evenly, and as many at once. `None` if that is none, more than a million a second, or longer than a day.
    pub fn new(count: u32, period: Duration) -> Option<Rate> {
        let is_sound = count > 0 && !period.is_zero() && period <= PERIOD_MAX;
        let is_sound =
            is_sound && u128::from(count) * 1_000_000_000 <= u128::from(PER_SEC_MAX) * period.as_nanos();
        is_sound.then_some(Rate { count, period, burst: count })
    }

    /// So many may come at once, at least one.
    pub fn with_burst(self, burst: u32) -> Rate {
        Rate { burst: burst.max(1), ..self }
    }

    /// How many may come at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let expected = || "expected a rate such as 100/s, 600/m or 1000/h, at most 1000000/s".to_owned();
        let (count, unit) = text.split_once('/').ok_or_else(expected)?;
        let secs = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(expected()),
        };
        let count = count.trim().parse().map_err(|_| expected())?;
        Rate::new(count, Duration::from_secs(secs)).ok_or_else(expected)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rate { count, period, burst } = self;
        match period.as_secs() {
            1 => write!(f, "{count}/s")?,
            60 => write!(f, "{count}/m")?,
            3600 => write!(f, "{count}/h")?,
            _ => write!(f, "{count} in {period:?}")?,
        }
        if burst == count { Ok(()) } else { write!(f, ", {burst} at once") }
    }
}

/// Keeps a [`Rate`] for each of many keys.
pub struct RateLimiter {
    rate: Rate,
    table: Table,
    /// Parts of an interval in a nanosecond, in 2^-64.
    parts_a_nano: u64,
    /// The burst, in parts.
    burst: u64,
    /// The furthest that a time of ours can be ahead of anybody's clock, in parts.
    ahead_max: u64,
    allowed: AtomicU64,
    limited: AtomicU64,
}

impl RateLimiter {
    /// Remembers about so many keys at a time.
    pub fn new(rate: Rate, keys: usize) -> RateLimiter {
        let Rate { count, period, burst } = rate;
        let parts = u128::from(count) * u128::from(INTERVAL);
        // At most a quarter of what fits: `Rate::new` has seen to it.
        let parts_a_nano = u64::try_from((parts << 64) / period.as_nanos()).unwrap_or(u64::MAX);
        // No more than a quarter of what can be told apart.
        let burst = (u64::from(burst) * INTERVAL).min(TIME_MASK / 4);
        let skew = parts_of(SKEW.as_nanos(), parts_a_nano).min(TIME_MASK / 4);
        RateLimiter {
            rate,
            table: Table::new(keys),
            parts_a_nano,
            burst,
            ahead_max: burst + skew + INTERVAL,
            allowed: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }
    }

    /// What it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether one more is within the rate, which then counts. If not, after what time one would be.
    pub fn admit(&self, key: impl Hash, now: Tick) -> Result<(), Duration> {
        let decided = self.decide(key, parts_of(now.0.into(), self.parts_a_nano));
        let count = if decided.is_ok() { &self.allowed } else { &self.limited };
        count.fetch_add(1, Relaxed);
        decided
    }

    /// How many were within the rate, and how many were not.
    pub fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Relaxed), self.limited.load(Relaxed))
    }

    fn decide(&self, key: impl Hash, now: u64) -> Result<(), Duration> {
        let place = self.table.place(key);
        let tag = place.tag(64 - TIME_BITS);
        for _ in 0..TRIES_MAX {
            // The key's own word, or else the one that is of least use.
            let (mut own, mut least) = (None, None::<(&AtomicU64, u64, u64)>);
            for (_, word) in place.words() {
                let value = word.load(Acquire);
                let ahead = self.ahead(value, now);
                if value >> TIME_BITS == tag {
                    own = Some((word, value, ahead));
                    break;
                }
                if least.is_none_or(|(.., before)| ahead < before) {
                    least = Some((word, value, ahead));
                }
            }
            let (word, value, ahead) = match (own, least) {
                (Some(own), _) => own,
                (None, Some((word, value, _))) => (word, value, 0),
                (None, None) => return Ok(()),
            };
            let after = ahead + INTERVAL;
            if after > self.burst {
                return Err(self.time_of(after - self.burst));
            }
            let next = (tag << TIME_BITS) | (now.wrapping_add(after) & TIME_MASK);
            if word.compare_exchange(value, next, AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How far a word's time is ahead; nothing where it has passed.
    fn ahead(&self, value: u64, now: u64) -> u64 {
        let ahead = value.wrapping_sub(now) & TIME_MASK;
        if ahead <= self.ahead_max { ahead.min(self.burst) } else { 0 }
    }

    fn time_of(&self, parts: u64) -> Duration {
        let nanos = (u128::from(parts) << 64).div_ceil(u128::from(self.parts_a_nano.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn parts_of(nanos: u128, parts_a_nano: u64) -> u64 {
    // Nanoseconds fit in 64 bits for 584 years.
    ((nanos * u128::from(parts_a_nano)) >> 64) as u64
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RateLimiter({})", self.rate)
    }
}

#[cfg(test)]
mod tests;

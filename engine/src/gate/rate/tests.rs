use super::*;
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter as Governor};
use proptest::prelude::*;
use std::num::NonZeroU32;

fn rate(text: &str) -> Rate {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn rates_are_read() {
    let check = |text: &str, expected: &str| {
        let read = text.parse::<Rate>().map_or_else(|error| error, |rate| rate.to_string());
        assert!(read.contains(expected), "{text}: {read}");
    };
    check("100/s", "100/s");
    check(" 6 / m", "6/m");
    check("1000/h", "1000/h");
    check("1000000/s", "1000000/s");
    check("60000000/m", "60000000/m");
    for text in
        ["", "100", "0/s", "-1/s", "1.5/s", "1000001/s", "100/ms", "100/d", "/s", "1/s/s", "4294967296/h"]
    {
        check(text, "expected a rate such as 100/s");
    }
    assert_eq!(rate("5/s").with_burst(9).to_string(), "5/s, 9 at once");
    assert_eq!(rate("5/s").with_burst(0).burst(), 1);
}

#[test]
fn what_waits_as_long_as_it_was_told_may_come() {
    for (text, burst) in [("3/s", 1), ("100/s", 20), ("7/m", 3), ("1/h", 1), ("1000000/s", 5)] {
        let limiter = RateLimiter::new(rate(text).with_burst(burst), 64);
        let mut now = Tick(123_456_789);
        for _ in 0..burst {
            assert_eq!(limiter.admit("key", now), Ok(()), "{text}");
        }
        for round in 0..100 {
            let after = limiter.admit("key", now).expect_err("the burst is used up");
            now = now.after(after);
            assert_eq!(limiter.admit("key", now), Ok(()), "{text}, round {round}, after {after:?}");
        }
        assert_eq!(limiter.counts(), (u64::from(burst) + 100, 100), "{text}");
    }
}

#[test]
fn whoever_was_there_first_is_forgotten_where_there_are_too_many() {
    let limiter = RateLimiter::new(rate("1/h"), 16);
    let now = Tick(1 << 40);
    // Apart by more than a part of the interval.
    for key in 0..1000_u64 {
        assert_eq!(limiter.admit(key, now.after(Duration::from_secs(20 * key))), Ok(()), "{key}");
    }
    let now = now.after(Duration::from_secs(20 * 1000));
    assert!(limiter.admit(999_u64, now).is_err() && limiter.admit(985_u64, now).is_err());
    assert_eq!(limiter.admit(0_u64, now), Ok(()));
}

/// A key that was there long ago is as good as a new one, also where the time of its word has gone round.
#[test]
fn time_goes_round_without_a_trace() {
    let limiter = RateLimiter::new(rate("1000000/s").with_burst(4), 16);
    let rounds = Duration::from_micros(1 << (TIME_BITS - 8));
    for part in 0..64 {
        let now = Tick(5).after(rounds * part / 16);
        for n in 0..4 {
            assert_eq!(limiter.admit((), now), Ok(()), "{part}/16, {n}");
        }
        assert!(limiter.admit((), now).is_err());
    }
}

/// The clock of a worker is its last turn's: one that is behind is no reason to wait longer.
#[test]
fn clocks_of_workers_may_differ() {
    let limiter = RateLimiter::new(rate("10/s").with_burst(2), 16);
    let late = Tick(10_000_000_000);
    let early = Tick(late.0 - 500_000_000);
    for _ in 0..2 {
        assert_eq!(limiter.admit((), late), Ok(()));
    }
    let after = limiter.admit((), early).unwrap_err();
    assert!(after <= Duration::from_millis(101), "{after:?}");
}

/// All of a burst that comes on several threads is counted.
#[test]
fn several_workers_share_a_burst() {
    let limiter = RateLimiter::new(rate("1/h").with_burst(1000), 16);
    // It is known already: see the file's comment on new ones.
    assert_eq!(limiter.admit((), Tick(1)), Ok(()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let _ = limiter.admit((), Tick(1));
                }
            });
        }
    });
    assert_eq!(limiter.counts(), (1000, 3001));
}

proptest! {
    /// Every decision is governor's. Its interval is in whole nanoseconds, so those are tried that have no fraction in ours either.
    #[test]
    fn it_decides_as_governor_does(
        exponent in 0..=12_u32,
        burst in 1..20_u32,
        steps in prop::collection::vec((0..3_u8, 0..3000_u64), 1..200),
    ) {
        // A power of two of nanoseconds in a period of 2^22: all parts of an interval are whole.
        let (count, period) = (1_u32 << exponent, Duration::from_nanos(1 << 22));
        let interval = period / count;
        let limiter = RateLimiter::new(Rate::new(count, period).unwrap().with_burst(burst), 1024);
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(interval).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
        let governor = Governor::hashmap_with_clock(quota, clock.clone());
        let mut now = Tick(0);
        for (key, step) in steps {
            // In parts of an interval, up to a dozen of them.
            let wait = Duration::from_nanos(step * interval.as_nanos() as u64 / INTERVAL);
            now = now.after(wait);
            clock.advance(wait);
            prop_assert_eq!(limiter.admit(key, now).is_ok(), governor.check_key(&key).is_ok(), "{:?}", now);
        }
    }
}

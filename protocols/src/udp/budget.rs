//! How much each peer may ask: a token bucket for each, in a table that never grows.
//!
//! A peer's bucket is found by hashing its address, and peers whose hashes meet share one. So a forged sender costs no
//! memory and pushes nobody out, and a peer never has more than one bucket. No clock is read here.

use ringmill_engine::Tick;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// 32 KiB.
const BUCKETS: usize = 4096;
/// A full bucket holds what flows into it in this time.
const BURST: Duration = Duration::from_secs(1);
/// What one token pays for: about what one packet carries. A longer datagram travels in several.
const TOKEN_BYTES: usize = 1500;

#[derive(Clone)]
pub(super) struct Budgets<S = RandomState> {
    /// When each bucket will be full again. With this alone a bucket needs no refilling (GCRA: ITU-T I.371, annex A).
    full_at: Box<[Tick]>,
    /// The time in which one token flows in.
    token_time: Duration,
    hasher: S,
}

impl<S: BuildHasher> Budgets<S> {
    /// Full buckets into which `tokens` flow a second. The hasher should have a secret seed: then nobody can choose
    /// addresses that share a bucket.
    pub(super) fn new(tokens: u32, hasher: S) -> Budgets<S> {
        let token_time = Duration::from_nanos(1_000_000_000u64.div_ceil(u64::from(tokens.max(1))));
        Budgets { full_at: vec![Tick(0); BUCKETS].into(), token_time, hasher }
    }

    /// Takes what a datagram of `bytes` costs, or nothing and says `false` if the bucket is empty. The last token
    /// pays for any length, and the bucket then owes the rest: a bucket smaller than a datagram's cost lets it pass, too.
    pub(super) fn take(&mut self, peer: IpAddr, bytes: usize, now: Tick) -> bool {
        let bucket = &mut self.full_at[self.hasher.hash_one(network(peer)) as usize % BUCKETS];
        let full_at = now.max(*bucket);
        let has_token = full_at.after(self.token_time) <= now.after(BURST);
        if has_token {
            let tokens = bytes.div_ceil(TOKEN_BYTES).max(1);
            *bucket = full_at.after(self.token_time * tokens as u32);
        }
        has_token
    }
}

/// Whose budget it is. Over IPv6 one host has a network of 64 bits (RFC 4291, 2.5.4), and could ask from any address in it.
fn network(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

impl<S> std::fmt::Debug for Budgets<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Budgets(a token each {:?})", self.token_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasherDefault, DefaultHasher};

    type Seedless = BuildHasherDefault<DefaultHasher>;

    fn budgets(tokens: u32) -> Budgets<Seedless> {
        Budgets::new(tokens, Seedless::default())
    }

    /// How many datagrams pass at one time, until one is refused.
    fn passed(budgets: &mut Budgets<Seedless>, peer: &str, bytes: usize, now: Tick) -> usize {
        let peer = peer.parse().unwrap();
        (0..10_000).take_while(|_| budgets.take(peer, bytes, now)).count()
    }

    const START: Tick = Tick(5_000_000_000);

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let check = |rate: u32| {
            let budgets = &mut budgets(rate);
            let burst = rate as usize;
            assert_eq!(passed(budgets, "192.0.2.1", 64, START), burst);
            let later = |part: u32| START.after(Duration::from_secs(1) / part);
            assert_eq!(passed(budgets, "192.0.2.1", 64, later(10)), burst / 10);
            assert_eq!(passed(budgets, "192.0.2.1", 64, later(1)), burst - burst / 10);
            // However long nobody asks, a burst is all.
            assert_eq!(passed(budgets, "192.0.2.1", 64, START.after(Duration::from_secs(3600))), burst);
        };
        [1, 10, 1000, 8000].into_iter().for_each(check);
    }

    #[test]
    fn what_is_refused_costs_nothing_and_one_at_a_time_is_never_refused() {
        let budgets = &mut budgets(1000);
        passed(budgets, "192.0.2.1", 64, START);
        let mut now = START;
        for _ in 0..5000 {
            now = now.after(Duration::from_millis(1));
            assert_eq!(passed(budgets, "192.0.2.1", 64, now), 1);
        }
    }

    #[test]
    fn long_datagrams_cost_what_they_weigh() {
        let check = |bytes: usize, expected: usize| {
            assert_eq!(passed(&mut budgets(1000), "192.0.2.1", bytes, START), expected, "{bytes} bytes");
        };
        check(0, 1000);
        check(1500, 1000);
        check(1501, 500);
        // 44 tokens each: 22 of them are 968, and the next takes what is left.
        check(65_507, 23);
        // The largest passes a small bucket, which then has to pay it off.
        let budgets = &mut budgets(10);
        assert_eq!(passed(budgets, "192.0.2.1", 65_507, START), 1);
        assert_eq!(passed(budgets, "192.0.2.1", 1, START.after(Duration::from_millis(3_400))), 0);
        assert_eq!(passed(budgets, "192.0.2.1", 1, START.after(Duration::from_millis(3_500))), 1);
    }

    #[test]
    fn a_peer_is_an_address_or_a_network() {
        let check = |one: &str, other: &str, share: bool| {
            let budgets = &mut budgets(100);
            assert_eq!(passed(budgets, one, 64, START), 100);
            let left = if share { 0 } else { 100 };
            assert_eq!(passed(budgets, other, 64, START), left, "{one} and {other}");
        };
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("2001:db8::1", "2001:db8::ffff:2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
    }

    #[test]
    fn forged_senders_share_what_there_is() {
        let budgets = &mut budgets(10);
        let all = (0..200_000u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let granted = all.filter(|peer| budgets.take(*peer, 64, START)).count();
        assert!(granted <= BUCKETS * 10, "{granted}");
        assert_eq!(budgets.full_at.len(), BUCKETS);
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_trouble() {
        for (rate, now) in [(0, Tick(0)), (u32::MAX, Tick(0)), (1, Tick::NEVER), (u32::MAX, Tick::NEVER)] {
            assert!(budgets(rate).take(IpAddr::from([0; 4]), usize::from(u16::MAX), now));
        }
    }
}

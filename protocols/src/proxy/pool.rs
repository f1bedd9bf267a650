//! Which upstream, and which connection with it: the choice, idle connections, requests that wait, the budget of repeated
//! requests. Pure: keys and numbers; who connects and who calls is `state.rs`.

use super::config::Balance;
use ringmill_engine::{Address, Tick};
use std::collections::VecDeque;
use std::time::Duration;

/// An upstream that refused a connection is not chosen for so long, if there is another one.
const AVOID: Duration = Duration::from_secs(1);
/// Requests that may be repeated at the start, in thousandths.
const BUDGET_START: u64 = 10_000;
/// What each request adds to that: 20%.
const BUDGET_REQUEST: u64 = 200;
/// What each second adds: 3.
const BUDGET_SEC: u64 = 3_000;

/// All upstreams.
pub(super) struct Pool {
    pub(super) endpoints: Vec<Endpoint>,
    balance: Balance,
    next: usize,
    random: u64,
}

/// One upstream.
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// For requests that name no host.
    pub(super) host: String,
    /// Connections without a request; the last one was used last, and is the first to be used again.
    pub(super) idle: Vec<usize>,
    /// Requests that wait for a connection, the first one longest.
    pub(super) waiting: VecDeque<usize>,
    /// Connections, and attempts to get one.
    pub(super) open: usize,
    /// The attempts among them.
    pub(super) connecting: usize,
    /// Requests that were given to it and are not answered.
    pub(super) in_flight: usize,
    avoid_until: Tick,
    budget: u64,
    /// When it last earned something.
    budget_at: Option<Tick>,
}

impl Pool {
    pub(super) fn new(addresses: &[Address], balance: Balance, seed: u64) -> Pool {
        let endpoint = |address: &Address| Endpoint {
            address: address.clone(),
            host: address.ip().map_or("localhost".to_owned(), |ip| ip.to_string()),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            open: 0,
            connecting: 0,
            in_flight: 0,
            avoid_until: Tick(0),
            budget: BUDGET_START,
            budget_at: None,
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        Pool { endpoints, balance, next: seed as usize, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// Chooses an upstream; not `but`, if there is another one, and none that has just refused, unless all have.
    pub(super) fn choose(&mut self, but: Option<usize>, now: Tick) -> usize {
        let all = self.endpoints.len();
        let is_well = |pool: &Pool, n: usize| Some(n) != but && pool.endpoints[n].avoid_until <= now;
        let well = (0..all).filter(|n| is_well(self, *n)).count();
        let nth = |pool: &Pool, k: usize| (0..all).filter(|n| is_well(pool, *n)).nth(k);
        let first = match (well, self.balance) {
            (0, _) => {
                self.next = self.next.wrapping_add(1);
                let others = (0..all).filter(|n| Some(*n) != but).count().max(1);
                let k = self.next % others;
                return (0..all).filter(|n| Some(*n) != but || all == 1).nth(k).unwrap_or(0);
            }
            (_, Balance::RoundRobin) => {
                self.next = self.next.wrapping_add(1);
                return nth(self, self.next % well).unwrap_or(0);
            }
            (1, _) => return nth(self, 0).unwrap_or(0),
            (_, Balance::TwoChoices) => self.below(well),
        };
        let second = (first + 1 + self.below(well - 1)) % well;
        let [one, two] = [first, second].map(|k| nth(self, k).unwrap_or(0));
        let busy = |n: usize| self.endpoints[n].in_flight + self.endpoints[n].waiting.len();
        if busy(two) < busy(one) { two } else { one }
    }

    /// A number below `bound`, which is not 0 (xorshift64).
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % bound
    }
}

impl Endpoint {
    /// It refused a connection. Whether that is news.
    pub(super) fn avoid(&mut self, now: Tick) -> bool {
        let is_news = self.avoid_until <= now;
        self.avoid_until = now.after(AVOID);
        is_news
    }

    /// A request is sent to it for the first time. So many repeated ones are saved up at most: when it ends, it takes along what
    /// was in progress, on all its connections.
    pub(super) fn earn(&mut self, now: Tick, saved_max: usize) {
        let since = self.budget_at.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        let earned = (since.as_millis() as u64).saturating_mul(BUDGET_SEC) / 1000 + BUDGET_REQUEST;
        self.budget =
            self.budget.saturating_add(earned).min((saved_max as u64).saturating_mul(1000).max(BUDGET_START));
    }

    /// Whether a request may be repeated: an upstream that fails is not asked twice for everything.
    pub(super) fn spend(&mut self) -> bool {
        let has_enough = self.budget >= 1000;
        if has_enough {
            self.budget -= 1000;
        }
        has_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u16, balance: Balance) -> Pool {
        let addresses: Vec<Address> =
            (1..=count).map(|port| Address::Ip(([127, 0, 0, 1], port).into())).collect();
        Pool::new(&addresses, balance, 7)
    }

    #[test]
    fn round_robin_takes_turns() {
        let mut pool = pool(3, Balance::RoundRobin);
        let chosen: Vec<usize> = (0..6).map(|_| pool.choose(None, Tick(0))).collect();
        assert_eq!(chosen[..3], chosen[3..]);
        let mut sorted = chosen[..3].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }

    #[test]
    fn of_two_the_one_with_less_to_do_is_taken() {
        let mut pool = pool(4, Balance::TwoChoices);
        let mut taken = [0; 4];
        for _ in 0..4000 {
            let n = pool.choose(None, Tick(0));
            taken[n] += 1;
            pool.endpoints[n].in_flight += 1;
        }
        assert!(taken.iter().all(|count| (980..1020).contains(count)), "{taken:?}");
        pool.endpoints[2].in_flight += 10_000;
        assert!((0..1000).all(|_| pool.choose(None, Tick(0)) != 2));
    }

    #[test]
    fn who_refused_is_avoided_for_a_while_unless_all_did() {
        for balance in [Balance::TwoChoices, Balance::RoundRobin] {
            let mut pool = pool(3, balance);
            assert!(pool.endpoints[1].avoid(Tick(0)));
            assert!(!pool.endpoints[1].avoid(Tick(0)), "that is no news");
            assert!((0..100).all(|_| pool.choose(None, Tick(0)) != 1));
            assert!((0..100).all(|_| pool.choose(Some(0), Tick(0)) == 2));
            let later = Tick(0).after(AVOID);
            assert!((0..100).any(|_| pool.choose(None, later) == 1));
            for endpoint in &mut pool.endpoints {
                endpoint.avoid(Tick(0));
            }
            for n in 0..3 {
                assert!((0..100).any(|_| pool.choose(None, Tick(0)) == n), "{n} is tried");
                assert!((0..100).all(|_| pool.choose(Some(n), Tick(0)) != n));
            }
        }
        let mut alone = pool(1, Balance::TwoChoices);
        alone.endpoints[0].avoid(Tick(0));
        assert_eq!(alone.choose(Some(0), Tick(0)), 0);
    }

    #[test]
    fn a_budget_is_spent_and_earned() {
        let mut pool = pool(1, Balance::TwoChoices);
        let endpoint = &mut pool.endpoints[0];
        assert_eq!((0..20).filter(|_| endpoint.spend()).count(), 10);
        for _ in 0..10 {
            endpoint.earn(Tick(0), 0);
        }
        assert_eq!((0..20).filter(|_| endpoint.spend()).count(), 2, "a fifth of the requests");
        endpoint.earn(Tick(0).after(Duration::from_secs(1)), 0);
        assert_eq!((0..20).filter(|_| endpoint.spend()).count(), 3, "and three a second");
        for _ in 0..1000 {
            endpoint.earn(Tick(0).after(Duration::from_secs(1)), 64);
        }
        assert_eq!((0..200).filter(|_| endpoint.spend()).count(), 64, "as many as may be in progress");
    }
}
